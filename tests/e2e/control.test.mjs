// The life of an experiment over REST: queue order, pause, resume, cancel, retry, clone, patch, delete, and what is refused when.
import test from 'node:test';
import assert from 'node:assert/strict';
import { get as httpGet } from 'node:http';
import { constants, createGunzip } from 'node:zlib';
import { Daemon, noBinary, noShared, sleep, tinyTeacher, topics, waitFor } from './daemon.mjs';

const skip = noBinary;
let daemon;
test.before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '2'] });
  await daemon.upload('topics', { train: { text: topics(1500), filename: 'train.tsv' }, dev: { text: topics(150, 5), filename: 'dev.tsv' }, test: { text: topics(90, 6), filename: 'test.tsv' } });
});
test.after(() => daemon?.discard());
const long = { ...tinyTeacher, dataset: 'topics', epochs: 400 };

test('create answers 201, Location and the whole resource, resolved', { skip }, async () => {
  const answer = await daemon.call('POST', '/experiments', { ...tinyTeacher, dataset: 'topics', name: '第一个 teacher', tags: ['a', '标签'], save_as: 'teacher', notes: 'n' });
  assert.equal(answer.status, 201);
  assert.equal(answer.headers.get('location'), `/api/v1/experiments/${answer.json.id}`);
  assert.equal(answer.json.spec.name, '第一个 teacher');
  assert.equal(answer.json.spec.optimizer.type, 'adamw');
  assert.equal(answer.json.spec.hidden_size, 32);
  assert.match(answer.json.created_at, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  const done = await daemon.waitState(answer.json.id, 'finished');
  assert.equal(done.best.epoch >= 1 && done.best.epoch <= 2, true);
  assert.equal(done.model.name, 'teacher');
  assert.ok(done.model.bytes > 10_000);
  assert.equal(done.progress.epoch, 2);
});

test('a student of that teacher has retention, agreement and reports', { skip }, async () => {
  const { id } = await daemon.post('/experiments', { dataset: 'topics', teacher: 'teacher', layers: 1, epochs: 3, batch_size: 16, T: 4, alpha: 0.2 });
  const done = await daemon.waitState(id, 'finished');
  assert.equal(done.spec.hidden_size, 32);
  assert.equal(done.spec.heads, 2);
  const { epochs } = await daemon.get(`/experiments/${id}/metrics`);
  assert.equal(epochs.length, 3);
  for (const row of epochs) {
    for (const key of ['train_loss', 'train_kl', 'train_ce', 'dev_loss', 'accuracy', 'macro_precision', 'macro_recall', 'macro_f1', 'weighted_precision', 'weighted_recall', 'weighted_f1', 'teacher_agreement', 'lr', 'seconds', 'tokens_per_second']) {
      assert.equal(typeof row[key], 'number', key);
    }
  }
  assert.ok(Math.abs(done.retention.accuracy - done.best.accuracy / done.teacher.accuracy) < 1e-9);
  const best = epochs.reduce((a, b) => (b.macro_f1 > a.macro_f1 ? b : a));
  assert.equal(done.best.epoch, best.epoch);
  const csv = await daemon.get(`/experiments/${id}/metrics?format=csv`);
  assert.equal(csv.trim().split(/\r?\n/).length, 4);
  assert.match(csv, /^epoch,train_loss,/);

  const report = await daemon.get(`/experiments/${id}/epochs/best/report`);
  assert.ok(Math.abs(report.accuracy - done.best.accuracy) < 1e-12);
  assert.equal(report['macro avg'].support, 150);
  assert.equal(report.confusion_matrix.flat().reduce((a, b) => a + b), 150);
  const text = await daemon.call('GET', `/experiments/${id}/epochs/last/report`, undefined, { Accept: 'text/plain' });
  assert.match(text.text, /weighted avg +0\.\d{4} +0\.\d{4} +0\.\d{4} +150\n$/);
  const wrong = await daemon.get(`/experiments/${id}/predictions?wrong=1&limit=500`);
  assert.equal(wrong.items.length, Math.round((1 - done.best.accuracy) * 150));
  for (const row of wrong.items) assert.ok(row.gold !== row.student && row.text && row.teacher, JSON.stringify(row));
  const steps = await daemon.get(`/experiments/${id}/steps?max_points=50`);
  assert.ok((steps.steps ?? steps.items).length <= 50);
});

test('predict, evaluate and the archive agree with the run', { skip }, async () => {
  const { items } = await daemon.get('/experiments?sort=-id&limit=1');
  const model = items[0].model.name;
  const evaluated = await daemon.post(`/models/${model}/evaluate`, { dataset: 'topics', split: 'dev' });
  assert.ok(Math.abs(evaluated.accuracy - items[0].best.accuracy) < 1e-12);
  const { predictions } = await daemon.post(`/models/${model}/predict`, { texts: ['大盘涨停沪指反弹', '手机芯片发布', ''] });
  assert.equal(predictions.length, 3);
  const sum = Object.values(predictions[0].scores).reduce((a, b) => a + b);
  assert.ok(Math.abs(sum - 1) < 1e-5);
  const config = JSON.parse(await daemon.archiveMember(`/models/${model}/archive`, 'config.json'));
  assert.equal(config.num_hidden_layers, 1);
  assert.deepEqual(Object.values(config.id2label).sort(), Object.keys(predictions[0].scores).sort());
});

test('exported files are named by epoch and macro precision, recall and F1', { skip }, async () => {
  const { items } = await daemon.get('/experiments?sort=-id&limit=1');
  const [{ id, model, best, last }] = items;
  const pattern = /^attachment; filename="(.+)_epoch_(\d+)_p_(\d\.\d{4})_r_(\d\.\d{4})_f_(\d\.\d{4})\.tar\.gz"$/;
  for (const [path, scores] of [
    [`/experiments/${id}/archive?epoch=best`, best],
    [`/experiments/${id}/archive?epoch=last`, last],
    [`/models/${model.name}/archive`, best],
  ]) {
    const [, name, epoch, ...numbers] = (await daemon.call('GET', path)).headers.get('content-disposition').match(pattern);
    assert.equal(name, model.name);
    assert.equal(Number(epoch), scores.epoch);
    for (const [i, key] of ['macro_precision', 'macro_recall', 'macro_f1'].entries()) {
      assert.ok(Math.abs(Number(numbers[i]) - scores[key]) < 0.5001e-4, `${key} of ${path}`);
    }
  }
});

test('pause keeps the place, resume goes on, cancel ends, retry begins again', { skip }, async () => {
  const { id } = await daemon.post('/experiments', long);
  await daemon.waitEpoch(id, 2);
  assert.equal((await daemon.call('POST', `/experiments/${id}/pause`)).status, 202);
  const paused = await daemon.waitState(id, 'paused');
  const before = (await daemon.get(`/experiments/${id}/metrics`)).epochs.length;
  await sleep(300);
  assert.equal((await daemon.get(`/experiments/${id}/metrics`)).epochs.length, before);
  assert.ok(paused.progress.step > 0);

  const again = await daemon.call('POST', `/experiments/${id}/pause`);
  assert.equal(again.status, 409);
  assert.match(again.type, /application\/problem\+json/);
  assert.deepEqual(again.json.allowed_actions.sort(), ['cancel', 'clone', 'delete', 'resume'].filter((a) => again.json.allowed_actions.includes(a)).sort());
  assert.ok(again.json.allowed_actions.includes('resume'));

  assert.equal((await daemon.call('POST', `/experiments/${id}/resume`)).status, 202);
  await daemon.waitEpoch(id, before + 2);
  assert.equal((await daemon.call('DELETE', `/experiments/${id}`)).status, 409);
  assert.equal((await daemon.call('POST', `/experiments/${id}/cancel`)).status, 202);
  await daemon.waitState(id, 'cancelled');
  const epochs = (await daemon.get(`/experiments/${id}/metrics`)).epochs;
  assert.deepEqual(epochs.map((row) => row.epoch), epochs.map((_, i) => i + 1));

  assert.equal((await daemon.call('POST', `/experiments/${id}/retry`)).status, 202);
  await daemon.waitEpoch(id, epochs.length + 1);
  await daemon.call('POST', `/experiments/${id}/cancel`);
  await daemon.waitState(id, 'cancelled');
  assert.equal((await daemon.call('DELETE', `/experiments/${id}`)).status, 204);
  assert.equal((await daemon.call('GET', `/experiments/${id}`)).status, 404);
});

test('priority decides who is next; a patch moves a queued run', { skip }, async () => {
  const running = await daemon.post('/experiments', long);
  await daemon.waitState(running.id, 'running');
  const quick = { ...tinyTeacher, dataset: 'topics', epochs: 1 };
  const a = await daemon.post('/experiments', quick);
  const b = await daemon.post('/experiments', { ...quick, priority: 1 });
  const c = await daemon.post('/experiments', quick);
  const patched = await daemon.call('PATCH', `/experiments/${c.id}`, { priority: 5, name: 'moved', tags: ['x'], notes: '备注' });
  assert.equal(patched.status, 200, patched.text);
  assert.equal(patched.json.spec.priority ?? patched.json.priority, 5);
  await daemon.call('POST', `/experiments/${running.id}/cancel`);
  const ends = [];
  for (const { id } of [a, b, c]) ends.push({ id, at: Date.parse((await daemon.waitState(id, 'finished')).finished_at) });
  assert.deepEqual(ends.sort((x, y) => x.at - y.at).map((e) => e.id), [c.id, b.id, a.id]);
});

test('clone takes changes and nothing else changes', { skip }, async () => {
  const { items } = await daemon.get('/experiments?sort=id&limit=2');
  const answer = await daemon.call('POST', `/experiments/${items[1].id}/clone`, { T: 8, name: 'hotter' });
  assert.ok([201, 202].includes(answer.status), answer.text);
  assert.equal(answer.json.spec.T, 8);
  assert.equal(answer.json.spec.alpha, items[1].spec.alpha);
  assert.equal(answer.json.spec.teacher, 'teacher');
  await daemon.waitState(answer.json.id, 'finished');
});

test('Idempotency-Key makes a retry safe', { skip }, async () => {
  const body = { ...tinyTeacher, dataset: 'topics', epochs: 1, name: 'once' };
  const first = await daemon.call('POST', '/experiments', body, { 'Idempotency-Key': 'k-1' });
  const second = await daemon.call('POST', '/experiments', body, { 'Idempotency-Key': 'k-1' });
  assert.equal(second.status, 201);
  assert.equal(second.json.id, first.json.id);
  assert.equal(second.headers.get('location'), first.headers.get('location'));
  const other = await daemon.call('POST', '/experiments', { ...body, epochs: 2 }, { 'Idempotency-Key': 'k-1' });
  assert.equal(other.status, 422);
  await daemon.waitState(first.json.id, 'finished');
});

test('dry run resolves and estimates without queueing', { skip }, async () => {
  const before = (await daemon.get('/experiments?limit=500')).items.length;
  const answer = await daemon.call('POST', '/experiments?dry_run=1', { dataset: 'topics', teacher: 'teacher', layers: 1 });
  assert.equal(answer.status, 200, answer.text);
  assert.equal(answer.json.spec.epochs > 0, true);
  assert.ok(answer.json.estimate.memory_bytes > 0);
  assert.equal((await daemon.get('/experiments?limit=500')).items.length, before);
});

test('lists page by keyset, sort and filter', { skip }, async () => {
  const all = (await daemon.get('/experiments?limit=500&sort=-best_macro_f1')).items;
  const paged = [];
  let cursor = '';
  do {
    const page = await daemon.get(`/experiments?limit=2&sort=-best_macro_f1${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    paged.push(...page.items.map((item) => item.id));
    cursor = page.next_cursor;
  } while (cursor);
  assert.deepEqual(paged, all.map((item) => item.id));
  assert.ok((await daemon.get('/experiments?status=finished&task=finetune')).items.every((item) => item.status === 'finished'));
  assert.equal((await daemon.get(`/experiments?q=${encodeURIComponent('第一个')}`)).items.length, 1);
  assert.equal((await daemon.get(`/experiments?tag=${encodeURIComponent('标签')}`)).items.length, 1);
  assert.equal((await daemon.get('/experiments?q=%25')).items.length, 0);
});

test('a data set in use cannot be deleted; afterwards it can', { skip }, async () => {
  await daemon.upload('spare', { train: { text: topics(200), filename: 'spare.tsv' } }, { dev_fraction: 0.2 });
  const { id } = await daemon.post('/experiments', { ...long, dataset: 'spare' });
  const refused = await daemon.call('DELETE', '/datasets/spare');
  assert.equal(refused.status, 409);
  await daemon.call('POST', `/experiments/${id}/cancel`);
  await daemon.waitState(id, 'cancelled');
  assert.equal((await daemon.call('DELETE', '/datasets/spare')).status, 204);
  const retry = await daemon.call('POST', `/experiments/${id}/retry`);
  assert.ok([409, 422].includes(retry.status) || (await daemon.waitState(id, 'failed')).error, 'a retry without its data set cannot succeed');
});

test('events: the whole life of a run reaches a reader, and Last-Event-ID fills a gap', { skip }, async () => {
  const seen = [];
  const controller = new AbortController();
  const response = await fetch(`${daemon.url}/api/v1/events`, { signal: controller.signal });
  assert.match(response.headers.get('content-type'), /text\/event-stream/);
  const reading = (async () => {
    let rest = '';
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      rest += chunk;
      for (let end; (end = rest.indexOf('\n\n')) >= 0; rest = rest.slice(end + 2)) {
        const event = Object.fromEntries(rest.slice(0, end).split('\n').filter((l) => !l.startsWith(':')).map((l) => [l.slice(0, l.indexOf(':')), l.slice(l.indexOf(':') + 1).trim()]));
        if (event.data) seen.push({ id: event.id, type: event.event, data: JSON.parse(event.data) });
      }
    }
  })().catch(() => {});
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 3 });
  await daemon.waitState(id, 'finished');
  const mine = () => seen.filter((event) => (event.data.experiment_id ?? event.data.id) === id);
  await waitFor(() => mine().some((event) => event.type === 'status' && (event.data.status ?? event.data.experiment?.status) === 'finished'), 5000, 'the finished event');
  assert.equal(mine().filter((event) => event.type === 'epoch').length, 3);
  assert.ok(mine().some((event) => event.type === 'step'));
  assert.ok(mine().some((event) => event.type === 'log'));
  controller.abort();
  await reading;

  const from = mine()[1];
  const again = new AbortController();
  const replay = await fetch(`${daemon.url}/api/v1/events`, { headers: { 'Last-Event-ID': from.id }, signal: again.signal });
  const reader = replay.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  while (!text.includes(`id: ${mine()[2].id}`) && !text.includes(`id:${mine()[2].id}`)) text += (await reader.read()).value;
  const resent = text.split('\n\n').filter((block) => /^data:/m.test(block) && block.split('\n').some((line) => /^id:/.test(line) && line.slice(3).trim() === from.id));
  assert.deepEqual(resent, [], 'the last event seen is not sent again');
  again.abort();
  const foreign = new AbortController();
  const reset = await fetch(`${daemon.url}/api/v1/events`, { headers: { 'Last-Event-ID': 'deadbeef-77' }, signal: foreign.signal });
  const resetReader = reset.body.pipeThrough(new TextDecoderStream()).getReader();
  text = '';
  while (!/event: ?reset/.test(text)) text += (await resetReader.read()).value;
  foreign.abort();
});

test('events: a reader that accepts gzip gets the same frames, readable as they come, in less than half of the bytes', { skip }, async () => {
  const own = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
  try {
    await own.upload('topics', { train: { text: topics(150), filename: 'train.tsv' }, dev: { text: topics(30, 5), filename: 'dev.tsv' } });
    /** What a stream brings until it ends. `text` grows meanwhile. */
    const open = (headers) =>
      new Promise((done) => {
        const got = { bytes: 0, text: '', pieces: 0 };
        httpGet(`${own.url}/api/v1/events?types=status,epoch`, { headers }, (answer) => {
          got.coding = answer.headers['content-encoding'];
          answer.on('data', (chunk) => (got.bytes += chunk.length));
          const source = got.coding === 'gzip' ? answer.pipe(createGunzip({ flush: constants.Z_SYNC_FLUSH })) : answer;
          source.on('data', (chunk) => (got.text += chunk));
          got.ended = new Promise((end, failed) => source.on('end', end).on('error', failed));
          done(got);
        });
      });
    const [plain, small] = [await open({}), await open({ 'Accept-Encoding': 'gzip' })];
    assert.deepEqual([plain.coding, small.coding], [undefined, 'gzip']);
    const { id } = await own.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 6 });
    await own.waitState(id, 'finished');
    await waitFor(() => small.text.includes('"status":"finished"'), 5000, 'the last event, before the stream ends');
    await own.stop('SIGTERM');
    await Promise.all([plain.ended, small.ended]); // with gzip's own end, else this fails
    assert.equal(small.text, plain.text);
    assert.ok(small.bytes < plain.bytes / 2, `${small.bytes} of ${plain.bytes} bytes`);
  } finally {
    await own.discard();
  }
});

test('the real headlines upload with their counts', { skip: skip || noShared }, async () => {
  const { readFileSync } = await import('node:fs');
  const { shared } = await import('./daemon.mjs');
  const file = (split) => ({ text: readFileSync(`${shared}/data/headlines3/${split}`, 'utf8'), filename: split });
  const answer = await daemon.upload('headlines3', { train: file('train.tsv'), dev: file('dev.tsv'), test: file('test.tsv'), unlabelled: file('unlabelled.txt') });
  assert.equal(answer.status, 201, answer.text);
  const dev = Object.fromEntries(answer.json.classes.map((c) => [c.name, c.rows.dev]));
  assert.deepEqual(dev, { 股票: 345, 财经: 106, 科技: 50 });
  const rows = await daemon.get(`/datasets/headlines3/rows?split=dev&label=${encodeURIComponent('科技')}&limit=500`);
  assert.equal(rows.items.length, 50);
});
