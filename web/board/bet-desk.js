// Places bets: holds the slip, keeps it over a reload, sends it, and waits for the decision.

import { formatPrice, eventName } from './format.js';
import * as slips from './slip.js';
import { SlipView, offeredPrice, resultText } from './slip-view.js';
import { marketKey } from './book.js';

/** The pauses between looks at a bet that is not decided yet. */
const LOOK_MS = [150, 250, 400, 700, 1000];

/** The slip and what happens to it. */
export class BetDesk {
  #slip = slips.EMPTY;
  #waiting = null;

  /** `page` has `api`, `account`, `identity`, `protocol`, `isConnected` and `follow()`. */
  constructor(root, page) {
    this.page = page;
    this.announcer = document.getElementById('announcer');
    this.view = new SlipView(root, {
      edit: (change) => this.#become(slips.edit(this.#slip, change)),
      place: () => this.#place(),
      retry: () => this.#send(),
      clear: () => this.#clear(),
    });
  }

  /** The event of the slip, which is followed while the slip is open. */
  get eventId() {
    return this.#slip.selection?.eventId ?? null;
  }

  /** Takes up the stored slip of the user, for example after a reload. */
  restore() {
    clearTimeout(this.#waiting);
    const stored = slips.restored(sessionStorage.getItem(this.#stored), this.page.identity.userId);
    // What a user picked before signing in stays.
    const isPicked = this.#slip.phase === 'editing' && stored.phase === 'empty';
    this.#become(isPicked ? this.#slip : stored);
    this.page.follow();
    if (this.#slip.phase === 'unknown') this.#send();
    if (this.#slip.phase === 'placed') this.#look(0);
  }

  /** The user picks a selection. */
  pick(key, selectionId) {
    const market = this.page.protocol.books.market(key);
    const selection = market?.selections.find((one) => one.id === selectionId);
    if (!selection) return;
    this.#become(slips.pick(this.#slip, {
      eventId: market.eventId,
      market: market.name,
      line: market.line,
      selection: selection.id,
      price: selection.price,
      name: selection.name || selection.id,
      event: eventName(market),
    }));
    this.page.follow();
    this.view.stake.focus({ preventScroll: true });
  }

  /** Markets have changed; null means that anything may have. */
  marketsChanged(keys) {
    const { selection } = this.#slip;
    if (!selection || this.#slip.phase !== 'editing') return;
    const key = marketKey(selection.eventId, selection.market, selection.line);
    if (keys === null || keys.includes(key)) this.#show();
  }

  #offer() {
    const { selection } = this.#slip;
    const { books } = this.page.protocol;
    const market = selection
      && books.market(marketKey(selection.eventId, selection.market, selection.line));
    const price = offeredPrice(market, selection?.selection);
    const obstacle = slips.obstacle(this.#slip, {
      userId: this.page.identity.userId,
      isConnected: this.page.isConnected,
      isStale: market !== undefined && books.isStale(market),
      market,
      price,
    });
    return { price, obstacle, currency: this.page.account.currency };
  }

  #become(slip) {
    this.#slip = slip;
    const text = slips.saved(slip);
    if (text === null) sessionStorage.removeItem(this.#stored);
    else sessionStorage.setItem(this.#stored, text);
    this.#show();
  }

  /** Each user has a stored slip, so a request without an answer survives a change of users. */
  get #stored() {
    return `slip:${this.page.identity.userId ?? ''}`;
  }

  #show() {
    this.view.show(this.#slip, this.#offer());
  }

  #clear() {
    clearTimeout(this.#waiting);
    this.#become(slips.EMPTY);
    this.page.follow();
  }

  #place() {
    const { price, obstacle } = this.#offer();
    if (obstacle !== null) {
      this.#announce(obstacle);
      return;
    }
    const key = crypto.randomUUID();
    this.#become(slips.confirm(this.#slip, { userId: this.page.identity.userId, price, key }));
    this.#request();
  }

  #send() {
    clearTimeout(this.#waiting);
    this.#become(slips.retry(this.#slip));
    this.#request();
  }

  async #request() {
    const { key, request } = this.#slip;
    const { status, body } = await this.page.api.place(slips.bodyOf(request), key);
    // The user has signed out, and somebody else uses the page.
    if (this.#slip.key !== key) return;
    this.#become(slips.answered(this.#slip, status, body));
    this.#afterAnswer();
  }

  #afterAnswer() {
    const { phase, problem } = this.#slip;
    if (phase === 'unknown') {
      this.#announce(resultText(this.#slip));
      this.#waiting = setTimeout(() => this.#send(), slips.retryDelay(this.#slip));
    } else if (phase === 'placed') {
      this.page.account.refresh();
      this.#look(0);
    } else if (problem) {
      this.#announce(`Not placed: ${problem.message}`);
    }
  }

  #look(times) {
    const { betId } = this.#slip;
    this.#waiting = setTimeout(async () => {
      const { status, body } = await this.page.api.bet(betId);
      if (this.#slip.betId !== betId) return;
      if (status === 200) this.#become(slips.decided(this.#slip, body));
      if (this.#slip.phase === 'placed') this.#look(times + 1);
      else this.#afterDecision();
    }, LOOK_MS[Math.min(times, LOOK_MS.length - 1)]);
  }

  #afterDecision() {
    const { selection, price } = this.#slip;
    this.#announce(`${selection.name} at ${formatPrice(price)}: ${resultText(this.#slip)}`);
    this.page.account.refresh();
  }

  /** The one place that screen readers announce: outcomes of bets. */
  #announce(text) {
    this.announcer.textContent = text;
  }
}
