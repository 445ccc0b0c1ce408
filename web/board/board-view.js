// The board: events, and a row for each of their markets.

import { element, setText } from './dom.js';
import { eventName, formatDay } from './format.js';
import { MarketRow } from './market-row.js';

/** The list of events. */
export class BoardView {
  #events = new Map();
  #rows = new Map();
  #lit = new Set();

  /** `books` has the markets; `view` says how they are shown: `isConnected()` and `canFlash()`. */
  constructor(root, books, view, actions) {
    this.root = root;
    this.books = books;
    this.view = view;
    this.actions = actions;
  }

  /** Shows exactly these events, in this order. */
  showEvents(events) {
    const shown = new Map();
    for (const event of events) {
      const card = this.#events.get(event.eventId) ?? new EventCard(event.eventId);
      card.describe(event);
      shown.set(event.eventId, card);
    }
    for (const [eventId, card] of this.#events) {
      if (!shown.has(eventId)) this.#remove(card);
    }
    this.#events = shown;
    const nodes = [...shown.values()].map((card) => card.node);
    const isSame = nodes.length === this.root.children.length
      && nodes.every((node, index) => node === this.root.children[index]);
    // Moving a node would take the focus from it.
    if (!isSame) this.root.replaceChildren(...nodes);
  }

  /** Writes these markets. Returns whether a cell is lit, so that time must pass. */
  paint(keys, now) {
    for (const key of keys) this.#paintMarket(key, now);
    for (const row of [...this.#lit]) {
      if (!row.tick(now)) this.#lit.delete(row);
    }
    return this.#lit.size > 0;
  }

  #paintMarket(key, now) {
    const market = this.books.market(key);
    if (!market) return this.#removeRow(key);
    const card = this.#events.get(market.eventId);
    if (!card) return;
    const row = this.#rows.get(key) ?? this.#addRow(card, market);
    card.follow(market);
    const isStale = !this.view.isConnected() || this.books.isStale(market);
    if (row.show(market, { isStale, canFlash: this.view.canFlash() }, now)) this.#lit.add(row);
  }

  #addRow(card, market) {
    const row = new MarketRow(market, this.actions);
    this.#rows.set(market.key, row);
    const order = this.books.marketsOf(market.eventId).map((other) => other.key);
    const rows = order.map((key) => this.#rows.get(key)).filter((other) => other !== undefined);
    card.arrange(rows);
    return row;
  }

  #removeRow(key) {
    const row = this.#rows.get(key);
    if (!row) return;
    this.#rows.delete(key);
    this.#lit.delete(row);
    row.node.remove();
  }

  #remove(card) {
    card.keys().forEach((key) => this.#removeRow(key));
    card.node.remove();
  }
}

/** One event with its markets. */
class EventCard {
  #rows = [];

  constructor(eventId) {
    this.title = element('h3', {});
    this.meta = element('span', { class: 'meta' });
    this.live = element('span', { class: 'badge live', hidden: true }, 'In play');
    this.markets = element('div', { class: 'markets' });
    this.node = element('article', { class: 'event', 'data-event': eventId },
      element('header', {}, this.title, element('p', { class: 'details' }, this.live, this.meta)),
      this.markets);
  }

  /** Shows what the list of events says. */
  describe({ homeTeam, awayTeam, sport, startTime, inPlay, eventId }) {
    setText(this.title, eventName({ home: homeTeam, away: awayTeam }));
    const parts = [sport, startTime ? formatDay(startTime) : null, eventId];
    setText(this.meta, parts.filter(Boolean).join(' · '));
    this.live.hidden = !inPlay;
  }

  /** Shows what a market says about its event. */
  follow(market) {
    this.live.hidden = !market.inPlay && this.live.hidden;
  }

  /** Puts the rows in this order. */
  arrange(rows) {
    this.#rows = rows;
    this.markets.replaceChildren(...rows.map((row) => row.node));
  }

  keys() {
    return this.#rows.map((row) => row.key);
  }
}
