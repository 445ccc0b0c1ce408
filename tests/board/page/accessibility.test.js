import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { axe, cell, launch, open } from '../support/browser.js';
import { Platform } from '../support/platform.js';
import { Supplier } from '../support/supplier.js';
import { until } from '../support/wait.js';

const PRICES = { home: 2.1, draw: 3.4, away: 2.9 };
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
let supplier;
let platform;
let browser;

before(async () => {
  supplier = await Supplier.start();
  supplier.publish('E1', PRICES, { in_play: true });
  supplier.publish('E2', PRICES, { home: 'Santos', away: 'Vasco', status: 'suspended' });
  supplier.publish('E3', { ...PRICES, draw: null }, { home: 'Bahia', away: 'Remo' });
  platform = await Platform.start(supplier.settings);
  await platform.deposit('USER_1', 30_000);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await platform?.stop();
  await supplier?.stop();
});

const VIEWS = {
  desktop: {},
  'dark desktop': { colorScheme: 'dark' },
  phone: PHONE,
  'dark phone': { ...PHONE, colorScheme: 'dark' },
};

async function ready(options) {
  const page = await open(browser, platform.board, { userId: 'USER_1', ...options });
  await until('the page is live', async () => (await page.locator('#connection').textContent()) === 'Live'
    && (await page.locator('.market').count()) === 3);
  return page;
}

for (const [name, options] of Object.entries(VIEWS)) {
  test(`axe finds nothing on every panel: ${name}`, async () => {
    const page = await ready(options);
    const found = [];
    const check = async (what) => found.push(...(await axe(page)).map((violation) => ({ what, ...violation })));
    await page.getByRole('button', { name: 'History of Match result' }).first().click();
    await until('the chart', async () => (await page.locator('.chart polyline').count()) > 0);
    supplier.publish('E1', { ...PRICES, home: 2.1 + Math.random() }, { in_play: true });
    await check('board');
    await cell(page, 'E1', 'home').click();
    await page.locator('#stake').fill('1');
    await check('slip');
    await page.locator('#place').click();
    await until('the bet is confirmed', async () => (await page.locator('#slip-result').getAttribute('data-status')) === 'CONFIRMED');
    await check('confirmed');
    for (const panel of ['My bets', 'Wallet']) {
      await page.getByRole('button', { name: panel }).click();
      await check(panel);
    }
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('button', { name: 'Sign in' }).first().click();
    await check('dialog');
    assert.deepEqual(found, []);
    assert.deepEqual(page.faults, []);
    await page.context().close();
  });
}

test('a phone shows the page without scrolling sideways', async () => {
  const page = await ready({ ...PHONE, viewport: { width: 320, height: 640 } });
  for (const panel of ['Odds', 'Bet slip', 'My bets', 'Wallet']) {
    await page.getByRole('button', { name: panel }).click();
    const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(content <= width, `${panel}: ${content} > ${width}`);
  }
  await page.context().close();
});

test('nothing flashes if the user wants less motion', async () => {
  const page = await ready({ reducedMotion: 'reduce' });
  let price = 5;
  await until('the price moves', async () => {
    price += 1;
    supplier.publish('E1', { ...PRICES, home: price }, { in_play: true });
    return (await cell(page, 'E1', 'home').getAttribute('data-move')) === 'up';
  });
  assert.equal(await page.locator('[data-lit]').count(), 0);
  await page.context().close();
});
