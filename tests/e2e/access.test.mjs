// Who gets in, and how far: tokens, foreign pages, rebound names, paths that climb, links, and text that means something elsewhere.
import test from 'node:test';
import assert from 'node:assert/strict';
import net from 'node:net';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, noBinary, run, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
const secret = 'correct-horse-battery-staple';
let daemon, dir;

test.before(async () => {
  if (skip) return;
  dir = mkdtempSync(join(tmpdir(), 'distilld-access-'));
  mkdirSync(join(dir, 'outside'));
  mkdirSync(join(dir, 'models'));
  mkdirSync(join(dir, 'models-beside'));
  for (const folder of ['outside', 'models-beside']) writeFileSync(join(dir, folder, 'config.json'), '{"model_type":"bert"}');
  symlinkSync(join(dir, 'outside'), join(dir, 'models', 'link'));
  mkdirSync(join(dir, 'models', 'files'));
  symlinkSync('/etc/passwd', join(dir, 'models', 'files', 'vocab.txt'));
  writeFileSync(join(dir, 'token'), `${secret}\n`, { mode: 0o600 });
  daemon = await Daemon.start({ args: ['--model-root', join(dir, 'models')] });
  assert.equal((await daemon.upload('topics', { train: { text: topics(60), filename: 'a.tsv' } })).status, 201);
});
test.after(async () => {
  await daemon?.discard();
  if (dir) rmSync(dir, { recursive: true, force: true });
});

// One request, byte by byte as given; resolves with the whole answer.
const raw = (text, url = daemon.url) => new Promise((done, fail) => {
  const { hostname, port } = new URL(url);
  const socket = net.connect(Number(port), hostname, () => socket.write(text.replaceAll('PORT', port)));
  let answer = '';
  socket.setTimeout(10_000, () => socket.destroy(new Error('no answer')));
  socket.on('data', (chunk) => (answer += chunk)).on('close', () => done(answer)).on('error', fail);
});
const request = (line, ...headers) => [`${line} HTTP/1.1`, ...headers, 'Connection: close', '', ''].join('\r\n');
const own = 'Host: 127.0.0.1:PORT';
const status = async (text) => Number((await raw(text)).match(/^HTTP\/1\.1 (\d+)/)?.[1]);

test('cross-site requests are refused, whatever they would do', { skip }, async () => {
  for (const line of ['POST /api/v1/experiments/1/cancel', 'DELETE /api/v1/datasets/topics', 'GET /api/v1/experiments', 'GET /metrics']) {
    for (const header of ['Origin: http://evil.example', 'Origin: null', 'Origin: https://127.0.0.1:PORT.evil.example', 'Origin: http://127.0.0.1:1',
      'Sec-Fetch-Site: cross-site']) {
      assert.equal(await status(request(line, own, header)), 403, `${line}, ${header}`);
    }
  }
  assert.equal(await status(request('DELETE /api/v1/datasets/topics', own, 'Sec-Fetch-Site: same-site')), 403);
  // What a form of another page can send without asking first is no JSON.
  const form = request('POST /api/v1/experiments', own, 'Content-Type: text/plain', 'Content-Length: 2') + '{}';
  assert.equal(await status(form), 415);
  assert.equal(await status(request('GET /api/v1/datasets/topics', own, 'Origin: http://127.0.0.1:PORT', 'Sec-Fetch-Site: same-origin')), 200);
});

test('a name that was rebound to us is no name of ours', { skip }, async () => {
  const foreign = ['evil.example', 'evil.example:PORT', '127.0.0.1.evil.example', 'localhost.evil.example:PORT', '10.1.2.3', '[::2]', 'localhost@evil.example'];
  for (const host of foreign) {
    for (const path of ['/api/v1/experiments', '/']) {
      const got = await status(request(`GET ${path}`, `Host: ${host}`));
      assert.ok([400, 421].includes(got), `${host}${path}: ${got}`);
    }
  }
  assert.equal(await status(request('GET http://evil.example/api/v1/experiments', own)), 421);
  assert.equal(await status(request('GET /api/v1/experiments', own, 'Host: evil.example')), 400);
  assert.equal(await status(request('GET /api/v1/experiments')), 400);
  for (const host of ['localhost', 'LOCALHOST:PORT', '127.0.0.1', '[::1]:PORT']) {
    assert.equal(await status(request('GET /api/v1/experiments', `Host: ${host}`)), 200, host);
  }
});

test('no path leads out of what is served', { skip }, async () => {
  const paths = ['/../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '/..%2f..%2fetc/passwd', '//etc/passwd', '/./etc/passwd', '/%00', '/assets/../../../etc/passwd',
    '/api/v1/datasets/..', '/api/v1/datasets/%2e%2e', '/api/v1/datasets/..%2ftopics', '/api/v1/models/.%2e%2f.%2e/archive', '/api/v1/models/%5c..%5cx'];
  for (const path of paths) {
    const answer = await raw(request(`GET ${path}`, own));
    assert.match(answer, /^HTTP\/1\.1 40[04]/, path);
    assert.ok(!answer.includes('root:'), path);
  }
});

test('models are registered below their root, and links do not lead out of it', { skip }, async () => {
  const root = join(dir, 'models');
  for (const path of [join(root, 'link'), join(root, 'files'), join(root, 'link', 'config.json'), join(root, '..', 'outside'), join(dir, 'models-beside'), `${root}/../outside`]) {
    const answer = await daemon.call('POST', '/models', { name: 'evil', path });
    assert.ok([403, 404, 422].includes(answer.status), `${path}: ${answer.status} ${answer.text}`);
    assert.ok(!answer.text.includes('root:'), path);
  }
  assert.deepEqual((await daemon.get('/models')).items, []);
});

test('a filter is text, never SQL', { skip }, async () => {
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', name: `it's "quoted"; 100%_`, tags: [`a'b`], epochs: 1 });
  const sql = [`' OR '1'='1`, `'; DROP TABLE experiments; --`, `" OR ""="`, `x' UNION SELECT * FROM assets --`, `%' ESCAPE '!`, '\\', '%', '_'];
  for (const text of sql) {
    for (const field of ['tag', 'q']) {
      const answer = await daemon.call('GET', `/experiments?${field}=${encodeURIComponent(text)}`);
      assert.equal(answer.status, 200, `${field}=${text}: ${answer.text}`);
      const matches = field === 'q' && ['%', '_'].includes(text) ? 1 : 0;
      assert.equal(answer.json.items.length, matches, `${field}=${text}`);
    }
    for (const field of ['dataset', 'teacher', 'sort', 'status', 'cursor']) {
      const answer = await daemon.call('GET', `/experiments?${field}=${encodeURIComponent(text)}`);
      assert.ok([200, 400, 422].includes(answer.status), `${field}=${text}: ${answer.status}`);
      if (answer.status === 200) assert.deepEqual(answer.json.items, []);
    }
    const rows = await daemon.call('GET', `/datasets/topics/rows?q=${encodeURIComponent(text)}`);
    assert.ok(rows.status === 200 && rows.json.items.length < 60, text);
  }
  assert.equal((await daemon.get(`/experiments?tag=${encodeURIComponent(`a'b`)}`)).items[0].id, id);
  assert.equal((await daemon.get(`/experiments?q=${encodeURIComponent('100%_')}`)).items[0].id, id);
});

test('text of a user never becomes a header or a log line', { skip }, async () => {
  for (const name of ['x\r\nSet-Cookie: a=b\r\n\r\n<html>', 'x\nSet-Cookie: a=b', 'x\u0085y\u001b[2J']) {
    assert.equal((await daemon.call('POST', '/experiments', { ...tinyTeacher, dataset: 'topics', name })).status, 422, JSON.stringify(name));
  }
  const name = 'x"; filename=../evil.sh; <html> 训练 \\';
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', name, epochs: 1 });
  await daemon.waitState(id, 'finished');
  const archive = await daemon.call('GET', `/experiments/${id}/archive`);
  assert.equal(archive.status, 200);
  assert.equal(archive.headers.get('set-cookie'), null);
  assert.doesNotMatch(archive.headers.get('content-disposition'), /[\r\n<]|evil|\.\./);
  for (const path of ['/api/v1/experiments/%0d%0aSet-Cookie:%20a=b', '/%0d%0aSet-Cookie:a=b?x=%0d%0aSet-Cookie:a=b']) {
    assert.doesNotMatch(await raw(request(`GET ${path}`, own, 'X-Request-Id: a%0d%0ab')), /^Set-Cookie/im);
  }
  assert.equal(daemon.output.split('\n').filter((line) => line.startsWith('Set-Cookie')).length, 0);
});

test('with a token nothing of the API is open, and only the right one opens it', { skip }, async (t) => {
  const guarded = await Daemon.start({ args: ['--token-file', join(dir, 'token')] });
  t.after(() => guarded.discard());
  for (const authorization of [undefined, 'Bearer', 'Bearer ', `Bearer ${secret.slice(1)}`, `Bearer ${secret}x`, `Basic ${secret}`, `Bearer ${secret.toUpperCase()}`, secret]) {
    for (const path of ['/experiments', '/system', '/events', '/openapi.json', '/nothing', '/metrics']) {
      const answer = await fetch(guarded.url + (path === '/metrics' ? path : `/api/v1${path}`), { headers: authorization ? { Authorization: authorization } : {} });
      assert.equal(answer.status, 401, `${path} with ${authorization}`);
      await answer.arrayBuffer();
    }
  }
  const twice = request('GET /api/v1/system', own, 'Authorization: Bearer x', `Authorization: Bearer ${secret}`);
  assert.match(await raw(twice, guarded.url), /^HTTP\/1\.1 401/);
  assert.equal((await guarded.call('GET', '/system', undefined, { Authorization: `Bearer ${secret}` })).status, 200);
  assert.equal((await fetch(`${guarded.url}/healthz`)).status, 200);
  assert.ok(!guarded.output.includes(secret), 'the token stands in the log');
});

test('tokens are made and revoked on the command line while the daemon runs', { skip }, async (t) => {
  const guarded = await Daemon.start();
  t.after(() => guarded.discard());
  const token = async (...words) => run(['token', ...words, '--data-dir', guarded.dataDir]);
  const asks = (secret, method = 'GET', path = '/experiments') =>
    guarded.call(method, path, method === 'GET' ? undefined : {}, { Authorization: `Bearer ${secret}` }).then((answer) => answer.status);
  assert.equal((await guarded.call('GET', '/experiments')).status, 200, 'open while there is no token');
  const full = (await token('create', 'alice')).stdout.trim();
  const read = (await token('create', 'grafana', '--read-only')).stdout.trim();
  assert.match(full, /^distilld_[0-9a-f]{64}$/);
  assert.equal((await guarded.call('GET', '/experiments')).status, 401);
  assert.deepEqual([await asks(full), await asks(read), await asks(full, 'POST'), await asks(read, 'POST')], [200, 200, 422, 403]);
  assert.equal((await token('create', 'alice')).code, 1);
  assert.match((await token('list')).stdout, /^alice +full .*\ngrafana +read /);
  assert.equal((await token('revoke', 'alice')).code, 0);
  assert.deepEqual([await asks(full), await asks(read)], [401, 200]);
  assert.equal((await token('revoke', 'alice')).code, 66);
  assert.equal((await token('nonsense')).code, 64);
  assert.ok(!guarded.output.includes(read), 'a token stands in the log');
  assert.match(guarded.output, /POST \/api\/v1\/experiments 403 .* token_read_only token=grafana/);
});

test('a browser signs in once, and its cookie is good for our own pages alone', { skip }, async (t) => {
  const guarded = await Daemon.start({ args: ['--token-file', join(dir, 'token')] });
  t.after(() => guarded.discard());
  const answer = await guarded.call('POST', '/session', { token: secret });
  assert.equal(answer.status, 201);
  const cookie = answer.headers.get('set-cookie');
  assert.match(cookie, /^distilld-\d+=[0-9a-f]{64}; .*HttpOnly; SameSite=Strict$/);
  const headers = { Cookie: cookie.split(';')[0] };
  const status = async (method, path, more) => (await guarded.call(method, path, undefined, { ...headers, ...more })).status;
  assert.equal(await status('GET', '/system'), 200);
  for (const more of [{}, { Origin: 'http://127.0.0.1:1' }, { Origin: 'null' }, { 'Sec-Fetch-Site': 'same-site' }]) {
    assert.equal(await status('DELETE', '/datasets/none', more), 403, JSON.stringify(more));
  }
  assert.equal(await status('DELETE', '/datasets/none', { Origin: guarded.url }), 404);
  assert.equal(await status('DELETE', '/session', { Origin: guarded.url }), 204);
  assert.equal(await status('GET', '/system'), 401);
  assert.ok(!guarded.output.includes(cookie.match(/=(.{64})/)[1]), 'the cookie stands in the log');
});

test('beyond loopback nobody listens without a token', { skip }, async () => {
  for (const listen of ['0.0.0.0:0', '[::]:0', '10.0.0.1:0']) {
    const { code, stderr } = await run(['serve', '--listen', listen, '--data-dir', join(dir, 'unused')]);
    assert.equal(code, 65, stderr);
    assert.match(stderr, /token/);
  }
});
