import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { cell, launch, open } from '../support/browser.js';
import { Platform } from '../support/platform.js';
import { Supplier } from '../support/supplier.js';
import { until } from '../support/wait.js';

const SCOPES = 'odds:read,wallet:read,bets:read,bets:write';
let supplier;
let platform;
let browser;

before(async () => {
  supplier = await Supplier.start();
  supplier.publish('E1', { home: 2.1, draw: 3.4, away: 2.9 });
  platform = await Platform.start({ ...supplier.settings, AUTH: 'required', ODDS_PUBLIC: 'false',
    AUTH_JWT_SECRET: 'a secret for tests of the board, not for anything else' });
  const key = platform.command('key', 'create', '--scope', 'wallet:move', '--note', 'deposits').trim();
  // A running process knows a new key within a second or two.
  await until('the deposit is accepted', () => platform.deposit('USER_1', 30_000, { 'X-Api-Key': key })
    .then(() => true, () => false));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await platform?.stop();
  await supplier?.stop();
});

const token = (user, ...more) => platform.command('token', '--user', user, '--scope', SCOPES, ...more).trim();

test('a user with a token sees private odds, bets, and sees the own wallet', async () => {
  const page = await open(browser, `${platform.board}#token=${token('USER_1')}`);
  await until('the page is live', async () => (await page.locator('#connection').textContent()) === 'Live'
    && (await cell(page, 'E1', 'home').count()) === 1);
  assert.equal(await page.locator('#user').textContent(), 'USER_1');
  await until('the balance', async () => (await page.locator('#balance').textContent()) === '300.00 BRL');
  await cell(page, 'E1', 'home').click();
  await page.locator('#stake').fill('10');
  await page.locator('#place').click();
  await until('the bet is confirmed', async () => (await page.locator('#slip-result').textContent()) === 'Confirmed at 2.10');
  await until('the balance', async () => (await page.locator('#balance').textContent()) === '290.00 BRL');
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test('without a token private odds are not shown', async () => {
  const page = await open(browser, platform.board);
  await until('the page says so', async () => /token/.test(await page.locator('#board-note').textContent()));
  assert.equal(await page.locator('.market').count(), 0);
  await page.context().close();
});

test('a token that is not accepted signs the user out', async () => {
  const forged = token('USER_1').replace(/\.[^.]+$/, '.AAAA');
  const page = await open(browser, `${platform.board}#token=${forged}`);
  await until('the notice', () => page.locator('#notice').isVisible());
  assert.match(await page.locator('#notice').textContent(), /not accepted/);
  assert.equal(await page.evaluate(() => sessionStorage.getItem('identity')), null);
  await page.getByRole('button', { name: 'Sign in' }).first().click();
  await page.getByLabel('Access token').fill(token('USER_1'));
  await page.locator('#sign-in-form [type=submit]').click();
  await until('the page is live', async () => (await page.locator('#connection').textContent()) === 'Live'
    && (await cell(page, 'E1', 'home').count()) === 1);
  assert.ok(!(await page.locator('#notice').isVisible()));
  await page.context().close();
});
