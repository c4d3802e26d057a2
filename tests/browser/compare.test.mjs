// Compare in a real browser: three runs from the list, in one request; what the page says is what the daemon says.
import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { Daemon, tinyTeacher, topics, waitFor } from '../e2e/daemon.mjs';
import { launch, noBrowser } from './browser.mjs';

const skip = noBrowser;
const digits = (v) => v.toFixed(4).replace(/^(-?)0\./, '$1.');
const signed = (v) => (v > 0 ? `+${digits(v)}` : v < 0 ? `\u2212${digits(-v)}` : '±.0000');
let daemon, browser;
const runs = []; // three students: two that differ in the seed alone, one with another alpha

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '2', '--threads', '2'] });
  const made = await daemon.upload('news', { train: { text: topics(300), filename: 'train.tsv' }, dev: { text: topics(90, 5), filename: 'dev.tsv' } });
  assert.equal(made.status, 201, made.text);
  const teacher = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', name: 'teacher', save_as: 'teacher', epochs: 2 });
  await daemon.waitState(teacher.id, 'finished');
  const student = { dataset: 'news', teacher: 'teacher', layers: 1, epochs: 3, batch_size: 16, max_length: 24 };
  for (const extra of [{ seed: 1 }, { seed: 2 }, { seed: 1, alpha: 0.7 }])
    runs.push((await daemon.post('/experiments', { ...student, ...extra, name: `student ${runs.length + 1}` })).id);
  for (let i = 0; i < runs.length; i++) runs[i] = await daemon.waitState(runs[i], 'finished');
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await daemon?.discard();
});
afterEach(() => browser?.closeContexts());

const link = () => `${daemon.url}/compare?ids=${runs.map((r) => r.id)}`;
const scores = (page) => page.locator('table.data.wide').first();
/** The table twin of the first chart: [[header…], [cell…]…]. */
async function firstTwin(page) {
  const panel = page.locator('.chart-panel').first();
  const button = panel.getByRole('button', { name: 'Table' });
  if ((await button.getAttribute('aria-pressed')) === 'false') await button.click(); // a link may have it open
  await panel.locator('.twin tbody tr').first().waitFor();
  return panel.locator('.twin tr').evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
}

test('three runs chosen in the list are compared in one request', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/runs`);
  for (const { name } of runs) await page.getByRole('checkbox', { name: `Select ${name}` }).check();
  await page.getByRole('button', { name: /Compare 3/ }).click();
  await page.waitForURL(/compare\?ids=\d+,\d+,\d+/);
  await scores(page).locator('tbody tr').nth(2).waitFor();
  const asked = page.requested.filter((url) => /\/compare\?|\/metrics/.test(url) && url.includes('dev_loss'));
  assert.equal(asked.length, 1, 'one request for all three');
  assert.equal(page.requested.filter((url) => url.includes('/metrics')).length, 0);

  // the curves: one column a run, the daemon's own numbers
  const [head, ...rows] = await firstTwin(page);
  assert.deepEqual(head.slice(1), runs.map((r) => `#${r.id} ${r.name}`));
  const series = await Promise.all(runs.map((r) => daemon.get(`/experiments/${r.id}/metrics`)));
  assert.deepEqual(
    rows,
    series[0].epochs.map((_, i) => [String(i + 1), ...series.map((s) => digits(s.epochs[i].macro_f1))]),
  );

  // the table: differences to the baseline, which is the first until another is chosen
  const cells = async () => scores(page).locator('tbody tr').evaluateAll((list) => list.map((row) => [row.cells[3].textContent, row.cells[4].textContent]));
  const expected = (base) => runs.map((r) => [digits(r.best.macro_f1), r === base ? '' : signed(r.best.macro_f1 - base.best.macro_f1)]);
  assert.deepEqual(await cells(), expected(runs[0]));
  await page.getByRole('radio', { name: new RegExp(`#${runs[2].id} `) }).check();
  await page.waitForURL(new RegExp(`base=${runs[2].id}`));
  assert.deepEqual(await cells(), expected(runs[2]));

  // only what differs in the specs
  const differing = page.locator('table.spec tbody th');
  assert.deepEqual((await differing.allTextContents()).sort(), ['alpha', 'seed']);
  await page.getByRole('checkbox', { name: /only/i }).uncheck();
  await page.locator('table.spec tbody th', { hasText: 'batch_size' }).waitFor();
  assert.deepEqual(page.faults, []);
});

test('the scores of an epoch and another x are asked for when they are wanted', { skip }, async () => {
  const page = await browser.open(link());
  await scores(page).locator('tbody tr').nth(2).waitFor();
  const asked = () => page.requested.filter((url) => url.includes('/compare?'));
  assert.ok(asked().every((url) => !/elapsed_seconds|weighted_f1/.test(url)), 'what is not shown is not asked for');
  await page.getByLabel('scores at').fill('2');
  await page.keyboard.press('Tab');
  const series = await daemon.get(`/experiments/${runs[1].id}/metrics`);
  await scores(page).locator('tbody tr').nth(1).getByText(digits(series.epochs[1].weighted_f1), { exact: true }).first().waitFor();
  await page.getByText('time', { exact: true }).first().click();
  await page.waitForURL(/x=time/);
  await waitFor(async () => asked().some((url) => url.includes('elapsed_seconds')), 10_000, 'the times');
  const [, ...rows] = await firstTwin(page);
  assert.equal(rows.filter(([x]) => /\d/.test(x)).length, runs.length * series.epochs.length, 'each run has its own times');
  assert.deepEqual(page.faults, []);
});

test('scores at an epoch, another metric, seeds as one, and the whole view in the link', { skip }, async () => {
  const page = await browser.open(`${link()}&at=2&m1=accuracy&seeds=1`);
  await scores(page).locator('tbody tr').nth(2).waitFor();
  const series = await Promise.all(runs.map((r) => daemon.get(`/experiments/${r.id}/metrics`)));
  assert.deepEqual(
    await scores(page).locator('tbody tr').evaluateAll((list) => list.map((row) => row.cells[2].textContent + row.cells[5].textContent)),
    series.map((s) => `2${digits(s.epochs[1].accuracy)}`),
  );
  const [head, ...rows] = await firstTwin(page);
  assert.equal(head.length, 3, 'two seeds are one line, the other run is another');
  const mean = (i) => (series[0].epochs[i].accuracy + series[1].epochs[i].accuracy) / 2;
  assert.deepEqual(rows.map((row) => row[1]), [0, 1, 2].map((i) => digits(mean(i))));

  await page.getByLabel('Metric').first().selectOption('train_loss');
  await page.waitForURL(/m1=train_loss/);
  await waitFor(async () => (await firstTwin(page))[1][2] === String(Number(series[2].epochs[0].train_loss.toPrecision(4))), 10_000, 'the loss');

  const twin = await browser.open(page.url(), { context: page.context() });
  assert.deepEqual(await firstTwin(twin), await firstTwin(page), 'a link shows the same view');
  assert.equal(await scores(twin).textContent(), await scores(page).textContent());
  assert.deepEqual([...page.faults, ...twin.faults], []);
});

test('where two confusion matrices differ', { skip }, async () => {
  const page = await browser.open(`${link()}&vs=${runs[2].id}`);
  await page.locator('table.confusion tbody tr').first().waitFor();
  const [a, b] = await Promise.all([runs[0], runs[2]].map((r) => daemon.get(`/experiments/${r.id}/epochs/best/report`)));
  const text = (n) => (n > 0 ? `+${n}` : n < 0 ? `\u2212${-n}` : '0');
  assert.deepEqual(
    await page.locator('table.confusion tbody td').allTextContents(),
    b.confusion_matrix.flatMap((row, i) => row.map((n, j) => text(n - a.confusion_matrix[i][j]))),
  );
  assert.deepEqual(page.faults, []);
});

test('runs that train grow on the page by events alone; a run that is gone is left out and said', { skip }, async () => {
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', name: 'going', epochs: 5000 });
  await daemon.waitEpoch(id, 1);
  const page = await browser.open(`${daemon.url}/compare?ids=${runs[0].id},${id},999999`);
  await page.locator('.notice.bad').waitFor();
  await waitFor(async () => (await firstTwin(page)).length > 2, 20_000, 'curves');
  const before = (await firstTwin(page)).length;
  const asked = () => page.requested.filter((url) => /\/experiments\/\d+|\/compare\?/.test(url)).length;
  const requests = asked();
  await waitFor(async () => (await firstTwin(page)).length >= before + 3, 60_000, 'three more epochs');
  assert.equal(asked(), requests, 'no request for what events bring');
  await daemon.post(`/experiments/${id}/cancel`);
});
