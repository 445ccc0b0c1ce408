// The page: connects the pure modules, the socket, the services and the views.

import { AccountView } from './account-view.js';
import { Api } from './api.js';
import { BetDesk } from './bet-desk.js';
import { BoardView } from './board-view.js';
import { Connection } from './connection.js';
import { EventList } from './event-list.js';
import { eventName } from './format.js';
import { HistoryView, readHistory } from './history-view.js';
import * as identities from './identity.js';
import { Painter } from './painter.js';
import { showPanel, startPanels } from './panels.js';
import { OddsProtocol } from './protocol.js';
import { SignIn } from './sign-in.js';
import { StatusView, statusOf } from './status-view.js';

/** How often a visible page reads the account and the list of events. */
const ACCOUNT_MS = 10_000;
const EVENTS_MS = 20_000;

const byId = (id) => document.getElementById(id);
const baseOf = (service) => {
  const content = document.querySelector(`meta[name="api-${service}"]`).content;
  return new URL(content, document.baseURI).href.replace(/\/$/, '');
};

class Page {
  #status = 'connecting';
  #isOpen = false;
  #events = [];
  #motion = matchMedia('(prefers-reduced-motion: reduce)');

  constructor() {
    this.identity = identities.load(sessionStorage);
    this.protocol = new OddsProtocol();
    this.api = new Api({
      bases: { odds: baseOf('odds'), wallet: baseOf('wallet'), bets: baseOf('bets') },
      token: () => this.identity.token,
      fetch: (...request) => fetch(...request),
      onUnauthenticated: (token) => this.#rejected(token),
    });
    this.status = new StatusView({ pill: byId('connection'), text: byId('connection-text'), banner: byId('banner') });
    this.account = new AccountView({ bets: byId('bets'), wallet: byId('wallet'), balance: byId('balance') },
      this.api, (bet) => this.#namesOf(bet));
    this.board = new BoardView(byId('events'), this.protocol.books, {
      isConnected: () => this.#isOpen,
      canFlash: () => !this.#motion.matches,
    }, { onPick: (key, id) => this.#pick(key, id), onHistory: (row) => this.#toggleHistory(row) });
    this.painter = new Painter((frame) => requestAnimationFrame(frame), (keys, now) => this.board.paint(keys, now));
    this.connection = this.#connection();
    this.list = new EventList(this.api, (events) => this.#showEvents(events));
    this.desk = new BetDesk(byId('slip'), this);
    this.signIn = new SignIn((identity) => this.#use(identity));
  }

  /** The parts that the bet desk needs. */
  get isConnected() {
    return this.#isOpen;
  }

  start() {
    startPanels();
    const token = identities.fragmentToken(location.hash);
    if (token) {
      history.replaceState(null, '', location.pathname + location.search);
      this.#offer(identities.identityOf(token, ''));
    }
    this.#listen();
    this.signIn.show(this.identity);
    this.connection.connect();
    this.list.start();
    this.account.showUser(this.identity.userId);
    this.desk.restore();
    setInterval(() => document.hidden || this.account.refresh(), ACCOUNT_MS);
    setInterval(() => document.hidden || this.list.refresh(), EVENTS_MS);
  }

  /** Takes the identity of a link, which anybody may have made. */
  #offer(identity) {
    if (!identity) return;
    const question = `Sign in as ${identity.userId} instead of ${this.identity.userId}?`;
    if (identities.replacesUser(this.identity, identity) && !confirm(question)) return;
    this.identity = identity;
    identities.store(sessionStorage, identity);
  }

  #listen() {
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) return this.connection.hidden();
      this.connection.shown();
      this.list.refresh();
      return this.account.refresh();
    });
    document.addEventListener('freeze', () => this.connection.frozen());
    document.addEventListener('resume', () => document.hidden || this.connection.shown());
    addEventListener('pageshow', () => this.connection.shown());
    addEventListener('online', () => this.connection.shown());
    byId('pause').addEventListener('click', (event) => {
      const isPaused = event.currentTarget.getAttribute('aria-pressed') !== 'true';
      event.currentTarget.setAttribute('aria-pressed', String(isPaused));
      this.painter.pause(isPaused);
    });
  }

  #connection() {
    return new Connection(this.protocol, {
      url: this.api.socketUrl,
      token: () => this.identity.token,
      now: () => performance.now(),
      random: () => Math.random(),
      setTimeout: (action, delay) => setTimeout(action, delay),
      clearTimeout: (id) => clearTimeout(id),
      WebSocket,
    }, {
      state: (name, details) => this.#connectionState(name, details),
      changed: (keys) => this.#changed(keys),
      tokenRejected: () => this.#rejected(this.identity.token),
      problem: (text) => console.warn(`odds: ${text}`),
    });
  }

  #connectionState(name, details) {
    const wasOpen = this.#isOpen;
    this.#isOpen = name === 'open';
    this.#status = statusOf(name, this.protocol.books.isFeedStale);
    this.status.show(this.#status, Math.ceil((details?.delay ?? 0) / 1000));
    if (wasOpen !== this.#isOpen) this.#changed(this.protocol.books.keys());
  }

  #changed(keys) {
    this.painter.mark(keys);
    this.desk.marketsChanged(keys);
  }

  #showEvents(events) {
    this.#events = events;
    this.board.showEvents(events);
    byId('board-note').hidden = events.length > 0;
    this.follow();
  }

  /** Follows the shown events, and that of the slip. */
  follow() {
    const ids = new Set(this.#events.map((event) => event.eventId));
    if (this.desk.eventId) ids.add(this.desk.eventId);
    this.connection.follow([...ids]);
    const known = this.protocol.books;
    this.painter.mark([...ids].flatMap((id) => known.marketsOf(id).map((market) => market.key)));
  }

  #pick(key, selectionId) {
    this.desk.pick(key, selectionId);
    showPanel('slip');
  }

  async #toggleHistory(row) {
    if (row.history) return row.showHistory(null);
    const market = this.protocol.books.market(row.key);
    if (!market) return undefined;
    const view = new HistoryView(market, () => Date.now());
    row.showHistory(view);
    return view.show(await readHistory(this.api, market, Date.now()));
  }

  #use(identity) {
    this.identity = identity;
    identities.store(sessionStorage, identity);
    this.signIn.show(identity);
    this.connection.restart();
    this.list.refresh();
    this.account.showUser(identity.userId);
    this.desk.restore();
  }

  /** The server does not accept this token any more. */
  #rejected(token) {
    if (token === null || token !== this.identity.token) return;
    this.identity = identities.NOBODY;
    identities.store(sessionStorage, this.identity);
    this.signIn.show(this.identity, 'Your token has expired or is not accepted. Sign in again.');
    this.account.showUser(null);
    this.desk.marketsChanged(null);
    this.connection.restart();
  }

  #namesOf(bet) {
    const event = this.#events.find((one) => one.eventId === bet.eventId);
    const markets = this.protocol.books.marketsOf(bet.eventId);
    const market = markets.find((one) => one.name === bet.market && one.line === (bet.line ?? null));
    const selection = market?.selections.find((one) => one.id === bet.selection);
    return {
      event: event ? eventName({ home: event.homeTeam, away: event.awayTeam }) : bet.eventId,
      selection: selection?.name || bet.selection,
    };
  }
}

new Page().start();
