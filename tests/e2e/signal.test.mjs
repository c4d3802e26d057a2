// More signal than the labelled rows have: unlabelled rows and augmented copies, through the daemon.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Daemon, noBinary, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
let daemon;
const tsv = (rows, seed) => ({ text: topics(rows, seed), filename: 'rows.tsv' });
const texts = (rows, seed) => ({ text: topics(rows, seed).replaceAll(/\t.*/g, ''), filename: 'rows.txt' });
const student = {
  dataset: 'both', teacher: 'teacher', layers: 1, heads: 2, hidden_size: 32, intermediate_size: 64, epochs: 2, batch_size: 16, max_length: 24,
};

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
  const made = await daemon.upload('both', { train: tsv(150, 1), dev: tsv(60, 2), unlabelled: texts(90, 3) });
  assert.equal(made.status, 201, made.text);
  assert.equal(made.json.rows.unlabelled, 90);
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'both', save_as: 'teacher' });
  await daemon.waitState(id, 'finished');
});
after(() => daemon?.discard());

test('a run uses the unlabelled rows of an upload and copies of the labelled ones', { skip }, async () => {
  const plain = await daemon.post('/experiments?dry_run=1', { ...student, init: 'random' });
  const spec = { ...student, init: 'random', unlabelled: true, augment: 2, augment_replace: 0.4, augment_splice: 0.3 };
  const dry = await daemon.post('/experiments?dry_run=1', spec);
  assert.equal(plain.spec.unlabelled, false);
  assert.ok(dry.estimate.matmul_flops > 2.5 * plain.estimate.matmul_flops);
  assert.ok(dry.estimate.memory_bytes > plain.estimate.memory_bytes);
  const { id } = await daemon.post('/experiments', spec);
  const done = await daemon.waitState(id, 'finished');
  assert.equal(done.progress.steps, 2 * Math.ceil((3 * 150 + 90) / 16));
  assert.deepEqual([done.spec.unlabelled, done.spec.augment, done.spec.augment_mask], [true, 2, 0.1]);
  const { items } = await daemon.get(`/experiments/${id}/log?limit=500`);
  const log = items.map((row) => row.message).join('\n');
  assert.match(log, /asked the teacher about 90 unlabelled rows/);
  assert.match(log, /asked the teacher about 300 augmented rows/);
  for (const row of (await daemon.get(`/experiments/${id}/metrics`)).epochs)
    assert.ok(Math.abs(row.train_loss - (0.2 * row.train_kl + 0.8 * row.train_ce)) < 1e-9, JSON.stringify(row));
  const card = (await daemon.archiveMember(`/experiments/${id}/archive`, 'README.md')).toString();
  assert.match(card, /\| rows \| 150 \|\n\| unlabelled rows \| 90 \|\n\| augmented rows \| 300: 2 of each; replace 0\.4, mask 0\.1, n-gram 0\.25, splice 0\.3 \|/);
  // Another alpha asks the teacher nothing.
  const again = await daemon.post('/experiments', { ...spec, alpha: 0.9, T: 2 });
  await daemon.waitState(again.id, 'finished');
  const second = (await daemon.get(`/experiments/${again.id}/log?limit=500`)).items.map((row) => row.message).join('\n');
  assert.doesNotMatch(second, /asked the teacher/);
  assert.match(second, /300 augmented rows came from the cache/);
  // A clone without copies takes their rates off too.
  const clone = await daemon.post(`/experiments/${id}/clone`, { augment: 0, epochs: 1 });
  assert.equal(clone.spec.augment, 0);
  assert.ok(!('augment_splice' in clone.spec) && !('augment_replace' in clone.spec));
  await daemon.waitState(clone.id, 'finished');
});

test('one layer of the teacher\'s has copies and its [CLS] states by default', { skip }, async () => {
  const { id } = await daemon.post('/experiments', student);
  const done = await daemon.waitState(id, 'finished');
  assert.deepEqual([done.spec.augment, done.spec.augment_replace, done.spec.cls_weight], [4, 0.3, 1]);
  assert.equal(done.progress.steps, 2 * Math.ceil((5 * 150) / 16));
  const { items } = await daemon.get(`/experiments/${id}/log?limit=500`);
  assert.match(items.map((row) => row.message).join('\n'), /asked the teacher about 600 augmented rows/);
});

test('with unlabelled rows it has eight copies of each of these too', { skip }, async () => {
  const { epochs, ...spec } = student;
  const { id } = await daemon.post('/experiments', { ...spec, unlabelled: true, augment_ngram: 0.5 });
  const done = await daemon.waitState(id, 'finished');
  assert.deepEqual([done.spec.augment, done.spec.augment_unlabelled, done.spec.augment_replace, done.spec.augment_ngram, done.spec.alpha], [8, true, 0.3, 0.5, 0.95]);
  assert.equal(done.progress.steps, 4 * Math.ceil((9 * (150 + 90)) / 16));
  const log = (await daemon.get(`/experiments/${id}/log?limit=500`)).items.map((row) => row.message).join('\n');
  assert.match(log, /made 8 copies of each of 240 rows/);
  assert.match(log, /asked the teacher about 1200 augmented rows/);
  assert.match(log, /asked the teacher about 720 augmented unlabelled rows/);
  const card = (await daemon.archiveMember(`/experiments/${id}/archive`, 'README.md')).toString();
  assert.match(card, /\| augmented rows \| 1200: 8 of each; [^|]*\|\n\| augmented unlabelled rows \| 720 \|/);
  // The last epoch within a standard error of the best one in agreement is kept.
  assert.deepEqual([done.spec.metric, done.spec.selection], ['teacher_agreement', 'one_se']);
  const shares = (await daemon.get(`/experiments/${id}/metrics`)).epochs.map((epoch) => epoch.teacher_agreement);
  const peak = Math.max(...shares);
  assert.equal(done.best.epoch, 1 + shares.findLastIndex((share) => share >= peak - Math.sqrt((peak * (1 - peak)) / 60)));
  assert.equal(/epoch \d+ is kept: its metric, [.\d]+, is within one standard error/.test(log), done.best.epoch !== 1 + shares.indexOf(peak), log);
  const byLabels = await daemon.post(`/experiments/${id}/clone`, { metric: 'macro_f1', epochs: 1 });
  assert.equal(byLabels.spec.selection, 'best');
  await daemon.waitState(byLabels.id, 'finished');
  const noShare = await daemon.call('POST', `/experiments/${id}/clone`, { metric: 'macro_f1', selection: 'one_se' });
  assert.equal(noShare.status, 422, noShare.text);
  assert.match(noShare.text, /needs metric to be/);
  // A clone without unlabelled rows, or without copies, has no copies of them.
  for (const changes of [{ unlabelled: false, epochs: 1 }, { augment: 0, epochs: 1 }]) {
    const clone = await daemon.post(`/experiments/${id}/clone`, changes);
    assert.ok(!clone.spec.augment_unlabelled, JSON.stringify(clone.spec));
    await daemon.waitState(clone.id, 'finished');
  }
  // The same copies of the labelled rows alone: the teacher was asked before.
  const fewer = await daemon.post('/experiments', { ...spec, unlabelled: true, augment: 8, augment_replace: 0.3, augment_ngram: 0.5, augment_unlabelled: false, epochs });
  assert.equal((await daemon.waitState(fewer.id, 'finished')).progress.steps, epochs * Math.ceil((9 * 150 + 90) / 16));
  const second = (await daemon.get(`/experiments/${fewer.id}/log?limit=500`)).items.map((row) => row.message).join('\n');
  assert.doesNotMatch(second, /asked the teacher/);
  const refused = await daemon.call('POST', '/experiments', { ...spec, augment: 1, augment_unlabelled: true });
  assert.equal(refused.status, 422, refused.text);
  assert.match(refused.text, /needs unlabelled to be true/);
});

test('one layer has the words of its texts that the teacher\'s vocabulary cuts', { skip }, async () => {
  // Each row has one word more, of letters that the teacher's data set had in other words.
  const terms = ['pagoda', 'piano', 'pigeon', 'opinion', 'hinge', 'idea', 'hope', 'opened', 'needed', 'happen', 'deepen', 'dingo', 'hedge'];
  const longer = (rows, seed) => ({ text: topics(rows, seed).split('\n').map((row, i) => row && `${terms[i % terms.length]} ${row}`).join('\n'), filename: 'rows.tsv' });
  const made = await daemon.upload('terms', { train: longer(150, 5), dev: longer(60, 6) });
  assert.equal(made.status, 201, made.text);
  const spec = { ...student, dataset: 'terms' };
  const { id } = await daemon.post('/experiments', spec);
  const done = await daemon.waitState(id, 'finished');
  assert.equal(done.spec.whole_words, 4096);
  const log = (await daemon.get(`/experiments/${id}/log?limit=500`)).items.map((row) => row.message).join('\n');
  const [, added, after, before] = log.match(/has (\d+) whole words beyond the teacher's: (\d+) tokens in 150 rows instead of (\d+)/).map(Number);
  assert.ok(added >= terms.length && after <= before - 150, log);
  const vocab = async (run) => (await daemon.archiveMember(`/experiments/${run}/archive`, 'vocab.txt')).toString();
  const theirs = (await daemon.archiveMember('/models/teacher/archive', 'vocab.txt')).toString(), ours = await vocab(id);
  assert.ok(ours.startsWith(theirs));
  const words = ours.slice(theirs.length).split('\n').filter(Boolean);
  assert.equal(words.length, added);
  assert.deepEqual(terms.filter((term) => !words.includes(term)), []);
  const card = (await daemon.archiveMember(`/experiments/${id}/archive`, 'README.md')).toString();
  assert.match(card, new RegExp(`\\| whole words beyond the teacher's vocabulary \\| ${added} \\|`));
  // The dev rows through the model alone: as the run said.
  const { items: rows } = await daemon.get('/datasets/terms/rows?split=dev&limit=100');
  const { predictions } = await daemon.post(`/models/${done.model.name}/predict`, { texts: rows.map((row) => row.text) });
  const right = predictions.filter((p, i) => p.label === rows[i].label).length;
  assert.equal(right / rows.length, done.best.accuracy);
  // Only as many as are asked for, the most frequent first; and none beside what compares token by token.
  const five = await daemon.post(`/experiments/${id}/clone`, { whole_words: 5, epochs: 1 });
  await daemon.waitState(five.id, 'finished');
  assert.equal(await vocab(five.id), `${theirs}${words.slice(0, 5).join('\n')}\n`);
  const matched = await daemon.post(`/experiments/${id}/clone`, { hidden_weight: 1, epochs: 1 });
  assert.equal(matched.spec.whole_words, 0);
  await daemon.waitState(matched.id, 'finished');
  assert.equal(await vocab(matched.id), theirs);
  const refused = await daemon.call('POST', '/experiments', { ...spec, whole_words: 5, relation_weight: 1 });
  assert.equal(refused.status, 422, refused.text);
  assert.match(refused.text, /must be 0 beside hidden_weight/);
});

test('several teachers: the student learns from their mean, and none can be deleted meanwhile', { skip }, async () => {
  const second = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'both', vocabulary: 'teacher', vocab_size: undefined, seed: 2, save_as: 'second' });
  await daemon.waitState(second.id, 'finished');
  const blocker = await daemon.post('/experiments', { ...student, epochs: 5000 });
  const { id } = await daemon.post('/experiments', { ...student, teachers: ['second'] });
  for (const name of ['teacher', 'second']) assert.equal((await daemon.call('DELETE', `/models/${name}`)).status, 409, name);
  await daemon.call('POST', `/experiments/${blocker.id}/cancel`);
  const done = await daemon.waitState(id, 'finished');
  assert.deepEqual([done.spec.teacher, done.spec.teachers, done.spec.teacher_mean], ['teacher', ['second'], 'probabilities']);
  // The teacher's line is that of the mean.
  const { items: rows } = await daemon.get('/datasets/both/rows?split=dev&limit=100');
  const ask = async (name) => (await daemon.post(`/models/${name}/predict`, { texts: rows.map((row) => row.text) })).predictions;
  const [a, b] = [await ask('teacher'), await ask('second')];
  const right = rows.filter((row, i) => {
    const mean = Object.keys(a[i].scores).map((label) => [a[i].scores[label] + b[i].scores[label], label]);
    return mean.sort((x, y) => y[0] - x[0])[0][1] === row.label;
  });
  assert.ok(Math.abs(done.teacher.accuracy - right.length / rows.length) < 1e-12);
  const model = await daemon.get(`/models/${done.model.name}`);
  assert.deepEqual([model.source.teacher, model.source.teachers], ['teacher', ['second']]);
  const card = (await daemon.archiveMember(`/experiments/${id}/archive`, 'README.md')).toString();
  assert.match(card, /mean of the probabilities of the teachers `teacher` \(2 layers, hidden size 32\) and `second` \(2 layers/);
  assert.equal((await daemon.call('DELETE', '/models/second')).status, 204);
  const gone = await daemon.call('POST', '/experiments', { ...student, teachers: ['second', 'secnod'] });
  assert.deepEqual(gone.json.errors.map((e) => e.pointer), ['/teachers/0', '/teachers/1']);
});

test('teachers with other classes or another vocabulary are refused', { skip }, async () => {
  const made = await daemon.upload('renamed', { train: { text: topics(150, 4).replaceAll('科技', '技术'), filename: 't.tsv' } });
  assert.equal(made.status, 201, made.text);
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'renamed', vocab_size: 300, save_as: 'stranger' });
  await daemon.waitState(id, 'finished');
  const answer = await daemon.call('POST', '/experiments', { ...student, teachers: ['stranger'] });
  assert.equal(answer.status, 422);
  const details = answer.json.errors.map((e) => `${e.pointer} ${e.detail}`).join('\n');
  assert.match(details, /\/teachers\/0 .*they must share a vocabulary/);
  assert.match(details, /\/teachers\/0 "stranger" does not know class "科技" of data set "both"/);
});

test('a data set without unlabelled rows is refused with what would help', { skip }, async () => {
  const made = await daemon.upload('labelled', { train: tsv(60, 1), dev: tsv(30, 2) });
  assert.equal(made.status, 201, made.text);
  const answer = await daemon.call('POST', '/experiments', { ...student, dataset: 'labelled', unlabelled: true });
  assert.equal(answer.status, 422);
  assert.deepEqual(answer.json.errors.map((e) => e.pointer), ['/unlabelled']);
  assert.match(answer.json.errors[0].detail, /no unlabelled rows: upload it with unlabelled=@file/);
});
