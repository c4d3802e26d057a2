// Smaller models over the API: a pruned vocabulary answers the same on its data set, is a model like any other, and mistakes
// are refused by name.
import test from 'node:test';
import assert from 'node:assert/strict';
import { Daemon, noBinary, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;

async function withTeacher(t) {
  const daemon = await Daemon.start();
  t.after(() => daemon.discard());
  await daemon.upload('topics', { train: { text: topics(300), filename: 'train.tsv' }, dev: { text: topics(60, 9), filename: 'dev.tsv' } });
  await daemon.upload('small', { train: { text: '大盘涨停\t股票\n手机芯片\t科技\n央行通胀\t财经\n', filename: 'train.tsv' }, dev: { text: '个股反弹\t股票\n', filename: 'dev.tsv' } });
  const made = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', save_as: 'teacher' });
  await daemon.waitState(made.id, 'finished');
  return daemon;
}

test('a pruned model answers the same on its data set and says what was saved', { skip, timeout: 120_000 }, async (t) => {
  const daemon = await withTeacher(t);
  const before = await daemon.get('/models/teacher');
  const made = await daemon.call('POST', '/models/teacher/prune', { dataset: 'small', save_as: 'little' });
  assert.equal(made.status, 201, made.text);
  assert.equal(made.headers.get('location'), '/api/v1/models/little');
  const { source, shape, bytes, parameters } = made.json;
  assert.equal(source.type, 'pruned');
  assert.equal(source.model, 'teacher');
  assert.equal(source.dataset, 'small');
  assert.deepEqual(source.before, { tokens: before.shape.vocab_size, parameters: before.parameters, bytes: before.bytes });
  assert.deepEqual(source.after, { tokens: shape.vocab_size, parameters, bytes });
  assert.ok(shape.vocab_size < before.shape.vocab_size / 2 && bytes < before.bytes);
  assert.equal(made.json.max_length, before.max_length);
  const texts = ['大盘涨停', '手机芯片', '央行通胀', '个股反弹'];
  const answers = async (model) => (await daemon.post(`/models/${model}/predict`, { texts })).predictions;
  assert.deepEqual(await answers('little'), await answers('teacher'));
  const report = async (model) => daemon.post(`/models/${model}/evaluate`, { dataset: 'small', split: 'train' });
  assert.deepEqual(await report('little'), await report('teacher'));
  const card = (await daemon.archiveMember('/models/little/archive', 'README.md')).toString();
  assert.match(card, /`teacher`.*`small`/);
  const vocab = (await daemon.archiveMember('/models/little/archive', 'vocab.txt')).toString();
  assert.equal(vocab.trim().split('\n').length, shape.vocab_size);

  const kept = await daemon.post('/models/teacher/prune', { dataset: 'small', save_as: 'characters', keep_characters: true });
  assert.ok(kept.shape.vocab_size > shape.vocab_size);
  // It is a model like any other: a student of it trains.
  const student = await daemon.post('/experiments', { dataset: 'topics', teacher: 'little', layers: 1, heads: 2, epochs: 1, batch_size: 16, max_length: 24 });
  await daemon.waitState(student.id, 'finished');
});

test('what cannot be pruned is refused by name', { skip, timeout: 120_000 }, async (t) => {
  const daemon = await withTeacher(t);
  const refused = async (path, body, status, text) => {
    const answer = await daemon.call('POST', path, body);
    assert.equal(answer.status, status, answer.text);
    assert.match(answer.text, text);
  };
  await refused('/models/techer/prune', { dataset: 'small', save_as: 'x' }, 404, /did you mean .*teacher/);
  await refused('/models/teacher/prune', { dataset: 'smal', save_as: 'x' }, 422, /did you mean .*small/);
  await refused('/models/teacher/prune', { dataset: 'small', save_as: 'teacher' }, 409, /already/);
  await refused('/models/teacher/prune', { dataset: 'small' }, 422, /save_as/);
  await refused('/models/teacher/prune', { dataset: 'small', save_as: 'x', keep: true }, 422, /keep/);
  assert.deepEqual((await daemon.get('/models')).items.map((m) => m.name), ['teacher']);
});
