// Waiting for conditions.

import net from 'node:net';

/** Waits until `check` returns something true, and returns that. */
export async function until(what, check, deadlineMs = 20_000) {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`timed out after ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => { setTimeout(resolve, 50); });
  }
}

/** Free ports. They are free until somebody else takes them, which is good enough for tests. */
export async function freePorts(count) {
  const servers = await Promise.all(Array.from({ length: count }, () => new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(server));
  })));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((resolve) => { server.close(resolve); })));
  return ports;
}
