// The WebSocket below the protocol: connects, reconnects with jitter, and closes while the page is
// hidden. Everything that differs between a browser and a test comes in from outside.

/** How long a hidden page stays connected. */
export const HIDDEN_MS = 30_000;
const TICK_MS = 1000;
const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 30_000;
/** A connection that lasted this long was not refused; the next delay starts from the beginning. */
const STABLE_MS = 10_000;
/** The server is going away: another one, or its successor, is there. */
const GOING_AWAY = 1001;
/** We have sent too much: wait longer before reconnecting. */
const POLICY_VIOLATION = 1008;
/** The token has expired. */
const EXPIRED = 3005;
/** From this code on, a new connection needs another token, or a first one. */
const FIRST_REFUSAL = 3500;

/** The pause before the next attempt: a random part of a limit that doubles ("full jitter"). */
export function reconnectDelay(attempt, random) {
  return Math.round(random * Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** attempt));
}

/** The attempt that is counted next, after a connection that lasted `lasted` ended with `code`. */
export function nextAttempt(attempt, lasted, code) {
  if (code === POLICY_VIOLATION) return Math.max(attempt + 1, 3);
  // One that was just opened came to a server that is stopping.
  if (lasted >= (code === GOING_AWAY ? TICK_MS : STABLE_MS)) return 0;
  return attempt + 1;
}

/** An action that runs later, at most once. */
class Timer {
  #id = null;

  constructor(environment) {
    this.environment = environment;
  }

  get isRunning() {
    return this.#id !== null;
  }

  start(action, delay) {
    this.stop();
    this.#id = this.environment.setTimeout(() => {
      this.#id = null;
      action();
    }, delay);
  }

  stop() {
    if (this.#id !== null) this.environment.clearTimeout(this.#id);
    this.#id = null;
  }
}

/** Keeps a connection open while the page is visible. */
export class Connection {
  #protocol;
  #socket = null;
  #attempt = 0;
  #openedAt = 0;
  #isHidden = false;

  /**
   * `environment` has `url`, `token()`, `now()`, `random()`, `setTimeout`, `clearTimeout` and
   * `WebSocket`; `events` has `state(name, details)`, `changed(keys)`, `problem(text)`, and
   * `tokenRejected()`, after which `restart()` connects with another identity.
   */
  constructor(protocol, environment, events) {
    this.#protocol = protocol;
    this.environment = environment;
    this.events = events;
    this.reconnecting = new Timer(environment);
    this.ticking = new Timer(environment);
    this.hiding = new Timer(environment);
    this.moving = new Timer(environment);
  }

  /** Connects now, unless there is a connection or the page is hidden. */
  connect() {
    this.reconnecting.stop();
    if (this.#socket || this.#isHidden) return;
    this.events.state('connecting');
    const socket = new this.environment.WebSocket(this.environment.url);
    this.#socket = socket;
    socket.onopen = () => this.#opened(socket);
    socket.onmessage = (event) => this.#received(socket, event.data);
    socket.onclose = (event) => this.#closed(socket, event.code);
  }

  /** Ends the connection and opens another one, for example with another token. */
  restart() {
    this.#end();
    this.#attempt = 0;
    this.connect();
  }

  /** Follows exactly these events. */
  follow(eventIds) {
    this.#send(this.#protocol.follow(eventIds));
  }

  /** The page is hidden: the connection ends after a while, so that nothing piles up. */
  hidden() {
    if (!this.hiding.isRunning) this.hiding.start(() => this.#pause(), HIDDEN_MS);
  }

  /** The browser is about to freeze the page. */
  frozen() {
    this.#pause();
  }

  /** The page is visible again, or the network is back. */
  shown() {
    this.hiding.stop();
    this.#isHidden = false;
    if (!this.#socket) {
      this.#attempt = 0;
      this.connect();
    }
  }

  #pause() {
    this.hiding.stop();
    this.#isHidden = true;
    this.#end();
    this.events.state('hidden');
  }

  #opened(socket) {
    if (socket !== this.#socket) return;
    this.#openedAt = this.environment.now();
    this.#send(this.#protocol.open(this.#openedAt, this.environment.token()));
    this.events.state('open');
    this.#tickLater();
  }

  #received(socket, text) {
    if (socket !== this.#socket) return;
    const now = this.environment.now();
    const { changed, problem, isFeed, reconnectMs } = this.#protocol.frame(text, now);
    // The server stops. Pages connect to another one at random times, not all at once.
    if (reconnectMs !== undefined) {
      this.moving.start(() => this.restart(), this.environment.random() * reconnectMs);
    }
    if (problem) this.events.problem(problem);
    if (isFeed) this.events.state('open');
    if (changed.length > 0) this.events.changed(changed);
  }

  #closed(socket, code) {
    if (socket !== this.#socket) return;
    const lasted = this.#openedAt === 0 ? 0 : this.environment.now() - this.#openedAt;
    this.#forget();
    if (code === EXPIRED || code >= FIRST_REFUSAL) {
      this.events.state('refused');
      this.events.tokenRejected();
      return;
    }
    const delay = reconnectDelay(this.#attempt, this.environment.random());
    this.#attempt = nextAttempt(this.#attempt, lasted, code);
    this.events.state('waiting', { delay, code });
    this.reconnecting.start(() => this.connect(), delay);
  }

  #tickLater() {
    this.ticking.start(() => this.#tick(), TICK_MS);
  }

  #tick() {
    const now = this.environment.now();
    const { send, isDead } = this.#protocol.tick(now);
    if (isDead) {
      this.#end();
      this.connect();
      return;
    }
    this.#send(send);
    this.events.state(this.#protocol.isSilent(now) ? 'silent' : 'open');
    this.#tickLater();
  }

  #send(messages) {
    if (this.#socket?.readyState !== 1) return;
    messages.forEach((message) => this.#socket.send(JSON.stringify(message)));
  }

  /** Closes the socket without waiting for the other side, which may be gone. */
  #end() {
    const socket = this.#socket;
    this.reconnecting.stop();
    this.#forget();
    socket?.close(1000);
  }

  #forget() {
    this.#socket = null;
    this.#openedAt = 0;
    this.ticking.stop();
    this.moving.stop();
    this.#protocol.closed();
  }
}
