// A supplier whose prices the test decides: native format over WebSocket, and confirmations.

import { createHash } from 'node:crypto';
import http from 'node:http';

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const TEXT = 1;
const PING = 9;
const PONG = 10;

/** A supplier of the source `test`. */
export class Supplier {
  #sockets = new Set();
  #markets = new Map();
  #version = 0;

  /** What is answered to a confirmation. */
  decision = { status: 'CONFIRMED' };

  static async start() {
    const supplier = new Supplier();
    supplier.server = http.createServer((request, response) => supplier.#confirm(request, response));
    supplier.server.on('upgrade', (request, socket) => supplier.#accept(request, socket));
    await new Promise((resolve) => { supplier.server.listen(0, '127.0.0.1', resolve); });
    supplier.alive = setInterval(() => supplier.#send({ type: 'alive', at: new Date().toISOString(), source: 'test' }), 500);
    return supplier;
  }

  /** The settings of a platform that uses this supplier. */
  get settings() {
    const { port } = this.server.address();
    return { SUPPLIER_URLS: `ws://127.0.0.1:${port}/ws`, SUPPLIER_URL: `http://127.0.0.1:${port}` };
  }

  /** Publishes a market. `prices` is by selection id; a selection without a price is suspended. */
  publish(eventId, prices, more = {}) {
    const { home = 'Flamengo', away = 'Palmeiras', market = '1x2', ...fields } = more;
    const names = { home, draw: 'Draw', away };
    this.#version += 1;
    const update = {
      event_id: eventId,
      home_team: home,
      away_team: away,
      market,
      selections: Object.entries(prices).map(([id, price]) => ({ id, name: names[id] ?? id,
        price: price ?? 1.5, status: price === null ? 'suspended' : 'active' })),
      status: 'open',
      updated_at: new Date().toISOString(),
      source: 'test',
      version: this.#version,
      ...fields,
    };
    this.#markets.set(`${eventId} ${market} ${fields.line ?? ''}`, update);
    this.#send(update);
  }

  #send(message) {
    this.#sockets.forEach((socket) => socket.write(frame(TEXT, Buffer.from(JSON.stringify(message)))));
  }

  #accept(request, socket) {
    const key = createHash('sha1').update(request.headers['sec-websocket-key'] + GUID).digest('base64');
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${key}\r\n\r\n`);
    this.#sockets.add(socket);
    const forget = () => this.#sockets.delete(socket);
    socket.on('close', forget);
    socket.on('error', forget);
    let buffered = Buffer.alloc(0);
    socket.on('data', (bytes) => {
      buffered = Buffer.concat([buffered, bytes]);
      for (let read = parse(buffered); read; read = parse(buffered)) {
        buffered = buffered.subarray(read.length);
        this.#received(socket, read);
      }
    });
    this.#markets.forEach((update) => socket.write(frame(TEXT, Buffer.from(JSON.stringify(update)))));
  }

  #received(socket, { kind, body }) {
    if (kind === PING) socket.write(frame(PONG, body));
    if (kind !== TEXT) return;
    const message = JSON.parse(body.toString());
    if (message.type !== 'recover') return;
    this.#markets.forEach((update) => socket.write(frame(TEXT, Buffer.from(JSON.stringify(update)))));
    const answer = { type: 'recovered', request: message.request };
    socket.write(frame(TEXT, Buffer.from(JSON.stringify(answer))));
  }

  #confirm(request, response) {
    let text = '';
    request.on('data', (part) => { text += part; });
    request.on('end', () => {
      const { betId } = JSON.parse(text);
      const isCancel = request.url.endsWith('/cancel');
      const answer = isCancel ? { status: 'CANCELLED' } : { ...this.decision, providerRef: `T-${betId.slice(0, 8)}` };
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
    });
  }

  async stop() {
    clearInterval(this.alive);
    this.#sockets.forEach((socket) => socket.destroy());
    this.server.closeAllConnections();
    await new Promise((resolve) => { this.server.close(resolve); });
  }
}

/** A server's frame: final, not masked. */
function frame(kind, body) {
  const head = body.length < 126
    ? Buffer.from([0x80 | kind, body.length])
    : Buffer.from([0x80 | kind, 126, body.length >> 8, body.length & 255]);
  return Buffer.concat([head, body]);
}

/** The first whole frame of a client; null if there is none yet. */
function parse(bytes) {
  if (bytes.length < 6) return null;
  const short = bytes[1] & 127;
  const start = short === 126 ? 4 : 2;
  const size = short === 126 ? bytes.readUInt16BE(2) : short;
  const length = start + 4 + size;
  if (bytes.length < length) return null;
  const mask = bytes.subarray(start, start + 4);
  const body = Buffer.from(bytes.subarray(start + 4, length)).map((byte, index) => byte ^ mask[index % 4]);
  return { kind: bytes[0] & 15, body, length };
}
