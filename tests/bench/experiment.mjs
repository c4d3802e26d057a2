// A whole experiment as a user runs it: headlines3, a teacher of 12 layers x 768 whose logits nobody knows yet, a student of
// 3 layers, through the daemon on all cores; then what a second experiment with that teacher pays; then two experiments at
// once against one after the other.  Where PyTorch is installed, the note's loop (batches padded to 128, the teacher asked in
// every batch) runs on some of the same batches and is extended to the same number of steps: its evaluation is not counted.
// `make bench-experiment` runs it; prints figures and writes build/bench-experiment.json.
//   BENCH_EPOCHS=20   epochs of the student; with fewer, 20 are computed from those measured
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { availableParallelism } from 'node:os';
import { Daemon, noBinary, noShared, shared } from '../e2e/daemon.mjs';

const HOUR_MS = 3_600_000;
const execute = promisify(execFile);
const EPOCHS = 20;
const NOTE_STEPS = 4;
if (noBinary || noShared) {
  console.error(noBinary || noShared);
  process.exit(2);
}
const build = resolve(process.env.BUILD ?? 'build');
const python = join(process.env.DISTILLD_VENV ?? `${process.env.HOME}/.cache/distilld/venv`, 'bin/python');
const cores = availableParallelism();
const measured = Number(process.env.BENCH_EPOCHS ?? EPOCHS);
const read = (split) => readFileSync(join(shared, 'data/headlines3', `${split}.tsv`), 'utf8');
const student = { dataset: 'headlines3', teacher: 'teacher', layers: 3, heads: 3, init: 'random', batch_size: 32, max_length: 128, optimizer: { type: 'adamw', lr: 0.0003 } };
const round = (x, digits = 1) => Number(x.toFixed(digits));
const seconds = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000;

// Runs to its end: { wall: seconds from its start, epoch: mean seconds of an epoch, before: seconds outside epochs, log }.
async function finish(daemon, id) {
  const done = await daemon.waitState(id, 'finished', 3 * HOUR_MS);
  const { epochs } = await daemon.get(`/experiments/${id}/metrics`);
  const inEpochs = epochs.reduce((sum, epoch) => sum + epoch.seconds, 0);
  const wall = seconds(done.started_at, done.finished_at);
  return { wall, epoch: inEpochs / epochs.length, before: wall - inEpochs, log: await daemon.get(`/experiments/${id}/log`) };
}

// What a run's log says it spent on opening its models and on what the teacher says, seconds.
function onTheTeacher(log) {
  const text = JSON.stringify(log), opened = /models opened in ([\d.]+) s/.exec(text), logits = /the teacher's logits ([\d.]+)/.exec(text);
  if (!opened || !logits) throw new Error(`no figures in ${text}`);
  return Number(opened[1]) + Number(logits[1]);
}

const submit = async (daemon, spec) => (await daemon.post('/experiments', spec)).id;

async function together(daemon, epochs) {
  const start = Date.now();
  const ids = [await submit(daemon, { ...student, epochs, seed: 11 }), await submit(daemon, { ...student, epochs, seed: 12 })];
  for (const id of ids) await daemon.waitState(id, 'finished', HOUR_MS);
  return (Date.now() - start) / 1000;
}

// The machine's sgemm rate on all cores, FLOP/s, at the shapes of 2,000 tokens x 768.
async function sgemmRate() {
  const target = join(build, 'bench-experiment-rate.jsonl');
  rmSync(target, { force: true });
  await execute(join(build, 'tests/bench/step'), ['--layers', '1', '--vocab', '1000', '--mean', '62', '--steps', '1', '--threads', String(cores), '--json', target]);
  return JSON.parse(readFileSync(target, 'utf8')).sgemm_gflops * 1e9;
}

// Matrix FLOPs of a token on its way forward through 12 layers x 768, rows of so many tokens; the last layer works for [CLS]
// alone, as dd_bert_flops counts.
function teacherFlops(tokensARow) {
  const width = 768, inner = 3072;
  const layer = 2 * (4 * width * width + 2 * width * inner) + 4 * tokensARow * width;
  return 11 * layer + 4 * width * width + 4 * width + (4 * width * (width + inner) + 2 * width * width) / tokensARow;
}

// Seconds a step of the note's loop, or null where there is no PyTorch.
async function noteStep() {
  try {
    await execute(python, ['-c', 'import torch, transformers']);
  } catch {
    return null;
  }
  const batches = join(build, 'bench-experiment-batches.json');
  await execute(join(build, 'tests/bench/step'), ['--steps', String(NOTE_STEPS), '--layers', '1', '--hidden', '32', '--heads', '1', '--export', batches]);
  const { stdout } = await execute(python, ['tests/bench/torch_reference.py', batches, '--loop', 'note', '--layers', '3', '--hidden', '768', '--heads', '3', '--intermediate', '3072', '--threads', String(cores)]);
  return JSON.parse(stdout);
}

let daemon = await Daemon.start({ args: ['--workers', '1', '--threads', String(cores)] });
try {
  await daemon.upload('headlines3', { train: { text: read('train'), filename: 'train.tsv' }, dev: { text: read('dev'), filename: 'dev.tsv' } });
  await daemon.upload('few', { train: { text: read('dev').split('\n').slice(0, 96).join('\n'), filename: 'few.tsv' } });
  // What the teacher knows is of no matter here: its shape is.
  const teacher = { task: 'finetune', dataset: 'few', save_as: 'teacher', layers: 12, heads: 12, hidden_size: 768, intermediate_size: 3072, epochs: 1, max_length: 128 };
  await daemon.waitState(await submit(daemon, teacher), 'finished', HOUR_MS);

  const first = await finish(daemon, await submit(daemon, { ...student, epochs: measured }));
  const second = await finish(daemon, await submit(daemon, { ...student, epochs: 1, seed: 2 }));
  const whole = first.before + EPOCHS * first.epoch;
  const steps = Math.ceil(read('train').trim().split('\n').length / student.batch_size);
  const asked = [...JSON.stringify(first.log).matchAll(/asked [^:]*about (\d+) \w+ rows: ([\d.]+) s, (\d+) tokens\/s/g)].map((m) => m.slice(1).map(Number));
  const rate = await sgemmRate();
  const note = await noteStep();
  const after = await together(daemon, 1);
  const dataDir = daemon.dataDir;
  daemon.ownsDir = false;
  await daemon.stop();
  daemon = await Daemon.start({ dataDir, args: ['--workers', '2', '--threads', String(cores)] });
  daemon.ownsDir = true;
  const atOnce = await together(daemon, 1);

  const result = {
    cores,
    epochs_measured: measured,
    seconds_before_training: round(first.before),
    seconds_an_epoch: round(first.epoch, 2),
    seconds_of_20_epochs: round(whole),
    sgemm_gflops: round(rate / 1e9),
    teacher_asked: asked.map(([rows, spent, speed]) => ({ rows, seconds: spent, tokens_per_second: speed, share_of_sgemm: round((speed * teacherFlops((speed * spent) / rows)) / rate, 3) })),
    second_experiment_seconds_on_the_teacher: round(onTheTeacher(second.log), 2),
    second_experiment_seconds_outside_epochs: round(second.before, 2),
    steps_an_epoch: steps,
    note_loop: note && { engine: note.engine, steps_measured: note.steps, seconds_a_step: round(note.seconds_per_step_median, 2), seconds_of_20_epochs: round(note.seconds_per_step_median * steps * EPOCHS) },
    ours_is: note && round((note.seconds_per_step_median * steps * EPOCHS) / whole, 2),
    two_one_after_the_other_seconds: round(after),
    two_at_once_seconds: round(atOnce),
    throughput_at_once: round(after / atOnce, 3),
  };
  console.log(`20 epochs of 3 x 768 on headlines3, cold cache, ${cores} cores: ${result.seconds_of_20_epochs} s (${measured} epochs measured, ${result.seconds_an_epoch} s each; ${result.seconds_before_training} s outside them)`);
  for (const { rows, seconds: spent, tokens_per_second: speed, share_of_sgemm: part } of result.teacher_asked) console.log(`  the teacher of 12 x 768 asked about ${rows} rows: ${spent} s, ${speed} tokens/s, ${part} of sgemm's ${result.sgemm_gflops} GFLOP/s`);
  if (note) console.log(`  the note's loop: ${result.note_loop.seconds_a_step} s a step, ${result.note_loop.seconds_of_20_epochs} s for as many steps: ours is ${result.ours_is} x as fast`);
  console.log(`a second experiment with that teacher: ${result.second_experiment_seconds_on_the_teacher} s for it, ${result.second_experiment_seconds_outside_epochs} s in all outside its epochs`);
  console.log(`two experiments of one epoch: one after the other ${result.two_one_after_the_other_seconds} s, at once ${result.two_at_once_seconds} s: ${result.throughput_at_once} x the throughput`);
  const target = join(build, 'bench-experiment.json');
  writeFileSync(target, `${JSON.stringify(result, null, 2)}\n`);
  console.log(`written to ${target}`);
} finally {
  await daemon.discard();
}
