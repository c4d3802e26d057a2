// HTTP under stress while all cores train: 1,000 idle and slow connections, bodies that stall, 100 event readers and 500 GETs a second.
// Prints one line of JSON: answer times, refusals, memory, and what it costs the training.  Quiet and loaded stretches alternate, and the
// training's speed is compared within each pair.  The clients have only the same cores to run on, so what the training loses is their
// CPU time as well as the daemon's.  They are a C program that takes little (http_load.c), and both shares are told: training_speed_with_load
// is what was measured, clients included; http_threads_share_of_cores is what the daemon alone took, clients_share_of_cores what they did.
//   node tests/bench/stress.mjs          `make bench-http`          SECONDS=10 PAIRS=5 RATE=500
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { availableParallelism } from 'node:os';
import { performance } from 'node:perf_hooks';
import { Daemon, sleep, topics } from '../e2e/daemon.mjs';

const SECONDS = Number(process.env.SECONDS ?? 10), PAIRS = Number(process.env.PAIRS ?? 5), RATE = Number(process.env.RATE ?? 500);
const IDLE = Number(process.env.IDLE ?? 1000), READERS = Number(process.env.READERS ?? 100);
const cores = availableParallelism();
const loadBinary = resolve(process.env.BUILD ?? 'build', 'tests/bench/http_load');
const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)];
const median = (values) => quantile([...values].sort((a, b) => a - b), 0.5);
const round = (x, digits = 2) => Number(x.toFixed(digits));

const status = (pid, key) => 1024 * Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(new RegExp(`${key}:\\s+(\\d+)`))[1]);

// CPU seconds of the daemon's threads so far, by name.
function cpuSeconds(pid) {
  const used = {};
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const stat = readFileSync(`/proc/${pid}/task/${task}/stat`, 'utf8'), name = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    used[name] = (used[name] ?? 0) + (Number(fields[11]) + Number(fields[12])) / 100;
  }
  return used;
}
const httpSeconds = (used) => ['MHD-single', 'request', 'timer'].reduce((sum, name) => sum + (used[name] ?? 0), 0);

async function steps(daemon) {
  const text = await (await fetch(`${daemon.url}/metrics`)).text();
  return Number(/^distilld_steps_total (\d+)$/m.exec(text)[1]);
}

// The clients, in a process of their own (http_load.c): connected when this returns; ask() has them send for `seconds`.
async function openLoad(daemon, paths, seconds) {
  const args = [new URL(daemon.url).port, seconds, RATE, IDLE, READERS, ...paths].map(String);
  const child = spawn(loadBinary, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error('http_load ended early');
    return value;
  };
  await next();
  return {
    async ask() {
      child.stdin.write('go\n');
      return JSON.parse(await next());
    },
    async end() {
      child.stdin.end();
      await once(child, 'exit');
    },
  };
}

const daemon = await Daemon.start({ args: ['--threads', String(cores), '--workers', '1'] });
try {
  await daemon.upload('topics', { train: { text: topics(4000), filename: 'train.tsv' } });
  const spec = {
    task: 'finetune', dataset: 'topics', layers: 4, heads: 4, hidden_size: 256, intermediate_size: 1024, epochs: 500, batch_size: 32,
    max_length: 32, vocab_size: 1000, optimizer: { type: 'adamw', lr: 0.0003 },
  };
  const { id } = await daemon.post('/experiments', spec);
  await daemon.waitEpoch(id, 1);
  const pid = daemon.process.pid, before = status(pid, 'VmRSS');
  const paths = (process.env.PATHS?.split(' ') ?? [
    '/api/v1/experiments/ID', '/api/v1/experiments', '/api/v1/experiments/ID/metrics', '/api/v1/experiments/ID/steps?max_points=200', '/healthz', '/',
    '/api/v1/system', '/metrics',
  ]).map((path) => path.replace('ID', id));
  const latencies = [], statuses = {}, pairs = [];
  const stretch = async (work) => {
    const from = await steps(daemon), used = cpuSeconds(pid), start = performance.now();
    await work();
    const seconds = (performance.now() - start) / 1000, now = cpuSeconds(pid);
    return { rate: ((await steps(daemon)) - from) / seconds, seconds, threads: httpSeconds(now) - httpSeconds(used) };
  };
  for (let pair = 0; pair < PAIRS; pair++) {
    const quiet = await stretch(() => sleep(1000 * SECONDS));
    const clients = await openLoad(daemon, paths, SECONDS);
    await sleep(1000);
    let answer;
    const loaded = await stretch(async () => (answer = await clients.ask()));
    await clients.end();
    await sleep(500);
    if (answer.failed) throw new Error(`${answer.failed} requests were not answered`);
    for (const [code, count] of Object.entries(answer.statuses)) statuses[code] = (statuses[code] ?? 0) + count;
    latencies.push(...answer.times_us);
    pairs.push({ speed: loaded.rate / quiet.rate, daemon: loaded.threads / loaded.seconds / cores, clients: answer.cpu_seconds / loaded.seconds / cores });
  }
  latencies.sort((a, b) => a - b);
  const of = (key) => round(median(pairs.map((pair) => pair[key])), 4);
  const ms = (q) => round(quantile(latencies, q) / 1000);
  console.log(JSON.stringify({
    cores, connections: IDLE, event_readers: READERS, requests_per_second: RATE, seconds: SECONDS * PAIRS,
    requests: latencies.length, statuses, get_ms_p50: ms(0.5), get_ms_p99: ms(0.99), get_ms_max: ms(1),
    resident_before_bytes: before, resident_peak_bytes: status(pid, 'VmHWM'), resident_after_bytes: status(pid, 'VmRSS'),
    training_speed_with_load: of('speed'), pairs: pairs.map((pair) => round(pair.speed, 4)),
    http_threads_share_of_cores: of('daemon'), clients_share_of_cores: of('clients'),
    still_training: (await daemon.get(`/experiments/${id}`)).status === 'running',
  }));
} finally {
  await daemon.discard();
}
