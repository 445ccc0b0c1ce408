// The page's origin: the gateway if the platform has one, otherwise a small proxy that does the same.

import http from 'node:http';
import net from 'node:net';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { until } from './wait.js';

const FOLDER = fileURLToPath(new URL('../../../web/board/', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8', '.svg': 'image/svg+xml' };

/** The origin of the page, in front of these ports. */
export async function startOrigin(ports) {
  const gateway = `http://127.0.0.1:${ports.gateway}`;
  const hasBoard = await until('the gateway has the page', () => fetch(`${gateway}/board`)
    .then((answer) => answer.status === 200, () => false), 2000).catch(() => false);
  return hasBoard ? { address: gateway, stop: async () => {} } : startProxy(ports);
}

async function startProxy(ports) {
  const services = { odds: ports.odds, wallet: ports.wallet, bets: ports.bets };
  const server = http.createServer((request, response) => {
    const target = targetOf(request.url, services);
    if (target) forward(request, response, target);
    else serveFile(request, response);
  });
  const tunnels = new Set();
  server.on('upgrade', (request, socket, head) => {
    tunnels.add(socket);
    socket.on('close', () => tunnels.delete(socket));
    tunnel(request, socket, head, services);
  });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return {
    address: `http://127.0.0.1:${server.address().port}`,
    stop: () => new Promise((resolve) => {
      tunnels.forEach((socket) => socket.destroy());
      server.closeAllConnections();
      server.close(resolve);
    }),
  };
}

function targetOf(url, services) {
  const parts = /^\/api\/(odds|wallet|bets)(\/.*)$/.exec(url);
  return parts ? { port: services[parts[1]], path: parts[2] } : null;
}

function forward(request, response, { port, path: target }) {
  const out = http.request({ host: '127.0.0.1', port, path: target, method: request.method,
    headers: request.headers }, (answer) => {
    response.writeHead(answer.statusCode, answer.headers);
    answer.pipe(response);
  });
  out.on('error', () => {
    if (!response.headersSent) response.writeHead(502, { 'Content-Type': 'application/json' });
    response.end('{"code":"BAD_GATEWAY","message":"the service does not answer"}');
  });
  request.pipe(out);
}

function tunnel(request, socket, head, services) {
  const target = targetOf(request.url, services);
  const out = net.connect(target?.port ?? 1, '127.0.0.1', () => {
    const headers = Object.entries(request.headers).map(([name, value]) => `${name}: ${value}\r\n`).join('');
    out.write(`GET ${target.path} HTTP/1.1\r\n${headers}\r\n`);
    out.write(head);
    out.pipe(socket).pipe(out);
  });
  out.on('error', () => socket.destroy());
  socket.on('error', () => out.destroy());
}

async function serveFile(request, response) {
  const name = request.url === '/board' ? 'index.html' : /^\/board\/([\w.-]+)$/.exec(request.url)?.[1];
  const body = name ? await readFile(path.join(FOLDER, name)).catch(() => null) : null;
  if (!body) return response.writeHead(404).end();
  const { host } = request.headers;
  return response.writeHead(200, {
    'Content-Type': TYPES[path.extname(name)],
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
      + `connect-src 'self' ws://${host} wss://${host}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'`,
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-cache',
  }).end(body);
}
