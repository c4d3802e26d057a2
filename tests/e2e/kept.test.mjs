// Kept answers (api/cache.c): whatever was committed is in the next answer, whoever asks and however it is coded; and many asking at
// once while answers change get whole answers, each with an id of its own.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { Agent, get as httpGet } from 'node:http';
import { gunzipSync } from 'node:zlib';
import { Daemon, noBinary, run, sleep, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;

async function withRun(args, work) {
  const daemon = await Daemon.start({ args });
  try {
    await daemon.upload('topics', { train: { text: topics(300), filename: 'train.tsv' } });
    const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 3, name: 'first' });
    return await work(daemon, id);
  } finally {
    await daemon.discard();
  }
}

test('a change is in the very next answer of everything that shows it', { skip }, () =>
  withRun([], async (daemon, id) => {
    await daemon.waitState(id, 'finished');
    const looks = [`/experiments/${id}`, '/experiments', `/experiments?q=name&limit=10`, `/compare?ids=${id}`];
    for (let i = 0; i < 40; i++) {
      for (const path of looks) await daemon.get(path); // kept from here on
      const name = `name ${i}`, patched = await daemon.call('PATCH', `/experiments/${id}`, { name });
      assert.equal(patched.status, 200);
      assert.equal((await daemon.get(looks[0])).name, name);
      assert.equal((await daemon.get(looks[1])).items[0].name, name);
      assert.equal((await daemon.get(looks[2])).items[0].name, name);
      assert.ok(JSON.stringify(await daemon.get(looks[3])).includes(`"${name}"`));
    }
    for (const path of ['/datasets', '/datasets/topics']) assert.equal((await daemon.call('GET', path)).status, 200);
    await daemon.upload('more', { train: { text: topics(100), filename: 'train.tsv' } });
    assert.deepEqual((await daemon.get('/datasets')).items.map((item) => item.name), ['more', 'topics']);
    assert.equal((await daemon.call('DELETE', '/datasets/more')).status, 204);
    assert.equal((await daemon.call('GET', '/datasets/more')).status, 404);
    assert.deepEqual((await daemon.get('/datasets')).items.map((item) => item.name), ['topics']);
    const { id: copy } = await daemon.post(`/experiments/${id}/clone`, { epochs: 1 });
    assert.equal((await daemon.get('/experiments')).items[0].id, copy);
    await daemon.waitState(copy, 'finished');
    assert.equal((await daemon.call('DELETE', `/experiments/${copy}`)).status, 204);
    assert.equal((await daemon.call('GET', `/experiments/${copy}`)).status, 404);
    assert.equal((await daemon.get('/experiments')).items[0].id, id);
  }));

test('tags, media types and codings of one resource do not mix', { skip }, () =>
  withRun([], async (daemon, id) => {
    await daemon.waitState(id, 'finished');
    const path = `/experiments/${id}/metrics`, rounds = [1, 2, 3];
    for (const _ of rounds) {
      const plain = await daemon.call('GET', path, undefined, { 'Accept-Encoding': 'identity' });
      const coded = await daemon.call('GET', path, undefined, { 'Accept-Encoding': 'gzip' });
      const csv = await daemon.call('GET', path, undefined, { Accept: 'text/csv' });
      const pretty = await daemon.call('GET', `${path}?pretty=1`);
      assert.equal(coded.headers.get('content-encoding'), 'gzip');
      assert.equal(plain.headers.get('content-encoding'), null);
      assert.deepEqual(coded.json, plain.json);
      assert.deepEqual(pretty.json, plain.json);
      assert.match(csv.type, /^text\/csv/);
      assert.equal(csv.text.trim().split('\n').length, 4);
      const tags = [plain, csv, pretty].map((answer) => answer.headers.get('etag'));
      assert.equal(new Set(tags).size, 3);
      assert.equal(coded.headers.get('etag'), `W/${tags[0]}`);
      for (const coding of ['identity', 'gzip']) {
        const same = await daemon.call('GET', path, undefined, { 'Accept-Encoding': coding, 'If-None-Match': tags[0] });
        assert.deepEqual([same.status, same.bytes.length], [304, 0]);
        const other = await daemon.call('GET', path, undefined, { 'Accept-Encoding': coding, 'If-None-Match': '"another"' });
        assert.deepEqual([other.status, other.json], [200, plain.json]);
      }
      const head = await daemon.call('HEAD', path, undefined, { 'Accept-Encoding': 'identity' });
      assert.deepEqual([head.status, head.headers.get('etag'), head.headers.get('content-length')], [200, tags[0], String(plain.bytes.length)]);
    }
    const list = await daemon.post(`/experiments/${id}/clone`, {}).then(() => daemon.call('GET', '/experiments?limit=1'));
    const again = await daemon.call('GET', '/experiments?limit=1');
    assert.ok(list.headers.get('link').includes('rel="next"'));
    assert.equal(again.headers.get('link').split('cursor=')[0], list.headers.get('link').split('cursor=')[0]);
  }));

test('a token that is revoked gets no kept answer', { skip }, () =>
  withRun([], async (daemon, id) => {
    const made = await run(['token', 'create', 'reader', '--read-only', '--data-dir', daemon.dataDir]);
    const headers = { Authorization: `Bearer ${made.stdout.trim().split(/\s+/).at(-1)}` };
    for (let i = 0; i < 3; i++) assert.equal((await daemon.call('GET', `/experiments/${id}`, undefined, headers)).status, 200);
    assert.equal((await daemon.call('GET', `/experiments/${id}`)).status, 401);
    assert.equal((await run(['token', 'revoke', 'reader', '--data-dir', daemon.dataDir])).code, 0);
    assert.equal((await daemon.call('GET', `/experiments/${id}`, undefined, headers)).status, 401);
  }));

test('while a run trains, many who ask at once get whole answers with ids of their own, and progress moves', { skip, timeout: 120_000 }, () =>
  withRun([], async (daemon, id) => {
    await daemon.waitState(id, 'finished');
    const { id: running } = await daemon.post(`/experiments/${id}/clone`, { epochs: 400 });
    await daemon.waitEpoch(running, 1);
    const { hostname, port } = new URL(daemon.url), agent = new Agent({ keepAlive: true, maxSockets: 24 });
    const paths = [`/api/v1/experiments/${running}`, '/api/v1/experiments', `/api/v1/experiments/${running}/metrics`, `/api/v1/experiments/${running}/steps`];
    const ids = new Set(), steps = [], until = Date.now() + 4000;
    const ask = (path, gzip) => new Promise((resolve, reject) => {
      httpGet({ hostname, port, path, agent, headers: gzip ? { 'Accept-Encoding': 'gzip' } : {} }, (response) => {
        const chunks = [];
        response.on('data', (chunk) => chunks.push(chunk)).on('end', () => {
          assert.equal(response.statusCode, 200);
          assert.ok(!ids.has(response.headers['x-request-id']));
          ids.add(response.headers['x-request-id']);
          const bytes = Buffer.concat(chunks);
          assert.equal(bytes.length, Number(response.headers['content-length']));
          resolve(JSON.parse(response.headers['content-encoding'] === 'gzip' ? gunzipSync(bytes) : bytes));
        });
      }).on('error', reject);
    });
    await Promise.all(Array.from({ length: 24 }, async (_, k) => {
      for (let i = 0; Date.now() < until; i++) {
        const json = await ask(paths[(i + k) % paths.length], (i ^ k) & 1);
        if (json.progress) steps.push(json.progress.step);
      }
    }));
    agent.destroy();
    assert.ok(ids.size > 200);
    assert.ok(new Set(steps).size >= 4, `progress stood still: ${[...new Set(steps)]}`);
    await daemon.post(`/experiments/${running}/cancel`);
  }));

test('an answer of which only the tag was needed leaves nothing behind that is freed twice', { skip }, () =>
  withRun([], async (daemon, id) => {
    await daemon.waitState(id, 'finished');
    const other = await daemon.post(`/experiments/${id}/clone`, { epochs: 1 });
    await daemon.waitState(other.id, 'finished');
    const path = `/experiments/${id}`, gzip = { 'Accept-Encoding': 'gzip' };
    const whole = await daemon.call('GET', path, undefined, gzip), tag = whole.headers.get('etag');
    assert.equal(whole.headers.get('content-encoding'), 'gzip', 'large enough to be coded');
    for (let i = 0; i < 8; i++) {
      // What is kept goes stale by a change elsewhere, while this resource and its tag stay the same.
      assert.equal((await daemon.call('PATCH', `/experiments/${other.id}`, { notes: `${i}` })).status, 200);
      assert.equal((await daemon.call('GET', path, undefined, { ...gzip, 'If-None-Match': tag })).status, 304);
    }
    assert.deepEqual((await daemon.call('GET', path, undefined, gzip)).json, whole.json);
    assert.equal(daemon.exit, undefined);
  }));

test('figures of the daemon itself are a quarter of a second old at most, and new for who asks so', { skip }, () =>
  withRun([], async (daemon, id) => {
    await daemon.waitState(id, 'finished');
    const count = async (headers) => Number(/^distilld_http_requests_total (\d+)$/m.exec(await (await fetch(`${daemon.url}/metrics`, { headers })).text())[1]);
    const fresh = { 'Cache-Control': 'no-cache' };
    const first = await count(fresh);
    for (let i = 1; i <= 5; i++) assert.equal(await count(fresh), first + i);
    let again = 0, last = -1;
    for (let i = 0; i < 200; i++) {
      const now = await count();
      assert.ok(now >= first + 5, 'older than what was told before');
      again += now === last ? 1 : 0;
      last = now;
    }
    assert.ok(again > 0, 'each of 200 answers was made anew');
    await sleep(300);
    assert.equal(await count(), (await count(fresh)) - 1, 'an answer of the last quarter of a second');
    const uptimes = new Set();
    for (let i = 0; i < 200; i++) uptimes.add((await daemon.get('/system')).uptime_seconds);
    assert.ok(uptimes.size < 200, 'each of 200 answers was made anew');
  }));
