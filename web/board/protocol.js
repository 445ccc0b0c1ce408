// The conversation with `/ws/odds` as a state machine without socket and clock: frames and times
// go in; what to send, and what has changed, come out.

import { Books } from './book.js';
import { parseExact } from './exact.js';

/** How often the server shows that a quiet connection is alive. */
export const HEARTBEAT_MS = 5000;
/** After this silence the connection is asked whether it is alive. */
const SILENT_MS = 2 * HEARTBEAT_MS;
/** After this silence it is dead. */
const DEAD_MS = 3 * HEARTBEAT_MS;
/** When a refused subscription is sent again. */
const RETRY_MS = 1500;
/** Events of one message; keeps the largest message below the server's limit. */
const CHUNK = 50;
/** Errors after which the same subscription may succeed. */
const RETRIED = new Set(['RATE_LIMITED', 'SNAPSHOT_UNAVAILABLE']);

/** The conversation. It survives its connections: `open` resumes where the last one ended. */
export class OddsProtocol {
  books = new Books();
  #wanted = new Set();
  #subscribed = new Set();
  #retryAt = null;
  #isOpen = false;
  #lastFrameAt = 0;
  #pingedAt = null;

  /** A connection has been opened. Returns the messages to send. */
  open(now, token) {
    this.#isOpen = true;
    this.#lastFrameAt = now;
    this.#pingedAt = null;
    this.#subscribed.clear();
    const login = token ? [authMessage(token)] : [];
    return [...login, ...this.#subscribe()];
  }

  /** The connection has ended. */
  closed() {
    this.#isOpen = false;
    this.#retryAt = null;
  }

  /** Follows exactly these events. Returns the messages to send. */
  follow(eventIds) {
    this.#wanted = new Set(eventIds);
    const messages = [];
    for (const eventId of [...this.#subscribed]) {
      if (this.#wanted.has(eventId)) continue;
      this.#subscribed.delete(eventId);
      this.books.forget(eventId);
      messages.push({ type: 'unsubscribe', eventId });
    }
    return this.#isOpen ? [...messages, ...this.#subscribe()] : [];
  }

  /** Handles a frame. */
  frame(text, now) {
    this.#lastFrameAt = now;
    this.#pingedAt = null;
    let message;
    try {
      message = parseExact(text);
    } catch {
      return { changed: [], problem: 'a frame is not JSON' };
    }
    return this.#handle(message, now);
  }

  /** Time passes. Returns the messages to send, and whether the connection is dead. */
  tick(now) {
    if (!this.#isOpen) return { send: [], isDead: false };
    const silence = now - this.#lastFrameAt;
    const send = [];
    if (silence >= SILENT_MS && this.#pingedAt === null) {
      this.#pingedAt = now;
      send.push({ type: 'ping' });
    }
    if (this.#retryAt !== null && now >= this.#retryAt) {
      this.#retryAt = null;
      send.push(...this.#subscribe());
    }
    return { send, isDead: silence >= DEAD_MS };
  }

  /** Whether nothing has arrived for longer than the server is ever silent. */
  isSilent(now) {
    return this.#isOpen && now - this.#lastFrameAt >= SILENT_MS;
  }

  #subscribe() {
    const missing = [...this.#wanted].filter((eventId) => !this.#subscribed.has(eventId));
    const messages = [];
    for (let start = 0; start < missing.length; start += CHUNK) {
      const eventIds = missing.slice(start, start + CHUNK);
      eventIds.forEach((eventId) => this.#subscribed.add(eventId));
      messages.push(...subscribeMessages(eventIds, this.books));
    }
    return messages;
  }

  #handle(message, now) {
    switch (message.type) {
      case 'snapshot':
        if (!this.#wanted.has(message.eventId)) return { changed: [] };
        return { changed: [...this.books.applySnapshot(message)] };
      case 'update': {
        const key = this.books.applyUpdate(message);
        return { changed: key === null ? [] : [key] };
      }
      case 'feed':
        // The states of the markets of one source follow as updates.
        if (message.source !== undefined) return { changed: [] };
        this.books.setFeed(message.status);
        return { changed: this.books.keys(), isFeed: true };
      case 'reconnect':
        return { changed: [], reconnectMs: message.withinMs };
      case 'error':
        return this.#refused(message, now);
      default:
        // heartbeat, pong, unsubscribed, authenticated, and what later servers add.
        return { changed: [] };
    }
  }

  #refused(message, now) {
    if (RETRIED.has(message.code)) {
      if (message.eventId === undefined) this.#forgetUnanswered();
      else this.#subscribed.delete(message.eventId);
      this.#retryAt = now + RETRY_MS;
      return { changed: [] };
    }
    return { changed: [], problem: `${message.code}: ${message.message}` };
  }

  /** The refused message is not named: every event without a snapshot is subscribed to again. */
  #forgetUnanswered() {
    for (const eventId of [...this.#subscribed]) {
      if (this.books.marketsOf(eventId).length === 0) this.#subscribed.delete(eventId);
    }
  }
}

/** The first message on a socket of a caller with a token. */
export function authMessage(token) {
  return { type: 'auth', token };
}

/** Events that resume share a message for each epoch; the others share one. */
function subscribeMessages(eventIds, books) {
  const groups = new Map();
  for (const eventId of eventIds) {
    const point = books.resumePoint(eventId);
    const epoch = point?.epoch ?? null;
    const group = groups.get(epoch) ?? { eventIds: [], since: {} };
    group.eventIds.push(eventId);
    if (point) group.since[eventId] = point.since;
    groups.set(epoch, group);
  }
  return [...groups].map(([epoch, group]) => ({
    type: 'subscribe',
    eventIds: group.eventIds,
    heartbeatMs: HEARTBEAT_MS,
    ...(epoch === null ? {} : { epoch, since: group.since }),
  }));
}
