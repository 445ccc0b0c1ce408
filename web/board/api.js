// Calls of the REST services. An answer is its status and body; no answer is status 0.

import { parseExact } from './exact.js';

const TIMEOUT_MS = 10_000;

/** The three services, below their addresses. */
export class Api {
  /** `bases` has the addresses `odds`, `wallet` and `bets`; `token()` is the current token. */
  constructor({ bases, token, fetch, onUnauthenticated }) {
    this.bases = bases;
    this.token = token;
    this.fetch = fetch;
    this.onUnauthenticated = onUnauthenticated;
  }

  /** The address of the socket. */
  get socketUrl() {
    const url = new URL(`${this.bases.odds}/ws/odds`);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    return url.href;
  }

  /** A page of the list of events. */
  events({ status, q, after, limit }) {
    return this.#get('odds', '/v1/events', { status, q, after, limit });
  }

  /** The prices of a market since a time. */
  history({ eventId, name, line }, { from, cursor, limit }) {
    const path = `/v1/events/${encodeURIComponent(eventId)}/markets/${encodeURIComponent(name)}/history`;
    return this.#get('odds', path, { line, from, cursor, limit });
  }

  /** A user's balances. */
  wallet(userId) {
    return this.#get('wallet', '/wallet', { userId });
  }

  /** A page of a user's ledger, newest first. */
  ledger(userId, cursor, limit) {
    return this.#get('wallet', '/wallet/ledger', { userId, cursor, limit });
  }

  /** A page of a user's bets, newest first. */
  bets(userId, cursor, limit) {
    return this.#get('bets', '/bets', { userId, cursor, limit });
  }

  /** A bet. */
  bet(betId) {
    return this.#get('bets', `/bets/${encodeURIComponent(betId)}`, {});
  }

  /** Places a bet under a key. `body` is JSON text. */
  place(body, key) {
    return this.#send('bets', '/bets', {
      method: 'POST',
      body,
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key },
    });
  }

  #get(service, path, parameters) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters)) {
      if (value !== undefined && value !== null && value !== '') query.set(name, value);
    }
    const text = query.toString();
    return this.#send(service, text ? `${path}?${text}` : path, { headers: {} });
  }

  async #send(service, path, { headers, ...request }) {
    const token = this.token();
    const authorization = token ? { Authorization: `Bearer ${token}` } : {};
    try {
      const response = await this.fetch(`${this.bases[service]}${path}`, {
        ...request,
        headers: { ...headers, ...authorization },
        credentials: 'omit',
        cache: 'no-cache',
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      const body = readBody(await response.text());
      if (response.status === 401 && token) this.onUnauthenticated(token);
      return { status: response.status, body, next: nextPage(response.headers.get('Link')) };
    } catch {
      return { status: 0, body: null, next: null };
    }
  }
}

function readBody(text) {
  try {
    return parseExact(text);
  } catch {
    return null;
  }
}

/** The parameter `after` of a `Link` to the next page. */
export function nextPage(link) {
  const target = /<([^>]*)>\s*;\s*rel="next"/.exec(link ?? '')?.[1];
  return target ? new URL(target, 'http://page.invalid').searchParams.get('after') : null;
}
