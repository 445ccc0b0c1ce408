// A real Chromium with the page. Everything that goes wrong in it is collected.

import { axeSource, chromium } from './tools.js';

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** Starts Chromium. */
export function launch() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });
}

/** Opens the page, signed in if `userId` is given. */
export async function open(browser, address, { userId, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(`error: ${error}`));
  page.on('console', (message) => {
    if (/Content Security Policy|Refused to/.test(message.text())) faults.push(`policy: ${message.text()}`);
  });
  await page.exposeFunction('reportFault', (text) => { faults.push(text); });
  await page.addInitScript((user) => {
    document.addEventListener('securitypolicyviolation', (event) => {
      window.reportFault(`policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
    if (user && !sessionStorage.getItem('identity')) {
      sessionStorage.setItem('identity', JSON.stringify({ token: null, userId: user }));
    }
  }, userId);
  await page.goto(address);
  page.faults = faults;
  return page;
}

/** The row of a market. */
export function market(page, eventId, name = 'Match result') {
  return page.locator(`[data-event="${eventId}"] .market`, { has: page.getByText(name, { exact: true }) });
}

/** The cell of a selection. */
export function cell(page, eventId, selection) {
  return page.locator(`[data-event="${eventId}"] [data-selection="${selection}"]`);
}

/** What axe finds: serious and critical violations. */
export async function axe(page) {
  // The page's policy forbids foreign scripts, so this one runs through the debugger.
  await page.evaluate(axeSource);
  const { violations } = await page.evaluate(() => window.axe.run(document, {
    runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
  }));
  return violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map((node) => node.target.join(' ')) }));
}
