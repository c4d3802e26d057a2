// Smaller models over the API: a pruned vocabulary answers the same on its data set and is a model like any other; an int8 model
// answers, says what it lost, and is refused by name where fp32 is needed.
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

test('an int8 model answers like the one it was made from and says what it lost', { skip, timeout: 120_000 }, async (t) => {
  const daemon = await withTeacher(t);
  const before = await daemon.get('/models/teacher');
  const made = await daemon.call('POST', '/models/teacher/quantize', { dataset: 'topics', save_as: 'bytes' });
  assert.equal(made.status, 201, made.text);
  assert.equal(made.headers.get('location'), '/api/v1/models/bytes');
  const { source } = made.json;
  assert.equal(source.type, 'quantized');
  assert.equal(source.split, 'dev');
  assert.equal(made.json.weights_format, 'safetensors_int8');
  assert.equal(made.json.parameters, before.parameters);
  assert.ok(made.json.bytes < before.bytes * 0.75, `${made.json.bytes} of ${before.bytes}`);
  const report = async (model) => daemon.post(`/models/${model}/evaluate`, { dataset: 'topics', split: 'dev' });
  for (const [model, side] of [['teacher', source.before], ['bytes', source.after]]) {
    const told = await report(model);
    assert.equal(told.accuracy, side.accuracy);
    assert.equal(told['macro avg']['f1-score'], side.macro_f1);
  }
  assert.ok(Math.abs(source.before.macro_f1 - source.after.macro_f1) < 0.1);
  const texts = ['大盘涨停，沪指反弹', '手机芯片', '央行通胀'];
  const logits = async (model) => (await daemon.post(`/models/${model}/predict`, { texts })).predictions.flatMap((p) => p.logits);
  const [one, two] = [await logits('teacher'), await logits('bytes')];
  one.forEach((value, i) => assert.ok(Math.abs(value - two[i]) < 0.1, `${one} and ${two}`));
  const card = (await daemon.archiveMember('/models/bytes/archive', 'README.md')).toString();
  assert.match(card, /\| macro F1 \| \d\.\d{4} \| \d\.\d{4} \|/);
  assert.match((await daemon.archiveMember('/models/bytes/archive', 'config.json')).toString(), /distilld_int8/);

  const unmeasured = await daemon.post('/models/teacher/quantize', { save_as: 'unmeasured' });
  assert.equal(unmeasured.source.before.accuracy, undefined);
  assert.equal(unmeasured.sha256, made.json.sha256);
  for (const body of [{ teacher: 'bytes', layers: 1 }, { teacher: 'teacher', layers: 1, init: 'bytes' }, { task: 'finetune', model: 'bytes' }]) {
    const refused = await daemon.call('POST', '/experiments', { dataset: 'topics', ...body });
    assert.equal(refused.status, 422, refused.text);
    assert.match(refused.text, /is int8 and only answers; name the model it was made from, \\"teacher/);
  }
  for (const [path, body] of [['prune', { dataset: 'small', save_as: 'x' }], ['quantize', { save_as: 'x' }]]) {
    const refused = await daemon.call('POST', `/models/bytes/${path}`, body);
    assert.equal(refused.status, 422, refused.text);
    assert.equal(refused.json.code, 'model_is_int8');
  }
});

test('archives in fp16: half the size, read back as a model that answers the same', { skip, timeout: 120_000 }, async (t) => {
  const daemon = await withTeacher(t);
  const whole = await daemon.archiveMember('/models/teacher/archive', 'model.safetensors');
  for (const path of ['/models/teacher/archive?weights=fp16', '/experiments/1/archive?weights=fp16']) {
    const half = await daemon.archiveMember(path, 'model.safetensors');
    assert.ok(half.length < whole.length * 0.6 && half.includes('"F16"') && !half.includes('"F32"'), path);
    assert.match((await daemon.archiveMember(path, 'README.md')).toString(), /macro F1/);
  }
  assert.equal((await daemon.call('GET', '/models/teacher/archive?weights=fp8')).status, 422);
  const archive = await daemon.call('GET', '/models/teacher/archive?weights=fp16');
  const form = new FormData();
  form.set('name', 'half');
  form.set('archive', new Blob([archive.bytes]), 'half.tar.gz');
  assert.equal((await daemon.call('POST', '/models', form)).status, 201);
  const labels = async (model) => (await daemon.post(`/models/${model}/predict`, { texts: ['大盘涨停', '手机芯片'] })).predictions.flatMap((p) => p.logits);
  const [one, two] = [await labels('teacher'), await labels('half')];
  one.forEach((value, i) => assert.ok(Math.abs(value - two[i]) < 0.02, `${one} and ${two}`));
  await daemon.post('/models/teacher/quantize', { save_as: 'bytes' });
  const refused = await daemon.call('GET', '/models/bytes/archive?weights=fp16');
  assert.equal(refused.status, 422);
  assert.equal(refused.json.code, 'model_is_int8');
});
