// What the quality benchmark trains: data sets, teachers and arms.  An arm is the arm before it and one thing more, up to
// "+ init teacher", which for more than one layer is the default; the next three add one part each of what one layer has by default.
//
//   scale   full      every arm with every teacher and student seed: 3 × 5
//           headline  the arms that the promises are about (`promised`) with all of them, the others with one teacher and two seeds
//           short     one teacher, two seeds, and the arms with the layers that are `brief`: half an hour on two cores
// A data set that is looked at `once` has one teacher, one seed and the arms named there, at every scale but short, which leaves it out.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { shared } from '../../e2e/daemon.mjs';

const read = (dataset, file) => readFileSync(join(shared, 'data', dataset, file), 'utf8');
const files = (dataset, names) => Object.fromEntries(Object.entries(names).map(([split, file]) => [split, { text: read(dataset, file), filename: file }]));
const labelled = (text) => text.split('\n').filter(Boolean).map((line) => [line.slice(0, line.lastIndexOf('\t')), line.slice(line.lastIndexOf('\t') + 1)]);
const ofSplits = (dataset, names) => () => ({ files: files(dataset, names), test: labelled(read(dataset, names.test)) });

// One CSV without splits: every tenth row is for dev, every tenth for test; a text that stands twice stays on the first's side.
function creditcardComments() {
  const record = /^([^,\n]*),("(?:[^"]|"")*"|.*?)\r?$/gm; // a quoted cell may hold line breaks
  const rows = [...read('creditcard_comments', 'train.csv').replace(/^\uFEFF/, '').matchAll(record)].slice(1);
  const splits = { train: [], dev: [], test: [] }, side = new Map();
  for (const [i, [, label, cell]] of rows.entries()) {
    const text = (cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell).replace(/\s+/g, ' ').trim();
    if (!text) continue;
    if (!side.has(text)) side.set(text, ['dev', 'test'][i % 10] ?? 'train');
    splits[side.get(text)].push([text, label]);
  }
  const tsv = (list) => list.map((row) => `${row.join('\t')}\n`).join('');
  return {
    files: Object.fromEntries(Object.entries(splits).map(([split, rows]) => [split, { text: tsv(rows), filename: `${split}.tsv` }])),
    test: splits.test,
  };
}

const splits = { train: 'train.tsv', dev: 'dev.tsv', test: 'test.tsv' };
const scratch = { layers: 4, heads: 4, hidden_size: 256, intermediate_size: 1024, vocab_size: 8000, optimizer: { type: 'adamw', lr: 3e-4 } };
const noteSgd = { type: 'sgd', lr: 0.05, momentum: 0, warmup: 0, schedule: 'constant' };

export const tasks = [
  {
    dataset: 'packages8', load: ofSplits('packages8', { ...splits, unlabelled: 'unlabelled.txt' }), needsEncoder: true,
    about: 'a published encoder of 6 layers × 384, fine-tuned here: a teacher that knows more than the labels can teach',
    teacher: { model: 'encoder', epochs: 8, optimizer: { type: 'adamw', lr: 1e-4 } }, base: { max_length: 48 }, noteHeads: 3,
  },
  {
    dataset: 'headlines3', load: ofSplits('headlines3', { ...splits, unlabelled: 'unlabelled.txt' }),
    about: 'a teacher from scratch, which a student alone can equal: for curves, collapse and SGD',
    teacher: { ...scratch, epochs: 8 }, base: { max_length: 64 }, noteHeads: 2,
  },
  {
    dataset: 'thucnews10', load: ofSplits('thucnews10', splits), once: ['student alone', 'default'],
    about: 'a teacher from scratch; nothing was tuned on it', teacher: { ...scratch, epochs: 4 }, base: { max_length: 48, epochs: 6 }, noteHeads: 2,
  },
  {
    dataset: 'creditcard_comments', load: creditcardComments, once: ['student alone', 'default'],
    about: 'a teacher from scratch; nothing was tuned on it', teacher: { ...scratch, epochs: 8 }, base: { max_length: 128, epochs: 10 }, noteHeads: 2,
  },
];

// epochs: those of the arms before the default, which has its own.
export function arms(task, epochs) {
  const note = { init: 'random', T: 4, alpha: 0.2, epochs };
  const scratched = task.needsEncoder ? [] : [1]; // short: SGD and collapse where the teacher is from scratch
  const alone = { ...note, init: 'teacher', augment: 0, cls_weight: 0, whole_words: 0 }; // the labelled rows and nothing else
  const all = [
    { name: 'student alone', spec: { ...note, alpha: 0 } },
    { name: 'the note, AdamW', spec: { ...note, heads: task.noteHeads } },
    { name: 'the note, SGD 0.05', spec: { ...note, heads: task.noteHeads, optimizer: noteSgd }, brief: scratched },
    { name: '+ the teacher\'s heads', spec: note },
    { name: '+ init teacher', spec: alone },
    { name: '+ init teacher, [CLS] states', spec: { ...alone, cls_weight: 1 } },
    { name: '+ init teacher, whole words', spec: { ...alone, whole_words: 4096 }, layers: [1] },
    { name: '+ init teacher, 2 copies', spec: { ...alone, augment: 2, augment_replace: 0.3, epochs: Math.ceil(epochs / 2) } },
    { name: 'default', spec: {}, brief: task.needsEncoder ? [1, 3] : [1], promised: true },
    { name: 'default, SGD', spec: { optimizer: 'sgd' }, brief: scratched, promised: true },
    { name: 'default, alpha 0.8', spec: { alpha: 0.8 } },
    { name: 'preset strong', spec: { preset: 'strong' }, layers: [3] },
    { name: 'default, unlabelled rows', spec: { unlabelled: true }, brief: task.needsEncoder ? [1] : [], promised: true, layers: [1] },
  ];
  return task.once ? all.filter((arm) => task.once.includes(arm.name)) : all;
}
