// Each kind of fault in uploads and fields gets its problem+json, names what is wrong, and changes nothing.
import test from 'node:test';
import assert from 'node:assert/strict';
import net from 'node:net';
import { Daemon, noBinary, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
let daemon;
test.before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1'] });
  await daemon.upload('topics', { train: { text: topics(300), filename: 'train.tsv' } });
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 1, save_as: 'teacher' });
  await daemon.waitState(id, 'finished');
});
test.after(() => daemon?.discard());

const census = async () => {
  const of = async (path) => (await daemon.get(path)).items.length;
  return [await of('/experiments?limit=500'), await of('/datasets?limit=500'), await of('/models?limit=500')];
};
function problem(answer, status) {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.type, /^application\/problem\+json/);
  for (const key of ['type', 'title', 'status', 'code', 'detail', 'request_id']) assert.ok(key in answer.json, `${key} in ${answer.text}`);
  assert.equal(answer.json.status, status);
  return answer.json;
}

const good = { dataset: 'topics', teacher: 'teacher', layers: 1 };
const fields = [
  ['/alpha', { ...good, alpha: 1.7 }, /between 0 and 1.*1\.7/],
  ['/alpha', { ...good, alpha: '0.2' }, /number/],
  ['/T', { ...good, T: 0 }, /T|greater|between/],
  ['/T', { ...good, T: null }, /number/],
  ['/layers', { ...good, layers: 1.5 }, /integer|whole/],
  ['/layers', { ...good, layers: -3 }, /between|least/],
  ['/layers', { ...good, layers: 1e9 }, /between|most/],
  ['/epochs', { ...good, epochs: 0 }, /between|least/],
  ['/batch_size', { ...good, batch_size: 0 }, /between|least/],
  ['/max_length', { ...good, max_length: 100000 }, /.+/],
  ['/seed', { ...good, seed: 2 ** 53 }, /.+/],
  ['/heads', { ...good, heads: 5 }, /divide|multiple/],
  ['/dataset', { ...good, dataset: 'topic' }, /topics|no data ?set/i],
  ['/dataset', { ...good, dataset: '../etc' }, /.+/],
  ['/teacher', { ...good, teacher: 'nobody' }, /.+/],
  ['/teacher', { dataset: 'topics', layers: 1 }, /required|needs|missing/i],
  ['/dataset', { teacher: 'teacher' }, /required|needs|missing/i],
  ['/task', { ...good, task: 'distil' }, /distill/],
  ['/optimizer', { ...good, optimizer: 'adam' }, /adamw/],
  ['/optimizer/lr', { ...good, optimizer: { type: 'sgd', lr: -1 } }, /.+/],
  ['/optimizer/momentun', { ...good, optimizer: { type: 'sgd', momentun: 0.9 } }, /momentum/],
  ['/layres', { ...good, layres: 3 }, /unknown.*layers|layers/i],
  ['/init', { ...good, init: 'Teacher!' }, /.+/],
  ['/layer_map', { ...good, init: 'teacher', layer_map: [9] }, /.+/],
  ['/tags', { ...good, tags: 'milk' }, /array|list/],
  ['/tags/0', { ...good, tags: [7] }, /string|text/],
  ['/name', { ...good, name: 'x'.repeat(5000) }, /.+/],
  ['/priority', { ...good, priority: 1e6 }, /.+/],
  ['/precision', { ...good, precision: 'fp8' }, /fp32/],
];
for (const [pointer, body, detail] of fields) {
  test(`spec fault at ${pointer}: ${JSON.stringify(body).slice(0, 70)}`, { skip }, async () => {
    const before = await census();
    const { errors } = problem(await daemon.call('POST', '/experiments', body), 422);
    const fault = errors.find((e) => e.pointer === pointer);
    assert.ok(fault, `${pointer} not in ${JSON.stringify(errors)}`);
    assert.match(fault.detail, detail);
    assert.deepEqual(await census(), before);
  });
}

test('all faults of a body are told at once', { skip }, async () => {
  const { errors } = problem(await daemon.call('POST', '/experiments', { ...good, alpha: 2, T: -1, layres: 1, epochs: 'ten' }), 422);
  for (const pointer of ['/alpha', '/T', '/layres', '/epochs']) assert.ok(errors.some((e) => e.pointer === pointer), pointer);
});

for (const [what, body, type, status] of [
  ['no JSON', '{"dataset":', 'application/json', 400],
  ['an array', '[]', 'application/json', 400],
  ['repeated keys', '{"dataset":"topics","dataset":"topics"}', 'application/json', 400],
  ['too deep', '['.repeat(5000) + ']'.repeat(5000), 'application/json', 400],
  ['another type', 'dataset=topics', 'text/csv', 415],
  ['too large', JSON.stringify({ dataset: 'topics', notes: 'x'.repeat(3 << 20) }), 'application/json', 413],
]) {
  test(`body: ${what}`, { skip }, async () => {
    const answer = await daemon.call('POST', '/experiments', body, { 'Content-Type': type });
    assert.ok([status, ...(status === 400 ? [422] : [])].includes(answer.status), `${answer.status} ${answer.text}`);
    problem(answer, answer.status);
  });
}

const uploads = [
  ['a row without a label', { train: { text: 'a\tx\nb\nc\ty\n', filename: 't.tsv' } }, {}, /line.?2|2/],
  ['one class only', { train: { text: 'a\tx\nb\tx\n', filename: 't.tsv' } }, {}, /class/],
  ['bad UTF-8', { train: { text: Buffer.from('a\tx\n\xff\xfe\ty\n', 'latin1'), filename: 't.tsv' } }, {}, /UTF-8/],
  ['an open quote', { train: { text: 'text,label\n"abc,x\n', filename: 't.csv' } }, {}, /quote/],
  ['a dev label that train lacks', { train: { text: 'a\tx\nb\ty\n', filename: 't.tsv' }, dev: { text: 'c\tz\n', filename: 'd.tsv' } }, {}, /z/],
  ['no train file', { dev: { text: 'c\tz\n', filename: 'd.tsv' } }, {}, /train/],
  ['an empty file', { train: { text: '', filename: 't.tsv' } }, {}, /empty|no rows/],
  ['JSON Lines that are none', { train: { text: '{"text":"a","label":"x"}\n{"text":\n', filename: 't.jsonl' } }, {}, /.+/],
  ['an unknown column', { train: { text: 'text,label\na,x\nb,y\n', filename: 't.csv' } }, { text_column: 'body' }, /body/],
  ['an unknown field', { train: { text: 'a\tx\nb\ty\n', filename: 't.tsv' } }, { trian: 1 }, /trian/],
  ['a foolish fraction', { train: { text: 'a\tx\nb\ty\n', filename: 't.tsv' } }, { dev_fraction: 3 }, /.+/],
];
for (const [what, files, extra, detail] of uploads) {
  test(`upload: ${what}`, { skip }, async () => {
    const before = await census();
    const answer = await daemon.upload('broken', files, extra);
    assert.ok([400, 422].includes(answer.status), `${answer.status} ${answer.text}`);
    problem(answer, answer.status);
    assert.match(answer.text, detail);
    assert.deepEqual(await census(), before);
  });
}
for (const name of ['Big', '-x', 'a/b', '..', 'x'.repeat(65), '', '名']) {
  test(`upload: the name ${JSON.stringify(name).slice(0, 20)}`, { skip }, async () => {
    problem(await daemon.upload(name, { train: { text: 'a\tx\nb\ty\n', filename: 't.tsv' } }), 422);
  });
}
test('a teacher that is still being made: the fault names the experiment that makes it', { skip }, async () => {
  const maker = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 5000, save_as: 'coming' });
  const fault = async (teacher) => problem(await daemon.call('POST', '/experiments', { ...good, teacher }), 422).errors[0].detail;
  for (const status of ['running', 'paused']) {
    if (status === 'paused') await daemon.post(`/experiments/${maker.id}/pause`);
    await daemon.waitState(maker.id, status);
    assert.match(await fault('coming'), new RegExp(`experiment ${maker.id} makes it and is ${status}; ask again when it has finished`));
    assert.doesNotMatch(await fault(`exp-${maker.id}`), /makes it/, 'it has another name');
  }
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 5000 });
  assert.match(await fault(`exp-${id}`), new RegExp(`experiment ${id} makes it`));
  for (const each of [maker.id, id]) {
    await daemon.post(`/experiments/${each}/cancel`);
    await daemon.waitState(each, 'cancelled');
  }
  assert.doesNotMatch(await fault('coming'), /makes it/);
});

test('upload: a taken name', { skip }, async () => {
  problem(await daemon.upload('topics', { train: { text: topics(50), filename: 't.tsv' } }), 409);
});
test('upload: bad rows are skipped when asked, and counted', { skip }, async () => {
  const answer = await daemon.upload('skipped', { train: { text: `a\tx\nbad\nb\ty\n${topics(40)}`, filename: 't.tsv' } }, { on_error: 'skip' });
  assert.equal(answer.status, 201, answer.text);
  assert.match(answer.text, /"skipped(_rows)?": ?1/);
  assert.equal((await daemon.call('DELETE', '/datasets/skipped')).status, 204);
});

test('models: paths outside the roots, archives that climb, files that are no model', { skip }, async () => {
  const before = await census();
  for (const path of ['/etc/passwd', '../..', '/proc/self/mem', `${daemon.dataDir}/../x`]) {
    const answer = await daemon.call('POST', '/models', { name: 'evil', path });
    assert.ok([403, 404, 422].includes(answer.status), `${path}: ${answer.status}`);
    problem(answer, answer.status);
  }
  const form = new FormData();
  form.set('name', 'evil');
  form.set('archive', new Blob(['not an archive']), 'model.tar.gz');
  problem(await daemon.call('POST', '/models', form), 422);
  const files = new FormData();
  files.set('name', 'evil');
  files.append('files', new Blob(['{"model_type":"bert"}']), 'config.json');
  files.append('files', new Blob([Buffer.alloc(64, 255)]), 'model.safetensors');
  problem(await daemon.call('POST', '/models', files), 422);
  assert.deepEqual(await census(), before);
});

test('routes: 404, 405 with Allow, foreign Host, unknown query parameter, bad limits and cursors', { skip }, async () => {
  problem(await daemon.call('GET', '/experiments/999999'), 404);
  problem(await daemon.call('GET', '/experiments/abc'), 404);
  problem(await daemon.call('GET', '/nothing'), 404);
  const method = await daemon.call('PUT', '/experiments', {});
  problem(method, 405);
  assert.match(method.headers.get('allow'), /GET.*POST|POST.*GET/);
  for (const query of ['limit=0', 'limit=501', 'limit=x', 'cursor=%00', 'cursor=AAAA', 'sort=secret', 'status=lost', 'lmit=3']) {
    const answer = await daemon.call('GET', `/experiments?${query}`);
    assert.ok([400, 422].includes(answer.status), `${query}: ${answer.status}`);
    problem(answer, answer.status);
  }
  const { hostname, port } = new URL(daemon.url);
  const raw = (text) => new Promise((done, fail) => {
    const socket = net.connect(Number(port), hostname, () => socket.end(text));
    let answer = '';
    socket.setTimeout(10_000, () => socket.destroy(new Error('no answer')));
    socket.on('data', (chunk) => (answer += chunk)).on('close', () => done(answer)).on('error', fail);
  });
  assert.match(await raw('GET /api/v1/experiments HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 421/);
  assert.match(await raw(`GET /api/v1/../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`), /^HTTP\/1\.1 40[04]/);
  const csrf = await fetch(`${daemon.url}/api/v1/experiments`, { method: 'POST', body: '{}', headers: { 'Content-Type': 'application/json', Origin: 'http://evil.example' } });
  assert.equal(csrf.status, 403);
});

test('predict and evaluate refuse what they cannot do', { skip }, async () => {
  for (const body of [{}, { texts: 'x' }, { texts: [1] }, { texts: [], pairs: [] }, { pairs: [['a']] }, { text: ['a'] }]) {
    const answer = await daemon.call('POST', '/models/teacher/predict', body);
    assert.ok([400, 422].includes(answer.status), `${JSON.stringify(body)}: ${answer.status}`);
  }
  problem(await daemon.call('POST', '/models/nobody/predict', { texts: ['a'] }), 404);
  problem(await daemon.call('POST', '/models/teacher/evaluate', { dataset: 'topics', split: 'moon' }), 422);
});
