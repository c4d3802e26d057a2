// A benchmark of the dashboard (`make bench-web`), not a test: 10,000 finished runs with 200 epochs each of the newest
// twenty, put into a fresh database by SQL; then how long the list and Compare take to be usable in a real browser.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { Daemon } from '../e2e/daemon.mjs';
import { launch, noBrowser } from './browser.mjs';

const RUNS = 10_000;
const COMPARED = 20;
const EPOCHS = 200;

if (noBrowser) {
  console.error(noBrowser);
  process.exit(1);
}

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

const first = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
await first.stop('SIGTERM');
const script = 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())';
const filled = spawnSync('python3', ['-c', script, join(first.dataDir, 'distilld.db')], { input: SQL, encoding: 'utf8' });
if (filled.status !== 0) throw new Error(filled.stderr);
const daemon = await Daemon.start({ dataDir: first.dataDir, args: ['--workers', '1', '--threads', '1'] });
const browser = await launch();

/** Milliseconds from navigation until the selector is there, and the longest task on the way. */
async function measure(context, path, selector, wait = 500) {
  const page = await browser.open('about:blank', { context });
  await page.addInitScript(() => {
    window.longest = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
    }).observe({ type: 'longtask', buffered: true });
  });
  await page.goto(daemon.url + path, { waitUntil: 'commit' });
  await page.waitForFunction((wanted) => document.querySelector(wanted), selector);
  const ready = await page.evaluate(() => performance.now());
  const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0);
  await page.waitForTimeout(wait);
  const longest = await page.evaluate(() => window.longest);
  await page.close();
  return { ready, paint, longest };
}
const print = (what, { ready, paint, longest }) =>
  console.log(`${what.padEnd(44)} ${ready.toFixed(0).padStart(5)} ms   first paint ${paint.toFixed(0).padStart(4)} ms   longest task ${longest.toFixed(0).padStart(4)} ms`);

try {
  const ids = Array.from({ length: COMPARED }, (_, i) => RUNS - i).join(',');
  const list = 'tbody tr[data-id]';
  for (const query of ['/experiments?limit=60&sort=-id', '/experiments?limit=60&sort=-best_macro_f1', '/experiments?limit=60&q=999', `/compare?ids=${ids}`]) {
    const start = performance.now();
    await daemon.get(query);
    console.log(`GET ${query.slice(0, 40).padEnd(40)} ${(performance.now() - start).toFixed(0).padStart(5)} ms`);
  }
  const context = await browser.context();
  await measure(context, '/runs', list); // warms the cache, as a second visit
  print(`${RUNS} runs: the list`, await measure(context, '/runs', list));
  print('… sorted by macro-F1', await measure(context, '/runs?sort=-best_macro_f1', list));
  print(`compare ${COMPARED} × ${EPOCHS} epochs: curves drawn`, await measure(context, `/compare?ids=${ids}`, '.chart-panel canvas', 2500));
} finally {
  await browser.close();
  await daemon.discard();
}
