// Whether bf16 learns as fp32 does: the same student on the shared headlines3, five seeds in either precision, with the seeds'
// own spread beside the difference.  Prints dev loss and macro F1 by epoch.  `make bench-bf16` runs it.  A CPU without bf16
// but with AVX-512 emulates it: the same numbers, to rounding, in more time.
//   SEEDS=1,2,3,4,5   EPOCHS=6
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, noBinary, noShared, shared } from '../e2e/daemon.mjs';

const HOUR_MS = 3_600_000;
if (noBinary || noShared) {
  console.error(noBinary || noShared);
  process.exit(2);
}
const seeds = (process.env.SEEDS ?? '1,2,3,4,5').split(',').map(Number);
const epochs = Number(process.env.EPOCHS ?? 6);
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const deviation = (values) => Math.sqrt(mean(values.map((x) => (x - mean(values)) ** 2)) * (values.length / (values.length - 1)));
const daemon = await Daemon.start({ args: ['--workers', '1'], env: { DISTILLD_BF16: 'emulated' } });
const file = (split) => ({ text: readFileSync(join(shared, 'data/headlines3', `${split}.tsv`), 'utf8'), filename: `${split}.tsv` });
const finish = async (spec) => {
  const { id } = await daemon.post('/experiments', spec);
  await daemon.waitState(id, 'finished', HOUR_MS);
  return (await daemon.get(`/experiments/${id}/metrics`)).epochs;
};

try {
  await daemon.upload('headlines3', { train: file('train'), dev: file('dev') });
  await finish({ task: 'finetune', dataset: 'headlines3', save_as: 'teacher', layers: 2, heads: 4, hidden_size: 256, intermediate_size: 1024, epochs: 4, max_length: 32 });
  const student = { dataset: 'headlines3', teacher: 'teacher', init: 'random', layers: 3, heads: 4, hidden_size: 256, intermediate_size: 1024, epochs, max_length: 32, batch_size: 32 };
  const runs = { fp32: [], bf16: [] };
  for (const seed of seeds) for (const precision of ['fp32', 'bf16']) runs[precision].push(await finish({ ...student, precision, seed }));
  console.log('epoch   dev loss fp32     dev loss bf16     difference   macro F1 fp32     macro F1 bf16');
  for (let e = 0; e < epochs; e++) {
    const column = (precision, key) => runs[precision].map((run) => run[e][key]);
    const cell = (precision, key) => `${mean(column(precision, key)).toFixed(4)} ± ${deviation(column(precision, key)).toFixed(4)}`;
    const difference = mean(column('bf16', 'dev_loss')) - mean(column('fp32', 'dev_loss'));
    console.log(`${String(e + 1).padStart(5)}   ${cell('fp32', 'dev_loss')}   ${cell('bf16', 'dev_loss')}   ${difference.toFixed(4).padStart(10)}   ${cell('fp32', 'macro_f1')}   ${cell('bf16', 'macro_f1')}`);
  }
  const last = (precision) => runs[precision].map((run) => run[epochs - 1].dev_loss);
  const noise = 2 * Math.sqrt((deviation(last('fp32')) ** 2 + deviation(last('bf16')) ** 2) / seeds.length);
  const gap = Math.abs(mean(last('bf16')) - mean(last('fp32')));
  console.log(`last epoch: ${gap.toFixed(4)} apart, two standard errors of the difference are ${noise.toFixed(4)}: ${gap <= noise ? 'within noise' : 'more than noise'}`);
} finally {
  await daemon.discard();
}
