import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Api, nextPage } from '../../../web/board/api.js';
import { append, layout, pointOf } from '../../../web/board/chart.js';
import { Flash, LIT_MS } from '../../../web/board/flash.js';
import * as identities from '../../../web/board/identity.js';
import { Painter } from '../../../web/board/painter.js';
import { statusOf } from '../../../web/board/status-view.js';

test('a cell changes its light at most three times a second', () => {
  const flash = new Flash();
  let changes = 0;
  for (let now = 0; now < 10_000; now += 10) {
    const direction = (now / 10) % 2 === 0 ? 'up' : 'down';
    if (flash.moved(direction, now)) changes += 1;
    if (flash.tick(now)) changes += 1;
  }
  assert.ok(changes > 0 && changes <= 30, `${changes} changes in ten seconds`);
});

test('a cell goes out after a while', () => {
  const flash = new Flash();
  assert.ok(!flash.moved('same', 0));
  assert.ok(flash.moved('up', 0));
  assert.equal(flash.lit, 'up');
  assert.ok(!flash.tick(LIT_MS - 1));
  assert.ok(flash.tick(LIT_MS));
  assert.equal(flash.lit, null);
});

test('each market is painted once a frame', () => {
  const frames = [];
  const painted = [];
  const painter = new Painter((frame) => frames.push(frame), (keys) => {
    painted.push([...keys]);
    return false;
  });
  painter.mark(['a', 'b']);
  painter.mark(['a']);
  assert.equal(frames.length, 1);
  frames.shift()(0);
  assert.deepEqual(painted, [['a', 'b']]);
  painter.pause(true);
  painter.mark(['c']);
  painter.mark(['c', 'd']);
  assert.equal(frames.length, 0);
  painter.pause(false);
  frames.shift()(0);
  assert.deepEqual(painted.at(-1), ['c', 'd']);
});

test('the painter goes on while something is lit', () => {
  const frames = [];
  let left = 2;
  const painter = new Painter((frame) => frames.push(frame), () => {
    left -= 1;
    return left > 0;
  });
  painter.mark(['a']);
  frames.shift()(0);
  frames.shift()(16);
  assert.equal(frames.length, 0);
});

test('a price holds until the next one', () => {
  const point = (at, price) => pointOf(new Date(at).toISOString(), [{ id: 'home', price }], 'open');
  const picture = layout([point(0, '2'), point(50, '3')], ['home'], { width: 100, height: 10 }, 100);
  assert.deepEqual(picture.lines, [{ id: 'home', path: '0,10 50,10 50,0 100,0' }]);
  assert.deepEqual([picture.low, picture.high], [2, 3]);
  assert.equal(layout([], ['home'], { width: 1, height: 1 }, 0), null);
  assert.equal(layout([point(0, null)], ['home'], { width: 1, height: 1 }, 0), null);
  const flat = layout([point(0, '2')], ['home'], { width: 100, height: 10 }, 0);
  assert.equal(flat.lines[0].path, '0,5 100,5');
});

test('points are added in the order of time', () => {
  const point = (at) => ({ at, prices: new Map(), isOpen: true });
  assert.equal(append([point(5)], point(5)).length, 1);
  assert.equal(append([point(5)], point(6)).length, 2);
  assert.equal(append([], point(Number.NaN)).length, 0);
});

test('the user of a token is its subject', () => {
  const encode = (body) => Buffer.from(JSON.stringify(body)).toString('base64url');
  const token = `${encode({ alg: 'HS256' })}.${encode({ sub: 'Zoë ✓' })}.x`;
  assert.equal(identities.subject(token), 'Zoë ✓');
  for (const bad of ['', 'a.b', 'a.!.c', `a.${encode({})}.c`, `a.${encode({ sub: 7 })}.c`]) {
    assert.equal(identities.subject(bad), null);
  }
  assert.deepEqual(identities.identityOf(` Bearer ${token} `, 'ignored'), { token, userId: 'Zoë ✓' });
  assert.deepEqual(identities.identityOf('', ' USER_001 '), { token: null, userId: 'USER_001' });
  assert.deepEqual(identities.identityOf('opaque', 'U'), { token: 'opaque', userId: 'U' });
  assert.equal(identities.identityOf('opaque', ''), null);
  assert.equal(identities.fragmentToken('#token=abc'), 'abc');
  assert.equal(identities.fragmentToken(''), null);
  const [anna, ben] = ['anna', 'ben'].map((userId) => ({ token: null, userId }));
  assert.equal(identities.replacesUser(identities.NOBODY, anna), false);
  assert.equal(identities.replacesUser(anna, anna), false);
  assert.equal(identities.replacesUser(anna, ben), true);
});

test('an identity is kept in the storage of the tab', () => {
  const kept = new Map();
  const storage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  };
  identities.store(storage, { token: 't', userId: 'U' });
  assert.deepEqual(identities.load(storage), { token: 't', userId: 'U' });
  identities.store(storage, identities.NOBODY);
  assert.equal(kept.size, 0);
  kept.set('identity', 'damaged');
  assert.equal(identities.load(storage), identities.NOBODY);
});

test('a call carries the token, and never throws', async () => {
  const calls = [];
  const rejected = [];
  let answer = new Response('{"code":"INVALID_CREDENTIAL"}', { status: 401 });
  const api = new Api({
    bases: { odds: 'http://h/api/odds', wallet: 'http://h/api/wallet', bets: 'http://h/api/bets' },
    token: () => 'T',
    onUnauthenticated: (token) => rejected.push(token),
    fetch: async (url, request) => {
      calls.push([url, request.headers]);
      if (answer instanceof Error) throw answer;
      return answer;
    },
  });
  assert.equal((await api.wallet('a b')).status, 401);
  assert.deepEqual(calls[0], ['http://h/api/wallet/wallet?userId=a+b', { Authorization: 'Bearer T' }]);
  assert.deepEqual(rejected, ['T']);
  answer = new Error('offline');
  assert.deepEqual(await api.place('{}', 'K'), { status: 0, body: null, next: null });
  assert.equal(calls[1][1]['Idempotency-Key'], 'K');
  answer = new Response('<html>', { status: 502 });
  assert.deepEqual(await api.bet('B'), { status: 502, body: null, next: null });
  assert.equal(api.socketUrl, 'ws://h/api/odds/ws/odds');
});

test('the next page is read from its link', () => {
  assert.equal(nextPage('<?limit=2&after=MATCH_002>; rel="next"'), 'MATCH_002');
  assert.equal(nextPage(null), null);
});

test('only an open connection with a live feed is live', () => {
  assert.equal(statusOf('open', false), 'live');
  assert.equal(statusOf('open', true), 'stale');
  assert.equal(statusOf('waiting', false), 'waiting');
});
