// kill -9 in the middle of an epoch, then a restart: the same run, one curve, the same bits as a run left in peace.
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { rmSync, mkdtempSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, noBinary, sha256, sleep, tinyTeacher, topics } from './daemon.mjs';

const timings = ['seconds', 'tokens_per_second', 'elapsed_seconds', 'recorded_at', 'attempt'];
const untimed = (rows) => rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => !timings.includes(key))));

async function prepare(daemon) {
  const answer = await daemon.upload('topics', { train: { text: topics(1200), filename: 'train.tsv' }, dev: { text: topics(120, 7), filename: 'dev.tsv' } });
  assert.equal(answer.status, 201, answer.text);
  const teacher = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', name: 'teacher', save_as: 'teacher' });
  await daemon.waitState(teacher.id, 'finished');
}

const student = { dataset: 'topics', teacher: 'teacher', layers: 2, heads: 2, epochs: 8, batch_size: 8, seed: 11, name: 'student' };

async function result(daemon, id) {
  return {
    metrics: untimed((await daemon.get(`/experiments/${id}/metrics`)).epochs),
    steps: untimed((await daemon.get(`/experiments/${id}/steps?max_points=20000`)).steps ?? []),
    best: sha256(await daemon.archiveMember(`/experiments/${id}/archive?epoch=best`, 'model.safetensors')),
    last: sha256(await daemon.archiveMember(`/experiments/${id}/archive?epoch=last`, 'model.safetensors')),
  };
}

test('a killed run resumes to the same bits, as one curve', { skip: noBinary, timeout: 300_000 }, async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'distilld-kill-'));
  let daemon = await Daemon.start({ dataDir, args: ['--threads', '2', '--workers', '1'] });
  t.after(async () => {
    await daemon.stop('SIGKILL');
    rmSync(dataDir, { recursive: true, force: true });
  });
  await prepare(daemon);
  const undisturbed = await daemon.post('/experiments', student);
  await daemon.waitState(undisturbed.id, 'finished');
  const expected = await result(daemon, undisturbed.id);
  assert.equal(expected.metrics.length, 8);

  const killed = await daemon.post('/experiments', student);
  let attempts = 0;
  for (const [epoch, delay] of [[1, 30], [3, 55]]) {
    await daemon.waitEpoch(killed.id, epoch);
    await sleep(delay);
    await daemon.stop('SIGKILL');
    attempts++;
    daemon = await Daemon.start({ dataDir, args: ['--threads', attempts === 1 ? '1' : '2', '--workers', '1'] });
    const after = await daemon.get(`/experiments/${killed.id}`);
    assert.ok(['queued', 'running', 'finished'].includes(after.status), after.status);
  }
  const finished = await daemon.waitState(killed.id, 'finished');
  assert.ok(finished.attempts >= 2, `attempts ${finished.attempts}`);
  const actual = await result(daemon, killed.id);
  assert.deepEqual(actual.metrics.map((row) => row.epoch), [1, 2, 3, 4, 5, 6, 7, 8]);
  assert.deepEqual(actual, expected);

  // Nothing half-made is left lying.
  const stray = readdirSync(dataDir, { recursive: true }).filter((name) => String(name).includes('.tmp-'));
  assert.deepEqual(stray, []);
});

test('an acknowledged submission survives kill -9 at once', { skip: noBinary, timeout: 120_000 }, async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'distilld-ack-'));
  let daemon = await Daemon.start({ dataDir, args: ['--workers', '1'] });
  t.after(async () => {
    await daemon.stop('SIGKILL');
    rmSync(dataDir, { recursive: true, force: true });
  });
  await daemon.upload('topics', { train: { text: topics(300), filename: 'train.tsv' } });
  const ids = [];
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 3; i++) ids.push((await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 30, priority: -i })).id);
    await daemon.stop('SIGKILL');
    daemon = await Daemon.start({ dataDir, args: ['--workers', '1'] });
  }
  const { items } = await daemon.get('/experiments?limit=500&sort=id');
  assert.deepEqual(items.map((item) => item.id), ids);
});

test('SIGTERM ends the daemon cleanly within five seconds and training goes on afterwards', { skip: noBinary, timeout: 180_000 }, async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'distilld-term-'));
  let daemon = await Daemon.start({ dataDir });
  t.after(async () => {
    await daemon.stop('SIGKILL');
    rmSync(dataDir, { recursive: true, force: true });
  });
  await prepare(daemon);
  const { id } = await daemon.post('/experiments', { ...student, epochs: 6 });
  await daemon.waitEpoch(id, 1);
  const hanging = fetch(`${daemon.url}/api/v1/events`).then((r) => r.text()).catch(() => '');
  const exit = await Promise.race([daemon.stop('SIGTERM'), sleep(5_000).then(() => 'still running after 5 s')]);
  assert.deepEqual(exit, { code: 0, signal: null });
  await hanging;
  daemon = await Daemon.start({ dataDir });
  const done = await daemon.waitState(id, 'finished');
  assert.equal((await daemon.get(`/experiments/${id}/metrics`)).epochs.length, 6);
  assert.equal(done.status, 'finished');
});

test('a second daemon on the same data directory is refused with the reason', { skip: noBinary }, async (t) => {
  const first = await Daemon.start();
  t.after(() => first.discard());
  await assert.rejects(Daemon.start({ dataDir: first.dataDir }), /ended: .*"code":[1-9][0-9]*[\s\S]*(already|another|in use)/);
});

test('a submission whose answer died with the daemon is not made twice', { skip: noBinary, timeout: 120_000 }, async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'distilld-claim-'));
  let daemon = await Daemon.start({ dataDir, args: ['--workers', '1'] });
  t.after(async () => {
    await daemon.stop('SIGKILL');
    rmSync(dataDir, { recursive: true, force: true });
  });
  await daemon.upload('topics', { train: { text: topics(60), filename: 'train.tsv' } });
  const spec = { ...tinyTeacher, dataset: 'topics', epochs: 500, priority: -1 };
  const requests = [['/experiments', spec], ['/experiments/1/clone', { seed: 3 }], ['/sweeps', { name: 's', base: spec, grid: { batch_size: [8, 16] } }]];
  const first = [];
  for (const [i, [path, body]] of requests.entries()) {
    const answer = await daemon.call('POST', path, body, { 'Idempotency-Key': `key-${i}` });
    assert.equal(answer.status, 201, answer.text);
    first.push(answer.json.id);
  }
  await daemon.stop('SIGKILL');
  // As a kill between the insert and the answer leaves it.
  execFileSync('sqlite3', [join(dataDir, 'distilld.db'), 'UPDATE idempotency SET body = NULL;']);
  daemon = await Daemon.start({ dataDir, args: ['--workers', '1'] });
  for (const [i, [path, body]] of requests.entries()) {
    const again = await daemon.call('POST', path, body, { 'Idempotency-Key': `key-${i}` });
    assert.deepEqual([again.status, again.json.id], [201, first[i]], again.text);
    assert.match(again.headers.get('location'), new RegExp(`/${first[i]}$`));
    assert.equal((await daemon.call('POST', path, { ...body, tags: ['other'] }, { 'Idempotency-Key': `key-${i}` })).status, 422);
  }
  assert.equal((await daemon.get('/experiments?limit=500')).items.length, 4);
  assert.equal((await daemon.get('/sweeps')).items.length, 1);
});
