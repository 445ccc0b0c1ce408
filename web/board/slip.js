// A bet slip as a state machine: every function takes a slip and returns the next one. One key
// names one attempt to bet. It is made when the user confirms, and kept, with the exact request,
// until the server's final answer is known: a lost answer does not mean that there is no bet.

import { parseAmount, payout } from './format.js';

/** The policies for a price that changes on the way: values of `oddsChange`. */
export const POLICIES = ['none', 'higher', 'any'];
/** Statuses after which nothing was done and nothing is remembered. */
const NOT_DONE = new Set([401, 403, 404, 413, 415, 421, 429, 503]);
/** Statuses after which the same request finds out what happened. */
const UNKNOWN = new Set([0, 408, 500, 502, 504]);

/** A slip without a selection. */
export const EMPTY = Object.freeze({ phase: 'empty' });

/** The user picks a selection. A bet whose outcome is not known yet is kept. */
export function pick(slip, selection) {
  if (isBusy(slip)) return slip;
  return {
    phase: 'editing',
    selection,
    pickedAt: selection.price,
    stake: slip.stake ?? '',
    policy: slip.policy ?? 'none',
    problem: null,
  };
}

/** The user changes the stake or the policy. */
export function edit(slip, { stake = slip.stake, policy = slip.policy }) {
  if (slip.phase !== 'editing') return slip;
  return { ...slip, stake, policy, problem: null };
}

/** Whether a request is on its way, or its outcome is unknown. */
export function isBusy(slip) {
  return slip.phase === 'sending' || slip.phase === 'unknown';
}

/**
 * Why the slip cannot be sent now, in words; null if it can. `market` is the current state of its
 * market, and `price` the price that is shown.
 */
export function obstacle(slip, { userId, isConnected, isStale, market, price }) {
  if (slip.phase !== 'editing') return 'Nothing to place';
  if (!userId) return 'Sign in to place a bet';
  if (!isConnected) return 'Not connected: the price may be old';
  if (!market) return 'This market is not offered now';
  if (isStale) return 'The price may be old';
  if (market.status === 'suspended') return 'The market is suspended';
  if (market.status !== 'open') return `The market is ${market.status}`;
  if (price === null) return 'This selection is suspended';
  return stakeProblem(slip.stake);
}

function stakeProblem(text) {
  if (text.trim() === '') return 'Enter a stake';
  const stake = parseAmount(text);
  if (stake === null) return 'The stake is not an amount such as 10 or 10.50';
  return stake === 0n ? 'The stake is zero' : null;
}

/** What the bet pays if it wins, at this price; null if the stake is not an amount. */
export function winnings(slip, price) {
  return payout(parseAmount(slip.stake ?? ''), price);
}

/** The user confirms the bet at the price that is shown. `key` has never been used before. */
export function confirm(slip, { userId, price, key }) {
  if (slip.phase !== 'editing') return slip;
  const { eventId, market, line, selection } = slip.selection;
  const request = {
    userId,
    eventId,
    market,
    line,
    selection,
    stakeCents: parseAmount(slip.stake).toString(),
    price,
    policy: slip.policy,
  };
  return { ...slip, phase: 'sending', request, key, isUncertain: false, tries: 0, problem: null };
}

/**
 * The body of a request. Amount and price are written as they are, not as floating point numbers.
 */
export function bodyOf(request) {
  const texts = JSON.stringify({
    userId: request.userId,
    eventId: request.eventId,
    market: request.market,
    selection: request.selection,
    oddsChange: request.policy,
  });
  const line = request.line === null ? '' : `,"line":${number(request.line)}`;
  const exact = `,"stake_cents":${number(request.stakeCents)},"odd_value":${number(request.price)}`;
  return `${texts.slice(0, -1)}${line}${exact}}`;
}

function number(text) {
  if (!/^-?\d+(\.\d+)?$/.test(text)) throw new TypeError(`not a number: ${text}`);
  return text;
}

/** The answer to the request: its status (0 if there was none) and body. */
export function answered(slip, status, body) {
  if (!isBusy(slip)) return slip;
  const isSuccess = status >= 200 && status < 300;
  if (isSuccess && body?.betId) return placed(slip, body);
  const isUnknown = isSuccess || UNKNOWN.has(status) || body?.code === 'REQUEST_IN_FLIGHT';
  // Nothing was done now, but an earlier try may have placed the bet.
  if (isUnknown || (slip.isUncertain && NOT_DONE.has(status))) {
    const problem = body?.message ?? 'No answer';
    return { ...slip, phase: 'unknown', isUncertain: true, tries: slip.tries + 1, problem };
  }
  return refused(slip, body);
}

function placed(slip, body) {
  return {
    phase: 'placed',
    selection: slip.selection,
    policy: slip.policy,
    request: slip.request,
    betId: body.betId,
    price: body.odd_value ?? slip.request.price,
    stake: slip.stake,
  };
}

/** Back to the form. The next attempt gets another key, because this one belongs to the refusal. */
function refused(slip, body) {
  const isChanged = body?.code === 'ODDS_CHANGED';
  return {
    phase: 'editing',
    selection: slip.selection,
    pickedAt: slip.request.price,
    stake: slip.stake,
    policy: slip.policy,
    problem: {
      code: body?.code ?? 'UNREADABLE',
      message: body?.message ?? 'The server refused the bet',
      offered: isChanged ? (body.odd_value ?? null) : null,
      limit: body?.limit_cents ?? null,
    },
  };
}

/** The request is sent again under the same key. */
export function retry(slip) {
  return slip.phase === 'unknown' ? { ...slip, phase: 'sending' } : slip;
}

/** The pause before the same request is sent again. */
export function retryDelay(slip) {
  return Math.min(30_000, 1000 * 2 ** Math.min(slip.tries, 5));
}

/** The bet has been decided. */
export function decided(slip, bet) {
  if (slip.phase !== 'placed' || slip.betId !== bet.betId) return slip;
  if (bet.status === 'PENDING_CONFIRMATION') return slip;
  return { ...slip, phase: 'decided', status: bet.status, reason: bet.reason ?? null };
}

/** The text that is kept over a reload; null if there is nothing to keep. */
export function saved(slip) {
  return slip.phase === 'empty' ? null : JSON.stringify(slip);
}

/**
 * The slip of a saved text. A request that was on its way has an unknown outcome. A slip of another
 * user is dropped.
 */
export function restored(text, userId) {
  let slip;
  try {
    slip = JSON.parse(text);
  } catch {
    return EMPTY;
  }
  if (!slip || !['editing', 'sending', 'unknown', 'placed', 'decided'].includes(slip.phase)) {
    return EMPTY;
  }
  if (slip.request && slip.request.userId !== userId) return EMPTY;
  return isBusy(slip) ? { ...slip, phase: 'unknown', isUncertain: true } : slip;
}
