// What successive halving costs and what it misses: the same 27 points (T × alpha × learning rate) once as a full grid and
// once with "asha", on the shared headlines3 with a small teacher trained from scratch.  Prints the epochs spent, the
// best point of either, and whether the grid's best leads ASHA's by more than noise.  `make bench-asha` runs it.
//   SEEDS=1,2,3  more seeds a point      WORKERS=2  runs at the same time
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, noBinary, noShared, shared, waitFor } from '../e2e/daemon.mjs';

const HOUR_MS = 3_600_000;
if (noBinary || noShared) {
  console.error(noBinary || noShared);
  process.exit(2);
}
const seeds = (process.env.SEEDS ?? '1').split(',').map(Number);
const workers = process.env.WORKERS ?? '1';
const daemon = await Daemon.start({ args: ['--workers', workers, '--threads', process.env.THREADS ?? '2'] });
const file = (split) => ({ text: readFileSync(join(shared, 'data/headlines3', `${split}.tsv`), 'utf8'), filename: `${split}.tsv` });
const name = (values) => Object.entries(values).map(([k, v]) => `${k} ${v}`).join(', ');

async function sweep(extra) {
  const started = Date.now();
  const made = await daemon.post('/sweeps', {
    name: 'bench',
    base: { dataset: 'headlines3', teacher: 'teacher', layers: 1, augment: 0, cls_weight: 0, epochs: 9, max_length: 32, batch_size: 32 },
    grid: { T: [1, 2, 4], alpha: [0.2, 0.5, 0.9], 'optimizer.lr': [1e-4, 3e-4, 1e-3] },
    seeds,
    ...extra,
  });
  const now = () => daemon.get(`/sweeps/${made.id}`);
  await waitFor(async () => (await now()).status === 'finished', HOUR_MS, 'the sweep to end');
  return { ...(await now()), seconds: (Date.now() - started) / 1000 };
}

try {
  await daemon.upload('headlines3', { train: file('train'), dev: file('dev') });
  const teacher = await daemon.post('/experiments', {
    task: 'finetune', dataset: 'headlines3', save_as: 'teacher', layers: 2, heads: 2, hidden_size: 128, intermediate_size: 512, epochs: 4, max_length: 32,
  });
  await daemon.waitState(teacher.id, 'finished', HOUR_MS);
  const asha = await sweep({ asha: { min_epochs: 1, eta: 3 } });
  const grid = await sweep({});
  for (const [kind, s] of [['grid', grid], ['asha', asha]])
    console.log(`${kind}: ${s.epochs_done} of ${s.epochs_total} epochs (${((100 * s.epochs_done) / s.epochs_total).toFixed(1)} %), ${s.seconds.toFixed(0)} s, best ${name(s.best.values)}: macro F1 ${s.best.score.toFixed(4)}`);
  for (const r of asha.asha.rungs) console.log(`  rung ${r.rung}, epoch ${r.epoch}: ${r.points} points, ${r.promoted} went on`);
  const rank = [...grid.points].sort((a, b) => b.macro_f1.mean - a.macro_f1.mean).findIndex((p) => p.point === asha.best.point) + 1;
  const row = grid.significance.others.find((other) => other.point === asha.best.point);
  console.log(
    row
      ? `asha's best is number ${rank} of the grid; its lead there ${(-row.difference).toFixed(4)}, 95 % from ${(-row.high).toFixed(4)} to ${(-row.low).toFixed(4)}: ${row.within_noise ? 'within noise' : 'more than noise'}`
      : "asha's best is the grid's best",
  );
  const ties = grid.significance.others.filter((other) => other.within_noise).length;
  console.log(`${ties} of the ${grid.significance.others.length} other points of the grid are within noise of its best`);
} finally {
  await daemon.discard();
}
