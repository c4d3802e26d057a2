// The libraries that multiply are opened when there is something to compute: what starts without them, and what is said
// when they cannot be opened.
import test from 'node:test';
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, binary, noBinary, run, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
const names = skip ? [] : [...new Set(readFileSync(binary, 'latin1').match(/lib(openblas|dnnl)\.so\.\d+/g))];
const dir = mkdtempSync(join(tmpdir(), 'distilld-blas-'));
test.after(() => rmSync(dir, { recursive: true, force: true }));

/** An environment in which these libraries are found first, and are none. */
function without(...libraries) {
  const path = mkdtempSync(join(dir, 'lib-'));
  for (const library of libraries) writeFileSync(join(path, library), 'not a library');
  return { LD_LIBRARY_PATH: path };
}

test('a daemon without a matrix library starts, says so, and trains when it is there', { skip, timeout: 120_000 }, async () => {
  const env = without(...names);
  let daemon = await Daemon.start({ env });
  try {
    assert.equal((await daemon.get('/system')).blas, 'none');
    assert.equal((await daemon.upload('topics', { train: { text: topics(200), filename: 'a.tsv' } })).status, 201);
    const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 1, save_as: 'teacher' });
    const failed = await daemon.waitState(id, 'failed');
    assert.equal(failed.error.code, 'blas_missing');
    assert.match(failed.error.message, /^cannot open the matrix library: .*lib(openblas|dnnl)/);
    const doctor = await run(['doctor', '--listen', '127.0.0.1:0', '--data-dir', daemon.dataDir], { env });
    assert.equal(doctor.code, 1);
    assert.match(doctor.stdout, /^fail +BLAS +the matrix library cannot be opened/m);

    const { dataDir } = daemon;
    daemon.ownsDir = false;
    await daemon.stop();
    daemon = await Daemon.start({ dataDir });
    daemon.ownsDir = true;
    await daemon.post(`/experiments/${id}/retry`);
    await daemon.waitState(id, 'finished');
    assert.match((await daemon.get('/system')).blas, /OpenBLAS|oneDNN/);
  } finally {
    await daemon.discard();
  }
});

test('no library stands in for another, whose bits would be others, unless it is asked for', { skip: skip || names.length < 2 }, async () => {
  const env = { ...without(...names.filter((name) => !name.includes('openblas'))), DISTILLD_BLAS: 'onednn' };
  assert.match((await run(['version'], { env })).stdout, /no BLAS/);
  assert.match((await run(['version'], { env: { ...env, DISTILLD_BLAS: 'openblas' } })).stdout, /OpenBLAS \d/);
});

test('an idle daemon has opened neither, and no thread but its own runs', { skip }, async () => {
  const daemon = await Daemon.start();
  try {
    const proc = `/proc/${daemon.process.pid}`;
    const maps = readFileSync(`${proc}/maps`, 'utf8');
    assert.match(maps, /libsqlite3/);
    assert.doesNotMatch(maps, /openblas|dnnl/);
    const threads = readdirSync(`${proc}/task`).map((task) => readFileSync(`${proc}/task/${task}/comm`, 'utf8').trim());
    const own = process.env.DISTILLD_SANITIZED ? 2 : 1; // ThreadSanitizer has one
    assert.ok(threads.filter((name) => name === 'distilld').length <= own, threads.join());
  } finally {
    await daemon.discard();
  }
});
