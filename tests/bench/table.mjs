// The table of `make bench` from its lines of JSON, and the same as one JSON document.
// usage: table.mjs RESULTS.jsonl BENCH.json "what the short lengths are"
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';

const [source, target, short] = process.argv.slice(2);
const rows = readFileSync(source, 'utf8').trim().split('\n').map((line) => JSON.parse(line));
const ours = rows.filter((row) => row.engine === 'distilld');
const theirs = rows.filter((row) => row.engine.startsWith('torch'));
const daemon = rows.find((row) => row.engine === 'daemon');
const answers = rows.filter((row) => row.engine === 'predict');
const mib = (bytes) => (bytes / 2 ** 20).toFixed(0);
let commit = 'unknown';
try {
  commit = execFileSync('git', ['describe', '--always', '--dirty'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
} catch {
  // a source archive has no git
}
const machine = {
  time: new Date().toISOString(),
  commit,
  cpu: cpus()[0]?.model,
  cores: cpus().length,
  memory_bytes: totalmem(),
  kernel: release(),
  load_average: loadavg(),
  kernels: ours[0]?.cpu,
  blas: ours[0]?.blas,
  pytorch: theirs[0]?.engine ?? null,
};

const header = ['case', 'engine', 'threads', 'tokens/s', 'ms/step', 'GFLOP/s', 'sgemm', 'share', 'peak MiB', 'ours is'];
const lines = [header];
for (const name of [...new Set(ours.map((row) => row.name))]) {
  const mine = ours.filter((row) => row.name === name);
  for (const row of mine) {
    lines.push([name, `distilld ${row.precision}`, row.threads, row.tokens_per_second.toFixed(0), row.step_ms_median.toFixed(1),
      row.gflops.toFixed(1), row.sgemm_gflops.toFixed(1), row.share_of_sgemm.toFixed(3), mib(row.peak_memory_bytes), '']);
  }
  for (const row of theirs.filter((other) => other.name === name)) {
    const same = mine.find((own) => own.threads === row.threads && own.precision === 'fp32');
    row.ratio = same ? same.tokens_per_second / row.tokens_per_second : null;
    lines.push([name, `PyTorch, ${row.loop} loop`, row.threads, row.tokens_per_second.toFixed(0),
      (row.seconds_per_step_median * 1000).toFixed(1), '', '', '', mib(row.peak_memory_bytes), row.ratio ? `${row.ratio.toFixed(2)} x` : '']);
  }
}

console.log(`${machine.time}  ${machine.commit}`);
console.log(`${machine.cpu}, ${machine.cores} cores, Linux ${machine.kernel}, load ${machine.load_average.map((x) => x.toFixed(1)).join(' ')}`);
console.log(`kernels ${machine.kernels}; ${machine.blas}; ${machine.pytorch ?? 'no PyTorch'}`);
console.log(`short: ${short}; long: 8 to 128 tokens, evenly; batches of ${ours[0].batch_size}; ms/step is the median\n`);
const widths = header.map((_, i) => Math.max(...lines.map((line) => String(line[i]).length)));
for (const line of lines) {
  console.log(line.map((cell, i) => (i < 2 ? String(cell).padEnd(widths[i]) : String(cell).padStart(widths[i]))).join('  ').trimEnd());
}
console.log('\nGFLOP/s: products that the step needs, real tokens; sgemm: the rate of plain fp32 products of these shapes on as many threads.');
console.log('fair: padded to the longest row of the batch, teacher known; note: padded to 128, a 12-layer teacher asked for each batch.');
for (const row of answers) {
  console.log(`\n${row.texts === 1 ? 'one text' : `${row.texts} texts`} of ${row.tokens} tokens, ${row.layers} x ${row.hidden_size}, ${row.threads} thread: ${row.fp32_ms} ms, of which `
    + `${row.sgemm_ms} are its products alone (${(row.fp32_ms - row.sgemm_ms).toFixed(2)} ms over); in int8 ${row.int8_ms} ms`);
}
if (daemon) {
  console.log(`\ndaemon: ready after ${daemon.start_to_ready_ms_median} ms, ${mib(daemon.idle_resident_bytes)} MiB idle; GET at ` +
    `${daemon.requests_per_second}/s while ${daemon.still_training ? '' : '(for a part only) '}training on ${daemon.cores} cores: p50 ${daemon.get_ms_p50} ms, ` +
    `p99 ${daemon.get_ms_p99} ms, max ${daemon.get_ms_max} ms, ${daemon.failures} failures`);
}
writeFileSync(target, `${JSON.stringify({ machine, short_lengths: short, steps: [...ours, ...theirs], answers, daemon: daemon ?? null }, null, 2)}\n`);
console.log(`\nwritten to ${target}`);
