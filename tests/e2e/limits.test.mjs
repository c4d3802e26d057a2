// Too much at once: connections, event readers, headers, bodies, and clients that stop in the middle.  Each refusal has its status,
// everybody else is answered meanwhile, and the daemon's memory stays where it was.
import test from 'node:test';
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, noBinary, waitFor } from './daemon.mjs';

const skip = noBinary;
const V1 = '/api/v1';

// A raw connection: what is sent stays as it is.  `text` is all that came, `closed` resolves when the other side has ended.
class Client {
  static async open(daemon, bytes = '') {
    const client = new Client(), { hostname, port } = new URL(daemon.url);
    client.text = '';
    client.socket = connect(Number(port), hostname);
    client.closed = new Promise((resolve) => client.socket.on('close', resolve));
    client.socket.on('error', () => {});
    client.socket.setEncoding('latin1').on('data', (text) => (client.text += text));
    await once(client.socket, 'connect');
    if (bytes) client.socket.write(bytes);
    return client;
  }

  async answer() {
    await waitFor(() => /\r\n\r\n/.test(this.text) || this.socket.closed, 30_000, 'an answer');
    return Number(/^HTTP\/1\.1 (\d+)/.exec(this.text)?.[1] ?? 0);
  }

  close() { this.socket.destroy(); }
}
const get = (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
const post = (length, sent) => `POST ${V1}/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n${sent}`;
const connections = async (daemon) => (await daemon.get('/system')).http.connections;

async function withDaemon(args, body, options = {}) {
  const daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '1', ...args], ...options });
  const clients = [];
  const open = async (bytes) => (clients.push(await Client.open(daemon, bytes)), clients.at(-1));
  try {
    await body(daemon, open);
  } finally {
    for (const client of clients) client.close();
    await daemon.discard();
  }
}

test('connections over the limit are told so and closed, the others stay', { skip }, () =>
  withDaemon(['--max-connections', '40'], async (daemon, open) => {
    const first = await open(get('/healthz'));
    assert.equal(await first.answer(), 200);
    for (let i = 0; i < 60; i++) await open(i % 2 ? '' : 'GET /heal'); // idle, and slow
    const late = await open(get('/healthz'));
    assert.equal(await late.answer(), 503);
    assert.match(late.text, /Retry-After: \d+\r\n/);
    assert.match(late.text, /"code":"too_many_connections"/);
    await late.closed;
    first.text = '';
    first.socket.write(get(`${V1}/experiments`));
    assert.equal(await first.answer(), 200);
  }));

test('one address may have half of the connections', { skip }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'distilld-limits-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  writeFileSync(join(dir, 'token'), 'a token of sixteen\n', { mode: 0o600 });
  await withDaemon(['--max-connections', '40', '--token-file', join(dir, 'token')], async (daemon, open) => {
    daemon.url = daemon.url.replace('0.0.0.0', '127.0.0.1');
    const first = await open(get('/healthz'));
    assert.equal(await first.answer(), 200);
    for (let i = 0; i < 22; i++) await open();
    const late = await open(get('/healthz'));
    assert.equal(await late.answer(), 429);
    assert.match(late.text, /"code":"too_many_connections"/);
    const other = new Client(), { port } = new URL(daemon.url);
    other.text = '';
    other.socket = connect({ port: Number(port), host: '127.0.0.1', localAddress: '127.0.0.2' });
    other.socket.setEncoding('latin1').on('data', (text) => (other.text += text)).on('error', () => {});
    other.socket.write(get('/healthz'));
    assert.equal(await other.answer(), 200);
    other.close();
  }, { listen: '0.0.0.0:0' });
});

test('event readers over the limit are refused until one leaves', { skip }, () =>
  withDaemon(['--max-event-readers', '5'], async (daemon, open) => {
    const readers = [];
    for (let i = 0; i < 5; i++) readers.push(await open(get(`${V1}/events`)));
    for (const reader of readers) assert.equal(await reader.answer(), 200);
    const late = await daemon.call('GET', '/events');
    assert.deepEqual([late.status, late.json.code], [503, 'too_many_readers']);
    assert.ok(Number(late.headers.get('retry-after')) > 0);
    readers[0].close();
    await waitFor(async () => (await daemon.get('/system')).http.event_readers === 4, 20_000, 'the reader to be gone');
    assert.equal(await (await open(get(`${V1}/events`))).answer(), 200);
  }));

test('headers, targets and bodies have a size', { skip }, () =>
  withDaemon([], async (daemon, open) => {
    assert.equal(await (await open(`GET / HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`)).answer(), 431);
    assert.equal(await (await open(get(`/${'x'.repeat(100_000)}`))).answer(), 414);
    const large = await daemon.call('POST', '/experiments', JSON.stringify({ notes: 'x'.repeat(1 << 21) }), { 'Content-Type': 'application/json' });
    assert.deepEqual([large.status, large.json.code], [413, 'body_too_large']);
    const announced = await open(post(1 << 30, ''));
    assert.equal(await announced.answer(), 413); // before it comes
    assert.equal((await daemon.call('GET', '/experiments')).status, 200);
  }));

test('a body whose end nobody can know is refused at once, and the host that is named wrong says which option names it', { skip }, () =>
  withDaemon([], async (daemon, open) => {
    for (const method of ['POST', 'PATCH', 'DELETE']) {
      for (const coding of ['gzip', 'xchunked', 'chunked, identity', 'chunked\r\nTransfer-Encoding: chunked']) {
        const client = await open(`${method} ${V1}/experiments/1/cancel HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: ${coding}\r\n\r\n{}`);
        const status = await client.answer();
        assert.ok([400, 405].includes(status), `${method} ${coding}: ${status}`);
        await client.closed; // what comes after it is no second request
      }
    }
    const foreign = await open('GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n');
    assert.equal(await foreign.answer(), 421);
    assert.match(foreign.text, /add it with --host if it should/);
  }));

test('idle connections, slow headers and stalled bodies end, and everybody else is answered', { skip, timeout: 120_000 }, () =>
  withDaemon(['--idle-seconds', '2'], async (daemon, open) => {
    const parts = ['', 'GET /heal', 'GET / HTTP/1.1\r\nHost: loc', post(100, '{"a"'), post(1000, '')];
    const stalled = [];
    for (let i = 0; i < 200; i++) stalled.push(await open(parts[i % parts.length]));
    const reader = await open(get(`${V1}/events`));
    await waitFor(async () => (await connections(daemon)) < 20, 60_000, 'the stalled connections to be closed');
    await Promise.all(stalled.map((client) => client.closed));
    assert.equal(await reader.answer(), 200);
    assert.equal(reader.socket.closed, false, 'a stream that waits for events is no stalled connection');
  }));

const plain = skip || (process.env.DISTILLD_SANITIZED ? 'a sanitizer keeps memory' : process.platform !== 'linux');
test('a thousand connections and bodies that never end take little memory and give it back', { skip: plain, timeout: 120_000 }, () =>
  withDaemon([], async (daemon, open) => {
    const resident = () => 1024 * Number(readFileSync(`/proc/${daemon.process.pid}/status`, 'utf8').match(/RssAnon:\s+(\d+)/)[1]);
    for (let i = 0; i < 20; i++) await daemon.get('/experiments');
    const before = resident();
    const clients = [];
    for (let i = 0; i < 1000; i++) clients.push(await open(i % 2 ? post(1 << 20, 'x'.repeat(1000)) : 'GET /heal'));
    await waitFor(async () => (await connections(daemon)) >= 1000, 30_000, 'a thousand connections');
    assert.equal((await daemon.call('GET', '/experiments')).status, 200);
    const during = resident();
    assert.ok(during - before < 1000 * 40_000, `${before} → ${during}`);
    for (const client of clients) client.close();
    await waitFor(async () => (await connections(daemon)) < 20, 30_000, 'the connections to be gone');
    await waitFor(() => resident() - before < 1000 * 20_000, 10_000, 'the memory to be given back');
  }));
