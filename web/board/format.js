// Amounts, prices and times as people read and write them. Amounts are whole cents in a BigInt,
// prices are text: no floating point touches money.

const AMOUNT = /^(\d{1,15})(?:[.,](\d{1,2}))?$/;
const PRICE = /^(\d{1,4})(?:\.(\d{1,3}))?$/;
const MARKETS = new Map([
  ['1x2', 'Match result'],
  ['total_goals', 'Total goals'],
  ['btts', 'Both teams to score'],
  ['match_odds', 'Match odds'],
]);
const REASONS = new Map([
  ['SUPPLIER_TIMEOUT', 'the supplier did not answer in time'],
]);

/** Whole cents, from the text of a number; null if it is not one. */
export function cents(text) {
  return typeof text === 'string' && /^-?\d{1,19}$/.test(text) ? BigInt(text) : null;
}

/** `1,234.56`, and the currency if it is given. */
export function formatCents(amount, currency) {
  if (amount === null || amount === undefined) return '–';
  const sign = amount < 0n ? '−' : '';
  const absolute = amount < 0n ? -amount : amount;
  const whole = (absolute / 100n).toString().replace(/\B(?=(\d{3})+$)/g, ',');
  const rest = (absolute % 100n).toString().padStart(2, '0');
  return `${sign}${whole}.${rest}${currency ? ` ${currency}` : ''}`;
}

/** The cents that a person typed, such as `10`, `10.5` or `10,50`; null if it is not an amount. */
export function parseAmount(text) {
  const parts = AMOUNT.exec(text.trim());
  if (!parts) return null;
  return BigInt(parts[1]) * 100n + BigInt((parts[2] ?? '').padEnd(2, '0'));
}

/** A price in thousandths; null if it is not one. */
export function thousandths(price) {
  const parts = PRICE.exec(price ?? '');
  if (!parts) return null;
  return BigInt(parts[1]) * 1000n + BigInt((parts[2] ?? '').padEnd(3, '0'));
}

/** A price with at least two decimals. */
export function formatPrice(price) {
  if (!PRICE.test(price ?? '')) return '–';
  const [whole, rest = ''] = price.split('.');
  return `${whole}.${rest.padEnd(2, '0')}`;
}

/** Stake and winnings of a bet that wins, truncated to the cent as the server does; null if unknown. */
export function payout(stake, price) {
  const factor = thousandths(price);
  return stake === null || factor === null ? null : (stake * factor) / 1000n;
}

/** `up`, `down` or `same`; `same` if one of the prices is missing. */
export function direction(earlier, later) {
  const before = thousandths(earlier);
  const after = thousandths(later);
  if (before === null || after === null || before === after) return 'same';
  return after > before ? 'up' : 'down';
}

/** The name of a market with its line. */
export function marketName(name, line) {
  const known = MARKETS.get(name);
  const words = known ?? name.replaceAll('_', ' ');
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return line === null || line === undefined ? text : `${text} ${line}`;
}

/** `Home – Away`, or the title of an event without sides. */
export function eventName(event) {
  return event.away ? `${event.home} – ${event.away}` : event.home;
}

/** `21:36:28` in the user's time zone. */
export function formatTime(timestamp) {
  const time = new Date(timestamp);
  if (Number.isNaN(time.getTime())) return '–';
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map(twoDigits).join(':');
}

/** `29 Nov, 21:36` in the user's time zone. */
export function formatDay(timestamp) {
  const time = new Date(timestamp);
  if (Number.isNaN(time.getTime())) return '–';
  const day = time.toLocaleDateString('en-GB', { day: 'numeric', month: 'short' });
  return `${day}, ${twoDigits(time.getHours())}:${twoDigits(time.getMinutes())}`;
}

/** Why a bet was rejected, in words. */
export function formatReason(reason) {
  return reason ? (REASONS.get(reason) ?? reason.replaceAll('_', ' ')) : '';
}

function twoDigits(number) {
  return String(number).padStart(2, '0');
}
