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
  supplier.publish('E1', PRICES);
  supplier.publish('E2', PRICES, { home: 'Santos', away: 'Vasco' });
  platform = await Platform.start(supplier.settings);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await platform?.stop();
  await supplier?.stop();
});

const isLive = async (page) => (await page.locator('#connection').textContent()) === 'Live';
const value = (page, event) => cell(page, event, 'home').locator('.value').textContent();

test('a killed server is shown, and the page goes on without a gap', async () => {
  await platform.deposit('USER_1', 30_000);
  const sent = [];
  const page = await open(browser, 'about:blank', { userId: null });
  page.on('websocket', (socket) => socket.on('framesent', ({ payload }) => sent.push(JSON.parse(payload))));
  await page.goto(platform.board);
  await page.evaluate(() => sessionStorage.setItem('identity', '{"token":null,"userId":"USER_1"}'));
  await page.reload();
  await until('the page is live', async () => (await isLive(page)) && (await cell(page, 'E1', 'home').count()) === 1);
  await cell(page, 'E1', 'home').click();
  await page.locator('#stake').fill('10');
  sent.length = 0;

  await platform.kill();
  await until('the outage is shown', async () => (await market(page, 'E1').getAttribute('data-state')) === 'stale');
  assert.match(await page.locator('#slip-problem').textContent(), /Not connected/);
  assert.ok(await page.locator('#banner').isVisible());
  assert.equal(await page.locator('#stake').inputValue(), '10');
  // What happens while nobody looks.
  supplier.publish('E1', { ...PRICES, home: 2.5 });

  await platform.run();
  await until('the page is live again', async () => (await isLive(page)) && (await value(page, 'E1')) === '2.50', 45_000);
  const resumed = sent.filter((message) => message.type === 'subscribe').at(-1);
  assert.ok(resumed.since?.E1 > 0 && resumed.epoch, JSON.stringify(resumed));
  assert.equal(await value(page, 'E2'), '2.10');
  await until('the bet can be placed', async () => (await page.locator('#place').getAttribute('aria-disabled')) === null);
  await page.locator('#place').click();
  await until('the bet is confirmed', async () => (await page.locator('#slip-result').textContent()) === 'Confirmed at 2.50');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('a hidden page closes its socket, and goes on when it is shown', async () => {
  const page = await open(browser, platform.board);
  await until('the page is live', async () => (await isLive(page)) && (await cell(page, 'E2', 'home').count()) === 1);
  let sockets = 0;
  page.on('websocket', () => { sockets += 1; });
  const hide = (isHidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event(hidden ? 'freeze' : 'visibilitychange'));
  }, isHidden);
  await hide(true);
  await until('the socket is closed', async () => (await page.locator('#connection').textContent()) === 'Paused');
  supplier.publish('E2', { ...PRICES, home: 8 }, { home: 'Santos', away: 'Vasco' });
  await hide(false);
  await until('the page goes on', async () => (await isLive(page)) && (await value(page, 'E2')) === '8.00');
  assert.equal(sockets, 1);
  assert.deepEqual(page.faults, []);
  await page.context().close();
});
