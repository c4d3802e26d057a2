// Curves in a real browser, on real training: what is marked on them, what a zoom and smoothing ask the daemon for, their
// export, and the order of the queue. Canvases cannot be read; the words, tables and files beside them say the same.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, afterEach, before, test } from 'node:test';
import { Daemon, tinyTeacher, topics, waitFor } from '../e2e/daemon.mjs';
import { launch, noBrowser } from './browser.mjs';

const skip = noBrowser;
const digits = (v) => v.toFixed(4).replace(/^0\./, '.');
let daemon, browser;

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '2'] });
  await daemon.upload('topics', { train: { text: topics(900), filename: 'train.tsv' }, dev: { text: topics(90, 5), filename: 'dev.tsv' } });
  const start = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 20, optimizer: { lr: 0.004 }, save_as: 'start' });
  await daemon.waitState(start.id, 'finished');
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await daemon?.discard();
});
afterEach(async () => {
  await browser?.closeContexts();
  if (skip) return;
  const { items } = await daemon.get('/experiments?status=running,queued,paused');
  for (const { id } of items) await daemon.post(`/experiments/${id}/cancel`);
});

const panel = (page, title) => page.locator('.chart-panel', { has: page.getByRole('heading', { name: title, exact: true }) });
const finished = async (spec) => daemon.waitState((await daemon.post('/experiments', { dataset: 'topics', batch_size: 16, max_length: 24, ...spec })).id, 'finished');
const epochsOf = async (id) => (await daemon.get(`/experiments/${id}/metrics`)).epochs;
/** The table beside a chart: its rows as texts, the head first. */
const twin = (page, title) => panel(page, title).locator('.twin tr').evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));

test('where the guard went back is marked, in words and in the table', { skip }, async () => {
  // from trained weights lr rises until nothing holds
  const { id } = await finished({ task: 'finetune', model: 'start', epochs: 40, optimizer: { lr: 0.4, warmup: 1, max_grad_norm: 0 } });
  const back = (await epochsOf(id)).filter((row) => row.rollback);
  assert.ok(back.length > 0);
  const said = ({ rollback }) => (rollback.to_epoch ? `rolled back to epoch ${rollback.to_epoch}` : 'rolled back to the first weights');
  const page = await browser.open(`${daemon.url}/runs/${id}?table=score`);
  const marks = panel(page, 'Scores').locator('.chart-marks');
  await marks.waitFor();
  assert.ok((await marks.textContent()).includes(`epoch ${back[0].epoch}: ${said(back[0])}`));
  await panel(page, 'Scores').locator('.twin tbody tr').first().waitFor();
  const [head, ...rows] = await twin(page, 'Scores');
  assert.equal(head.at(-1), 'marks');
  for (const row of back) assert.ok(rows[row.epoch - 1].at(-1).split(', ').includes(said(row)), `epoch ${row.epoch}`);
  assert.deepEqual(page.faults, []);
});

test('an early end and a resumption are marked where they were', { skip }, async () => {
  const early = await finished({ ...tinyTeacher, epochs: 9, patience: 2, metric: 'dev_loss', optimizer: { lr: 0 } });
  assert.equal(early.progress.stopped_early, true);
  const page = await browser.open(`${daemon.url}/runs/${early.id}`);
  await panel(page, 'Loss').locator('.chart-marks', { hasText: `epoch ${early.progress.epoch}: stopped early` }).waitFor();

  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 10_000 });
  await daemon.waitEpoch(id, 2);
  await page.goto(`${daemon.url}/runs/${id}`);
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.locator('.run-state .status.paused').waitFor();
  await page.getByRole('button', { name: 'Resume' }).click();
  const again = async () => (await epochsOf(id)).find((row) => row.attempt === 2)?.epoch;
  await waitFor(again, 60_000, 'an epoch after the resumption');
  assert.ok((await epochsOf(id)).every((row, i, all) => row.epoch === i + 1 && row.attempt >= (all[i - 1]?.attempt ?? 1)));
  await panel(page, 'Loss').locator('.chart-marks', { hasText: `epoch ${await again()}: resumed` }).waitFor();
  assert.deepEqual(page.faults, []);
});

test('of a history too long to send, a zoom reads its part, and averages are the daemon’s', { skip }, async () => {
  const { id, progress } = await finished({ ...tinyTeacher, epochs: 9, batch_size: 4 });
  assert.ok(progress.steps > 1800);
  const page = await browser.open(`${daemon.url}/runs/${id}?x=step&table=step_loss`);
  await panel(page, 'Loss per step').locator('.twin tbody tr').first().waitFor();
  const whole = await daemon.get(`/experiments/${id}/steps?max_points=1500`);
  assert.equal(whole.reduced, true);
  assert.equal((await twin(page, 'Loss per step')).length - 1, whole.steps.length);

  await page.goto(`${daemon.url}/runs/${id}?x=step&table=step_loss&sz=400~900&smooth=0.9`);
  const asked = await page.waitForResponse((answer) => /\/steps\?.*after=.*before=.*smooth=/.test(answer.url()));
  const { steps } = await asked.json();
  assert.ok(steps[0].step <= 400 && steps.at(-1).step >= 900 && steps.every((step, i) => step.step === steps[0].step + i), 'every step of the part');
  await waitFor(async () => (await twin(page, 'Loss per step')).length - 1 === steps.length, 10_000, 'the rows of the part');

  // the same steps have the same averages, however many are shown
  const tau = new URL(asked.url()).searchParams.get('smooth');
  const few = await daemon.get(`/experiments/${id}/steps?max_points=40&smooth=${tau}`);
  const of = new Map(steps.map((step) => [step.step, step.smooth.loss]));
  const both = few.steps.filter((step) => of.has(step.step));
  assert.ok(both.length > 3);
  for (const step of both) assert.equal(step.smooth.loss, of.get(step.step));

  await page.getByRole('button', { name: 'Reset zoom' }).click();
  await waitFor(async () => (await twin(page, 'Loss per step')).length - 1 === whole.steps.length, 10_000, 'the whole run');
  assert.deepEqual(page.faults, []);
});

test('a chart leaves as PNG, its data as CSV; the view is in the link', { skip }, async () => {
  const { id } = await finished({ ...tinyTeacher, epochs: 3 });
  const epochs = await epochsOf(id);
  const page = await browser.open(`${daemon.url}/runs/${id}?x=step&log=1&hide=accuracy,teacher_agreement`);
  const scores = panel(page, 'Scores');
  await scores.locator('canvas').waitFor();
  const leaving = async (name) => (await Promise.all([page.waitForEvent('download'), scores.getByRole('button', { name }).click()]))[0];
  const png = await leaving('PNG');
  assert.equal(png.suggestedFilename(), `run-${id}-scores.png`);
  const picture = readFileSync(await png.path());
  assert.equal(picture.toString('latin1', 1, 4), 'PNG');
  assert.ok(picture.readUInt32BE(16) > 800, 'twice as wide as on the screen');
  const csv = await leaving('CSV');
  const steps = (await daemon.get(`/experiments/${id}`)).progress.steps / 3;
  assert.deepEqual(
    readFileSync(await csv.path(), 'utf8').trim().split('\n'),
    ['step,macro-F1,weighted F1', ...epochs.map((e) => [e.epoch * steps, e.macro_f1, e.weighted_f1].join(','))],
  );

  await scores.getByRole('button', { name: 'Table' }).click();
  await scores.locator('.twin tbody tr').first().waitFor();
  await page.waitForURL(/table=score/);
  const second = await browser.open(page.url(), { context: page.context() });
  await panel(second, 'Scores').locator('.twin tbody tr').first().waitFor();
  assert.deepEqual(await twin(second, 'Scores'), await twin(page, 'Scores'));
  assert.equal((await twin(second, 'Scores'))[1][1], digits(epochs[0].macro_f1));
  assert.equal(await second.getByLabel('log y').isChecked(), true);
  assert.deepEqual([...page.faults, ...second.faults], []);
});

test('the pointer reads both charts at one epoch, dragging zooms, a double click goes back', { skip }, async () => {
  const { id } = await finished({ ...tinyTeacher, epochs: 6 });
  const epochs = await epochsOf(id);
  const page = await browser.open(`${daemon.url}/runs/${id}`);
  const [loss, scores] = ['Loss', 'Scores'].map((title) => panel(page, title).locator('.chart'));
  await loss.locator('canvas').waitFor();
  await scores.locator('canvas').waitFor();
  const plot = await loss.locator('.u-over').boundingBox();
  const at = (epoch) => [plot.x + (plot.width * (epoch - 1)) / 5, plot.y + plot.height / 2];
  const tip = (chart) => chart.locator('.chart-tip:visible').textContent();

  await page.mouse.move(...at(2.9));
  const third = epochs[2];
  assert.ok((await tip(loss)).startsWith('epoch 3'), await tip(loss));
  assert.ok((await tip(loss)).includes(`train total${Number(third.train_loss.toPrecision(4))}`), await tip(loss));
  assert.ok((await tip(scores)).includes(`macro-F1${digits(third.macro_f1)}`), await tip(scores));

  await page.mouse.move(...at(2));
  await page.mouse.down();
  await page.mouse.move(...at(3), { steps: 4 });
  await page.mouse.move(...at(4), { steps: 4 });
  await page.mouse.up();
  await page.waitForURL((url) => url.searchParams.get('z') === '2~4');
  await page.mouse.move(...at(5.8)); // the end of the plot is that of the zoom now
  await waitFor(async () => (await tip(loss)).startsWith('epoch 4'), 5000, 'the last epoch of the zoom');
  await page.mouse.dblclick(...at(3));
  await page.waitForURL((url) => !url.searchParams.has('z'));
  await page.mouse.move(plot.x, plot.y - 60);
  await loss.locator('.chart-tip').waitFor({ state: 'hidden' });
  await scores.locator('.chart-tip').waitFor({ state: 'hidden' });
  assert.deepEqual(page.faults, []);
});

test('by keyboard alone: help, list, run, crosshair, smoothing, epoch, log', { skip }, async () => {
  const { id } = await finished({ ...tinyTeacher, epochs: 3, name: 'by keyboard' });
  const page = await browser.open(`${daemon.url}/runs`);
  await page.locator('tbody tr[data-id]').first().waitFor();
  await page.keyboard.press('?');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.waitForURL(`**/runs/${id}`);
  const chart = panel(page, 'Scores').locator('.chart');
  await chart.locator('canvas').waitFor();
  await chart.focus();
  await page.keyboard.press('End');
  await page.keyboard.press('ArrowLeft');
  const { macro_f1 } = (await epochsOf(id))[1];
  await page.waitForFunction((text) => [...document.querySelectorAll('[aria-live]')].some((e) => e.textContent.includes(text)), `epoch 2: macro-F1 ${digits(macro_f1)}`);
  await page.keyboard.press('s');
  await page.waitForURL(/smooth=0\.4/);
  await page.keyboard.press('[');
  await page.waitForURL(/epoch=[12]/);
  await page.keyboard.press('l');
  await page.locator('.log-line').first().waitFor();
  const tab = page.getByRole('tab', { name: 'Log' });
  await tab.focus();
  await page.keyboard.press('ArrowLeft');
  await page.waitForURL(/tab=spec/);
  assert.deepEqual(page.faults, []);
});

test('the queue is put in another order from the list', { skip }, async () => {
  const post = async (name, extra = {}) => (await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', name, epochs: 10_000, ...extra })).id;
  const running = await post('running');
  await daemon.waitState(running, 'running');
  const [a, b, c] = [await post('a'), await post('b'), await post('c', { priority: -2 })];
  const queue = async () => (await daemon.get('/experiments?status=queued&sort=queue')).items.map((r) => r.id);
  assert.deepEqual(await queue(), [a, b, c]);
  const page = await browser.open(`${daemon.url}/runs?status=queued&sort=queue`);
  const listed = () => page.locator('tbody tr[data-id]').evaluateAll((rows) => rows.map((row) => Number(row.dataset.id)));
  const becomes = async (order) => {
    await waitFor(async () => String(await listed()) === String(order), 10_000, `the list to be ${order}`);
    assert.deepEqual(await queue(), order);
  };
  await page.getByRole('button', { name: 'Move up in the queue: b' }).click();
  await becomes([b, a, c]);
  await page.getByRole('button', { name: 'Move down in the queue: b' }).focus();
  await page.keyboard.press('Enter');
  await becomes([a, b, c]);
  await page.waitForFunction(() => document.activeElement?.getAttribute('aria-label') === 'Move down in the queue: b');
  await page.getByRole('button', { name: 'Move up in the queue: a' }).click();
  await page.locator('.notice', { hasText: 'first in the queue' }).waitFor();
  assert.deepEqual(page.faults, []);
});
