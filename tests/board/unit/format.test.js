import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parseExact } from '../../../web/board/exact.js';
import * as format from '../../../web/board/format.js';

test('amounts and prices are read as text, exactly', () => {
  const body = parseExact(
    '{"balance_cents":9223372036854775807,"new_balance":-5,"odd_value":2.1680,"seq":1795383388214132}');
  assert.deepEqual(body, {
    balance_cents: '9223372036854775807', new_balance: '-5', odd_value: '2.1680', seq: 1795383388214132,
  });
  assert.deepEqual(parseExact('{"selections":[{"price":2.168},{"price":null}],"line":2.5}'),
    { selections: [{ price: '2.168' }, { price: null }], line: '2.5' });
});

test('names inside of texts are not taken for fields', () => {
  const text = JSON.stringify({ name: '"price":2.5', other: 'a_cents":1', '"price': { 'x"price': 'y' } });
  assert.deepEqual(parseExact(text), JSON.parse(text));
});

test('cents are read only from whole numbers', () => {
  assert.equal(format.cents('9223372036854775807'), 9223372036854775807n);
  assert.equal(format.cents('-12'), -12n);
  for (const bad of [null, undefined, 12, '1.5', '', '1e3', 'x']) assert.equal(format.cents(bad), null);
});

test('amounts are shown with two decimals and separators', () => {
  assert.equal(format.formatCents(9223372036854775807n), '92,233,720,368,547,758.07');
  assert.equal(format.formatCents(5n, 'BRL'), '0.05 BRL');
  assert.equal(format.formatCents(-123456n), '−1,234.56');
  assert.equal(format.formatCents(100000n), '1,000.00');
  assert.equal(format.formatCents(null), '–');
});

test('typed amounts are read exactly or refused', () => {
  const good = { '10': 1000n, '10.5': 1050n, '10,50': 1050n, ' 0.07 ': 7n, '0': 0n, '999999999999999.99': 99999999999999999n };
  for (const [text, amount] of Object.entries(good)) assert.equal(format.parseAmount(text), amount, text);
  for (const bad of ['', '-1', '1.234', '1,234.50', '1e3', 'ten', '1 000', '١٢', '.5', '5.', '0x10']) {
    assert.equal(format.parseAmount(bad), null, bad);
  }
});

test('prices are compared in thousandths', () => {
  assert.equal(format.direction('2.1', '2.10'), 'same');
  assert.equal(format.direction('2.099', '2.1'), 'up');
  assert.equal(format.direction('10', '9.999'), 'down');
  assert.equal(format.direction(undefined, '2'), 'same');
  assert.equal(format.direction('2', null), 'same');
  assert.equal(format.formatPrice('2'), '2.00');
  assert.equal(format.formatPrice('2.168'), '2.168');
  assert.equal(format.formatPrice(null), '–');
});

test('a payout is truncated to the cent', () => {
  assert.equal(format.payout(1000n, '2.168'), 2168n);
  assert.equal(format.payout(333n, '1.003'), 333n);
  assert.equal(format.payout(9223372036854775807n, '1000'), 9223372036854775807000n);
  assert.equal(format.payout(null, '2'), null);
  assert.equal(format.payout(100n, null), null);
});

test('names are for people', () => {
  assert.equal(format.marketName('1x2', null), 'Match result');
  assert.equal(format.marketName('total_goals', '2.5'), 'Total goals 2.5');
  assert.equal(format.marketName('half_time_score', undefined), 'Half time score');
  assert.equal(format.eventName({ home: 'A', away: 'B' }), 'A – B');
  assert.equal(format.eventName({ home: 'Winner of the cup', away: '' }), 'Winner of the cup');
  assert.equal(format.formatReason('SUPPLIER_TIMEOUT'), 'the supplier did not answer in time');
  assert.equal(format.formatTime('no time'), '–');
});
