// A sweep that decides, in a daemon that is killed meanwhile: the best go on from their checkpoints to the bits that a run
// of its own would have, the others stop at their rung, stay in history and can be taken up by hand.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, noBinary, tinyTeacher, topics, waitFor } from './daemon.mjs';

const EPOCHS = 9;
const timings = ['seconds', 'tokens_per_second', 'elapsed_seconds', 'recorded_at', 'attempt'];
const args = ['--workers', '2', '--threads', '2'];

test('successive halving through two kills', { skip: noBinary, timeout: 300_000 }, async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'distilld-asha-'));
  let daemon = await Daemon.start({ dataDir, args });
  t.after(async () => {
    await daemon.stop('SIGKILL');
    rmSync(dataDir, { recursive: true, force: true });
  });
  const epochs = async (id) =>
    (await daemon.get(`/experiments/${id}/metrics`)).epochs.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => !timings.includes(key))));
  await daemon.upload('news', { train: { text: topics(300), filename: 'train.tsv' }, dev: { text: topics(60, 5), filename: 'dev.tsv' } });
  const teacher = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', save_as: 'teacher', epochs: 3 });
  await daemon.waitState(teacher.id, 'finished');

  const made = await daemon.post('/sweeps', {
    name: 'halving',
    base: { dataset: 'news', teacher: 'teacher', layers: 1, epochs: EPOCHS, batch_size: 16, max_length: 16 },
    grid: { 'optimizer.lr': [1e-6, 1e-4, 1e-3], alpha: [0.1, 0.5, 0.9] },
    asha: { eta: 3 },
  });
  assert.deepEqual(made.asha, { min_epochs: 1, eta: 3, metric: 'macro_f1', rungs: [] });
  const sweepNow = () => daemon.get(`/sweeps/${made.id}`);
  for (const done of [3, 12]) {
    await waitFor(async () => (await sweepNow()).epochs_done >= done, 60_000, `${done} epochs`);
    await daemon.stop('SIGKILL');
    daemon = await Daemon.start({ dataDir, args });
  }
  const sweep = await waitFor(async () => {
    const now = await sweepNow();
    return now.status === 'finished' && now;
  }, 120_000, 'the sweep to end');

  const runs = (await daemon.get(`/experiments?sweep=${made.id}&limit=100`)).items;
  const whole = runs.filter((run) => run.status === 'finished');
  const halted = runs.filter((run) => run.status === 'cancelled');
  assert.equal(whole.length + halted.length, 9);
  assert.ok(whole.length >= 1 && halted.length >= 4, `${whole.length} whole`);
  const rungEpoch = { 'asha rung 1': 1, 'asha rung 2': 3 };
  for (const run of halted) assert.equal(run.progress.epoch, rungEpoch[run.stopped], run.stopped);
  for (const run of whole) assert.deepEqual([run.progress.epoch, run.stopped], [EPOCHS, null]);
  assert.deepEqual(sweep.asha.rungs.map((r) => [r.rung, r.epoch]), [[1, 1], [2, 3]]);
  assert.equal(sweep.asha.rungs[0].points, 9);
  assert.ok(sweep.asha.rungs[0].promoted >= 3);
  assert.equal(sweep.epochs_total, 9 * EPOCHS);
  assert.equal(sweep.epochs_done, runs.reduce((sum, run) => sum + run.progress.epoch, 0));
  for (const point of sweep.points) assert.equal(point.stopped, runs.find((run) => run.id === point.experiments[0]).stopped);
  assert.ok(whole.some((run) => run.id === sweep.points[sweep.best.point].experiments[0]), 'the best is whole');

  // every run said once for each rung that it reached it, and once what became of it
  for (const run of runs) {
    const lines = (await daemon.get(`/experiments/${run.id}/log`)).items.map((line) => line.message).filter((m) => m.startsWith('asha'));
    const reached = lines.filter((m) => m.includes('reached')).length;
    assert.equal(reached, { 1: 1, 3: 2, 9: 2 }[run.progress.epoch]);
    assert.equal(lines.filter((m) => m.endsWith('goes on')).length, reached - (run.status === 'cancelled'));
  }

  // the winner, and one that was stopped and is taken up by hand: the curve of an undisturbed run
  const late = halted.find((run) => run.stopped === 'asha rung 1');
  const prefix = await epochs(late.id);
  await daemon.post(`/experiments/${late.id}/retry`);
  const resumed = await daemon.waitState(late.id, 'finished');
  assert.equal(resumed.stopped, null);
  assert.deepEqual((await epochs(late.id)).slice(0, 1), prefix);
  for (const run of [whole[0], late]) {
    const { id } = await daemon.post('/experiments', { ...run.spec, name: 'undisturbed' });
    await daemon.waitState(id, 'finished');
    assert.deepEqual(await epochs(run.id), await epochs(id));
  }
});
