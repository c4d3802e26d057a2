// HTTP under stress while all cores train: 1,000 idle and slow connections, bodies that stall, 100 event readers and 500 GETs a second.
// Prints one line of JSON: answer times, refusals, memory, and what it costs the training.
//
// The clients have only the same cores to run on, and would cost the training something whatever answered them.  So the connections stay
// open, and short stretches of three kinds follow one another, many times: the clients ask; they take as much CPU time in as many slices,
// but ask for nothing; they do neither.  A machine that others share changes its speed from second to second, which strikes all three alike.
//   training_speed_with_load     steps a second, asking / the same CPU time without asking: what the daemon's answering costs
//   training_speed_and_clients   steps a second, asking / neither: what both cost
//   http_threads_share_of_cores  the daemon's HTTP threads while asked; …_when_not_asked: for connections and event readers alone
//   clients_share_of_cores       the clients, a C program that takes little (http_load.c)
//   node tests/bench/stress.mjs          `make bench-http`          SECONDS=2 ROUNDS=30 RATE=500 MODEL=student|tiny
// Trained is a student of 3 layers × 384; with MODEL=tiny one of 2 × 128, whose steps of 6 ms wait for every moment that a thread lacks its core.
import { readFileSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { performance } from 'node:perf_hooks';
import { Daemon, sleep, topics, waitFor } from '../e2e/daemon.mjs';
import { openLoad } from './load.mjs';

const SECONDS = Number(process.env.SECONDS ?? 2), ROUNDS = Number(process.env.ROUNDS ?? 30), RATE = Number(process.env.RATE ?? 500);
const IDLE = Number(process.env.IDLE ?? 1000), READERS = Number(process.env.READERS ?? 100);
const MODEL = process.env.MODEL ?? 'student';
const models = {
  student: { layers: 3, heads: 6, hidden_size: 384, intermediate_size: 1536 },
  tiny: { layers: 2, heads: 2, hidden_size: 128, intermediate_size: 512 },
};
const cores = availableParallelism();
const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)];
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

async function steps(daemon) {
  const text = await (await fetch(`${daemon.url}/metrics`, { headers: { 'Cache-Control': 'no-cache' } })).text();
  return Number(/^distilld_steps_total (\d+)$/m.exec(text)[1]);
}

const daemon = await Daemon.start({ args: ['--threads', String(cores), '--workers', '1'] });
try {
  await daemon.upload('topics', { train: { text: topics(100_000), filename: 'train.tsv' } }, { dev_fraction: 0.01 });
  const spec = {
    task: 'finetune', dataset: 'topics', ...models[MODEL], epochs: 500, batch_size: 16, max_length: 32, vocab_size: 1000,
    optimizer: { type: 'adamw', lr: 0.0003 },
  };
  const { id } = await daemon.post('/experiments', spec);
  await daemon.waitState(id, 'running');
  await waitFor(async () => (await daemon.get(`/experiments/${id}`)).progress.step > 50, 120_000, 'the first steps'); // an epoch outlasts all of this
  const pid = daemon.process.pid, before = status(pid, 'VmRSS');
  const paths = (process.env.PATHS?.split(' ') ?? [
    '/api/v1/experiments/ID', '/api/v1/experiments', '/api/v1/experiments/ID/metrics', '/api/v1/experiments/ID/steps?max_points=200', '/healthz', '/',
    '/api/v1/system', '/metrics',
  ]).map((path) => path.replace('ID', id));
  const latencies = [], statuses = {}, kinds = { asked: [], burnt: [], left: [] };
  const stretch = async (kind, work) => {
    const from = await steps(daemon), used = httpSeconds(cpuSeconds(pid)), start = performance.now();
    const answer = await work();
    const seconds = (performance.now() - start) / 1000, threads = httpSeconds(cpuSeconds(pid)) - used;
    kinds[kind].push({ steps: (await steps(daemon)) - from, seconds, threads, clients: answer.cpu_seconds });
    return answer;
  };
  const clients = await openLoad(daemon, { paths, rate: RATE, idle: IDLE, readers: READERS });
  await clients.get(1);
  for (let round = 0; round < ROUNDS; round++) {
    const answer = await stretch('asked', () => clients.get(SECONDS));
    if (answer.failed) throw new Error(`${answer.failed} requests were not answered`);
    await stretch('burnt', () => clients.burn(SECONDS, answer.cpu_seconds));
    await stretch('left', () => clients.wait(SECONDS));
    for (const [code, count] of Object.entries(answer.statuses)) statuses[code] = (statuses[code] ?? 0) + count;
    latencies.push(...answer.times_us);
  }
  const peak = status(pid, 'VmHWM');
  await clients.end();
  await sleep(1000);
  latencies.sort((a, b) => a - b);
  const sum = (kind, key) => kinds[kind].reduce((total, each) => total + each[key], 0), per = (kind, key) => sum(kind, key) / sum(kind, 'seconds');
  const ms = (q) => round(quantile(latencies, q) / 1000);
  // How far the ratio of the sums is from what each half of the rounds gives: what chance has in it.
  const half = (odd) => ['asked', 'burnt'].map((kind) => kinds[kind].filter((_, i) => i % 2 === odd)).map((list) => list.reduce((n, each) => n + each.steps, 0) / list.reduce((n, each) => n + each.seconds, 0));
  const halves = [0, 1].map((odd) => half(odd)).map(([asked, burnt]) => round(asked / burnt, 4));
  console.log(JSON.stringify({
    cores, model: MODEL, connections: IDLE, event_readers: READERS, requests_per_second: RATE, seconds: SECONDS * ROUNDS,
    requests: latencies.length, statuses, get_ms_p50: ms(0.5), get_ms_p99: ms(0.99), get_ms_max: ms(1),
    resident_before_bytes: before, resident_peak_bytes: peak, resident_after_bytes: status(pid, 'VmRSS'),
    training_speed_with_load: round(per('asked', 'steps') / per('burnt', 'steps'), 4), of_each_half: halves,
    training_speed_and_clients: round(per('asked', 'steps') / per('left', 'steps'), 4),
    http_threads_share_of_cores: round(per('asked', 'threads') / cores, 4), http_threads_share_when_not_asked: round(per('left', 'threads') / cores, 4),
    clients_share_of_cores: round(per('asked', 'clients') / cores, 4), steps_per_second: round(per('left', 'steps')),
    still_training: (await daemon.get(`/experiments/${id}`)).status === 'running',
  }));
} finally {
  await daemon.discard();
}
