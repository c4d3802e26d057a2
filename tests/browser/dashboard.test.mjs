// The dashboard in a real browser on a real daemon that really trains: what it draws is what came out of training.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { Daemon, shared, tinyTeacher, topics, waitFor } from '../e2e/daemon.mjs';
import { launch, noBrowser } from './browser.mjs';

const skip = noBrowser;
const headlines = join(shared, 'data/headlines3');
let daemon, browser, teacherId;

/** Real headlines where the shared data is at hand, else made-up ones. */
function data() {
  if (!existsSync(join(headlines, 'train.tsv')))
    return { train: { text: topics(900), filename: 'train.tsv' }, dev: { text: topics(150, 5), filename: 'dev.tsv' } };
  const lines = (name, n) => readFileSync(join(headlines, name), 'utf8').split('\n').slice(0, n).join('\n');
  return {
    train: { text: lines('train.tsv', 900), filename: 'train.tsv' },
    dev: { text: lines('dev.tsv', 150), filename: 'dev.tsv' },
  };
}

const student = (extra = {}) => ({
  dataset: 'news',
  teacher: 'teacher',
  layers: 1,
  epochs: 4,
  batch_size: 16,
  max_length: 24,
  ...extra,
});
const noFaults = (page) => assert.deepEqual(page.faults, []);
/** What a chart shows, read from its table twin: [[header, …], [cell, …], …]. */
const tableOf = (page, index) =>
  page
    .locator('.chart-panel')
    .nth(index)
    .locator('.twin table tr')
    .evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '2', '--threads', '2'] });
  const made = await daemon.upload('news', data());
  assert.equal(made.status, 201, made.text);
  teacherId = (
    await daemon.post('/experiments', {
      ...tinyTeacher,
      dataset: 'news',
      name: 'news teacher',
      save_as: 'teacher',
      epochs: 3,
    })
  ).id;
  await daemon.waitState(teacherId, 'finished');
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await daemon?.discard();
});

afterEach(() => browser?.closeContexts());

test('a run that trains is drawn as it happens, without a reload', { skip }, async () => {
  const { id } = await daemon.post('/experiments', student({ name: 'live', epochs: 2000 }));
  await daemon.waitEpoch(id, 1); // an empty history has nothing to go on from
  const page = await browser.open(`${daemon.url}/runs/${id}?table=score`);
  await page.waitForSelector('.twin tbody tr');
  const first = (await tableOf(page, 1)).length;
  await waitFor(async () => (await tableOf(page, 1)).length >= first + 3, 60_000, 'three more epochs on the page');
  const shown = await tableOf(page, 1);
  const asked = (what) => page.requested.filter((url) => url.includes(`/experiments/${id}/${what}`));
  assert.equal(asked('metrics').filter((url) => !url.includes('after=')).length, 1, 'the history is fetched once');
  assert.ok(asked('metrics').length <= 2, 'at most one gap between the history and the first event');
  assert.equal(asked('steps').length, 1);
  assert.deepEqual(
    page.requested.filter((url) => !url.startsWith(daemon.url) && !url.startsWith('blob:')),
    [],
    'no request leaves the origin',
  );
  const { epochs } = await daemon.get(`/experiments/${id}/metrics`);
  assert.deepEqual(shown[0].slice(0, 4), ['epoch', 'macro-F1', 'weighted F1', 'accuracy']);
  for (const [epoch, f1] of shown.slice(1)) {
    const row = epochs.find((e) => e.epoch === Number(epoch));
    assert.equal(f1, row.macro_f1.toFixed(4).replace(/^0/, ''), `macro-F1 of epoch ${epoch}`);
  }
  noFaults(page);
  await page.getByRole('button', { name: 'Cancel run' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Cancel run' }).click();
  await page.locator('.run-state .status.cancelled').waitFor();
});

test('pause and resume from the page', { skip }, async () => {
  const { id } = await daemon.post('/experiments', student({ name: 'paused', epochs: 2000 }));
  const page = await browser.open(`${daemon.url}/runs/${id}`);
  await page.locator('.run-state .status.running').waitFor();
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.locator('.run-state .status.paused').waitFor();
  await page.getByRole('button', { name: 'Resume' }).click();
  await page.locator('.run-state .status.running').waitFor();
  await daemon.post(`/experiments/${id}/cancel`);
  await page.locator('.run-state .status.cancelled').waitFor();
  noFaults(page);
});

test('the report, the slider, wrong predictions, spec, curl and log are those of the daemon', { skip }, async () => {
  const { id } = await daemon.post('/experiments', student({ name: "it's finished", epochs: 3 }));
  const done = await daemon.waitState(id, 'finished');
  const page = await browser.open(`${daemon.url}/runs/${id}`);
  const cell = (text) =>
    page
      .locator('.report tr', { has: page.getByRole('rowheader', { name: text, exact: true }) })
      .locator('td')
      .nth(2);
  const digits = (v) => v.toFixed(4).replace(/^0\./, '.');
  const best = await daemon.get(`/experiments/${id}/epochs/best/report`);
  await page.waitForFunction(
    (want) => document.querySelector('.report')?.textContent.includes(want),
    digits(best.accuracy),
  );
  for (const label of best.labels) assert.equal(await cell(label).textContent(), digits(best[label]['f1-score']));
  assert.equal(await page.locator('.confusion tbody td').count(), best.labels.length ** 2);

  await page.getByRole('slider', { name: 'Epoch' }).fill('1');
  await page.waitForURL(done.best.epoch === 1 ? /runs\/\d+$/ : /epoch=1/);
  const first = await daemon.get(`/experiments/${id}/epochs/1/report`);
  await page.waitForFunction(
    (want) => document.querySelector('.report .average')?.textContent.includes(want),
    digits(first.accuracy),
  );

  await page.getByRole('tab', { name: 'Predictions' }).click();
  const wrong = await daemon.get(
    `/experiments/${id}/predictions?wrong=1&epoch=${done.best.epoch === 1 ? 'best' : 1}&limit=100`,
  );
  await page.waitForFunction(
    (n) => document.querySelectorAll('.predictions tbody tr').length === n,
    wrong.items.length,
  );
  assert.equal(
    await page.locator('.predictions tbody tr').first().locator('td').nth(1).textContent(),
    wrong.items[0].text,
  );

  await page.getByRole('tab', { name: 'Spec and curl' }).click();
  const curl = await page.locator('.code pre').textContent();
  const again = JSON.parse(execFileSync('bash', ['-c', curl], { encoding: 'utf8' }));
  assert.equal(again.spec_hash, done.spec_hash, 'the curl repeats the run exactly');
  assert.equal(again.name, "it's finished");
  await daemon.post(`/experiments/${again.id}/cancel`).catch(() => {});

  await page.keyboard.press('l');
  await page.locator('.log-line').first().waitFor();
  noFaults(page);
});

test('the list filters, sorts, selects by keyboard and compares', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/`);
  await page.locator('tbody tr[data-id]').first().waitFor();
  const rows = () => page.locator('tbody tr[data-id]').count();
  const all = await rows();
  assert.ok(all >= 2, 'the tests before made runs');
  await page.keyboard.press('/');
  await page.keyboard.type('teacher');
  await page.waitForURL(/q=teacher/);
  const { items: found } = await daemon.get('/experiments?q=teacher');
  await page.waitForFunction((n) => document.querySelectorAll('tbody tr[data-id]').length === n, found.length);
  await Promise.all([page.waitForResponse((answer) => /experiments\?sort=-id&limit/.test(answer.url())), page.getByRole('searchbox').fill('')]);
  await page.waitForFunction((n) => document.querySelectorAll('tbody tr[data-id]').length === n, all);
  await page.keyboard.press('Escape');
  for (const key of ['j', 'x', 'j', 'x', 'c']) await page.keyboard.press(key);
  await page.waitForURL(/compare\?ids=\d+,\d+/);
  await page.locator('.data.wide tbody tr').nth(1).waitFor();
  // the same link in a second tab shows the same view
  const twin = await browser.open(page.url(), { context: page.context() });
  await twin.locator('.data.wide tbody tr').nth(1).waitFor();
  assert.equal(
    await twin.locator('.data.wide').first().textContent(),
    await page.locator('.data.wide').first().textContent(),
  );
  noFaults(page);
  noFaults(twin);
});

test('two tabs share one event stream', { skip }, async () => {
  const context = await browser.context();
  const open = [];
  for (let i = 0; i < 3; i++) open.push(await browser.open(`${daemon.url}/runs/${teacherId}`, { context }));
  for (const page of open) await page.locator('.line-state.live').waitFor();
  const { http } = await daemon.get('/system');
  assert.equal(http.event_readers, 1);
});

test('a new experiment by the form: faults at their fields, then queued', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/new?dataset=news&teacher=teacher`);
  await page.locator('.new-side .figures div').first().waitFor();
  await page.locator('[name=alpha]').fill('1.7');
  await page.locator('#field-alpha-fault:not(:empty)').waitFor();
  await page.locator('[name=alpha]').fill('0.3');
  await page.locator('[name=epochs]').fill('2');
  await page.locator('[name=layers]').fill('1');
  await page.locator('.new-side .figures div').first().waitFor();
  await page.getByRole('button', { name: 'Queue it' }).click();
  await page.waitForURL(/runs\/\d+/);
  const id = Number(/runs\/(\d+)/.exec(page.url())[1]);
  const run = await daemon.waitState(id, 'finished');
  assert.equal(run.spec.alpha, 0.3);
  assert.equal(run.spec.epochs, 2);
  await page.locator('.run-state .status.finished').waitFor();
  assert.deepEqual(
    page.faults.filter((f) => !f.includes('422')),
    [],
  );
});

test('a sentence can be tried on a model', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/models/teacher`);
  await page.getByLabel('Try a sentence').fill('央行 通胀 GDP');
  await page.getByRole('button', { name: 'Classify' }).click();
  await page.locator('.stack .report tbody tr').first().waitFor();
  assert.equal(await page.locator('.stack .report tbody tr').count(), 3);
  noFaults(page);
});

test('a smaller model is made from another, and its page says what it lost', { skip }, async () => {
  const page = await browser.open(`${daemon.url}/models/teacher`);
  await page.getByLabel('Make it smaller').selectOption('quantize');
  assert.equal(await page.getByLabel('Save as').inputValue(), 'teacher-int8');
  await page.getByRole('button', { name: 'Make it' }).click();
  await page.waitForURL('**/models/teacher-int8');
  const rows = page.locator('.stack .data tbody tr');
  await rows.getByText('macro-F1').waitFor();
  assert.equal(await page.getByText('Make it smaller').count(), 0);
  assert.equal(await page.getByText('Download as fp16').count(), 0);
  await page.goto(`${daemon.url}/models/teacher`);
  await page.getByLabel('keep all single characters, too').check();
  await page.getByRole('button', { name: 'Make it' }).click();
  await page.waitForURL('**/models/teacher-pruned');
  await rows.getByText('Vocabulary').waitFor();
  assert.equal((await daemon.get('/models/teacher-pruned')).source.keep_characters, true);
  noFaults(page);
});

test('a restart of the daemon in mid-run: a badge meanwhile, one unbroken curve after', { skip }, async () => {
  const own = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
  let again;
  try {
    await own.upload('news', data());
    const { id } = await own.post('/experiments', { ...tinyTeacher, dataset: 'news', epochs: 2000 });
    const page = await browser.open(`${own.url}/runs/${id}?table=score`);
    await page.waitForSelector('.twin tbody tr:nth-child(3)');
    await own.stop('SIGKILL');
    await page.locator('.line-state.lost').waitFor();
    assert.match(await page.locator('.line-state').textContent(), /no connection for/);
    again = await Daemon.start({
      dataDir: own.dataDir,
      listen: new URL(own.url).host,
      args: ['--workers', '1', '--threads', '1'],
    });
    await page.locator('.line-state.live').waitFor({ timeout: 30_000 });
    const before_ = (await tableOf(page, 1)).length;
    await waitFor(async () => (await tableOf(page, 1)).length >= before_ + 2, 60_000, 'epochs after the restart');
    const epochs = (await tableOf(page, 1)).slice(1).map((row) => Number(row[0]));
    assert.deepEqual(
      epochs,
      Array.from({ length: epochs.length }, (_, i) => i + 1),
      'every epoch once, in order',
    );
  } finally {
    await again?.discard();
    await own.discard();
  }
});

test(
  'the first paint does not wait for the chart library, and the policy forbids inline script',
  { skip },
  async () => {
    const page = await browser.open(`${daemon.url}/`);
    await page.locator('tbody tr[data-id]').first().waitFor();
    assert.deepEqual(
      page.requested.filter((url) => url.includes('/assets/chart-')),
      [],
    );
    const policy = (await fetch(`${daemon.url}/`)).headers.get('content-security-policy');
    assert.match(policy, /script-src 'self'/);
    assert.doesNotMatch(policy, /unsafe/);
  },
);
