// HTTP under stress while all cores train: 1,000 idle and slow connections, bodies that stall, 100 event readers and 500 GETs a second.
// Prints one line of JSON: answer times, refusals, memory, and what it costs the training.  The clients have only the same cores to run
// on, and would cost the training something whatever answered them, so three stretches are compared, round after round: quiet; with the
// clients; and with a process that takes as much CPU time in as many slices as the clients just did, but asks for nothing.
//   training_speed_with_load     with the clients / with their CPU time alone: what the daemon's answering costs
//   training_speed_and_clients   with the clients / quiet: what both cost
// Speeds are steps a second of the cores that the machine had, what a hypervisor kept from it taken off.
// The clients are a C program that takes little (http_load.c); http_threads_share_of_cores is the daemon's CPU time, clients_share_of_cores theirs.
//   node tests/bench/stress.mjs          `make bench-http`          SECONDS=3 ROUNDS=9 RATE=500
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { availableParallelism } from 'node:os';
import { performance } from 'node:perf_hooks';
import { Daemon, sleep, topics, waitFor } from '../e2e/daemon.mjs';

const SECONDS = Number(process.env.SECONDS ?? 3), ROUNDS = Number(process.env.ROUNDS ?? 9), RATE = Number(process.env.RATE ?? 500);
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
    const of = (file) => readFileSync(`/proc/${pid}/task/${task}/${file}`, 'utf8').trim(), name = of('comm');
    used[name] = (used[name] ?? 0) + Number(of('schedstat').split(' ')[0]) / 1e9; // not by ticks: most answers take less than one
  }
  return used;
}
const httpSeconds = (used) => ['MHD-single', 'request', 'timer'].reduce((sum, name) => sum + (used[name] ?? 0), 0);

// Seconds that a hypervisor kept this machine's cores from running (0 on a machine of its own): time in which nobody here could work.
const stolenSeconds = () => Number(readFileSync('/proc/stat', 'utf8').match(/^cpu .*/)[0].trim().split(/ +/)[8]) / 100;

async function steps(daemon) {
  const text = await (await fetch(`${daemon.url}/metrics?pretty=0`)).text(); // not the answer that is kept for those who ask for /metrics
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

async function burn(seconds, wakes, cpu) {
  const [code] = await once(spawn(loadBinary, ['burn', seconds, wakes, cpu].map(String), { stdio: ['ignore', 'ignore', 'inherit'] }), 'exit');
  if (code !== 0) throw new Error(`http_load burn: exit ${code}`);
}

const daemon = await Daemon.start({ args: ['--threads', String(cores), '--workers', '1'] });
try {
  await daemon.upload('topics', { train: { text: topics(100_000), filename: 'train.tsv' } }, { dev_fraction: 0.01 });
  const spec = {
    // Small, so that there are many steps: with a dozen a second, one more or less in a stretch would be more than what is looked for.
    task: 'finetune', dataset: 'topics', layers: 2, heads: 2, hidden_size: 128, intermediate_size: 512, epochs: 500, batch_size: 16,
    max_length: 32, vocab_size: 1000, optimizer: { type: 'adamw', lr: 0.0003 },
  };
  const { id } = await daemon.post('/experiments', spec);
  await daemon.waitState(id, 'running');
  await waitFor(async () => (await daemon.get(`/experiments/${id}`)).progress.step > 200, 120_000, 'the first steps'); // an epoch outlasts all of this
  const pid = daemon.process.pid, before = status(pid, 'VmRSS');
  const paths = (process.env.PATHS?.split(' ') ?? [
    '/api/v1/experiments/ID', '/api/v1/experiments', '/api/v1/experiments/ID/metrics', '/api/v1/experiments/ID/steps?max_points=200', '/healthz', '/',
    '/api/v1/system', '/metrics',
  ]).map((path) => path.replace('ID', id));
  const latencies = [], statuses = {}, rounds = [];
  const stretch = async (work) => {
    const from = await steps(daemon), used = cpuSeconds(pid), stolen = stolenSeconds(), start = performance.now();
    await work();
    const seconds = (performance.now() - start) / 1000, now = cpuSeconds(pid), available = seconds * cores - (stolenSeconds() - stolen);
    return { rate: ((await steps(daemon)) - from) / available, seconds, stolen: 1 - available / seconds / cores, threads: httpSeconds(now) - httpSeconds(used) };
  };
  for (let round = 0; round < ROUNDS; round++) {
    const quiet = await stretch(() => sleep(1000 * SECONDS));
    const clients = await openLoad(daemon, paths, SECONDS);
    await sleep(1000);
    let answer;
    const loaded = await stretch(async () => (answer = await clients.ask()));
    await clients.end();
    await sleep(500);
    const burnt = await stretch(() => burn(SECONDS, RATE, answer.cpu_seconds));
    if (answer.failed) throw new Error(`${answer.failed} requests were not answered`);
    for (const [code, count] of Object.entries(answer.statuses)) statuses[code] = (statuses[code] ?? 0) + count;
    latencies.push(...answer.times_us);
    rounds.push({
      speed: loaded.rate / burnt.rate, all: loaded.rate / quiet.rate, daemon: loaded.threads / loaded.seconds / cores,
      clients: answer.cpu_seconds / loaded.seconds / cores, stolen: Math.max(quiet.stolen, loaded.stolen, burnt.stolen),
    });
  }
  latencies.sort((a, b) => a - b);
  const of = (key) => round(median(rounds.map((each) => each[key])), 4);
  const ms = (q) => round(quantile(latencies, q) / 1000);
  console.log(JSON.stringify({
    cores, connections: IDLE, event_readers: READERS, requests_per_second: RATE, seconds: SECONDS * ROUNDS,
    requests: latencies.length, statuses, get_ms_p50: ms(0.5), get_ms_p99: ms(0.99), get_ms_max: ms(1),
    resident_before_bytes: before, resident_peak_bytes: status(pid, 'VmHWM'), resident_after_bytes: status(pid, 'VmRSS'),
    training_speed_with_load: of('speed'), rounds: rounds.map((each) => round(each.speed, 4)), training_speed_and_clients: of('all'),
    http_threads_share_of_cores: of('daemon'), clients_share_of_cores: of('clients'),
    stolen_share_of_cores: of('stolen'),
    still_training: (await daemon.get(`/experiments/${id}`)).status === 'running',
  }));
} finally {
  await daemon.discard();
}
