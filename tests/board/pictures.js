// Takes the pictures of the README: `scripts/test-board pictures`.

import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { launch, open } from './support/browser.js';
import { Platform } from './support/platform.js';
import { until } from './support/wait.js';

const FOLDER = fileURLToPath(new URL('../../docs/pictures/', import.meta.url));
const PHONE = { viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };

const platform = await Platform.start({ SIMULATOR_EVENTS: 12, SIMULATOR_RATE: 30, SIMULATOR_SEED: 7,
  SIMULATOR_MARKETS: '1x2,total_goals', SIMULATOR_CONFIRM_REJECT_SHARE: 0 });
const browser = await launch();
await platform.deposit('USER_001', 30_000);

async function ready(options) {
  const page = await open(browser, platform.board, { userId: 'USER_001', ...options });
  await until('the page is live', async () => (await page.locator('#connection').textContent()) === 'Live'
    && (await page.locator('.market').count()) >= 24);
  return page;
}

async function bet(page, stake) {
  await page.locator('.market[data-state="open"] .price:not([aria-disabled])').first().click();
  await page.locator('#stake').fill(stake);
  await page.getByLabel('accept any price').check();
}

async function picture(page, name) {
  await until('something moves', async () => (await page.locator('.price[data-lit]').count()) > 2);
  await page.screenshot({ path: path.join(FOLDER, name) });
}

try {
  const desktop = await ready({ viewport: { width: 1280, height: 800 } });
  await bet(desktop, '10.00');
  await desktop.locator('#place').click();
  await until('decided', async () => desktop.locator('#slip-result[data-status="CONFIRMED"]').isVisible());
  await desktop.locator('.chart-toggle').first().click();
  await until('the chart', async () => (await desktop.locator('.chart polyline').count()) > 0);
  await new Promise((resolve) => { setTimeout(resolve, 20_000); });
  await bet(desktop, '25.00');
  await picture(desktop, 'board-desktop.png');
  const dark = await ready({ viewport: { width: 1280, height: 800 }, colorScheme: 'dark' });
  await dark.getByRole('button', { name: 'My bets' }).click();
  await picture(dark, 'board-dark.png');
  const phone = await ready(PHONE);
  await picture(phone, 'board-phone.png');
} finally {
  await browser.close();
  await platform.stop();
}
