// The experiments of `make demo`, submitted over REST as curl would, with their progress in the terminal.
// Needs DISTILLD_URL, DEMO_TRAIN, DEMO_DEV and DEMO_PID, which demo.sh sets.
import { readFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';

const url = process.env.DISTILLD_URL;
const api = `${url}/api/v1`;
const tty = process.stdout.isTTY;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const started = Date.now();

async function call(method, path, body) {
  const response = await fetch(api + path, { method, body: body && JSON.stringify(body), headers: body ? { 'Content-Type': 'application/json' } : {} });
  const json = response.status === 204 ? undefined : await response.json();
  if (!response.ok) throw new Error(`${method} ${path}: ${json.detail} ${JSON.stringify(json.errors ?? [])}`);
  return json;
}

async function ready() {
  for (let i = 0; i < 200; i++) {
    if (await fetch(`${url}/readyz`).then((r) => r.ok, () => false)) return;
    try {
      process.kill(Number(process.env.DEMO_PID), 0);
    } catch {
      throw new Error(`the daemon ended at once (is another program listening at ${url}? DEMO_LISTEN=127.0.0.1:8081 make demo)`);
    }
    await sleep(50);
  }
  throw new Error(`no daemon answers at ${url}`);
}

// The data set is uploaded by curl itself, in a stream.
async function dataset(name) {
  if ((await fetch(`${api}/datasets/${name}`)).ok) return;
  console.log(`$ curl -F name=${name} -F train=@train.tsv -F dev=@dev.tsv ${api}/datasets`);
  const out = execFileSync('curl', ['-sS', '--fail-with-body', '-F', `name=${name}`, '-F', `train=@${process.env.DEMO_TRAIN};filename=train.tsv`, '-F', `dev=@${process.env.DEMO_DEV};filename=dev.tsv`, `${api}/datasets`]);
  const { classes } = JSON.parse(out);
  const rows = (split) => classes.reduce((n, c) => n + c.rows[split], 0);
  console.log(`  ${rows('train')} + ${rows('dev')} rows in ${classes.length} classes: ${classes.map((c) => c.name).join(', ')}\n`);
}

async function submit(spec) {
  console.log(`$ curl -d '${JSON.stringify(spec)}' -H 'Content-Type: application/json' ${api}/experiments`);
  return (await call('POST', '/experiments', spec)).id;
}

const percent = (x) => (x === undefined || x === null ? '     ' : x.toFixed(4).replace(/^0/, ' '));

// One line a running experiment; redrawn in a terminal, one line an epoch elsewhere.
async function follow(ids) {
  const printed = new Map();
  let drawn = 0;
  for (;;) {
    const all = await Promise.all(ids.map((id) => call('GET', `/experiments/${id}`)));
    const lines = [];
    for (const e of all) {
      if (e.status === 'failed') throw new Error(`experiment ${e.id} failed: ${JSON.stringify(e.error)}`);
      const { epoch = 0, epochs = 0, tokens_per_second: rate, eta_seconds: eta } = e.progress ?? {};
      const line = `  #${e.id} ${(e.name ?? '').padEnd(18)} ${e.status.padEnd(9)} epoch ${String(epoch).padStart(2)}/${epochs}` +
        (e.last?.macro_f1 !== undefined ? `  loss ${e.last.train_loss?.toFixed(4)}  macro F1 ${percent(e.last.macro_f1)}` : '') +
        (e.status === 'running' && rate ? `  ${Math.round(rate).toLocaleString('en')} tokens/s  ${Math.ceil(eta ?? 0)} s left` : '');
      lines.push(line);
      const key = `${e.status} ${epoch}`;
      if (!tty && printed.get(e.id) !== key && e.last?.macro_f1 !== undefined) {
        printed.set(e.id, key);
        console.log(line);
      }
    }
    if (tty) {
      if (drawn) process.stdout.write(`\x1b[${drawn}A`);
      for (const line of lines) process.stdout.write(`\x1b[2K${line.slice(0, (process.stdout.columns || 120) - 1)}\n`);
      drawn = lines.length;
    }
    if (all.every((e) => e.status === 'finished')) return all;
    await sleep(500);
  }
}

function table(teacher, students) {
  const cell = (text, width) => String(text).padStart(width);
  console.log('\nBest epoch of each, on the dev set:\n');
  console.log('  model                optimizer  epoch  accuracy  macro F1  weighted F1   of the teacher      size    time');
  for (const e of [teacher, ...students]) {
    const share = e === teacher ? '' : `${(100 * e.retention.accuracy).toFixed(1)} % / ${(100 * e.retention.macro_f1).toFixed(1)} %`;
    const seconds = (Date.parse(e.finished_at) - Date.parse(e.started_at)) / 1000;
    console.log(`  ${e.name.padEnd(20)} ${e.spec.optimizer.type.padEnd(9)} ${cell(e.best.epoch, 6)} ${cell(percent(e.best.accuracy), 9)} ${cell(percent(e.best.macro_f1), 9)} ${cell(percent(e.best.weighted_f1), 12)} ${cell(share, 18)} ${cell(`${(e.model.bytes / 1e6).toFixed(1)} MB`, 9)} ${cell(`${seconds.toFixed(0)} s`, 7)}`);
  }
}

try {
  await ready();
  console.log(`The dashboard: ${url}\n`);
  await dataset('packages');
  const common = { dataset: 'packages', batch_size: 32, max_length: 48 };
  const name = `packages-teacher-${Date.now().toString(36)}`;
  console.log('A small teacher, from scratch:');
  const teacherId = await submit({ ...common, name: 'teacher 4 × 256', task: 'finetune', layers: 4, heads: 4, hidden_size: 256, intermediate_size: 1024, vocab_size: 6000, epochs: 4, optimizer: { type: 'adamw', lr: 5e-4 }, save_as: name, tags: ['demo'] });
  const [teacher] = await follow([teacherId]);
  console.log('\nIts four students, from the labelled rows alone, which is quickest:');
  const ids = [], alone = { augment: 0, cls_weight: 0 };
  for (const layers of [1, 3]) {
    for (const optimizer of ['adamw', 'sgd']) {
      ids.push(await submit({ ...common, name: `${layers} layer${layers > 1 ? 's' : ''} ${optimizer}`, teacher: name, layers, optimizer, T: 4, alpha: 0.2, ...alone, epochs: 4, tags: ['demo'] }));
    }
  }
  const students = await follow(ids);
  table(teacher, students);
  console.log(`\nDone in ${((Date.now() - started) / 1000).toFixed(0)} s.  Curves, reports and wrong predictions: ${url}`);
} catch (error) {
  console.error(`demo: ${error.message}`);
  process.exitCode = 1;
}
