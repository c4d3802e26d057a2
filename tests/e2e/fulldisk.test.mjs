// A disk that is really full: a small tmpfs under the data directory, filled to the last byte while a run trains.  Mounting needs
// root; elsewhere the test is skipped and says so.
import test from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, noBinary, sha256, tinyTeacher, topics, waitFor, patience } from './daemon.mjs';

const disk = mkdtempSync(join(tmpdir(), 'distilld-disk-'));
const mounted = !noBinary && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=32m', 'distilld-test', disk]);
const skip = noBinary || (mounted.status === 0 ? false : `a tmpfs cannot be mounted here: ${mounted.stderr ?? mounted.error}`);
const filler = join(disk, 'filler');
const student = { dataset: 'topics', teacher: 'teacher', layers: 1, heads: 2, epochs: process.env.DISTILLD_SANITIZED ? 60 : 400, batch_size: 8, seed: 4 };
let daemon;

test.before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ dataDir: join(disk, 'data'), args: ['--workers', '1', '--threads', '1'] });
  await daemon.upload('topics', { train: { text: topics(300), filename: 'train.tsv' }, dev: { text: topics(60, 5), filename: 'dev.tsv' } });
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', save_as: 'teacher' });
  await daemon.waitState(id, 'finished');
});
test.after(async () => {
  await daemon?.stop('SIGKILL');
  if (!skip) spawnSync('umount', ['-l', disk]);
  rmSync(disk, { recursive: true, force: true });
});

// What the daemon has given back since the last time, too.
function fill() {
  const fd = openSync(filler, 'a');
  for (let size = 1 << 20; size > 0; ) {
    try {
      writeSync(fd, Buffer.alloc(size));
    } catch (error) {
      if (error.code !== 'ENOSPC') throw error;
      size >>= 1; // down to the last byte
    }
  }
  closeSync(fd);
}

function weights(id) {
  const dir = join(disk, 'data', 'runs', String(id));
  return readdirSync(dir).filter((name) => /^(best-\d+|last)$/.test(name)).sort().map((name) => [name, sha256(readFileSync(join(dir, name, 'model.safetensors')))]);
}

test('a training on a disk that fills up says so, and goes on to the same bits when there is room', { skip, timeout: 300_000 * patience }, async () => {
  const twin = await daemon.post('/experiments', student);
  await daemon.waitState(twin.id, 'finished');
  const { id } = await daemon.post('/experiments', student);
  await daemon.waitEpoch(id, 2);
  await waitFor(() => (fill(), /experiment \d+: failed: .*(full|space)/i.test(daemon.output)), 60_000, 'the run to fail');
  fill();

  // It answers meanwhile, and what cannot be stored is refused with the reason, not half done.
  for (const path of ['/healthz', '/metrics', '/api/v1/experiments', `/api/v1/experiments/${id}`, `/api/v1/experiments/${id}/metrics`, '/api/v1/system']) {
    assert.equal((await fetch(daemon.url + path)).status, 200, path);
  }
  assert.ok([200, 503].includes((await fetch(`${daemon.url}/readyz`)).status)); // the log of the database may have room left inside
  const refused = await daemon.upload('more', { train: { text: topics(3000), filename: 'train.tsv' } });
  assert.equal(refused.status, 507, refused.text);
  assert.match(refused.json.detail, /full|space/i);

  rmSync(filler);
  let run;
  await waitFor(async () => (run = await daemon.get(`/experiments/${id}`)).status === 'failed', 60_000, 'the failure to be recorded');
  assert.match(run.error.message, /full|space/i);
  await daemon.post(`/experiments/${id}/retry`);
  await daemon.waitState(id, 'finished');
  assert.deepEqual(weights(id), weights(twin.id));
  assert.equal((await daemon.upload('more', { train: { text: topics(3000), filename: 'train.tsv' } })).status, 201);
  assert.deepEqual(readdirSync(join(disk, 'data'), { recursive: true }).filter((name) => /\.tmp|\.new-/.test(String(name))), []);
  assert.deepEqual(await daemon.stop(), { code: 0, signal: null });
  const said = spawnSync('sqlite3', [join(disk, 'data', 'distilld.db'), 'PRAGMA integrity_check; PRAGMA foreign_key_check;'], { encoding: 'utf8' });
  assert.equal(said.stdout, 'ok\n');
});
