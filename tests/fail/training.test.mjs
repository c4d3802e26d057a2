// Each thing that a training asks of disk, memory and database fails in turn, once and for good.  Whatever it is, the daemon
// answers, the run finishes or says why it did not, and a retry without the fault gives the bits of the undisturbed twin.
import test from 'node:test';
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, sha256, sleep, tinyTeacher, topics, waitFor } from '../e2e/daemon.mjs';
import { Control, everything, integrity, kinds, positions, temporaries } from './plan.mjs';

const ended = ['finished', 'failed', 'cancelled'];
const timings = ['seconds', 'tokens_per_second', 'elapsed_seconds', 'recorded_at', 'attempt'];
const untimed = (rows) => rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => !timings.includes(key))));
const small = { ...tinyTeacher, dataset: 'topics', layers: 1, hidden_size: 16, intermediate_size: 32, max_length: 12, vocab_size: 150 };
const student = {
  dataset: 'topics', teacher: 'teacher', layers: 1, heads: 2, hidden_size: 8, intermediate_size: 16, max_length: 12, epochs: 2, batch_size: 16, seed: 3,
  hidden_weight: 1, ema: 0.9, unlabelled: true,
};
let daemon, control, dataDir, twin;

function result(id, metrics, steps) {
  const dir = join(dataDir, 'runs', String(id));
  const best = readdirSync(dir).find((name) => name.startsWith('best-'));
  const weights = (name) => sha256(readFileSync(join(dir, name, 'model.safetensors')));
  return { metrics: untimed(metrics.epochs), steps: untimed(steps.steps), best: weights(best), last: weights('last') };
}
const resultOf = async (id) => result(id, await daemon.get(`/experiments/${id}/metrics`), await daemon.get(`/experiments/${id}/steps`));

// The teacher is asked anew in each run, so that writing the cache can fail, too.
function forgetCache() {
  for (const name of readdirSync(join(dataDir, 'cache'))) if (name.endsWith('.bin')) rmSync(join(dataDir, 'cache', name));
}

// Until the run has ended, or a fault that stays keeps it from ending.
async function settle(id, stays) {
  for (let held = 0; ; held++) {
    const { status } = await daemon.get(`/experiments/${id}`);
    if (ended.includes(status)) return;
    if (stays && control.injected > 0 && held > 60) return;
    await sleep(10);
  }
}

async function remove(id) {
  const { model } = await daemon.get(`/experiments/${id}`);
  assert.equal((await daemon.call('DELETE', `/experiments/${id}`)).status, 204);
  if (model) assert.equal((await daemon.call('DELETE', `/models/${model.name}`)).status, 204);
}

// One run with one fault; the outcome, or undefined when the run did not come so far.
async function disturbed(kind, error, n, stays) {
  forgetCache();
  await control.arm(daemon, `${kind}@worker:${n}${stays ? '+' : ''}:${error}`);
  const { id } = await daemon.post('/experiments', student);
  await settle(id, stays);
  const reached = control.injected > 0;
  await control.arm(daemon, '');
  let run;
  await waitFor(async () => ended.includes((run = await daemon.get(`/experiments/${id}`)).status), 60_000, `the end of a run after ${error} from ${kind} ${n}`);
  if (run.status === 'failed') {
    assert.match(run.error.code, /^[a-z0-9_]+$/);
    assert.ok(run.error.message.length > 15, run.error.message);
    const expected = { ENOSPC: /full|space/i, EIO: /error|fail/i, ENOMEM: /memory|allocate/i, EBUSY: /busy|locked/i, EMFILE: /open files/i }[error];
    assert.match(run.error.message, expected);
    await daemon.post(`/experiments/${id}/retry`);
    await daemon.waitState(id, 'finished');
  } else {
    assert.equal(run.status, 'finished');
  }
  assert.deepEqual(await resultOf(id), twin);
  assert.deepEqual(temporaries(dataDir), []);
  await remove(id);
  return reached ? run.status : undefined;
}

test.before(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'distilld-fail-'));
  control = new Control(join(dataDir, 'control'));
  daemon = await Daemon.start({ dataDir, args: ['--workers', '1', '--threads', '1'], env: { DISTILLD_FAIL_CONTROL: control.path } });
  const unlabelled = { text: topics(20, 9).replace(/\t.*$/gm, ''), filename: 'unlabelled.txt' };
  await daemon.upload('topics', { train: { text: topics(48), filename: 'train.tsv' }, dev: { text: topics(24, 5), filename: 'dev.tsv' }, unlabelled });
  const teacher = await daemon.post('/experiments', { ...small, epochs: 1, save_as: 'teacher' });
  await daemon.waitState(teacher.id, 'finished');
  const { id } = await daemon.post('/experiments', student);
  await daemon.waitState(id, 'finished');
  twin = await resultOf(id);
  await remove(id);
});
test.after(async () => {
  await daemon?.discard();
  rmSync(dataDir, { recursive: true, force: true });
});

for (const kind of new Set(kinds.map(([name]) => name))) {
  test(`a training in which ${kind} fails`, { timeout: everything ? 4 * 3600_000 : 300_000 }, async (t) => {
    forgetCache();
    await control.arm(daemon, `${kind}@worker:4000000000:EIO`);
    const { id } = await daemon.post('/experiments', student);
    await daemon.waitState(id, 'finished');
    const total = control.calls;
    await remove(id);
    const outcome = { finished: 0, failed: 0 };
    for (const [, error, few] of kinds.filter(([name]) => name === kind)) {
      for (const [at, n] of positions(total, few).entries()) {
        for (const stays of everything ? [false, true] : [at % 2 === 1]) {
          try {
            const status = await disturbed(kind, error, n, stays);
            if (status) outcome[status]++;
          } catch (failure) {
            failure.message = `${error} from ${kind} ${n} of ${total}${stays ? ', for good' : ''}: ${failure.message}\n${daemon.output.slice(-3000)}`;
            throw failure;
          }
        }
      }
    }
    integrity(dataDir);
    t.diagnostic(`${total} positions; runs with a fault: ${outcome.finished} finished all the same, ${outcome.failed} failed and were repeated`);
    assert.ok(total === 0 || outcome.finished + outcome.failed > 0, 'no fault was met');
  });
}

test('after all faults nothing is left that nothing refers to', async () => {
  assert.deepEqual(await daemon.stop(), { code: 0, signal: null });
  daemon = await Daemon.start({ dataDir, args: ['--workers', '1'] });
  const count = async (path) => (await daemon.get(path)).items.length;
  assert.equal(readdirSync(join(dataDir, 'models')).length, await count('/models'));
  assert.equal(readdirSync(join(dataDir, 'runs')).length, await count('/experiments'));
  assert.deepEqual(readdirSync(join(dataDir, 'uploads')), []);
});
