import assert from 'node:assert/strict';
import { test } from 'node:test';

import { marketKey } from '../../../web/board/book.js';
import { HEARTBEAT_MS, OddsProtocol } from '../../../web/board/protocol.js';
import { payload, snapshot, update } from './samples.js';

const frame = (protocol, message, now = 0) => protocol.frame(JSON.stringify(message), now);

test('a connection begins with the token, then subscribes', () => {
  const protocol = new OddsProtocol();
  assert.deepEqual(protocol.follow(['A', 'B']), []);
  assert.deepEqual(protocol.open(0, 'secret'), [
    { type: 'auth', token: 'secret' },
    { type: 'subscribe', eventIds: ['A', 'B'], heartbeatMs: HEARTBEAT_MS },
  ]);
  assert.deepEqual(frame(protocol, { type: 'authenticated', userId: 'U' }).changed, []);
});

test('a new connection resumes what can be resumed', () => {
  const protocol = new OddsProtocol();
  protocol.follow(['A', 'B', 'C']);
  protocol.open(0, null);
  frame(protocol, snapshot('A', 10, [[10, payload('A')]]));
  frame(protocol, snapshot('B', 20, [[20, payload('B')]]));
  frame(protocol, snapshot('C', 30, [[30, payload('C')]], { epoch: undefined }));
  frame(protocol, update('A', 12, payload('A')));
  protocol.closed();
  assert.deepEqual(protocol.open(9, null), [
    { type: 'subscribe', eventIds: ['A', 'B'], heartbeatMs: HEARTBEAT_MS, epoch: 'e1', since: { A: 12, B: 20 } },
    { type: 'subscribe', eventIds: ['C'], heartbeatMs: HEARTBEAT_MS },
  ]);
});

test('only the difference is subscribed to', () => {
  const protocol = new OddsProtocol();
  protocol.follow(['A', 'B']);
  protocol.open(0, null);
  frame(protocol, snapshot('A', 1, [[1, payload('A')]]));
  assert.deepEqual(protocol.follow(['B', 'C']), [
    { type: 'unsubscribe', eventId: 'A' },
    { type: 'subscribe', eventIds: ['C'], heartbeatMs: HEARTBEAT_MS },
  ]);
  assert.equal(protocol.books.market(marketKey('A', '1x2', null)), undefined);
  // What was on its way does not come back.
  assert.deepEqual(frame(protocol, snapshot('A', 2, [[2, payload('A')]])).changed, []);
  assert.deepEqual(frame(protocol, update('A', 3, payload('A'))).changed, []);
});

test('a message stays small', () => {
  const protocol = new OddsProtocol();
  protocol.follow(Array.from({ length: 101 }, (_, number) => `E${number}`));
  assert.deepEqual(protocol.open(0, null).map((message) => message.eventIds.length), [50, 50, 1]);
});

test('silence is asked about, then ends the connection', () => {
  const protocol = new OddsProtocol();
  protocol.open(0, null);
  assert.deepEqual(protocol.tick(2 * HEARTBEAT_MS - 1), { send: [], isDead: false });
  assert.ok(!protocol.isSilent(2 * HEARTBEAT_MS - 1));
  assert.deepEqual(protocol.tick(2 * HEARTBEAT_MS), { send: [{ type: 'ping' }], isDead: false });
  assert.ok(protocol.isSilent(2 * HEARTBEAT_MS));
  assert.deepEqual(protocol.tick(2 * HEARTBEAT_MS + 1), { send: [], isDead: false });
  frame(protocol, { type: 'pong' }, 12_000);
  assert.ok(!protocol.isSilent(12_000));
  assert.deepEqual(protocol.tick(12_000 + 2 * HEARTBEAT_MS).send, [{ type: 'ping' }]);
  assert.ok(protocol.tick(12_000 + 3 * HEARTBEAT_MS).isDead);
  protocol.closed();
  assert.deepEqual(protocol.tick(99_000), { send: [], isDead: false });
});

test('a refused subscription is sent again', () => {
  const protocol = new OddsProtocol();
  protocol.follow(['A', 'B']);
  protocol.open(0, null);
  frame(protocol, snapshot('B', 1, [[1, payload('B')]]));
  frame(protocol, { type: 'error', code: 'SNAPSHOT_UNAVAILABLE', message: 'x', eventId: 'A' }, 100);
  assert.deepEqual(protocol.tick(1000).send, []);
  assert.deepEqual(protocol.tick(1600).send.map((message) => message.eventIds), [['A']]);
  frame(protocol, { type: 'error', code: 'RATE_LIMITED', message: 'x' }, 1700);
  assert.deepEqual(protocol.tick(3200).send.map((message) => message.eventIds), [['A']]);
  assert.match(frame(protocol, { type: 'error', code: 'BAD_JSON', message: 'x' }).problem, /BAD_JSON/);
});

test('the feed concerns every market, a source only its own', () => {
  const protocol = new OddsProtocol();
  protocol.follow(['A', 'B']);
  protocol.open(0, null);
  frame(protocol, snapshot('A', 1, [[1, payload('A')]]));
  frame(protocol, snapshot('B', 1, [[1, payload('B')]]));
  assert.equal(frame(protocol, { type: 'feed', status: 'stale' }).changed.length, 2);
  assert.ok(protocol.books.isFeedStale);
  frame(protocol, { type: 'feed', status: 'stale', source: 'a', events: ['A'] });
  frame(protocol, { type: 'feed', status: 'live' });
  assert.ok(!protocol.books.isFeedStale);
});

test('nothing that arrives breaks the protocol', () => {
  const protocol = new OddsProtocol();
  protocol.open(0, null);
  for (const text of ['', '{', '[]', '{"type":"later"}', '{"type":"update","eventId":"X","seq":1}', '1']) {
    assert.deepEqual(protocol.frame(text, 0).changed, [], text);
  }
});
