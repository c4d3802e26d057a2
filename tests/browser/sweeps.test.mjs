// The Sweeps page in a real browser: a sweep made by the form trains to a heat map whose cells are the daemon's means;
// cells, axes and points are reached by keyboard. And what its parts compute.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { Daemon, tinyTeacher, topics } from '../e2e/daemon.mjs';
import { launch, noBrowser } from './browser.mjs';
import { cellsOf, countRuns, importance, parseAxis, pooled, rankCorrelation } from '../../web/src/pages/sweep-parts.js';

const skip = noBrowser;
let daemon, browser;

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '2', '--threads', '2'] });
  await daemon.upload('news', {
    train: { text: topics(200), filename: 'train.tsv' },
    dev: { text: topics(60, 5), filename: 'dev.tsv' },
  });
  const { id } = await daemon.post('/experiments', {
    ...tinyTeacher,
    dataset: 'news',
    save_as: 'teacher',
  });
  await daemon.waitState(id, 'finished');
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await daemon?.discard();
});
afterEach(() => browser?.closeContexts());

test('a sweep by the form becomes a heat map of the daemon’s means', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/sweeps?dataset=news&teacher=teacher&max_length=16`);
  await page.getByLabel('Epochs', { exact: true }).fill('2');
  await page.getByLabel('One axis a line').fill('T: 1, 4\nalpha: 0.2, 7');
  await page.locator('.new-side p', { hasText: '/grid/alpha/1' }).waitFor();
  await page.getByLabel('One axis a line').fill('T: 1, 4\nalpha: 0.2, 0.9');
  await page.getByLabel('Seeds').fill('1, 2');
  await page.locator('.new-side', { hasText: '4 points, 8 runs' }).waitFor();
  await page.getByRole('button', { name: 'Queue the sweep' }).click();
  await page.waitForURL(/sweeps\/\d+/);
  const id = Number(/sweeps\/(\d+)/.exec(page.url())[1]);
  await page.locator('.run-state .status.finished').waitFor({ timeout: 60_000 });
  const sweep = await daemon.get(`/sweeps/${id}`);
  const digits = (v) => v.toFixed(4).replace(/^0\./, '.');
  const cells = await page.locator('.heat tbody td a').allTextContents();
  const means = [0.2, 0.9].flatMap((alpha) =>
    [1, 4].map((T) => sweep.points.find((p) => p.values.T === T && p.values.alpha === alpha).macro_f1.mean),
  );
  assert.deepEqual(cells, means.map(digits));
  assert.match(await page.locator('.heat td.best').textContent(), new RegExp(digits(sweep.best.score)));
  assert.match(await page.locator('.lead').first().textContent(), /of the 3 other points cannot be told from it\. Paired bootstrap over 60 dev rows/);
  const matters = page.locator('section', { has: page.getByRole('heading', { name: 'Which setting matters' }) }).locator('tbody tr');
  assert.equal(await matters.count(), 2);
  const shares = importance(sweep, 'macro_f1').map((row) => `${row.axis}${(100 * row.share).toFixed(0)}%`);
  assert.deepEqual(await matters.evaluateAll((list) => list.map((row) => row.cells[0].textContent + row.cells[1].textContent)), shares);
  await page.getByLabel('Across').selectOption('alpha');
  await page.waitForURL(/hx=alpha/);
  const turned = await browser.open(page.url(), { context: page.context() });
  await turned.locator('.heat tbody td a').first().waitFor();
  assert.deepEqual(
    await turned.locator('.heat tbody td a').allTextContents(),
    [0, 2, 1, 3].map((i) => cells[i]),
    'a link shows the same view',
  );
  await turned.locator('.heat tbody td a').first().focus();
  await turned.keyboard.press('Enter');
  await turned.waitForURL(/compare\?ids=\d+%2C\d+|compare\?ids=\d+,\d+/);
  const rows = turned.getByRole('region', { name: 'Is the lead noise?' }).locator('tbody tr');
  await rows.first().waitFor();
  assert.equal(await rows.count(), 1);
  assert.match(await rows.first().textContent(), /(within|more than) noise/);
  assert.deepEqual(
    page.faults.filter((f) => !f.includes('422')),
    [],
  );
});

test('a sweep that decides: the form asks for it, the page says what it did', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/sweeps?dataset=news&teacher=teacher&max_length=16`);
  await page.getByLabel('Epochs', { exact: true }).fill('4');
  await page.getByLabel('One axis a line').fill('T: 1, 2, 4');
  await page.getByLabel('Seeds', { exact: true }).fill('1');
  await page.getByLabel('Stop hopeless points early').check();
  await page.getByLabel('Epochs before the first decision').fill('4');
  await page.locator('.new-side p', { hasText: '/asha/min_epochs' }).waitFor();
  await page.getByLabel('Epochs before the first decision').fill('2');
  await page.getByRole('button', { name: 'Queue the sweep' }).click();
  await page.waitForURL(/sweeps\/\d+/);
  await page.locator('.run-state .status.finished').waitFor({ timeout: 60_000 });
  await page.locator('.lead', { hasText: 'After epoch 2: 3 points, 1 went on. 8 of 12 epochs so far' }).waitFor();
  const { points } = await daemon.get(`/sweeps/${/sweeps\/(\d+)/.exec(page.url())[1]}`);
  const halted = points.find((p) => p.stopped).experiments[0];
  const run = await browser.open(`${daemon.url}/runs/${halted}`, { context: page.context() });
  await run.locator('.run-state', { hasText: 'asha rung 1' }).waitFor();
  assert.deepEqual(page.faults.filter((f) => !f.includes('422')), []);
});

test('a preset shows its values in the new experiment’s form, and why one would take it', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/new?dataset=news&teacher=teacher`);
  await page.getByLabel('Preset').selectOption('note');
  await page.getByText('The note’s recipe to the letter').waitFor();
  await page.waitForFunction(() => document.querySelector('#field-optimizer-lr').placeholder === '0.05');
  assert.deepEqual(JSON.parse(new URL(page.url()).searchParams.get('spec')), { preset: 'note', dataset: 'news', teacher: 'teacher' });
  await page.getByLabel('Preset').selectOption('tiny');
  await page.waitForFunction(() => document.querySelector('#field-layers').placeholder === '1');
  assert.deepEqual(page.faults, []);
});

test('cells pool the spread of the points they hold', () => {
  const all = pooled([
    { n: 2, mean: 1.5, std: Math.SQRT1_2 },
    { n: 3, mean: 4, std: 1 },
  ]); // of 1 2 | 3 4 5
  assert.equal(all.n, 5);
  assert.ok(Math.abs(all.mean - 3) < 1e-12);
  assert.ok(Math.abs(all.std - Math.sqrt(2.5)) < 1e-12);
  const point = (i, T, alpha, mean) => ({ point: i, n: 1, values: { T, alpha }, f1: { mean, std: null }, experiments: [i] });
  const { columns, rows, cells } = cellsOf([point(0, 10, 0.2, 0.5), point(1, 9, 0.2, 0.6)], 'T', 'alpha', 'f1');
  assert.deepEqual(columns, [9, 10], 'numbers in their own order');
  assert.deepEqual(rows, [0.2]);
  assert.deepEqual(cells[0].map((c) => c.mean), [0.6, 0.5]);
});

test('importance is the main effect in a grid, the squared rank correlation where values hardly repeat', () => {
  const point = (values, mean) => ({ n: 1, values, f1: { mean } });
  // 2 a + b on a 2 × 2 grid: variances 4 and 1
  const grid = { axes: ['b', 'a'], points: [[0, 0], [0, 1], [1, 0], [1, 1]].map(([a, b]) => point({ a, b }, 2 * a + b)) };
  const [first, second] = importance(grid, 'f1');
  assert.deepEqual([first.axis, second.axis], ['a', 'b']);
  assert.ok(Math.abs(first.share - 0.8) < 1e-12 && Math.abs(second.share - 0.2) < 1e-12);
  assert.ok(first.trend > second.trend && second.trend > 0);
  // values that never repeat: a share between values would be 1 whatever they did
  const drawn = { axes: ['lr', 'opt'], points: [4, 1, 3, 2, 5].map((lr, i) => point({ lr, opt: i % 2 ? 'sgd' : 'adamw' }, -lr)) };
  const [lr, opt] = importance(drawn, 'f1');
  assert.deepEqual([lr.axis, lr.share, lr.trend, opt.trend], ['lr', 1, -1, null]);
  assert.equal(importance({ ...grid, points: grid.points.slice(1) }, 'f1'), null, 'three points say nothing');
  assert.equal(rankCorrelation([1, 2, 3], [5, 5, 5]), 0);
  assert.equal(rankCorrelation([1, 2, 2, 9], [1, 3, 3, 4]), 1);
});

test('axes are read as lists or ranges', () => {
  assert.deepEqual(parseAxis('1, 2.5, sgd'), [1, 2.5, 'sgd']);
  assert.deepEqual(parseAxis(' 1e-4..0.1 log'), { min: 1e-4, max: 0.1, scale: 'log' });
  assert.deepEqual(parseAxis('1..8'), { min: 1, max: 8 });
  assert.equal(parseAxis(' '), null);
  assert.deepEqual(countRuns({ grid: { T: [1, 2], alpha: [1, 2, 3] }, seeds: [1, 2] }), { points: 6, runs: 12 });
});
