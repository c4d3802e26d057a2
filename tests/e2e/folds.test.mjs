// Teachers of the folds of a data set, trained by a sweep, and a student that hears of each row from the one that has not seen
// it; and matching of attention and relations, whose curves the daemon keeps.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Daemon, noBinary, tinyTeacher, topics, waitFor } from './daemon.mjs';

const skip = noBinary;
let daemon;
const tsv = (rows, seed) => ({ text: topics(rows, seed), filename: 'rows.tsv' });
const student = {
  dataset: 'news', teacher: 'exp-3', layers: 1, heads: 2, hidden_size: 32, intermediate_size: 64, epochs: 2, batch_size: 16, max_length: 24,
};
const panel = { teachers: ['exp-1', 'exp-2'], teacher_mean: 'out_of_fold' };

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
  for (const [name, seed] of [['news', 1], ['other', 7]]) {
    const made = await daemon.upload(name, { train: tsv(150, seed), dev: tsv(60, 2) });
    assert.equal(made.status, 201, made.text);
  }
  const base = { ...tinyTeacher, dataset: 'news', folds: 3 };
  const sweep = await daemon.post('/sweeps', { name: 'folds', base, grid: { fold: [0, 1, 2] } });
  await waitFor(async () => (await daemon.get(`/experiments?sweep=${sweep.id}&status=finished`)).items.length === 3, 60_000, 'the folds');
});
after(() => daemon?.discard());

const log = async (id) => (await daemon.get(`/experiments/${id}/log?limit=500`)).items.map((row) => row.message).join('\n');

test('a sweep over fold trains a teacher for each, and each says which it is', { skip }, async () => {
  const folds = [];
  const { splits } = await daemon.get('/datasets/news');
  for (const name of ['exp-1', 'exp-2', 'exp-3']) {
    const { fold, source } = await daemon.get(`/models/${name}`);
    assert.equal(fold.folds, 3);
    assert.equal(fold.train_sha256, splits.train.sha256);
    folds.push(fold.fold);
    assert.match(await log(source.experiment_id), new RegExp(`fold ${fold.fold} of 3: \\d+ of 150 train rows are held out`));
    const config = JSON.parse(await daemon.archiveMember(`/models/${name}/archive`, 'config.json'));
    assert.deepEqual(config.distilld_fold, fold);
  }
  assert.deepEqual(folds.sort(), [0, 1, 2]);
});

test('a student hears of every train row from one teacher', { skip }, async () => {
  const { id } = await daemon.post('/experiments', { ...student, ...panel });
  const done = await daemon.waitState(id, 'finished');
  assert.equal(done.spec.teacher_mean, 'out_of_fold');
  const asked = [...(await log(id)).matchAll(/asked the teacher "exp-\d" about (\d+) train rows/g)].map((m) => Number(m[1]));
  assert.equal(asked.length, 3);
  assert.equal(asked[0] + asked[1] + asked[2], 150);
  assert.ok(Math.min(...asked) >= 1);
  for (const name of ['exp-3', 'exp-2'])
    assert.ok((await daemon.get(`/experiments?teacher=${name}`)).items.some((e) => e.id === id), name);
});

test('teachers that are not those of all folds are refused', { skip }, async () => {
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', save_as: 'whole' });
  await daemon.waitState(id, 'finished');
  const faults = async (fields) => {
    const answer = await daemon.call('POST', '/experiments', { ...student, ...panel, ...fields });
    assert.equal(answer.status, 422, answer.text);
    return answer.json.errors.map((e) => `${e.pointer} ${e.detail}`).join('\n');
  };
  assert.match(await faults({ teachers: ['exp-1', 'whole'] }), /^\/teachers\/1 model "whole" was not fine-tuned on folds of data set "news"/);
  assert.match(await faults({ teachers: ['exp-1'] }), /needs every fold once, and here are 2 teachers/);
  assert.match(await faults({ dataset: 'other' }), /^\/teacher model "exp-3" was not fine-tuned on folds of data set "other"/);
  assert.match(await faults({ cls_weight: 1 }), /^\/teacher_mean cannot be "out_of_fold" when inner states are matched/);
});

test('attention and relations are matched, and their curves are kept', { skip }, async () => {
  const { id } = await daemon.post('/experiments', { ...student, teacher: 'whole', heads: 4, attention_weight: 0.1, relation_weight: 1 });
  const done = await daemon.waitState(id, 'finished');
  assert.equal(done.spec.relation_heads, 2);
  assert.match(await log(id), /the teacher runs in every step/);
  const { epochs } = await daemon.get(`/experiments/${id}/metrics`);
  assert.equal(epochs.length, 2);
  for (const epoch of epochs) {
    assert.ok(epoch.train_attention > 0 && epoch.train_relation > 0);
    assert.equal(epoch.train_hidden, undefined);
  }
  const header = (await daemon.call('GET', `/experiments/${id}/metrics?format=csv`)).text.split('\n')[0];
  assert.match(header, /train_attention,train_relation/);
  const plain = await daemon.post('/experiments?dry_run=1', { ...student, teacher: 'whole' });
  const matched = await daemon.post('/experiments?dry_run=1', { ...student, teacher: 'whole', relation_weight: 1 });
  assert.ok(matched.estimate.matmul_flops > plain.estimate.matmul_flops);
  assert.equal(plain.spec.relation_heads, undefined);
});
