// The torture: a real daemon, two trainings at a time, submissions, cancels, pauses and uploads, and kill -9 at random instants.
// What was acknowledged must be there after each restart, epochs must only grow, and every run that finishes must have the
// bits of its twin that was left in peace.
//   node tests/e2e/torture.mjs [KILLS [SEED]]          `make torture KILLS=1000`
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Daemon, sha256, sleep, tinyTeacher, topics } from './daemon.mjs';

const timings = ['seconds', 'tokens_per_second', 'elapsed_seconds', 'eta_seconds', 'recorded_at', 'attempt'];
const untimed = (rows) => rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => !timings.includes(key))));
const student = { dataset: 'topics', teacher: 'teacher', layers: 1, heads: 2, augment: 1, epochs: 6, batch_size: 16, seed: 5 };
const specs = [
  student,
  { ...student, optimizer: 'sgd', T: 4, alpha: 0.2, seed: 6 },
  { ...student, layers: 2, init: 'teacher', seed: 7 },
  { ...tinyTeacher, dataset: 'topics', epochs: 5, seed: 8 },
  { ...student, hidden_size: 16, hidden_weight: 1, cls_weight: 0.5, ema: 0.9, seed: 9 }, // a projection and averaged weights in the checkpoint
  { ...student, unlabelled: true, augment: 1, patience: 2, epochs: 5, seed: 10 },
  // From trained weights lr rises until nothing holds, so the guard takes the run back.
  { task: 'finetune', dataset: 'topics', model: 'learnt', epochs: 10, batch_size: 16, max_length: 24, optimizer: { lr: 0.07, warmup: 1, max_grad_norm: 0 }, seed: 11 },
];
const rollsBack = specs.length - 1;
// Sweeps decide by what has come first, so their runs are not compared as wholes: each is a prefix of its point's twin.
const sweep = { base: { ...student, epochs: 5 }, grid: { alpha: [0.2, 0.5, 0.9] }, asha: { eta: 2 } };
const ended = ['finished', 'cancelled', 'failed'];

class Torture {
  constructor(kills, seed, report) {
    this.kills = kills;
    this.report = report;
    this.random = seed >>> 0;
    this.sent = new Map(); // idempotency key → { spec, id: acknowledged or undefined }
    this.seen = new Map(); // id → number of epochs seen
    this.cancelled = new Set(); // acknowledged, not taken back
    this.sets = new Map(); // data set → 'there' | 'gone' | 'unknown'
    this.sweeps = new Map(); // idempotency key → id: acknowledged or undefined
    this.counts = { submissions: 0, sweeps: 0, unanswered: 0, cancels: 0, pauses: 0, retries: 0, uploads: 0, deletes: 0, checks: 0 };
  }

  next(n) {
    this.random = (Math.imul(this.random, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.random / 2 ** 32) * n);
  }

  async start() {
    const threads = String(1 + this.next(3)); // a run goes on to the same bits on another number of them
    this.daemon = await Daemon.start({ dataDir: this.dataDir, args: ['--threads', threads, '--workers', '2', '--checkpoint-seconds', '1'] });
  }

  async prepare() {
    this.dataDir = mkdtempSync(join(tmpdir(), 'distilld-torture-'));
    await this.start();
    const unlabelled = { text: topics(60, 9).replace(/\t.*$/gm, ''), filename: 'unlabelled.txt' };
    const files = { train: { text: topics(400), filename: 'train.tsv' }, dev: { text: topics(60, 7), filename: 'dev.tsv' }, unlabelled };
    const uploaded = await this.daemon.upload('topics', files);
    assert.equal(uploaded.status, 201, uploaded.text);
    const teachers = [];
    for (const [save_as, epochs, lr] of [['teacher', 2, 0.002], ['learnt', 16, 0.004]]) {
      const { id } = await this.daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', save_as, epochs, optimizer: { lr } });
      await this.daemon.waitState(id, 'finished');
      teachers.push(id);
    }
    const alone = sweep.grid.alpha.map((alpha) => ({ ...sweep.base, alpha }));
    const twins = [];
    for (const spec of [...specs, ...alone]) twins.push((await this.daemon.post('/experiments', spec)).id);
    this.expected = [];
    for (const id of twins) {
      await this.daemon.waitState(id, 'finished');
      this.expected.push(await this.result(id));
    }
    this.points = this.expected.splice(specs.length);
    assert.ok(this.expected[rollsBack].metrics.some((row) => row.rollback), 'the run that is to roll back does');
    this.untouched = [...teachers, ...twins];
  }

  async result(id) {
    const member = async (epoch) => sha256(await this.daemon.archiveMember(`/experiments/${id}/archive?epoch=${epoch}`, 'model.safetensors'));
    return {
      metrics: untimed((await this.daemon.get(`/experiments/${id}/metrics`)).epochs),
      steps: untimed((await this.daemon.get(`/experiments/${id}/steps?max_points=20000`)).steps),
      best: await member('best'),
      last: await member('last'),
    };
  }

  async all(path = '/experiments?sort=id') {
    const items = [], first = `${path}${path.includes('?') ? '&' : '?'}limit=500`;
    for (let cursor = ''; cursor !== null; ) {
      const page = await this.daemon.get(first + (cursor && `&cursor=${encodeURIComponent(cursor)}`));
      items.push(...page.items);
      cursor = page.next_cursor;
    }
    return items;
  }

  async submit(key = `key-${this.sent.size}`) {
    const entry = this.sent.get(key) ?? { spec: this.next(specs.length) };
    this.sent.set(key, entry);
    const answer = await this.daemon.call('POST', '/experiments', { ...specs[entry.spec], name: key }, { 'Idempotency-Key': key });
    assert.equal(answer.status, 201, answer.text);
    if (entry.id !== undefined) assert.equal(answer.json.id, entry.id, 'the same key made another experiment');
    entry.id = answer.json.id;
    this.counts.submissions++;
  }

  async submitSweep(key = `sweep-${this.sweeps.size}`) {
    this.sweeps.set(key, this.sweeps.get(key));
    const answer = await this.daemon.call('POST', '/sweeps', { ...sweep, name: key }, { 'Idempotency-Key': key });
    assert.equal(answer.status, 201, answer.text);
    const known = this.sweeps.get(key);
    if (known !== undefined) assert.equal(answer.json.id, known, 'the same key made another sweep');
    this.sweeps.set(key, answer.json.id);
    this.counts.sweeps++;
  }

  async control(items) {
    const unfinished = items.filter((item) => item.status !== 'finished' && !item.sweep_id); // sweeps decide for themselves
    const one = unfinished[this.next(unfinished.length)];
    if (!one) return;
    const action = one.status === 'paused' ? 'resume' : ended.includes(one.status) ? 'retry' : ['cancel', 'pause'][this.next(2)];
    if (action === 'retry' || action === 'resume') this.cancelled.delete(one.id);
    const answer = await this.daemon.call('POST', `/experiments/${one.id}/${action}`);
    assert.ok([202, 409].includes(answer.status), `${action}: ${answer.status} ${answer.text}`);
    if (answer.status !== 202) return;
    if (action === 'cancel') this.cancelled.add(one.id);
    this.counts[action === 'cancel' ? 'cancels' : action === 'retry' ? 'retries' : 'pauses']++;
  }

  async dataset() {
    const there = [...this.sets].filter(([, state]) => state === 'there').map(([name]) => name);
    if (there.length > 3) {
      this.sets.set(there[0], 'unknown');
      assert.equal((await this.daemon.call('DELETE', `/datasets/${there[0]}`)).status, 204);
      this.sets.set(there[0], 'gone');
      this.counts.deletes++;
    } else {
      const name = `set-${this.sets.size}`;
      this.sets.set(name, 'unknown');
      assert.equal((await this.daemon.upload(name, { train: { text: topics(50, this.sets.size), filename: 'a.tsv' } })).status, 201);
      this.sets.set(name, 'there');
      this.counts.uploads++;
    }
  }

  // Works until the daemon is gone; what fails for that reason is no fault.
  async busy() {
    const { daemon } = this;
    while (!daemon.exit && !this.killing) {
      try {
        const items = await this.all();
        const open = items.filter((item) => !ended.includes(item.status)).length;
        const what = this.next(10);
        if (open < 4 || what < 3) {
          if (open >= 8) await sleep(20);
          else if (this.next(9) === 0) await this.submitSweep();
          else await this.submit();
        }
        else if (what < 7) await this.control(items);
        else if (what < 8) await this.dataset();
        else for (const item of items.slice(-6)) this.note(item.id, (await daemon.get(`/experiments/${item.id}/metrics`)).epochs);
      } catch (error) {
        if (!this.killing && !daemon.exit) throw error;
        this.counts.unanswered++;
        return;
      }
    }
  }

  note(id, epochs) {
    assert.deepEqual(epochs.map((row) => row.epoch), epochs.map((row, i) => i + 1), `epochs of experiment ${id}`);
    assert.ok(epochs.length >= (this.seen.get(id) ?? 0), `experiment ${id} had ${this.seen.get(id)} epochs, now ${epochs.length}`);
    this.seen.set(id, epochs.length);
  }

  // While nobody has it open; on a copy, so that the daemon itself has to recover the log.
  integrity() {
    const copy = mkdtempSync(join(tmpdir(), 'distilld-torture-db-'));
    for (const name of ['distilld.db', 'distilld.db-wal']) {
      if (existsSync(join(this.dataDir, name))) copyFileSync(join(this.dataDir, name), join(copy, name));
    }
    const said = execFileSync('sqlite3', [join(copy, 'distilld.db'), 'PRAGMA integrity_check; PRAGMA foreign_key_check;'], { encoding: 'utf8' });
    rmSync(copy, { recursive: true });
    assert.equal(said, 'ok\n');
  }

  async check() {
    const items = await this.all(), byId = new Map(items.map((item) => [item.id, item]));
    for (const [key, { id }] of this.sent) {
      const named = items.filter((item) => item.name === key);
      assert.ok(named.length <= 1, `${key} was made ${named.length} times`);
      if (id !== undefined) assert.equal(byId.get(id)?.name, key, `acknowledged submission ${key} (${id}) is lost`);
    }
    const sweeps = await this.all('/sweeps');
    for (const [key, id] of this.sweeps) {
      const named = sweeps.filter((item) => item.name === key);
      assert.ok(named.length <= 1, `${key} was made ${named.length} times`);
      if (id !== undefined) assert.equal(named[0]?.id, id, `acknowledged sweep ${key} (${id}) is lost`);
      if (named.length) assert.equal(items.filter((item) => item.sweep_id === named[0].id).length, sweep.grid.alpha.length, `runs of ${key}`);
    }
    for (const item of items) {
      if (item.status === 'failed') assert.equal(item.error?.code, 'daemon_died', JSON.stringify(item.error));
      if (this.cancelled.has(item.id)) assert.ok(ended.includes(item.status), `cancelled experiment ${item.id} is ${item.status}`);
    }
    for (const id of [...this.seen.keys()].slice(-12)) this.note(id, (await this.daemon.get(`/experiments/${id}/metrics`)).epochs);
    const sets = new Set((await this.all('/datasets')).map((item) => item.name));
    for (const [name, state] of this.sets) if (state !== 'unknown') assert.equal(sets.has(name), state === 'there', `data set ${name}`);
    this.counts.checks++;
  }

  async round() {
    this.killing = false;
    const work = this.busy();
    await Promise.race([work, sleep(30 + this.next(900))]);
    this.killing = true;
    await this.daemon.stop('SIGKILL');
    await work;
    this.integrity();
    await this.start();
    await this.check();
    // A submission that got no answer is sent again with its key: one experiment, whatever had become of it.
    for (const [key, { id }] of this.sent) if (id === undefined) await this.submit(key);
    for (const [key, id] of this.sweeps) if (id === undefined) await this.submitSweep(key);
  }

  async finish() {
    for (let quiet = false; !quiet; ) {
      quiet = true;
      for (const item of await this.all()) {
        const action = item.sweep_id ? undefined : { paused: 'resume', failed: 'retry' }[item.status];
        if (action) await this.daemon.post(`/experiments/${item.id}/${action}`, undefined, [202, 409]);
        quiet &&= (item.sweep_id ? ended : ['finished', 'cancelled']).includes(item.status);
      }
      await sleep(200);
    }
    const outcome = { finished: 0, cancelled: 0 };
    const items = await this.all();
    for (const { spec, id } of this.sent.values()) {
      const { status } = items.find((item) => item.id === id);
      outcome[status]++;
      this.note(id, (await this.daemon.get(`/experiments/${id}/metrics`)).epochs);
      if (status === 'finished') assert.deepEqual(await this.result(id), this.expected[spec], `experiment ${id} differs from its twin`);
    }
    const ofSweeps = items.filter((item) => item.sweep_id);
    for (const item of ofSweeps) {
      const twin = this.points[sweep.grid.alpha.indexOf(item.spec.alpha)];
      const { epochs } = await this.daemon.get(`/experiments/${item.id}/metrics`);
      assert.deepEqual(untimed(epochs), twin.metrics.slice(0, epochs.length), `experiment ${item.id} is no prefix of its twin`);
      if (item.status === 'finished') assert.deepEqual(await this.result(item.id), twin, `experiment ${item.id} differs from its twin`);
      else assert.ok(item.stopped || item.status === 'failed', `experiment ${item.id} was ${item.status} by nobody`);
    }
    for (const item of await this.all('/sweeps')) assert.equal(item.status, 'finished', `sweep ${item.name}`);
    const whole = ofSweeps.filter((item) => item.status === 'finished').length;
    outcome.finished_in_sweeps = whole;
    const models = (await this.all('/models')).length;
    const sets = (await this.all('/datasets')).length;
    assert.equal(models, outcome.finished + whole + this.untouched.length, 'a model for each finished run');
    await this.daemon.stop('SIGTERM');
    await this.start(); // which removes what nothing refers to
    assert.deepEqual(await this.daemon.stop('SIGTERM'), { code: 0, signal: null });
    this.integrity();
    const count = (folder) => readdirSync(join(this.dataDir, folder)).length;
    const done = new Set(items.filter((item) => item.status === 'finished').map((item) => String(item.id)));
    const stray = readdirSync(this.dataDir, { recursive: true }).map(String).filter((name) => /\.tmp-|\.new-/.test(name));
    assert.deepEqual(stray, []);
    for (const id of done) { // any other may keep its checkpoint: it can be tried again
      const left = readdirSync(join(this.dataDir, 'runs', id)).map((name) => name.replace(/^best-\d+$/, 'best')).sort();
      assert.deepEqual(left, ['best', 'finished', 'last'], `runs/${id}`);
    }
    assert.deepEqual([count('models'), count('datasets'), count('uploads')], [models, sets, 0], 'directories without a row');
    assert.ok(readdirSync(join(this.dataDir, 'runs')).every((name) => items.some((item) => String(item.id) === name)), 'runs');
    return outcome;
  }

  async run() {
    try {
      await this.prepare();
      for (let kill = 1; kill <= this.kills; kill++) {
        await this.round();
        if (kill % 50 === 0) this.report(`${kill} kills, ${this.sent.size} experiments`);
      }
      return { kills: this.kills, ...this.counts, ...(await this.finish()) };
    } finally {
      this.killing = true;
      await this.daemon?.stop('SIGKILL');
      if (!process.env.TORTURE_KEEP) rmSync(this.dataDir, { recursive: true, force: true });
    }
  }
}

export const torture = (kills, seed, report = () => {}) => new Torture(kills, seed, report).run();

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const kills = Number(process.argv[2] ?? 100), seed = Number(process.argv[3] ?? Date.now() % 100_000);
  console.log(`seed ${seed}`);
  console.log(await torture(kills, seed, console.log));
}
