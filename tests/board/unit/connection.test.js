import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Connection, HIDDEN_MS, nextAttempt, reconnectDelay } from '../../../web/board/connection.js';
import { OddsProtocol } from '../../../web/board/protocol.js';
import { payload, snapshot } from './samples.js';

/** A browser with a clock of its own. */
class Browser {
  now = 0;
  sockets = [];
  states = [];
  changed = [];
  rejected = 0;
  random = 0.5;
  #timers = new Map();
  #nextId = 1;

  constructor() {
    const browser = this;
    class Socket {
      readyState = 0;
      sent = [];

      constructor(url) {
        this.url = url;
        browser.sockets.push(this);
      }

      send(text) {
        this.sent.push(JSON.parse(text));
      }

      close(code) {
        this.readyState = 3;
        this.closedWith = code;
      }

      open() {
        this.readyState = 1;
        this.onopen();
      }

      end(code) {
        this.readyState = 3;
        this.onclose({ code });
      }
    }
    this.protocol = new OddsProtocol();
    this.connection = new Connection(this.protocol, {
      url: 'ws://host/ws/odds',
      token: () => this.token ?? null,
      now: () => this.now,
      random: () => this.random,
      setTimeout: (action, delay) => {
        this.#timers.set(this.#nextId, { at: this.now + delay, action });
        return this.#nextId++;
      },
      clearTimeout: (id) => this.#timers.delete(id),
      WebSocket: Socket,
    }, {
      state: (name, details) => this.states.push([name, details?.delay]),
      changed: (keys) => this.changed.push(...keys),
      tokenRejected: () => { this.rejected += 1; },
      problem: () => {},
    });
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Lets time pass, with all timers in their order. */
  pass(duration) {
    const end = this.now + duration;
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end)
        .sort(([, one], [, other]) => one.at - other.at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.now = due[1].at;
      due[1].action();
    }
    this.now = end;
  }

  /** Lets seconds pass in which the server shows that it is alive. */
  live(seconds) {
    for (let second = 0; second < seconds; second += 1) {
      this.socket.onmessage({ data: '{"type":"heartbeat"}' });
      this.pass(1000);
    }
  }

  get timers() {
    return this.#timers.size;
  }
}

test('the delay is a random part of a limit that doubles', () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 40].map((attempt) => reconnectDelay(attempt, 1)),
    [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  assert.equal(reconnectDelay(3, 0), 0);
  assert.equal(reconnectDelay(3, 0.25), 2000);
});

test('only a connection that lasted begins from the first delay', () => {
  assert.equal(nextAttempt(4, 100, 1006), 5);
  assert.equal(nextAttempt(4, 10_000, 1006), 0);
  assert.equal(nextAttempt(4, 1000, 1001), 0);
  assert.equal(nextAttempt(4, 100, 1001), 5);
  assert.equal(nextAttempt(0, 60_000, 1008), 3);
});

test('a server that stops is left at a random time before it closes', () => {
  const browser = new Browser();
  browser.connection.connect();
  browser.socket.open();
  browser.socket.onmessage({ data: '{"type":"reconnect","withinMs":2000}' });
  browser.pass(999);
  assert.equal(browser.sockets.length, 1);
  browser.pass(1);
  assert.equal(browser.sockets.length, 2);
  assert.equal(browser.sockets[0].closedWith, 1000);
  browser.socket.open();
  assert.deepEqual(browser.states.at(-1), ['open', undefined]);
});

test('a connection that was closed before is not left again', () => {
  const browser = new Browser();
  browser.random = 0.1;
  browser.connection.connect();
  browser.socket.open();
  browser.socket.onmessage({ data: '{"type":"reconnect","withinMs":2000}' });
  browser.socket.end(1001);
  browser.pass(100);
  browser.socket.open();
  browser.live(3);
  assert.equal(browser.sockets.length, 2);
});

test('a lost connection is opened again and resumes', () => {
  const browser = new Browser();
  browser.connection.follow(['E']);
  browser.connection.connect();
  browser.socket.open();
  browser.socket.onmessage({ data: JSON.stringify(snapshot('E', 10, [[10, payload('E')]])) });
  assert.equal(browser.changed.length, 1);
  browser.socket.end(1006);
  assert.deepEqual(browser.states.at(-1), ['waiting', 500]);
  browser.pass(499);
  assert.equal(browser.sockets.length, 1);
  browser.pass(1);
  browser.socket.open();
  assert.deepEqual(browser.socket.sent, [
    { type: 'subscribe', eventIds: ['E'], heartbeatMs: 5000, epoch: 'e1', since: { E: 10 } }]);
});

test('a server that refuses at once is asked ever more rarely', () => {
  const browser = new Browser();
  browser.random = 1;
  browser.connection.connect();
  for (let attempt = 0; attempt < 7; attempt += 1) {
    browser.socket.end(1006);
    browser.pass(30_000);
  }
  const delays = browser.states.filter(([name]) => name === 'waiting').map(([, delay]) => delay);
  assert.deepEqual(delays, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
});

test('a dead connection is replaced without waiting for the other side', () => {
  const browser = new Browser();
  browser.connection.connect();
  browser.socket.open();
  browser.pass(10_000);
  assert.deepEqual(browser.socket.sent.at(-1), { type: 'ping' });
  assert.equal(browser.states.at(-1)[0], 'silent');
  browser.pass(5000);
  assert.equal(browser.sockets.length, 2);
  assert.equal(browser.sockets[0].closedWith, 1000);
  // The late end of the old socket changes nothing.
  browser.socket.open();
  browser.sockets[0].end(1006);
  assert.equal(browser.states.at(-1)[0], 'open');
});

test('a hidden page closes after a while, and comes back at once', () => {
  const browser = new Browser();
  browser.connection.connect();
  browser.socket.open();
  browser.connection.hidden();
  browser.live(HIDDEN_MS / 1000 - 1);
  browser.connection.shown();
  browser.live(10);
  assert.equal(browser.sockets.length, 1);
  browser.connection.hidden();
  browser.connection.hidden();
  browser.live(HIDDEN_MS / 1000);
  assert.equal(browser.sockets[0].closedWith, 1000);
  assert.equal(browser.states.at(-1)[0], 'hidden');
  assert.equal(browser.timers, 0);
  browser.connection.connect();
  assert.equal(browser.sockets.length, 1);
  browser.connection.shown();
  assert.equal(browser.sockets.length, 2);
});

test('a frozen page closes at once', () => {
  const browser = new Browser();
  browser.connection.connect();
  browser.socket.open();
  browser.connection.frozen();
  assert.equal(browser.socket.closedWith, 1000);
  assert.equal(browser.timers, 0);
});

test('a rejected token is reported, and not presented again', () => {
  for (const code of [3005, 3500, 3502]) {
    const browser = new Browser();
    browser.token = 'old';
    browser.connection.connect();
    browser.socket.open();
    assert.deepEqual(browser.socket.sent[0], { type: 'auth', token: 'old' });
    browser.socket.end(code);
    assert.equal(browser.rejected, 1);
    assert.equal(browser.states.at(-1)[0], 'refused');
    browser.pass(100_000);
    assert.equal(browser.sockets.length, 1);
    browser.token = 'new';
    browser.connection.restart();
    browser.socket.open();
    assert.deepEqual(browser.socket.sent[0], { type: 'auth', token: 'new' });
  }
});
