// HTTP under stress while all cores train: 1,000 idle and slow connections, bodies that stall, 100 event readers and 500 GETs a second.
// Prints one line of JSON: answer times, refusals, memory, and what it costs the training.  Quiet and loaded stretches alternate, and the
// training's speed is compared within each pair.  The clients run on the same cores, so the slowdown seen holds their cost, too; what
// the daemon's own HTTP threads used is told beside it.
//   node tests/bench/stress.mjs          `make bench-http`          SECONDS=8 PAIRS=3 RATE=500
import { connect } from 'node:net';
import { Agent, get as httpGet } from 'node:http';
import { readFileSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { performance } from 'node:perf_hooks';
import { Daemon, sleep, topics } from '../e2e/daemon.mjs';

const SECONDS = Number(process.env.SECONDS ?? 8), PAIRS = Number(process.env.PAIRS ?? 3), RATE = Number(process.env.RATE ?? 500);
const IDLE = Number(process.env.IDLE ?? 1000), READERS = Number(process.env.READERS ?? 100);
const cores = availableParallelism();
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

function openLoad(daemon) {
  const { hostname, port } = new URL(daemon.url), sockets = [];
  const open = (bytes) => {
    const socket = connect(Number(port), hostname).on('error', () => {}).on('data', () => {});
    if (bytes) socket.write(bytes);
    sockets.push(socket);
    return socket;
  };
  const slow = [];
  for (let i = 0; i < IDLE; i++) {
    const kind = i % 4;
    if (kind === 0) open();
    else if (kind === 1) slow.push(open('GET /heal')); // one more byte of a header now and then
    else if (kind === 2) open('POST /api/v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"name":"');
    else open('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'); // answered, then idle
  }
  for (let i = 0; i < READERS; i++) open('GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n');
  const drip = setInterval(() => slow.slice(0, 50).forEach((socket) => socket.write('x')), 1000);
  return () => {
    clearInterval(drip);
    for (const socket of sockets) socket.destroy();
  };
}

// Latency of each request, counted from when it was due.
async function ask(daemon, paths, seconds, seen) {
  const { hostname, port } = new URL(daemon.url), agent = new Agent({ keepAlive: true, maxSockets: 64 });
  const pending = [], begin = performance.now();
  for (let i = 0; i < RATE * seconds; i++) {
    const due = begin + (i * 1000) / RATE;
    while (performance.now() < due) await sleep(Math.max(0, due - performance.now()));
    pending.push(new Promise((resolve) => {
      httpGet({ hostname, port, path: paths[i % paths.length], agent }, (response) => {
        response.resume().on('end', () => {
          seen.statuses[response.statusCode] = (seen.statuses[response.statusCode] ?? 0) + 1;
          seen.latencies.push(performance.now() - due);
          resolve();
        });
      }).on('error', (error) => {
        seen.statuses[error.code] = (seen.statuses[error.code] ?? 0) + 1;
        resolve();
      });
    }));
  }
  await Promise.all(pending);
  agent.destroy();
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
  const paths = [`/api/v1/experiments/${id}`, '/api/v1/experiments', `/api/v1/experiments/${id}/metrics`, `/api/v1/experiments/${id}/steps?max_points=200`, '/healthz', '/', '/api/v1/system', '/metrics'];
  const seen = { latencies: [], statuses: {} }, ratios = [], shares = [];
  const stretch = async (load) => {
    const from = await steps(daemon), used = httpSeconds(cpuSeconds(pid)), start = performance.now();
    if (load) await ask(daemon, paths, SECONDS, seen);
    else await sleep(1000 * SECONDS);
    const seconds = (performance.now() - start) / 1000;
    return { rate: ((await steps(daemon)) - from) / seconds, share: (httpSeconds(cpuSeconds(pid)) - used) / seconds / cores };
  };
  for (let pair = 0; pair < PAIRS; pair++) {
    const quiet = await stretch(false);
    const end = openLoad(daemon);
    await sleep(1000);
    const loaded = await stretch(true);
    end();
    await sleep(500);
    ratios.push(loaded.rate / quiet.rate);
    shares.push(loaded.share);
  }
  seen.latencies.sort((a, b) => a - b);
  console.log(JSON.stringify({
    cores, connections: IDLE, event_readers: READERS, requests_per_second: RATE, seconds: SECONDS * PAIRS,
    requests: seen.latencies.length, statuses: seen.statuses,
    get_ms_p50: round(quantile(seen.latencies, 0.5)), get_ms_p99: round(quantile(seen.latencies, 0.99)), get_ms_max: round(seen.latencies.at(-1)),
    resident_before_bytes: before, resident_peak_bytes: status(pid, 'VmHWM'), resident_after_bytes: status(pid, 'VmRSS'),
    training_speed_with_load: round(median(ratios), 4), pairs: ratios.map((x) => round(x, 4)),
    http_threads_share_of_cores: round(median(shares), 4),
    still_training: (await daemon.get(`/experiments/${id}`)).status === 'running',
  }));
} finally {
  await daemon.discard();
}
