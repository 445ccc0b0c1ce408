import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Books, marketKey } from '../../../web/board/book.js';
import { payload, snapshot, update } from './samples.js';

const KEY = marketKey('E', '1x2', null);
const priceOf = (books, key = KEY) => books.market(key)?.selections[0].price;

test('an update is applied only if it is newer', () => {
  const books = new Books();
  books.applySnapshot(snapshot('E', 10, [[8, payload('E', '2.1')]]));
  assert.equal(books.applyUpdate(update('E', 9, payload('E', '1'))), null);
  assert.equal(books.applyUpdate(update('E', 10, payload('E', '1'))), null);
  assert.equal(priceOf(books), '2.1');
  assert.equal(books.applyUpdate(update('E', 11, payload('E', '2.2'))), KEY);
  assert.equal(books.applyUpdate(update('E', 11, payload('E', '2.2'))), KEY);
  assert.equal(books.applyUpdate(update('E', 10, payload('E', '1'))), null);
  assert.equal(priceOf(books), '2.2');
});

test('an update that repeats a number shows the state in another way', () => {
  const books = new Books();
  books.applySnapshot(snapshot('E', 10, [[8, payload('E')]]));
  books.applyUpdate(update('E', 8, payload('E', '2.1', { status: 'suspended' }), { stale: true, resumable: false }));
  assert.equal(books.market(KEY).status, 'suspended');
  assert.ok(books.isStale(books.market(KEY)));
  assert.equal(books.resumePoint('E'), null);
  books.applyUpdate(update('E', 8, payload('E'), { stale: false, resumable: false }));
  assert.ok(!books.isStale(books.market(KEY)));
});

test('an update of an event that is not followed is dropped', () => {
  assert.equal(new Books().applyUpdate(update('E', 1, payload('E'))), null);
});

test('a snapshot that resumes keeps the other markets', () => {
  const books = new Books();
  books.applySnapshot(snapshot('E', 10, [[8, payload('E')], [9, payload('E', '1.5', { market: 'btts' })]]));
  assert.deepEqual(books.resumePoint('E'), { since: 10, epoch: 'e1' });
  books.applyUpdate(update('E', 12, payload('E', '2.3')));
  assert.equal(books.resumePoint('E').since, 12);
  books.applySnapshot(snapshot('E', 14, [[13, payload('E', '2.4')]], { recovered: true }));
  assert.equal(priceOf(books), '2.4');
  assert.equal(books.marketsOf('E').length, 2);
});

test('a snapshot that does not resume replaces everything', () => {
  const books = new Books();
  books.applySnapshot(snapshot('E', 10, [[8, payload('E')], [9, payload('E', '1.5', { market: 'btts' })]]));
  const changed = books.applySnapshot(snapshot('E', 2, [[1, payload('E', '3')]], { epoch: 'e2' }));
  assert.equal(changed.size, 2);
  assert.equal(books.marketsOf('E').length, 1);
  assert.equal(priceOf(books), '3');
  assert.equal(books.applyUpdate(update('E', 3, payload('E', '3.1'))), KEY);
});

test('the resumed answer to a subscription that has ended is ignored', () => {
  const books = new Books();
  books.applySnapshot(snapshot('E', 14, [[13, payload('E')]], { recovered: true }));
  assert.equal(books.market(KEY), undefined);
});

test('stale snapshots become current market by market, or with the feed', () => {
  const books = new Books();
  const btts = marketKey('E', 'btts', null);
  const goals = marketKey('E', 'total_goals', '2.5');
  books.applySnapshot(snapshot('E', 10, [
    [8, payload('E')],
    [9, payload('E', '1.5', { market: 'btts' })],
    [10, payload('E', '1.9', { market: 'total_goals', line: '2.5' }), { stale: true }],
  ], { stale: true, epoch: undefined }));
  assert.equal(books.resumePoint('E'), null);
  books.applyUpdate(update('E', 11, payload('E', '2.2')));
  assert.deepEqual([KEY, btts, goals].map((key) => books.isStale(books.market(key))), [false, true, true]);
  books.setFeed('live');
  assert.deepEqual([KEY, btts, goals].map((key) => books.isStale(books.market(key))), [false, false, true]);
  books.setFeed('stale');
  assert.ok(books.isStale(books.market(KEY)));
});

test('markets are ordered by name and line', () => {
  const books = new Books();
  const goals = (line) => payload('E', '1.9', { market: 'total_goals', line });
  books.applySnapshot(snapshot('E', 5, [[1, goals('10.5')], [2, goals('2.5')], [3, payload('E')]]));
  assert.deepEqual(books.marketsOf('E').map((market) => market.line), [null, '2.5', '10.5']);
});

test('any order of arrival ends in the newest state of each market', () => {
  let seed = 7;
  const random = (below) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  for (let run = 0; run < 300; run += 1) {
    const books = new Books();
    const names = ['1x2', 'btts', 'dnb'];
    const sent = Array.from({ length: 30 }, (_, number) => [number + 1, names[random(3)]]);
    const latest = new Map();
    sent.forEach(([seq, name]) => latest.set(name, seq));
    books.applySnapshot(snapshot('E', 0, []));
    // Repetitions and states that are overtaken.
    const arriving = sent.concat(sent.filter(() => random(3) === 0)).sort(() => random(3) - 1);
    for (const [seq, name] of arriving) {
      books.applyUpdate(update('E', seq, payload('E', String(seq), { market: name })));
    }
    for (const [name, seq] of latest) assert.equal(priceOf(books, marketKey('E', name, null)), String(seq));
  }
});
