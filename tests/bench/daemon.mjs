// What the daemon costs: from start to ready, idle memory, and how fast GET answers while it trains on all cores.
// Prints one line of JSON.  The client (http_load.c) runs on the same cores, so its own waiting for a core is part of the figure.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { availableParallelism, cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { Daemon, binary, sleep, topics } from '../e2e/daemon.mjs';
import { openLoad } from './load.mjs';

const REQUESTS_A_SECOND = 200;
const SECONDS = 10;
const cores = (availableParallelism ?? (() => cpus().length))();
const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)];
const round = (x) => Math.round(x * 100) / 100;

// From spawn to the first 200 of /readyz, asked without a pause.
async function startMs() {
  const dataDir = mkdtempSync(join(tmpdir(), 'distilld-bench-'));
  const start = performance.now();
  const child = spawn(binary, ['serve', '--listen', '127.0.0.1:0', '--data-dir', dataDir], { stdio: ['ignore', 'pipe', 'pipe'] });
  const exited = once(child, 'exit');
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  let took;
  while (took === undefined && child.exitCode === null && performance.now() - start < 20_000) {
    const url = output.match(/http:\/\/127\.0\.0\.1:\d+/)?.[0];
    if (url && (await fetch(`${url}/readyz`).then((r) => r.ok, () => false))) took = performance.now() - start;
    else await sleep(1);
  }
  child.kill('SIGTERM');
  await exited;
  rmSync(dataDir, { recursive: true, force: true });
  if (took === undefined) throw new Error(`the daemon did not become ready:\n${output}`);
  return took;
}

const residentBytes = (pid) => 1024 * Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]);

const starts = [];
for (let i = 0; i < 5; i++) starts.push(await startMs());
const daemon = await Daemon.start({ args: ['--threads', String(cores)] });
try {
  await sleep(2000);
  const idle = residentBytes(daemon.process.pid);
  await daemon.upload('topics', { train: { text: topics(4000), filename: 'train.tsv' } });
  const spec = {
    task: 'finetune', dataset: 'topics', layers: 4, heads: 4, hidden_size: 256, intermediate_size: 1024, epochs: 50, batch_size: 32,
    max_length: 32, vocab_size: 1000, optimizer: { type: 'adamw', lr: 0.0003 },
  };
  const { id } = await daemon.post('/experiments', spec);
  await daemon.waitState(id, 'running');
  await daemon.waitEpoch(id, 1);
  const paths = [`/api/v1/experiments/${id}`, '/api/v1/experiments', `/api/v1/experiments/${id}/metrics`, '/healthz'];
  const clients = await openLoad(daemon, { paths, rate: REQUESTS_A_SECOND });
  const answer = await clients.get(SECONDS);
  await clients.end();
  const latencies = answer.times_us.sort((a, b) => a - b), failures = answer.failed + latencies.length - (answer.statuses[200] ?? 0);
  const { status } = await daemon.get(`/experiments/${id}`);
  console.log(JSON.stringify({
    engine: 'daemon',
    cores,
    start_to_ready_ms_median: round(quantile(starts.sort((a, b) => a - b), 0.5)),
    idle_resident_bytes: idle,
    training_resident_bytes: residentBytes(daemon.process.pid),
    still_training: status === 'running',
    requests_per_second: REQUESTS_A_SECOND,
    requests: latencies.length,
    failures,
    get_ms_p50: round(quantile(latencies, 0.5) / 1000),
    get_ms_p99: round(quantile(latencies, 0.99) / 1000),
    get_ms_max: round(latencies.at(-1) / 1000),
  }));
} finally {
  await daemon.discard();
}
