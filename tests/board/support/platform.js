// The platform in one process, on ports of its own. The gateway serves the page.

import { execFileSync, spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';

import { freePorts, until } from './wait.js';

const METRICS = ['SUPPLIER', 'ODDS', 'INGEST', 'PROCESSOR', 'WALLET', 'BET', 'CONFIRMATION', 'SETTLEMENT', 'GATEWAY'];

/** A running platform. It can be killed and started again on the same ports and data. */
export class Platform {
  #process = null;

  /** Starts a platform with these settings. */
  static async start(settings = {}) {
    const platform = new Platform();
    platform.folder = await mkdtemp(path.join(os.tmpdir(), 'sports-bet-board-'));
    const [odds, wallet, bets, supplier, gateway] = await freePorts(5);
    platform.ports = { odds, wallet, bets, supplier, gateway };
    platform.settings = {
      DATABASE_URL: path.join(platform.folder, 'sports-bet.db'),
      HTTP_PORT_ODDS: odds,
      HTTP_PORT_WALLET: wallet,
      HTTP_PORT_BET: bets,
      HTTP_PORT_SUPPLIER: supplier,
      HTTP_PORT_GATEWAY: gateway,
      SUPPLIER_URLS: `ws://127.0.0.1:${supplier}/ws`,
      SUPPLIER_URL: `http://127.0.0.1:${supplier}`,
      SIMULATOR_MATCH_DURATION: '0s',
      GRPC: false,
      ...Object.fromEntries(METRICS.map((role) => [`METRICS_PORT_${role}`, 0])),
      ...settings,
    };
    await platform.run();
    return platform;
  }

  /** The address of the page. */
  get board() {
    return `http://127.0.0.1:${this.ports.gateway}/board`;
  }

  /** Starts the process, and waits until it answers. */
  async run() {
    const log = createWriteStream(path.join(this.folder, 'log'), { flags: 'a' });
    this.#process = spawn(process.env.SPORTS_BET, ['serve'], {
      cwd: this.folder,
      env: this.#environment(),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process.stdout.pipe(log);
    this.#process.stderr.pipe(log);
    await until('the platform answers', async () => {
      if (this.#process.exitCode !== null) throw new Error(`the platform ended:\n${await this.log()}`);
      return (await this.#isReady());
    }, 60_000);
  }

  async #isReady() {
    const paths = [[this.ports.odds, '/v1/events'], [this.ports.wallet, '/wallet?userId=nobody'],
      [this.ports.bets, '/bets?userId=nobody'], [this.ports.gateway, '/board']];
    const answers = await Promise.all(paths.map(([port, url]) => fetch(`http://127.0.0.1:${port}${url}`)
      .then((answer) => answer.status < 500, () => false)));
    return answers.every(Boolean);
  }

  /** Kills the process as a power cut would. */
  async kill() {
    await this.#end('SIGKILL');
  }

  async #end(signal) {
    const ended = new Promise((resolve) => { this.#process.once('exit', resolve); });
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    this.#process.kill(signal);
    await ended;
  }

  /** Runs another command of the program with the same settings. Returns what it prints. */
  command(...args) {
    return execFileSync(process.env.SPORTS_BET, args, { cwd: this.folder, encoding: 'utf8', env: this.#environment() });
  }

  #environment() {
    const texts = Object.entries(this.settings).map(([name, value]) => [name, String(value)]);
    return { PATH: process.env.PATH, ...Object.fromEntries(texts) };
  }

  /** Credits a user. `headers` may have the credential of a service. */
  async deposit(userId, cents, headers = {}) {
    await this.#move('deposit', userId, cents, headers);
  }

  /** Takes money out of a wallet. */
  async withdraw(userId, cents, headers = {}) {
    await this.#move('withdraw', userId, cents, headers);
  }

  async #move(kind, userId, cents, headers) {
    const answer = await fetch(`http://127.0.0.1:${this.ports.wallet}/wallet/${kind}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body: JSON.stringify({ userId, amount_cents: cents, external_ref: `test-${userId}-${cents}` }),
    });
    if (answer.status !== 200) throw new Error(`${kind}: ${answer.status} ${await answer.text()}`);
  }

  /** The bets of a user, newest first. */
  async bets(userId) {
    const answer = await fetch(`http://127.0.0.1:${this.ports.bets}/bets?userId=${userId}`);
    return (await answer.json()).entries;
  }

  /** The last lines of the log. */
  async log() {
    return (await readFile(path.join(this.folder, 'log'), 'utf8')).split('\n').slice(-30).join('\n');
  }

  /** Stops everything and removes the data. */
  async stop() {
    await this.#end('SIGTERM');
    await rm(this.folder, { recursive: true, force: true });
  }
}
