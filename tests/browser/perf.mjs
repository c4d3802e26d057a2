// A benchmark of the dashboard (`make bench-web`), not a test. First size: 10,000 finished runs, 200 epochs each of the
// newest sixty, put into a fresh database by SQL; how long until the list and Compare can be used, in a real browser.
// Then life: four runs that train at once, the longest task of each page that shows them, and the bytes that one open page
// moves for each epoch and each step event, from which an hour is reckoned.
//
//   node tests/browser/perf.mjs                      this build
//   node tests/browser/perf.mjs --before DISTILLD    another build beside it, in turns: on a busy machine only ratios tell
//   node tests/browser/perf.mjs --live 120           seconds to watch the four runs (default 30)
import { spawnSync } from 'node:child_process';
import { createServer, get as httpGet } from 'node:http';
import { join } from 'node:path';
import { constants, createGunzip } from 'node:zlib';
import { Daemon, binary, tinyTeacher, topics } from '../e2e/daemon.mjs';
import { launch, noBrowser } from './browser.mjs';

const RUNS = 10_000;
const COMPARED = 20;
const EPOCHS = 200;
const ROUNDS = 5;
const WINDOW_MS = 1500; // a new window loads pages of the browser's own, in which no reader waits
const EPOCHS_AN_HOUR = [60, 600]; // the note's recipe has 60 epochs in about an hour; a small student ten times as many

if (noBrowser) {
  console.error(noBrowser);
  process.exit(1);
}
const option = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : null);
const builds = { after: binary };
if (option('--before')) builds.before = option('--before');
const liveSeconds = Number(option('--live') ?? 30);

/** Rows like those of real runs; macro-F1 rises and settles, so that sparklines and curves have something to draw. */
const SQL = `
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${RUNS})
INSERT INTO experiments (state, task, dataset, teacher, base_model, optimizer, layers, heads, hidden_size, temperature,
  alpha, lr, created_ms, queued_ms, started_ms, finished_ms, attempts, epochs, epochs_done, steps, steps_done,
  elapsed_seconds, best_epoch, best_accuracy, best_macro_f1, best_weighted_f1, last_epoch, last_macro_f1,
  teacher_accuracy, teacher_macro_f1, spec_hash, name, tags, notes, spec)
SELECT 3, 'distill', 'news', 'teacher', '', 'adamw', 1 + i % 3, 3, 768, 1 + i % 8, (i % 10) / 10.0, 0.0001,
  1700000000000 + i * 1000, 1700000000000 + i * 1000, 1700000000000 + i * 1000, 1700000900000 + i * 1000, 1, ${EPOCHS},
  ${EPOCHS}, 9000, 9000, 900, ${EPOCHS}, 0.8, 0.5 + (i * 7919 % 1000) / 3000.0, 0.8, ${EPOCHS}, 0.7, 0.85, 0.8,
  printf('%064d', i), 'run ' || i, '["bench"]', '',
  json_object('task', 'distill', 'dataset', 'news', 'teacher', 'teacher', 'layers', 1 + i % 3, 'T', 1 + i % 8,
    'alpha', (i % 10) / 10.0, 'seed', i, 'optimizer', json_object('type', 'adamw', 'lr', 0.0001)) FROM n;
WITH RECURSIVE e(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM e WHERE k < ${EPOCHS})
INSERT INTO epochs (experiment_id, epoch, train_loss, train_kl, train_ce, dev_loss, accuracy, macro_precision,
  macro_recall, macro_f1, weighted_precision, weighted_recall, weighted_f1, teacher_agreement, lr, seconds,
  elapsed_seconds, tokens_per_second, is_best, recorded_ms)
SELECT id, k, 2.0 / k, 1.0 / k, 1.0 / k, 0.5 + 1.0 / k, 0.8 - 0.5 / k, 0.7, 0.7, 0.75 - 0.5 / k, 0.8, 0.8, 0.8 - 0.5 / k,
  0.9, 0.0001, 4.5, 4.5 * k, 9000, 0, 1700000000000 + k FROM experiments, e WHERE id > ${RUNS - 60};
COMMIT;`;

/** A daemon of one build with the big history in it. */
async function filledDaemon(executable) {
  const first = await Daemon.start({ executable, args: ['--workers', '1', '--threads', '1'] });
  await first.stop('SIGTERM');
  const script = 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())';
  const filled = spawnSync('python3', ['-c', script, join(first.dataDir, 'distilld.db')], { input: SQL, encoding: 'utf8' });
  if (filled.status !== 0) throw new Error(filled.stderr);
  const daemon = await Daemon.start({ executable, dataDir: first.dataDir, args: ['--workers', '1', '--threads', '1'] });
  daemon.ownsDir = true;
  return daemon;
}

/** In the page: when `wanted` was first there at a frame, and the longest task. */
function watch(wanted) {
  window.longest = 0;
  window.ready = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
  }).observe({ type: 'longtask', buffered: true });
  const look = () => {
    const found = document.querySelectorAll(wanted.selector);
    if (found.length >= wanted.count) {
      window.ready = performance.now();
      console.debug('ready'); // to ask for it again and again would run code of the driver's in the page meanwhile
    } else requestAnimationFrame(look);
  };
  if (wanted) requestAnimationFrame(look);
}

/** Milliseconds for which at least one request was under way before `until`: what network and daemon took. */
function waited(until) {
  const spans = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .map((e) => [e.startTime, Math.min(e.responseEnd || until, until)])
    .filter(([from, to]) => from < to)
    .sort((a, b) => a[0] - b[0]);
  let sum = 0;
  let end = 0;
  for (const [from, to] of spans) {
    sum += Math.max(0, to - Math.max(from, end));
    end = Math.max(end, to);
  }
  return sum;
}

async function measure(context, url, wanted, settle = 700) {
  const page = await browser.open('about:blank', { context });
  await page.waitForTimeout(WINDOW_MS);
  const devtools = await context.newCDPSession(page);
  await devtools.send('Performance.enable', { timeDomain: 'threadTicks' });
  await page.addInitScript(watch, wanted);
  const said = page.waitForEvent('console', { predicate: (message) => message.text() === 'ready' });
  await page.goto(url, { waitUntil: 'commit' });
  await said;
  const ready = await page.evaluate(() => window.ready);
  const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0);
  const network = await page.evaluate(waited, ready);
  const { metrics } = await devtools.send('Performance.getMetrics');
  const cpu = 1000 * metrics.find((m) => m.name === 'TaskDuration').value;
  const requests = page.requested.filter((u) => u.includes('/api/')).length;
  await page.waitForTimeout(settle);
  const longest = await page.evaluate(() => window.longest);
  await page.close();
  return { ready, paint, own: ready - network, cpu, longest, requests };
}
/** A page of twenty plain rows and nothing else: what this browser on this machine takes for any page. */
async function emptyPage() {
  const rows = Array.from({ length: 20 }, (_, i) => `<tr data-id="${i}"><td>${i}</td></tr>`).join('');
  const server = createServer((_, response) => response.setHeader('Content-Type', 'text/html').end(`<!doctype html><title>rows</title><table><tbody>${rows}</tbody></table>`));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  server.unref();
  return { url: `http://127.0.0.1:${server.address().port}/` };
}
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const ms = (v) => `${v.toFixed(0)} ms`.padStart(8);

async function size(daemons) {
  const ids = Array.from({ length: COMPARED }, (_, i) => RUNS - i).join(',');
  const rows = { selector: 'tbody tr[data-id]', count: 20 };
  const cases = [
    ['an empty page: the floor', null, { selector: 'tbody tr[data-id]', count: 20 }],
    [`${RUNS} runs: the list`, '/runs', rows],
    ['… sorted by macro-F1', '/runs?sort=-best_macro_f1', rows],
    [`compare ${COMPARED} × ${EPOCHS}: two charts`, `/compare?ids=${ids}`, { selector: '.charts.two .chart canvas', count: 2 }],
  ];
  console.log('median of', ROUNDS, 'warm visits'.padEnd(30), '   ready  w/o requests  CPU of the page  first paint  longest task  requests');
  const floor = await emptyPage();
  const contexts = {};
  for (const name of Object.keys(daemons)) contexts[name] = await browser.profile();
  for (const [what, path, wanted] of cases) {
    const all = Object.fromEntries(Object.keys(daemons).map((name) => [name, []]));
    for (let round = 0; round <= ROUNDS; round++) // the first warms the cache, as an earlier visit did
      for (const [name, daemon] of Object.entries(daemons)) {
        const got = await measure(contexts[name], path ? daemon.url + path : floor.url, wanted);
        if (round) all[name].push(got);
      }
    for (const [name, list] of Object.entries(all)) {
      const m = (key) => median(list.map((r) => r[key]));
      console.log(`${name.padEnd(7)}${what.padEnd(38)}`, ms(m('ready')), ms(m('own')).padStart(13), ms(m('cpu')).padStart(16), ms(m('paint')).padStart(12),
        ms(m('longest')).padStart(13), String(m('requests')).padStart(9));
    }
  }
  for (const query of ['/experiments?limit=60&sort=-id', '/experiments?limit=60&q=999', `/compare?ids=${ids}`])
    for (const [name, daemon] of Object.entries(daemons)) {
      const start = performance.now();
      const { text } = await daemon.call('GET', query);
      console.log(`${name.padEnd(7)}GET ${query.slice(0, 34).padEnd(34)}`, ms(performance.now() - start), `${text.length} bytes`.padStart(18));
    }
}

const sentBytes = async (daemon) => {
  const text = await (await fetch(`${daemon.url}/metrics`)).text();
  return Number(/^distilld_http_sent_bytes_total (\d+)/m.exec(text)[1]) - text.length;
};

/** Four runs train; one page at a time shows them. */
async function life(name, executable) {
  const daemon = await Daemon.start({ executable, args: ['--workers', '4', '--threads', '4'] });
  try {
    await daemon.upload('news', { train: { text: topics(1200), filename: 'train.tsv' }, dev: { text: topics(200, 5), filename: 'dev.tsv' } });
    const ids = [];
    for (let i = 0; i < 4; i++)
      ids.push((await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', seed: i + 1, epochs: 10_000 })).id);
    for (const id of ids) await daemon.waitState(id, 'running');
    const context = await browser.context();
    for (const path of ['/runs', `/runs/${ids[0]}`, `/compare?ids=${ids}`]) {
      const page = await browser.open('about:blank', { context });
      await page.addInitScript(watch, null);
      await page.goto(daemon.url + path);
      await page.waitForTimeout(3000); // the start is measured above
      await page.evaluate(() => (window.longest = 0));
      const before = { bytes: await sentBytes(daemon), epochs: await epochsOf(daemon, ids), asked: page.requested.length };
      await page.waitForTimeout(1000 * liveSeconds);
      const longest = await page.evaluate(() => window.longest);
      const epochs = (await epochsOf(daemon, ids)) - before.epochs;
      const bytes = (await sentBytes(daemon)) - before.bytes;
      console.log(`${name.padEnd(7)}four runs stream: ${path.padEnd(20)} longest task ${ms(longest)}, ${epochs} epochs in ${liveSeconds} s,`,
        `${(bytes / 1000).toFixed(0)} kB, ${page.requested.length - before.asked} GETs`);
      await page.close();
    }
  } finally {
    await daemon.discard();
  }
}
/**
 * What an hour of one open run page moves: the bytes that come over the line, compressed as for a browser, while one run
 * trains; of the whole the share of an epoch with its status and log, of a step event, and of a comment, from streams of
 * these kinds alone. Steps come every 2 s for two minutes, then every 60 s (web/src/wants.js); a comment every 15 s.
 */
async function hour(name, executable) {
  const daemon = await Daemon.start({ executable, args: ['--workers', '1', '--threads', '1'] });
  try {
    await daemon.upload('news', { train: { text: topics(1200), filename: 'train.tsv' }, dev: { text: topics(200, 5), filename: 'dev.tsv' } });
    const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', epochs: 10_000 });
    const line = (kinds) =>
      new Promise((done) => {
        const seen = { bytes: 0, events: 0 };
        const request = httpGet(`${daemon.url}/api/v1/events?types=${kinds}&step_every=2&steps_of=${id}`, { headers: { 'Accept-Encoding': 'gzip' } }, (answer) => {
          answer.on('data', (chunk) => (seen.bytes += chunk.length));
          const text = answer.headers['content-encoding'] === 'gzip' ? answer.pipe(createGunzip({ flush: constants.Z_SYNC_FLUSH })) : answer;
          text.on('data', (chunk) => (seen.events += String(chunk).split('\nevent: ').length - 1)).on('error', () => {});
          answer.on('error', () => {});
        });
        setTimeout(() => (request.destroy(), done(seen)), 1000 * liveSeconds);
      });
    const before = await epochsOf(daemon, [id]);
    const [rows, steps] = await Promise.all([line('status,epoch,log'), line('step')]);
    const anEpoch = rows.bytes / ((await epochsOf(daemon, [id])) - before);
    const aStep = steps.bytes / Math.max(1, steps.events);
    const total = (epochs) => (epochs * anEpoch + (120 / 2 + 3480 / 60) * aStep + 240 * 20) / 1000;
    console.log(`${name.padEnd(7)}on the wire: ${anEpoch.toFixed(0)} bytes an epoch, ${aStep.toFixed(0)} a step event;`,
      EPOCHS_AN_HOUR.map((n) => `an hour of ${n} epochs ${total(n).toFixed(0)} kB`).join(', '));
  } finally {
    await daemon.discard();
  }
}

async function epochsOf(daemon, ids) {
  const all = await Promise.all(ids.map((id) => daemon.get(`/experiments/${id}`)));
  return all.reduce((sum, r) => sum + r.progress.epoch, 0);
}

const browser = await launch();
const daemons = {};
try {
  for (const [name, executable] of Object.entries(builds)) daemons[name] = await filledDaemon(executable);
  await size(daemons);
  await Promise.all(Object.values(daemons).map((daemon) => daemon.discard()));
  for (const [name, executable] of Object.entries(builds)) await life(name, executable);
  for (const [name, executable] of Object.entries(builds)) await hour(name, executable);
} finally {
  await browser.close();
  await Promise.all(Object.values(daemons).map((daemon) => daemon.discard()));
}
