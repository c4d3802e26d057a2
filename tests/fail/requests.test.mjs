// Each thing that an operation of the API asks of disk, memory and database fails in turn, in the HTTP thread and in the request
// threads.  The answer is then what it always is, or a problem with a status of 500 and more; the next request is answered as ever.
import test from 'node:test';
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, tinyTeacher, topics, waitFor } from '../e2e/daemon.mjs';
import { Control, everything, integrity, kinds, positions, temporaries } from './plan.mjs';

const small = { ...tinyTeacher, dataset: 'topics', layers: 1, hidden_size: 16, intermediate_size: 32, epochs: 1, max_length: 12, vocab_size: 150 };
const long = { ...small, name: 'probe', epochs: 5000 };
const json = (method, path, body) => () => daemon.call(method, path, body);
let daemon, control, dataDir, archive;

const look = (path, changes) => ({ name: `GET ${path}`, call: json('GET', path), same: !changes });
const make = (name, call, undo) => ({ name, call, undo });
const without = (path) => async () => assert.ok([204, 404].includes((await daemon.call('DELETE', path)).status));
async function endProbes() {
  for (const { id, name, sweep_id } of (await daemon.get('/experiments')).items) {
    if (name !== 'probe' && !sweep_id) continue;
    await daemon.call('POST', `/experiments/${id}/cancel`);
    await waitFor(async () => (await daemon.get(`/experiments/${id}`)).status === 'cancelled', 30_000, `experiment ${id} to be cancelled`);
    assert.equal((await daemon.call('DELETE', `/experiments/${id}`)).status, 204);
  }
}
const upload = () => daemon.upload('fresh', { train: { text: topics(20), filename: 'train.tsv' } });
function uploadModel() {
  const form = new FormData();
  form.set('name', 'fresh');
  form.set('archive', new Blob([archive]), 'model.tar.gz');
  return daemon.call('POST', '/models', form);
}

const operations = [
  ...['/datasets', '/datasets/topics', '/datasets/topics/rows', '/models', '/models/teacher', '/experiments?sort=name', '/experiments/1',
    '/experiments/1/metrics', '/experiments/1/steps', '/experiments/1/epochs/best/report', '/experiments/1/predictions', '/experiments/1/log', '/presets',
    '/compare?ids=1', '/sweeps'].map((path) => look(path)),
  ...['/experiments/1/archive', '/models/teacher/archive', '/system'].map((path) => look(path, true)),
  { name: 'predict', call: json('POST', '/models/teacher/predict', { texts: ['今日公司'] }), same: true },
  { name: 'evaluate', call: json('POST', '/models/teacher/evaluate', { dataset: 'topics' }), same: true },
  { name: 'dry run', call: json('POST', '/experiments?dry_run=1', small) },
  { name: 'patch', call: json('PATCH', '/experiments/1', { notes: 'a note' }) },
  make('upload a data set', upload, without('/datasets/fresh')),
  make('upload a model', uploadModel, without('/models/fresh')),
  make('prune', json('POST', '/models/teacher/prune', { dataset: 'topics', save_as: 'fresh' }), without('/models/fresh')),
  make('quantize', json('POST', '/models/teacher/quantize', { save_as: 'fresh' }), without('/models/fresh')),
  make('submit', json('POST', '/experiments', long), endProbes),
  make('clone', json('POST', '/experiments/1/clone', { name: 'probe', epochs: 5000 }), endProbes),
  make('sweep', json('POST', '/sweeps', { name: 'probes', base: long, grid: { batch_size: [8, 16] } }), endProbes),
];

test.before(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'distilld-fail-'));
  control = new Control(join(dataDir, 'control'));
  daemon = await Daemon.start({ dataDir, args: ['--workers', '1', '--threads', '1'], env: { DISTILLD_FAIL_CONTROL: control.path } });
  await daemon.upload('topics', { train: { text: topics(48), filename: 'train.tsv' }, dev: { text: topics(24, 5), filename: 'dev.tsv' } });
  const { id } = await daemon.post('/experiments', { ...small, save_as: 'teacher' });
  await daemon.waitState(id, 'finished');
  archive = (await daemon.call('GET', '/models/teacher/archive')).bytes;
});
test.after(async () => {
  await daemon?.discard();
  rmSync(dataDir, { recursive: true, force: true });
});

// While nothing can be opened or removed, what was begun stays until the next start.
let left = [];
const cannotClean = /^(open|unlink)@\w+:\d+\+/;

async function disturbed(operation, expected, plan) {
  await control.arm(daemon, plan);
  const answer = await operation.call();
  const injected = control.injected;
  await control.arm(daemon, '');
  if (answer.status === expected.status) {
    if (operation.same) assert.equal(answer.text, expected.text);
  } else {
    assert.ok(answer.status >= 500, `${answer.status} ${answer.text}`);
    assert.equal(answer.type, 'application/problem+json');
    assert.ok(answer.json.code && answer.json.detail.length > 10, answer.text);
  }
  await operation.undo?.(); // also when the fault came after all was done, and only the answer failed
  if (cannotClean.test(plan)) left = temporaries(dataDir);
  assert.deepEqual(temporaries(dataDir), left);
  return injected > 0;
}

for (const operation of operations) {
  test(`${operation.name} meets every fault`, { timeout: everything ? 3600_000 : 120_000 }, async (t) => {
    let faults = 0;
    const wrong = [];
    const clean = async () => {
      const answer = await operation.call();
      assert.ok(answer.status < 300, `${answer.status} ${answer.text}`);
      await operation.undo?.();
      return answer;
    };
    const expected = await clean();
    for (const thread of ['request', 'MHD-single']) {
      const totals = {};
      for (const kind of new Set(kinds.map(([name]) => name))) {
        await control.arm(daemon, `${kind}@${thread}:4000000000:EIO`);
        assert.equal((await operation.call()).status, expected.status);
        totals[kind] = control.calls;
        await control.arm(daemon, '');
        await operation.undo?.();
      }
      for (const [kind, error] of kinds) {
        const total = totals[kind];
        for (const [at, n] of positions(total, 2).entries()) {
          for (const stays of everything ? [false, true] : [at % 2 === 1]) {
            const plan = `${kind}@${thread}:${n}${stays ? '+' : ''}:${error}`;
            try {
              faults += await disturbed(operation, expected, plan);
            } catch (failure) {
              wrong.push(`${plan} of ${total}: ${failure.message}\n${daemon.output.slice(-300)}`);
              await control.arm(daemon, '');
              await operation.undo?.();
            }
          }
        }
      }
    }
    assert.deepEqual(wrong, []);
    const after = await clean();
    if (operation.same) assert.equal(after.text, expected.text);
    integrity(dataDir);
    t.diagnostic(`${faults} faults`);
    assert.ok(faults > 0, 'no fault was met');
  });
}

test('after all faults nothing is left that nothing refers to', async () => {
  assert.deepEqual(await daemon.stop(), { code: 0, signal: null });
  daemon = await Daemon.start({ dataDir, args: ['--workers', '1'] });
  for (const folder of ['models', 'datasets']) assert.equal(readdirSync(join(dataDir, folder)).length, (await daemon.get(`/${folder}`)).items.length, folder);
  assert.deepEqual(readdirSync(join(dataDir, 'runs')), ['1']);
  assert.deepEqual(readdirSync(join(dataDir, 'uploads')), []);
  assert.deepEqual(temporaries(dataDir), []);
});
