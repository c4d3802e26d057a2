// Backups taken while the daemon trains: what comes back is whole, goes on to the same bits, and damage is noticed.
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, noBinary, run, sha256, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
const student = { dataset: 'topics', teacher: 'teacher', layers: 2, heads: 2, epochs: 8, batch_size: 8, seed: 11, name: 'student' };
const timings = ['seconds', 'tokens_per_second', 'elapsed_seconds', 'recorded_at', 'attempt'];
const untimed = (rows) => rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => !timings.includes(key))));
let dir, daemon;

test.before(() => (dir = mkdtempSync(join(tmpdir(), 'distilld-backup-'))));
test.after(async () => {
  await daemon?.stop('SIGKILL');
  rmSync(dir, { recursive: true, force: true });
});

async function result(from, id) {
  return {
    metrics: untimed((await from.get(`/experiments/${id}/metrics`)).epochs),
    steps: untimed((await from.get(`/experiments/${id}/steps?max_points=20000`)).steps),
    best: sha256(await from.archiveMember(`/experiments/${id}/archive?epoch=best`, 'model.safetensors')),
    last: sha256(await from.archiveMember(`/experiments/${id}/archive?epoch=last`, 'model.safetensors')),
  };
}
const files = (path) => readdirSync(path, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile()).length;
const ok = ({ code, stderr, stdout }) => (assert.equal(code, 0, stderr), stdout);

test('backups of a daemon that trains come back whole and go on to the same bits', { skip, timeout: 400_000 }, async () => {
  daemon = await Daemon.start({ dataDir: join(dir, 'data'), args: ['--workers', '1', '--threads', '1'] });
  const upload = { train: { text: topics(1200), filename: 'train.tsv' }, dev: { text: topics(120, 7), filename: 'dev.tsv' } };
  assert.equal((await daemon.upload('topics', upload)).status, 201);
  const teacher = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', name: 'teacher', save_as: 'teacher' });
  await daemon.waitState(teacher.id, 'finished');
  const { id } = await daemon.post('/experiments', student);
  const backups = [];
  for (const epoch of [1, 3, 5]) {
    await daemon.waitEpoch(id, epoch);
    const dest = join(dir, `backup-${epoch}`);
    ok(await run(['backup', dest, '--data-dir', daemon.dataDir]));
    backups.push(dest);
  }
  const caught = execFileSync('sqlite3', [join(backups[0], 'distilld.db'), `SELECT state, epochs_done < 8 FROM experiments WHERE id = ${id}`], { encoding: 'utf8' });
  assert.equal(caught, '1|1\n', 'the first backup caught the run in the middle');
  await daemon.waitState(id, 'finished');
  const expected = await result(daemon, id);
  const teacherBits = await result(daemon, teacher.id);
  assert.deepEqual(readdirSync(join(daemon.dataDir, 'uploads')), [], 'nothing of a backup is left lying');
  for (const backup of backups) {
    execFileSync('sha256sum', ['--check', '--quiet', '--strict', 'MANIFEST'], { cwd: backup });
    assert.equal(files(backup) - 1, readFileSync(join(backup, 'MANIFEST'), 'utf8').trim().split('\n').length);
    const dataDir = `${backup}-restored`;
    ok(await run(['restore', backup, '--data-dir', dataDir]));
    const other = await Daemon.start({ dataDir, args: ['--threads', '2'] });
    try {
      await other.waitState(id, 'finished');
      assert.deepEqual(await result(other, id), expected);
      assert.deepEqual(await result(other, teacher.id), teacherBits);
      assert.equal((await other.get('/datasets/topics')).rows.train, 1200);
    } finally {
      await other.stop();
    }
  }
  await daemon.stop();
});

test('a stopped daemon can be backed up, and the same is in it', { skip }, async () => {
  const dest = join(dir, 'stopped');
  ok(await run(['token', 'create', 'alice', '--data-dir', join(dir, 'data')]));
  ok(await run(['backup', dest, '--data-dir', join(dir, 'data')]));
  const dump = (path) => execFileSync('sqlite3', [path, '.dump'], { encoding: 'utf8', maxBuffer: 1 << 28 });
  assert.equal(dump(join(dest, 'distilld.db')), dump(join(dir, 'data', 'distilld.db')));
  assert.match(readFileSync(join(dest, 'tokens'), 'utf8'), /^alice full /m);
  assert.ok(!existsSync(join(dir, 'data', 'distilld.db-wal')), 'reading left a log behind');
});

test('what is not empty or not allowed is refused', { skip }, async () => {
  const data = join(dir, 'data');
  const full = join(dir, 'full');
  mkdirSync(full);
  writeFileSync(join(full, 'x'), '');
  assert.equal((await run(['backup', full, '--data-dir', data])).code, 1);
  assert.equal((await run(['backup', join(data, 'inside'), '--data-dir', data])).code, 65);
  assert.equal((await run(['backup', join(dir, 'b'), '--data-dir', join(dir, 'nowhere')])).code, 66);
  assert.equal((await run(['restore', join(dir, 'stopped'), '--data-dir', full])).code, 1);
  assert.equal((await run(['restore', full, '--data-dir', join(dir, 'new')])).code, 66, 'no MANIFEST');
  assert.deepEqual(readdirSync(full), ['x']);
});

test('a damaged backup is noticed and leaves nothing', { skip }, async () => {
  const whole = join(dir, 'stopped');
  const damage = {
    'a flipped byte': (at) => {
      const bytes = readFileSync(join(at, 'distilld.db'));
      bytes[bytes.length >> 1] ^= 1;
      writeFileSync(join(at, 'distilld.db'), bytes);
    },
    'a missing file': (at) => rmSync(join(at, 'models'), { recursive: true }),
    'a path that climbs': (at) => appendFileSync(join(at, 'MANIFEST'), `${sha256('')}  runs/../../evil\n`),
    'a path elsewhere': (at) => appendFileSync(join(at, 'MANIFEST'), `${sha256('')}  /etc/evil\n`),
    'a link': (at) => {
      symlinkSync('/etc/hostname', join(at, 'runs', 'link'));
      appendFileSync(join(at, 'MANIFEST'), `${sha256(readFileSync('/etc/hostname'))}  runs/link\n`);
    },
    'a line that is none': (at) => appendFileSync(join(at, 'MANIFEST'), 'nonsense\n'),
    'no database': (at) => writeFileSync(join(at, 'MANIFEST'), readFileSync(join(at, 'MANIFEST'), 'utf8').replace(/^.*distilld\.db\n/m, '')),
  };
  for (const [what, spoil] of Object.entries(damage)) {
    const at = join(dir, 'damaged'), target = join(dir, 'target');
    cpSync(whole, at, { recursive: true });
    spoil(at);
    const { code, stderr } = await run(['restore', at, '--data-dir', target]);
    assert.ok(code !== 0 && stderr.length > 10, `${what} was taken`);
    assert.deepEqual(readdirSync(target), [], what);
    rmSync(at, { recursive: true });
  }
});

test('a daemon whose database is gone leaves data sets and models alone', { skip, timeout: 60_000 }, async (t) => {
  const dataDir = join(dir, 'lost');
  let own = await Daemon.start({ dataDir });
  t.after(() => own.stop('SIGKILL'));
  assert.equal((await own.upload('topics', { train: { text: topics(60), filename: 'a.tsv' } })).status, 201);
  await own.stop();
  const [kept] = readdirSync(join(dataDir, 'datasets'));
  for (const lose of [(path) => rmSync(path), (path) => writeFileSync(path, '')]) {
    const database = join(dataDir, 'distilld.db');
    const bytes = readFileSync(database);
    lose(database);
    const { code, stderr } = await run(['serve', '--listen', '127.0.0.1:0', '--data-dir', dataDir]);
    assert.equal(code, 65, stderr);
    assert.match(stderr, /distilld\.db is missing, but .*datasets is not empty.*distilld restore/);
    assert.deepEqual(readdirSync(join(dataDir, 'datasets')), [kept]);
    writeFileSync(database, bytes);
  }
  own = await Daemon.start({ dataDir });
  assert.equal((await own.get('/datasets')).items.length, 1);
});
