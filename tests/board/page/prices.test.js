import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { cell, launch, market, open } from '../support/browser.js';
import { Platform } from '../support/platform.js';
import { Supplier } from '../support/supplier.js';
import { until } from '../support/wait.js';

const PRICES = { home: 2.1, draw: 3.4, away: 2.9 };
let supplier;
let platform;
let browser;

before(async () => {
  supplier = await Supplier.start();
  supplier.publish('E1', PRICES, { in_play: true, sport: 'soccer' });
  supplier.publish('E2', PRICES, { home: '<img src=x onerror=alert(1)>', away: '"><script>alert(2)</script>' });
  platform = await Platform.start(supplier.settings);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await platform?.stop();
  await supplier?.stop();
});

const textOf = (page, event, selection) => cell(page, event, selection).locator('.value').textContent();
const seen = (page, event, selection, price) => until(`${event} ${selection} is ${price}`,
  async () => (await cell(page, event, selection).count()) === 1 && (await textOf(page, event, selection)) === price);

test('a changed price is seen within a second, with an arrow', async () => {
  const page = await open(browser, platform.board);
  await seen(page, 'E1', 'home', '2.10');
  const delays = [];
  for (let change = 0; change < 10; change += 1) {
    const price = 2.2 + change / 100;
    const changed = page.waitForFunction(([text]) => document
      .querySelector('[data-event="E1"] [data-selection="home"] .value').textContent === text,
    [price.toFixed(2)], { polling: 'raf', timeout: 10_000 });
    const sent = performance.now();
    supplier.publish('E1', { ...PRICES, home: price }, { in_play: true });
    await changed;
    delays.push(Math.round(performance.now() - sent));
  }
  console.log(`a change is seen after ${delays.join(', ')} ms`);
  assert.ok(Math.max(...delays) < 1000, `${delays}`);
  assert.equal(await cell(page, 'E1', 'home').getAttribute('data-move'), 'up');
  supplier.publish('E1', { ...PRICES, home: 2 }, { in_play: true });
  await seen(page, 'E1', 'home', '2.00');
  assert.equal(await cell(page, 'E1', 'home').getAttribute('data-move'), 'down');
  assert.equal(await page.locator('#connection').textContent(), 'Live');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('names of a supplier are only text', async () => {
  const page = await open(browser, platform.board);
  await seen(page, 'E2', 'home', '2.10');
  assert.match(await page.locator('[data-event="E2"] h3').textContent(), /<img src=x onerror=alert\(1\)> – "><script>/);
  assert.equal(await page.locator('img, script:not([src])').count(), 0);
  await cell(page, 'E2', 'home').click();
  assert.equal(await page.locator('#slip-selection').textContent(), '<img src=x onerror=alert(1)>');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('suspended markets and selections are shown as such', async () => {
  const page = await open(browser, platform.board);
  await seen(page, 'E1', 'home', '2.00');
  supplier.publish('E1', PRICES, { in_play: true, status: 'suspended' });
  await until('the market is suspended', async () => (await market(page, 'E1').getAttribute('data-state')) === 'suspended');
  assert.equal(await market(page, 'E1').locator('.state').textContent(), 'suspended');
  assert.equal(await cell(page, 'E1', 'home').getAttribute('aria-disabled'), 'true');
  supplier.publish('E1', { ...PRICES, draw: null }, { in_play: true });
  await until('the market is open', async () => (await market(page, 'E1').getAttribute('data-state')) === 'open');
  assert.equal(await cell(page, 'E1', 'draw').getAttribute('aria-disabled'), 'true');
  assert.equal(await cell(page, 'E1', 'home').getAttribute('aria-disabled'), null);
  await page.context().close();
});

test('the history of a market is a chart that goes on', async () => {
  const page = await open(browser, platform.board);
  await seen(page, 'E1', 'away', '2.90');
  await page.getByRole('button', { name: 'History of Match result' }).first().click();
  const lines = page.locator('[data-event="E1"] .chart polyline');
  await until('the chart has its lines', async () => (await lines.count()) === 3);
  const first = await lines.first().getAttribute('points');
  await until('the chart goes on', async () => {
    supplier.publish('E1', { ...PRICES, home: 1.5 + Math.round(Math.random() * 100) / 100 }, { in_play: true });
    return (await lines.first().getAttribute('points')) !== first;
  });
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('a paused board stands still, and catches up', async () => {
  const page = await open(browser, platform.board);
  supplier.publish('E2', { ...PRICES, home: 5 });
  await seen(page, 'E2', 'home', '5.00');
  await page.locator('#pause').click();
  supplier.publish('E2', { ...PRICES, home: 6 });
  supplier.publish('E1', { ...PRICES, home: 7 }, { in_play: true });
  // The slip shows the current price, so its arrival is seen there.
  await cell(page, 'E2', 'home').click();
  await until('the change has arrived', async () => (await page.locator('#slip-price').textContent()) === '6.00');
  assert.equal(await textOf(page, 'E2', 'home'), '5.00');
  await page.locator('#pause').click();
  await seen(page, 'E2', 'home', '6.00');
  await seen(page, 'E1', 'home', '7.00');
  await page.context().close();
});

test('a lost supplier is shown', async () => {
  const page = await open(browser, platform.board);
  await seen(page, 'E2', 'home', '6.00');
  await supplier.stop();
  await until('the market is suspended',
    async () => (await market(page, 'E2').getAttribute('data-state')) === 'suspended', 30_000);
  await page.context().close();
});
