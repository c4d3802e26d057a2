// Runs that collapse or stop improving, over REST: what a person and a script see of the guard and of patience.
import test from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, noBinary, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
let daemon;
test.before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '2'] });
  await daemon.upload('topics', { train: { text: topics(900), filename: 'train.tsv' }, dev: { text: topics(90, 5), filename: 'dev.tsv' } });
});
test.after(() => daemon?.discard());

const log = async (id) => (await daemon.get(`/experiments/${id}/log?limit=500`)).items.map((line) => line.message);

// What the first epoch event of a run with a rollback says of it.
async function firstRollback(body, id) {
  let rest = '';
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    rest += chunk;
    for (let end; (end = rest.indexOf('\n\n')) >= 0; rest = rest.slice(end + 2)) {
      const block = rest.slice(0, end);
      const data = /^event: ?epoch$/m.test(block) && JSON.parse(/^data: ?(.*)$/m.exec(block)[1]);
      if (data && data.experiment_id === id && data.rollback) return data.rollback;
    }
  }
  return null;
}

test('patience ends a run early, and everything says so', { skip }, async () => {
  const spec = { ...tinyTeacher, dataset: 'topics', epochs: 9, patience: 2, metric: 'dev_loss', optimizer: { lr: 0 }, save_as: 'idle' };
  const { id } = await daemon.post('/experiments', spec);
  const done = await daemon.waitState(id, 'finished');
  assert.equal(done.spec.patience, 2);
  assert.equal(done.spec.metric, 'dev_loss');
  assert.equal(done.progress.stopped_early, true);
  assert.equal(done.progress.epoch, 3);
  assert.equal(done.progress.epochs, 9);
  assert.equal(done.best.epoch, 1);
  assert.equal(done.model.name, 'idle');
  assert.ok((await log(id)).some((line) => line.includes('stopped early at epoch 3, best was 1')));
  const whole = await daemon.post('/experiments', { ...spec, epochs: 1, save_as: 'whole' });
  assert.equal((await daemon.waitState(whole.id, 'finished')).progress.stopped_early, false);
});

test('a collapse is rolled back: in the metrics, the table, the log and the event', { skip }, async () => {
  const start = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 20, optimizer: { lr: 0.004 }, save_as: 'start' });
  const learnt = (await daemon.waitState(start.id, 'finished')).best.macro_f1;
  assert.ok(learnt > 0.55, `macro-F1 ${learnt}`);
  const stop = new AbortController();
  const { body } = await fetch(`${daemon.url}/api/v1/events`, { signal: stop.signal });
  // From trained weights lr rises until nothing holds.
  const { id } = await daemon.post('/experiments', {
    task: 'finetune', dataset: 'topics', model: 'start', epochs: 40, batch_size: 16, max_length: 24,
    optimizer: { lr: 0.4, warmup: 1, max_grad_norm: 0 },
  });
  const told = firstRollback(body, id).catch((error) => error);
  await daemon.waitState(id, 'finished');
  const { epochs } = await daemon.get(`/experiments/${id}/metrics`);
  const back = epochs.filter((row) => row.rollback);
  assert.ok(back.length >= 1 && back.length <= 3, JSON.stringify(epochs.map((row) => row.macro_f1)));
  for (const row of back) {
    assert.match(row.rollback.reason, /^(not_finite|one_class|f1_fell)$/);
    assert.ok(row.rollback.to_epoch >= 0 && row.rollback.to_epoch < row.epoch);
    if (row.rollback.to_epoch) assert.ok(row.macro_f1 < 0.8 * epochs[row.rollback.to_epoch - 1].macro_f1);
  }
  assert.ok(epochs.filter((row) => !row.rollback).every((row) => row.rollback === null));
  const csv = (await daemon.get(`/experiments/${id}/metrics?format=csv`)).trim().split(/\r?\n/);
  const place = csv[0].split(',').indexOf('rollback');
  const marks = (row) => row.split(',').slice(place, place + 2);
  assert.equal(csv[0].split(',')[place + 1], 'rollback_to');
  const { epoch, rollback } = back[0];
  assert.deepEqual(marks(csv[epoch]), [rollback.reason, String(rollback.to_epoch)]);
  assert.deepEqual(marks(csv[1]), ['', '']);
  assert.equal((await log(id)).filter((line) => line.startsWith('rolled back to ')).length, back.length);
  assert.deepEqual(await told, rollback);
  stop.abort();
});

test('what does not go together is refused with the reason', { skip }, async () => {
  const answer = await daemon.call('POST', '/experiments', { dataset: 'topics', teacher: 'idle', loss: 'mse', T: 4, patience: -1, guard: 1, ema: 1 });
  assert.equal(answer.status, 422);
  const faults = Object.fromEntries(answer.json.errors.map((e) => [e.pointer, e.detail]));
  assert.match(faults['/T'], /applies only when loss is "kl"/);
  assert.match(faults['/patience'], /between 0 and 10000/);
  assert.match(faults['/guard'], /true or false/);
  assert.match(faults['/ema'], /between 0 and 0.999999/);
});
