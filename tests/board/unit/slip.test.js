import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as slips from '../../../web/board/slip.js';

const SELECTION = {
  eventId: 'E', market: 'total_goals', line: '2.5', selection: 'over', price: '2.1', name: 'Over', event: 'A – B',
};
const OPEN = {
  userId: 'U', isConnected: true, isStale: false, market: { status: 'open' }, price: '2.1',
};
const filled = () => slips.edit(slips.pick(slips.EMPTY, SELECTION), { stake: '10.50', policy: 'higher' });
const sent = () => slips.confirm(filled(), { userId: 'U', price: '2.168', key: 'K1' });

test('the slip says why it cannot be sent', () => {
  const reason = (offer, slip = filled()) => slips.obstacle(slip, { ...OPEN, ...offer });
  assert.equal(reason({}), null);
  assert.match(reason({ userId: null }), /Sign in/);
  assert.match(reason({ isConnected: false }), /Not connected/);
  assert.match(reason({ isStale: true }), /may be old/);
  assert.match(reason({ market: undefined }), /not offered/);
  assert.match(reason({ market: { status: 'suspended' } }), /suspended/);
  assert.match(reason({ market: { status: 'settled' } }), /settled/);
  assert.match(reason({ price: null }), /selection is suspended/);
  for (const [stake, text] of [['', /Enter/], ['x', /not an amount/], ['0', /zero/]]) {
    assert.match(reason({}, slips.edit(filled(), { stake })), text);
  }
});

test('a request is written with exact numbers', () => {
  const slip = sent();
  assert.equal(slips.bodyOf(slip.request), '{"userId":"U","eventId":"E","market":"total_goals","selection":"over",'
    + '"oddsChange":"higher","line":2.5,"stake_cents":1050,"odd_value":2.168}');
  const big = slips.edit(filled(), { stake: '999999999999999.99' });
  assert.match(slips.bodyOf(slips.confirm(big, { userId: 'U', price: '2', key: 'K' }).request),
    /"stake_cents":99999999999999999,/);
  assert.throws(() => slips.bodyOf({ ...slip.request, price: '1,"x":2' }), TypeError);
});

test('a slip keeps one key until the final answer', () => {
  let slip = sent();
  for (const [status, body] of [[0, null], [504, null], [500, { code: 'X' }], [409, { code: 'REQUEST_IN_FLIGHT' }]]) {
    slip = slips.answered(slip, status, body);
    assert.equal(slip.phase, 'unknown');
    slip = slips.retry(slip);
    assert.deepEqual([slip.phase, slip.key, slip.request], ['sending', 'K1', sent().request]);
  }
  // Nothing was done this time, but it may have been before.
  slip = slips.answered(slip, 503, { code: 'STORE_UNAVAILABLE', message: 'm' });
  assert.equal(slip.phase, 'unknown');
  slip = slips.answered(slips.retry(slip), 401, { code: 'UNAUTHENTICATED' });
  assert.equal(slip.phase, 'unknown');
  slip = slips.answered(slips.retry(slip), 200, { betId: 'B', status: 'PENDING_CONFIRMATION', odd_value: '2.2' });
  assert.deepEqual([slip.phase, slip.betId, slip.price], ['placed', 'B', '2.2']);
});

test('a first answer that nothing was done goes back to the form', () => {
  for (const status of [401, 429, 503]) {
    const slip = slips.answered(sent(), status, { code: 'C', message: 'why' });
    assert.deepEqual([slip.phase, slip.problem.message, slip.key], ['editing', 'why', undefined]);
  }
});

test('a success without a body is not known to be one', () => {
  assert.equal(slips.answered(sent(), 200, null).phase, 'unknown');
});

test('a changed price is asked about', () => {
  const slip = slips.answered(sent(), 409, { code: 'ODDS_CHANGED', message: 'm', odd_value: '2.3' });
  assert.equal(slip.phase, 'editing');
  assert.deepEqual([slip.pickedAt, slip.problem.offered, slip.stake, slip.policy], ['2.168', '2.3', '10.50', 'higher']);
  const again = slips.confirm(slip, { userId: 'U', price: '2.3', key: 'K2' });
  assert.deepEqual([again.key, again.request.price], ['K2', '2.3']);
});

test('a limit is shown with the refusal', () => {
  const slip = slips.answered(sent(), 409, { code: 'STAKE_TOO_HIGH', message: 'm', limit_cents: '1000' });
  assert.equal(slip.problem.limit, '1000');
});

test('only the own bet decides a slip', () => {
  const placed = slips.answered(sent(), 200, { betId: 'B', odd_value: '2.168' });
  assert.equal(slips.decided(placed, { betId: 'X', status: 'CONFIRMED' }).phase, 'placed');
  assert.equal(slips.decided(placed, { betId: 'B', status: 'PENDING_CONFIRMATION' }).phase, 'placed');
  const decided = slips.decided(placed, { betId: 'B', status: 'REJECTED', reason: 'limit' });
  assert.deepEqual([decided.phase, decided.status, decided.reason], ['decided', 'REJECTED', 'limit']);
});

test('a bet on its way is neither changed nor replaced', () => {
  const slip = sent();
  assert.equal(slips.pick(slip, { ...SELECTION, selection: 'under' }), slip);
  assert.equal(slips.edit(slip, { stake: '99' }), slip);
  assert.equal(slips.confirm(slip, { userId: 'U', price: '9', key: 'K9' }), slip);
});

test('a reload asks again under the same key', () => {
  const slip = slips.restored(slips.saved(sent()), 'U');
  assert.deepEqual([slip.phase, slip.isUncertain, slip.key], ['unknown', true, 'K1']);
  assert.equal(slips.restored(slips.saved(sent()), 'other'), slips.EMPTY);
  assert.equal(slips.restored(slips.saved(filled()), null).stake, '10.50');
  for (const bad of [null, '', '{', '[]', '1', '{"phase":"x"}']) assert.equal(slips.restored(bad, 'U'), slips.EMPTY);
  assert.equal(slips.saved(slips.EMPTY), null);
});

test('a refusal with a limit can be kept over a reload', () => {
  const slip = slips.answered(sent(), 409, { code: 'STAKE_TOO_HIGH', message: 'm', limit_cents: '1000' });
  assert.equal(slips.restored(slips.saved(slip), 'U').phase, 'editing');
});

test('winnings follow the stake and the price', () => {
  assert.equal(slips.winnings(filled(), '2.168'), 2276n);
  assert.equal(slips.winnings(slips.edit(filled(), { stake: '' }), '2'), null);
});

test('retries slow down', () => {
  const delays = [0, 1, 2, 5, 50].map((tries) => slips.retryDelay({ tries }));
  assert.deepEqual(delays, [1000, 2000, 4000, 30_000, 30_000]);
});
