// What once went wrong, or nearly: exact numbers, labels after a change, assets in use, and a run whose data set is gone.
import test from 'node:test';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Daemon, noBinary, tinyTeacher, topics, waitFor } from './daemon.mjs';

const skip = noBinary;
let daemon;
const set = () => ({ train: { text: topics(300), filename: 'train.tsv' }, dev: { text: topics(60, 5), filename: 'dev.tsv' } });
const tiny = { ...tinyTeacher, dataset: 'topics', epochs: 1, layers: 1 };
test.before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
  await daemon.upload('topics', set());
  const { id } = await daemon.post('/experiments', { ...tiny, save_as: 'teacher' });
  await daemon.waitState(id, 'finished');
});
test.after(() => daemon?.discard());

test('a paused and a cancelled run show the step they came to', { skip }, async () => {
  const { id } = await daemon.post('/experiments', { ...tiny, epochs: 400 });
  for (const [verb, state] of [['pause', 'paused'], ['resume', undefined], ['pause', 'paused'], ['resume', undefined], ['cancel', 'cancelled']]) {
    let seen = 0;
    if (verb !== 'resume') await waitFor(async () => (seen = (await daemon.get(`/experiments/${id}`)).progress.step) > 0, 60_000, 'a step');
    await daemon.post(`/experiments/${id}/${verb}`);
    if (!state) {
      await daemon.waitState(id, 'running');
      continue;
    }
    const stopped = await daemon.waitState(id, state);
    assert.ok(stopped.progress.step >= seen && seen > 0, `${verb}: ${stopped.progress.step} after ${seen}`);
    const { steps } = await daemon.get(`/experiments/${id}/steps?after=${stopped.progress.step - 1}`);
    assert.deepEqual(steps.map((row) => row.step), [stopped.progress.step], 'the last step stored is the progress shown');
  }
});

test('a seed of 2^53 − 1 comes back digit by digit, also through a clone', { skip }, async () => {
  const seed = 9007199254740991;
  const { id } = await daemon.post('/experiments', { ...tiny, seed, optimizer: { type: 'adamw', lr: 0.1 + 0.2 } });
  const clone = await daemon.post(`/experiments/${id}/clone`);
  for (const number of [id, clone.id]) {
    const { text } = await daemon.call('GET', `/experiments/${number}`);
    assert.ok(text.includes(`"seed":${seed},`) || text.includes(`"seed":${seed}}`), text);
    assert.equal(JSON.parse(text).spec.optimizer.lr, 0.1 + 0.2);
  }
  assert.equal(clone.spec_hash, (await daemon.get(`/experiments/${id}`)).spec_hash);
});

test('changed labels stand in the resource, in its spec and in a clone', { skip }, async () => {
  const { id } = await daemon.post('/experiments', { ...tiny, name: 'old', notes: 'old', tags: ['old'], priority: 1 });
  const labels = { name: 'new 名', notes: 'line\nline', tags: ['b', 'c'], priority: 7 };
  const patched = await daemon.call('PATCH', `/experiments/${id}`, labels);
  assert.equal(patched.status, 200);
  const clone = await daemon.post(`/experiments/${id}/clone`, { epochs: 2 });
  for (const answer of [patched.json, await daemon.get(`/experiments/${id}`), clone]) {
    for (const [key, value] of Object.entries(labels)) {
      assert.deepEqual(answer[key], value, key);
      assert.deepEqual(answer.spec[key], value, `spec.${key}`);
    }
  }
  assert.equal(clone.spec.epochs, 2);
});

test('what an unfinished run names cannot be deleted, by whatever field it names it', { skip }, async () => {
  const blocker = await daemon.post('/experiments', { ...tiny, epochs: 900, priority: 100 });
  await daemon.waitState(blocker.id, 'running');
  for (const name of ['as-init', 'as-vocabulary', 'as-model', 'as-teacher']) {
    assert.equal((await daemon.upload(`${name}-data`, set())).status, 201);
  }
  const models = {};
  await daemon.post(`/experiments/${blocker.id}/pause`);
  await daemon.waitState(blocker.id, 'paused');
  for (const name of ['as-init', 'as-vocabulary', 'as-model', 'as-teacher']) {
    const { id } = await daemon.post('/experiments', { ...tiny, save_as: name, priority: 50 });
    models[name] = id;
  }
  for (const id of Object.values(models)) await daemon.waitState(id, 'finished');
  await daemon.post(`/experiments/${blocker.id}/resume`);
  await daemon.waitState(blocker.id, 'running');
  const users = {
    'as-init': { dataset: 'as-init-data', teacher: 'teacher', init: 'as-init', layers: 1, epochs: 1, max_length: 24 },
    'as-vocabulary': { ...tiny, dataset: 'as-vocabulary-data', vocabulary: 'as-vocabulary', vocab_size: undefined },
    'as-model': { task: 'finetune', dataset: 'as-model-data', model: 'as-model', epochs: 1, max_length: 24 },
    'as-teacher': { dataset: 'as-teacher-data', teacher: 'as-teacher', layers: 1, epochs: 1, max_length: 24 },
  };
  for (const [name, spec] of Object.entries(users)) {
    const user = await daemon.post('/experiments', spec);
    for (const path of [`/models/${name}`, `/datasets/${name}-data`]) {
      const refused = await daemon.call('DELETE', path);
      assert.equal(refused.status, 409, `${path}: ${refused.text}`);
      assert.equal(refused.json.code, 'in_use');
    }
    await daemon.post(`/experiments/${user.id}/cancel`);
    for (const path of [`/models/${name}`, `/datasets/${name}-data`]) assert.equal((await daemon.call('DELETE', path)).status, 204, path);
  }
  await daemon.post(`/experiments/${blocker.id}/cancel`);
});

test('a run whose data set or model went before it started fails and says what is missing', { skip }, async () => {
  assert.equal((await daemon.upload('short-lived', set())).status, 201);
  const model = await daemon.post('/experiments', { ...tiny, save_as: 'short-lived-model' });
  await daemon.waitState(model.id, 'finished');
  const blocker = await daemon.post('/experiments', { ...tiny, epochs: 900, priority: 100 });
  await daemon.waitState(blocker.id, 'running');
  const ids = [];
  for (const body of [{ ...tiny, dataset: 'short-lived' }, { dataset: 'topics', teacher: 'short-lived-model', layers: 1, epochs: 1, max_length: 24 }]) {
    const { id } = await daemon.post('/experiments', body);
    await daemon.post(`/experiments/${id}/cancel`);
    ids.push(id);
  }
  for (const path of ['/datasets/short-lived', '/models/short-lived-model']) assert.equal((await daemon.call('DELETE', path)).status, 204);
  for (const id of ids) await daemon.post(`/experiments/${id}/retry`); // what a submit that races the delete comes to
  await daemon.post(`/experiments/${blocker.id}/cancel`);
  const expected = [['dataset_not_found', /"short-lived"/], ['model_not_found', /"short-lived-model"/]];
  for (const [at, id] of ids.entries()) {
    const failed = await daemon.waitState(id, 'failed');
    assert.equal(failed.error.code, expected[at][0], JSON.stringify(failed.error));
    assert.match(failed.error.message, expected[at][1]);
  }
  const after = await daemon.post('/experiments', tiny);
  await daemon.waitState(after.id, 'finished');
});

// A sanitizer keeps freed memory on purpose; elsewhere than Linux there is no /proc.
test('memory goes back when a run has ended', { skip: skip || (process.env.DISTILLD_SANITIZED ? 'a sanitizer keeps memory' : process.platform !== 'linux') }, async () => {
  const anonymous = () => 1024 * Number(readFileSync(`/proc/${daemon.process.pid}/status`, 'utf8').match(/RssAnon:\s+(\d+)/)[1]);
  const before = anonymous();
  const { id } = await daemon.post('/experiments', { ...tiny, layers: 4, heads: 4, hidden_size: 256, intermediate_size: 1024, batch_size: 32, max_length: 64, epochs: 3 });
  let most = 0;
  await waitFor(async () => ((most = Math.max(most, anonymous())), (await daemon.get(`/experiments/${id}`)).status === 'finished'), 120_000, 'the run');
  assert.ok(most > before + 32 * 2 ** 20, `a run of this size takes memory, or this shows nothing: ${before} → ${most}`);
  await waitFor(async () => (await daemon.get('/system')).workers.busy === 0, 10_000, 'an idle worker');
  assert.ok(anonymous() < before + 16 * 2 ** 20, `${before} before, ${most} while it ran, ${anonymous()} after`);
});
