// distilld doctor: a healthy daemon passes while it trains, and each kind of damage is found and named.
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, noBinary, run, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
let daemon;

async function doctor(...words) {
  const { code, stdout, stderr } = await run(['doctor', '--json', '--listen', '127.0.0.1:0', '--data-dir', daemon.dataDir, ...words]);
  const report = JSON.parse(stdout || '{}');
  assert.equal(stderr, '');
  return { code, worst: report.worst, of: (check) => report.checks.filter((item) => item.check === check) };
}
const levels = (items) => items.map((item) => item.level);

test.before(async () => {
  if (skip) return;
  daemon = await Daemon.start();
  assert.equal((await daemon.upload('topics', { train: { text: topics(200), filename: 'a.tsv' } })).status, 201);
  const teacher = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 1, save_as: 'teacher' });
  await daemon.waitState(teacher.id, 'finished');
  const { id } = await daemon.post('/experiments', { dataset: 'topics', teacher: 'teacher', layers: 1, augment: 0, cls_weight: 0, epochs: 10000 });
  await daemon.waitEpoch(id, 2);
});
test.after(() => daemon?.discard());

test('a daemon at work is healthy', { skip }, async () => {
  const { code, worst, of } = await doctor();
  assert.equal(code, 0, worst);
  for (const check of ['processor', 'BLAS', 'address', 'tokens', 'data', 'database', 'data sets', 'models', 'checkpoints', 'cache']) {
    assert.ok(of(check).length > 0 && levels(of(check)).every((level) => level !== 'fail'), `${check}: ${JSON.stringify(of(check))}`);
  }
  assert.match(of('data sets')[0].detail, /^1 whole/);
  assert.match(of('cache')[0].detail, /^2 whole/); // the logits of train and dev
  const text = await run(['doctor', '--listen', '127.0.0.1:0', '--data-dir', daemon.dataDir]);
  assert.match(text.stdout, /^ok +database +integrity_check finds nothing$/m);
  assert.deepEqual(readdirSync(join(daemon.dataDir, 'uploads')), [], 'the doctor leaves nothing behind');
});

test('the address it would listen on, and who would be let in', { skip }, async () => {
  const { port } = new URL(daemon.url);
  assert.deepEqual(levels((await doctor('--listen', `127.0.0.1:${port}`)).of('address')), ['ok'], 'taken by our own daemon');
  assert.deepEqual(levels((await doctor('--listen', 'nonsense')).of('address')), ['fail']);
  const open = await doctor('--listen', '0.0.0.0:0');
  assert.deepEqual([open.code, ...levels(open.of('tokens'))], [1, 'fail']);
  assert.deepEqual(levels(open.of('TLS')), ['warn']);
  assert.deepEqual(levels((await doctor('--tls-cert', '/nowhere')).of('TLS cert')), ['fail']);
  const foreign = await run(['doctor', '--json', '--listen', `127.0.0.1:${port}`, '--data-dir', `${daemon.dataDir}-none`]);
  assert.equal(foreign.code, 1);
  assert.ok(JSON.parse(foreign.stdout).checks.some((item) => item.check === 'address' && item.level === 'fail'), 'taken by another');
});

test('every kind of damage is found', { skip }, async () => {
  await daemon.stop();
  const flip = (path) => {
    const bytes = readFileSync(path);
    const before = Buffer.from(bytes);
    bytes[bytes.length >> 1] ^= 1;
    writeFileSync(path, bytes);
    return () => writeFileSync(path, before);
  };
  const find = (folder, pattern) => {
    const name = readdirSync(join(daemon.dataDir, folder), { recursive: true }).find((file) => pattern.test(file));
    assert.ok(name, `${folder}: ${pattern}`);
    return join(daemon.dataDir, folder, name);
  };
  assert.equal((await doctor()).code, 0);
  const places = { 'data sets': ['datasets', /train/], models: ['models', /teacher.*safetensors$/], checkpoints: ['runs', /checkpoint$/], cache: ['cache', /logits-/] };
  for (const [check, [folder, pattern]] of Object.entries(places)) {
    const mend = flip(find(folder, pattern));
    const { code, of } = await doctor();
    assert.deepEqual([code, levels(of(check))], [1, ['fail']], check);
    assert.ok(of(check)[0].remedy.length > 10);
    mend();
  }
  const database = join(daemon.dataDir, 'distilld.db');
  const whole = readFileSync(database);
  const spoilt = Buffer.from(whole);
  spoilt.fill(0xff, 4096, 3 * 4096);
  writeFileSync(database, spoilt);
  assert.deepEqual(levels((await doctor()).of('database')), ['fail']);
  rmSync(database);
  const lost = (await doctor()).of('database');
  assert.deepEqual(levels(lost), ['fail']);
  assert.match(lost[0].detail, /distilld\.db is missing, but .*datasets is not empty/);
  writeFileSync(database, whole);
  execFileSync('sqlite3', [database, 'PRAGMA user_version = 1000']);
  const newer = (await doctor()).of('database').filter((item) => item.level === 'fail');
  assert.equal(newer.length, 1);
  assert.ok(newer[0].detail.startsWith(`${database}: the database has schema version 1000`), newer[0].detail);
  assert.match(newer[0].remedy, /install that distilld again/);
  writeFileSync(database, whole);
  chmodSync(daemon.dataDir, 0o755);
  const { code, of } = await doctor();
  assert.deepEqual([code, ...levels(of('data'))], [0, 'warn']);
  rmSync(find('models', /teacher.*safetensors$/));
  assert.deepEqual(levels((await doctor()).of('models')), ['fail']);
});
