import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { cell, launch, open } from '../support/browser.js';
import { Platform } from '../support/platform.js';
import { Supplier } from '../support/supplier.js';
import { until } from '../support/wait.js';

const PRICES = { home: 2.168, draw: 3.4, away: 2.9 };
let supplier;
let platform;
let browser;
let page;
let user;
let users = 0;

before(async () => {
  supplier = await Supplier.start();
  supplier.publish('E1', PRICES);
  platform = await Platform.start(supplier.settings);
  browser = await launch();
});

beforeEach(async () => {
  await page?.context().close();
  supplier.decision = { status: 'CONFIRMED' };
  supplier.publish('E1', PRICES);
  users += 1;
  user = `USER_${users}`;
  await platform.deposit(user, 30_000);
  page = await open(browser, platform.board, { userId: user });
  await until('the price is offered', async () => (await page.locator('#connection').textContent()) === 'Live'
    && (await cell(page, 'E1', 'home').count()) === 1
    && (await cell(page, 'E1', 'home').locator('.value').textContent()) === '2.168'
    && (await page.locator('#balance').textContent()) === '300.00 BRL');
});

after(async () => {
  await browser?.close();
  await platform?.stop();
  await supplier?.stop();
});

async function fill(stake) {
  await cell(page, 'E1', 'home').click();
  await page.locator('#stake').fill(stake);
}
const result = (text) => until(`the slip says ${text}`,
  async () => (await page.locator('#slip-result').textContent()).includes(text));
const problem = (text) => until(`the problem is ${text}`,
  async () => text.test(await page.locator('#slip-problem').textContent()));

test('a bet goes from click to confirmed, and the balance follows', async () => {
  await fill('10');
  assert.equal(await page.locator('#slip-payout').textContent(), '21.68 BRL');
  const clicked = performance.now();
  await page.locator('#place').click();
  await result('Confirmed at 2.168');
  console.log(`from click to CONFIRMED: ${Math.round(performance.now() - clicked)} ms`);
  await until('the balance', async () => (await page.locator('#balance').textContent()) === '290.00 BRL');
  assert.match(await page.locator('#announcer').textContent(), /Flamengo at 2.168: Confirmed/);
  await page.getByRole('button', { name: 'My bets' }).click();
  await until('the bet is listed', async () => (await page.locator('#bets li[data-status="CONFIRMED"]').count()) === 1);
  await page.getByRole('button', { name: 'Wallet' }).click();
  await until('the ledger', async () => (await page.locator('#wallet li').count()) === 3);
  const kinds = await page.locator('#wallet li').evaluateAll((items) => items.map((item) => item.dataset.kind));
  assert.deepEqual(kinds, ['commit', 'reserve', 'deposit']);
  assert.deepEqual(page.faults, []);
});

test('a settled bet shows what it was paid, and a debt is shown', async () => {
  await fill('10');
  await page.locator('#place').click();
  await result('Confirmed at 2.168');
  const settle = (...decision) => platform.command('settle', 'E1', '1x2', ...decision, '--reason', 'test');
  const shown = (name, paid) => until(`the bet is ${name}`, async () => {
    const bet = page.locator('#bets li').first();
    return (await bet.locator('.badge').textContent()) === name && (await bet.textContent()).includes(paid);
  });
  settle('--winner', 'home');
  await page.getByRole('button', { name: 'My bets' }).click();
  await shown('Won', 'paid 21.68');
  await until('the balance', async () => (await page.locator('#balance').textContent()) === '311.68 BRL');
  await platform.withdraw(user, 31_000);
  settle('--winner', 'away');
  await shown('Lost', 'paid 0.00');
  await page.getByRole('button', { name: 'Wallet' }).click();
  await until('the debt', async () => (await page.locator('#wallet-note').textContent()).includes('You owe 20.00 BRL'));
  settle('--rollback');
  await page.getByRole('button', { name: 'My bets' }).click();
  await shown('Confirmed', 'pays 21.68');
  assert.deepEqual(page.faults, []);
});

test('a rejected bet gives the stake back', async () => {
  supplier.decision = { status: 'REJECTED', reason: 'limit_exceeded' };
  await fill('10');
  await page.locator('#place').click();
  await result('Rejected: limit exceeded');
  await until('the balance', async () => (await page.locator('#balance').textContent()) === '300.00 BRL');
});

test('a lost answer is asked for again under the same key', async () => {
  const keys = [];
  await page.route('**/api/bets/bets', async (route) => {
    if (route.request().method() !== 'POST') return route.continue();
    keys.push(route.request().headers()['idempotency-key']);
    if (keys.length > 2) return route.continue();
    // The server takes the bet, but its answer does not arrive.
    await route.fetch();
    return route.abort();
  });
  await fill('10');
  await page.locator('#place').click();
  await result('The bet may have been placed');
  await page.reload();
  await result('Confirmed at 2.168');
  assert.ok(keys.length >= 3, `${keys.length} requests`);
  assert.equal(new Set(keys).size, 1);
  assert.equal((await platform.bets(user)).length, 1);
});

test('a changed price is shown and asked about', async () => {
  await fill('10');
  // The page does not know the new price yet when the user clicks.
  await page.route('**/api/bets/bets', (route) => {
    if (route.request().method() !== 'POST') return route.continue();
    const body = route.request().postData().replace('2.168', '9');
    return route.continue({ postData: body });
  }, { times: 1 });
  await page.locator('#place').click();
  await problem(/price changed from 2.168 to 2.168/);
  assert.equal((await platform.bets(user)).length, 0);
  supplier.publish('E1', { ...PRICES, home: 2.3 });
  await until('the slip follows', async () => (await page.locator('#slip-price').textContent()) === '2.30');
  assert.equal(await page.locator('#slip-moved').textContent(), 'was 2.168');
  assert.equal(await page.locator('#place').textContent(), 'Accept 2.30 and place');
  await page.locator('#place').click();
  await result('Confirmed at 2.30');
});

test('a market that is suspended while the slip is open blocks the bet', async () => {
  await fill('10');
  supplier.publish('E1', PRICES, { status: 'suspended' });
  await problem(/The market is suspended/);
  assert.equal(await page.locator('#place').getAttribute('aria-disabled'), 'true');
  await page.locator('#stake').press('Enter');
  assert.equal((await platform.bets(user)).length, 0);
  assert.match(await page.locator('#announcer').textContent(), /suspended/);
  supplier.publish('E1', PRICES);
  await until('the bet can be placed', async () => (await page.locator('#place').getAttribute('aria-disabled')) === null);
  await page.locator('#stake').press('Enter');
  await result('Confirmed');
});

test('a refusal says why', async () => {
  await fill('300.01');
  await page.locator('#place').click();
  await problem(/./);
  assert.equal((await platform.bets(user)).length, 0);
  await page.locator('#stake').fill('0.01');
  await page.locator('#place').click();
  await problem(/\(0\.50\)/);
  for (const bad of ['ten', '1,000.00', '-5', '']) {
    await page.locator('#stake').fill(bad);
    await problem(/stake/i);
    assert.equal(await page.locator('#place').getAttribute('aria-disabled'), 'true', bad);
  }
});

test('a bet by keyboard alone', async () => {
  await page.getByRole('searchbox').focus();
  for (let press = 0; press < 30; press += 1) {
    await page.keyboard.press('Tab');
    if (await page.evaluate(() => document.activeElement.dataset.selection === 'home')) break;
  }
  await page.keyboard.press('Enter');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'stake');
  await page.keyboard.type('5');
  await page.keyboard.press('Enter');
  await result('Confirmed');
});

test('signing out hides what belongs to the user', async () => {
  await page.getByRole('button', { name: 'Sign out' }).click();
  await until('the balance is gone', async () => (await page.locator('#balance').textContent()) === '');
  assert.equal(await page.evaluate(() => sessionStorage.getItem('identity')), null);
  await fill('10');
  await problem(/Sign in/);
  await page.getByRole('button', { name: 'Sign in' }).first().click();
  await page.getByLabel('User id').fill(user);
  await page.locator('#sign-in-form [type=submit]').click();
  await until('the balance', async () => (await page.locator('#balance').textContent()) === '300.00 BRL');
  assert.equal(await page.locator('#slip-selection').textContent(), 'Flamengo');
});

test('a token in the fragment is used once and erased', async () => {
  const encode = (body) => Buffer.from(JSON.stringify(body)).toString('base64url');
  const token = `${encode({ alg: 'HS256' })}.${encode({ sub: user })}.signature`;
  const context = await browser.newContext();
  const other = await context.newPage();
  const sent = [];
  const first = [];
  other.on('request', (request) => sent.push(request.headers().authorization));
  other.on('websocket', (socket) => socket.once('framesent', ({ payload }) => first.push(payload)));
  await other.goto(`${platform.board}#token=${token}`);
  await until('the token is used', () => sent.includes(`Bearer ${token}`) && first.length > 0);
  assert.deepEqual(JSON.parse(first[0]), { type: 'auth', token });
  assert.equal(new URL(other.url()).hash, '');
  assert.ok(!(await other.content()).includes(token));
  await context.close();
});
