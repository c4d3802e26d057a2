// Sweeps over HTTP: a grid with seeds trains to a table whose figures are those of its runs; random axes are drawn the
// same way twice; faults say where in the request they are; cancel ends what has not finished.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Daemon, noBinary, tinyTeacher, topics, waitFor } from './daemon.mjs';

const skip = noBinary;
let daemon;
const base = () => ({ dataset: 'news', teacher: 'teacher', layers: 1, epochs: 2, batch_size: 16, max_length: 16 });
const pointers = (answer) => answer.json.errors.map((e) => e.pointer).sort();

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '2', '--threads', '2'] });
  await daemon.upload('news', { train: { text: topics(200), filename: 'train.tsv' }, dev: { text: topics(60, 5), filename: 'dev.tsv' } });
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', save_as: 'teacher', epochs: 2 });
  await daemon.waitState(id, 'finished');
});
after(() => daemon?.discard());

test('a grid with seeds: every point, mean and spread of its runs, and the best', { skip }, async () => {
  const made = await daemon.call('POST', '/sweeps', { name: 'grid', base: base(), grid: { T: [1, 4], 'optimizer.lr': [1e-4, 1e-2] }, seeds: [1, 2] });
  assert.equal(made.status, 201, made.text);
  assert.equal(made.headers.get('location'), `/api/v1/sweeps/${made.json.id}`);
  assert.equal(made.json.progress.total, 8);
  const sweep = await waitFor(async () => {
    const now = await daemon.get(`/sweeps/${made.json.id}`);
    return now.status === 'finished' && now;
  }, 60_000, 'the sweep to finish');
  assert.deepEqual(sweep.axes, ['T', 'optimizer.lr']);
  assert.deepEqual(sweep.points.map((p) => p.values), [
    { T: 1, 'optimizer.lr': 1e-4 }, { T: 1, 'optimizer.lr': 1e-2 }, { T: 4, 'optimizer.lr': 1e-4 }, { T: 4, 'optimizer.lr': 1e-2 },
  ]);
  for (const point of sweep.points) {
    assert.equal(point.n, 2);
    const runs = await Promise.all(point.experiments.map((id) => daemon.get(`/experiments/${id}`)));
    assert.deepEqual(runs.map((r) => r.spec.seed), [1, 2]);
    for (const r of runs) {
      assert.equal(r.sweep_id, sweep.id);
      assert.equal(r.spec.T, point.values.T);
      assert.equal(r.spec.optimizer.lr, point.values['optimizer.lr']);
    }
    const f1 = runs.map((r) => r.best.macro_f1);
    const mean = (f1[0] + f1[1]) / 2;
    assert.ok(Math.abs(point.macro_f1.mean - mean) < 1e-12);
    assert.ok(Math.abs(point.macro_f1.std - Math.abs(f1[0] - f1[1]) / Math.SQRT2) < 1e-12, 'sample standard deviation');
    assert.equal(point.macro_f1.min, Math.min(...f1));
    assert.equal(point.macro_f1.max, Math.max(...f1));
  }
  const top = Math.max(...sweep.points.map((p) => p.macro_f1.mean));
  assert.equal(sweep.best.score, top);
  assert.deepEqual(sweep.best.values, sweep.points[sweep.best.point].values);
  const [best, second] = [sweep.best.point, sweep.best.runner_up].map((i) => sweep.points[i].macro_f1);
  const error = Math.sqrt(best.std ** 2 / 2 + second.std ** 2 / 2);
  assert.ok(Math.abs(sweep.best.standard_error - error) < 1e-12);
  assert.equal(sweep.best.within_noise, best.mean - second.mean <= 2 * error);
  assert.equal(sweep.best.within_noise_test, 'two standard errors over the seeds');
  const { significance } = sweep;
  assert.deepEqual([significance.metric, significance.rows, significance.baseline], ['macro_f1', 60, sweep.best.point]);
  assert.equal(significance.others.length, 3);
  for (const row of significance.others) {
    const point = sweep.points[row.point].macro_f1;
    assert.ok(Math.abs(row.difference - (best.mean - point.mean)) < 1e-12, 'the means of the runs');
    assert.ok(row.low <= row.high);
    assert.equal(row.within_noise, row.low <= 0 && row.high >= 0);
  }
  assert.deepEqual((await daemon.get(`/sweeps/${sweep.id}`)).significance, significance, 'the same every time');
  assert.equal((await daemon.get(`/sweeps/${sweep.id}?metric=accuracy`)).significance.metric, 'accuracy');
  const listed = await daemon.get(`/experiments?sweep=${sweep.id}&limit=500`);
  assert.equal(listed.items.length, 8);
  const csv = await daemon.call('GET', `/sweeps/${sweep.id}`, undefined, { Accept: 'text/csv' });
  const lines = csv.text.trim().split('\n');
  assert.equal(lines.length, 5);
  assert.equal(lines[0].split(',').slice(0, 5).join(), 'point,T,optimizer.lr,n,macro_f1_mean');
  assert.equal(Number(lines[1].split(',')[4]), sweep.points[0].macro_f1.mean);
  assert.equal((await daemon.get('/sweeps')).items[0].id, sweep.id);
});

test('compare says by how much the best leads, and the reverse for another baseline', { skip }, async () => {
  const made = await Promise.all([
    daemon.post('/experiments', { ...base(), init: 'random', epochs: 12, alpha: 0, optimizer: { lr: 1e-3 } }),
    daemon.post('/experiments', { ...base(), init: 'random', epochs: 1, optimizer: { lr: 1e-7 } }),
  ]);
  const [best, worst] = await Promise.all(made.map(({ id }) => daemon.waitState(id, 'finished')));
  assert.ok(best.best.macro_f1 > worst.best.macro_f1);
  const path = `/compare?ids=${worst.id},${best.id},${worst.id}`;
  const { significance } = await daemon.get(path);
  assert.equal(significance.baseline, best.id);
  assert.deepEqual(significance.others.map((row) => row.id), [worst.id]);
  const [lead] = significance.others;
  assert.ok(Math.abs(lead.difference - (best.best.macro_f1 - worst.best.macro_f1)) < 1e-12);
  const back = (await daemon.get(`${path}&baseline=${worst.id}`)).significance;
  assert.equal(back.baseline, worst.id);
  for (const [a, b] of [['difference', 'difference'], ['low', 'high'], ['high', 'low']])
    assert.ok(Math.abs(back.others[0][a] + lead[b]) < 1e-12, a);
  const self = (await daemon.get(`/compare?ids=${best.id}`)).significance;
  assert.deepEqual(self.others, []);
  assert.equal((await daemon.call('GET', `${path}&baseline=999999`)).status, 422);
  // other dev rows: nothing can be said, and that is said
  await daemon.upload('other', { train: { text: topics(60, 3), filename: 'train.tsv' }, dev: { text: topics(60, 9), filename: 'dev.tsv' } });
  const { id } = await daemon.post('/experiments', { ...base(), dataset: 'other', epochs: 1 });
  await daemon.waitState(id, 'finished');
  const mixed = (await daemon.get(`/compare?ids=${best.id},${id}&baseline=${best.id}`)).significance;
  assert.deepEqual(mixed.others, [{ id, difference: null, low: null, high: null, within_noise: null }]);
});

test('random axes: within their bounds, the same for the same seed, other for another', { skip }, async () => {
  const body = (seed) => ({ base: base(), random: { T: { min: 1, max: 8, scale: 'log' }, layers: { min: 1, max: 2 }, alpha: [0.2, 0.9] }, count: 20, seed });
  const draw = async (seed) => (await daemon.call('POST', '/sweeps?dry_run=1', body(seed))).json;
  const first = await draw(7);
  assert.equal(first.runs, 20);
  assert.ok(first.seconds > 0);
  for (const { values } of first.points) {
    assert.ok(values.T >= 1 && values.T <= 8);
    assert.ok([1, 2].includes(values.layers));
    assert.ok([0.2, 0.9].includes(values.alpha));
  }
  assert.deepEqual((await draw(7)).points, first.points);
  assert.notDeepEqual((await draw(8)).points, first.points);
  assert.equal(new Set(first.points.map((p) => JSON.stringify(p.values))).size, 20, 'no point comes twice');
});

test('every fault says where in the request it is, and nothing is queued', { skip }, async () => {
  const count = async () => (await daemon.get('/experiments?limit=500')).items.length;
  const before_ = await count();
  const faulty = [
    [{ base: { ...base(), alpha: 7 }, grid: { T: [1, 2, -2] } }, ['/base/alpha', '/grid/T/2']],
    [{ base: { ...base(), dataset: 'nws' }, grid: { 'optimizer.lr': [0.1, -1] } }, ['/base/dataset', '/grid/optimizer.lr/1']],
    [{ base: base(), grid: { Temperature: [1] }, seeds: [1, 1] }, ['/grid/Temperature', '/seeds/1']],
    [{ base: base() }, ['/grid']],
    [{ base: base(), grid: { T: [1] }, random: { T: [1] }, count: 1 }, ['/grid']],
    [{ base: base(), random: { T: { min: 4, max: 1 } }, cuont: 3 }, ['/count', '/cuont', '/random/T']],
    [{ base: base(), random: { T: [1, 2] }, count: 3 }, ['/count']],
    [{ base: base(), grid: { T: Array.from({ length: 100 }, (_, i) => i + 1) }, seeds: Array.from({ length: 11 }, (_, i) => i) }, ['/seeds']],
    [{ base: base(), grid: { name: ['a'], seed: [1] }, seeds: [2] }, ['/grid/name', '/grid/seed']],
    [{ base: base(), grid: { T: [1, 2] }, asha: { min_epoch: 1, eta: 1, metric: 'f1' } }, ['/asha/eta', '/asha/metric', '/asha/min_epoch']],
    [{ base: base(), grid: { T: [1, 2] }, asha: { min_epochs: 2 } }, ['/asha/min_epochs']],
    [{ base: base(), grid: { epochs: [2, 4] }, asha: {} }, ['/grid/epochs']],
    [{ base: base(), grid: { T: [1, 2] }, asha: true }, ['/asha']],
    [{ base: { ...base(), save_as: 'x' }, grid: [] }, ['/base/save_as', '/grid']],
  ];
  for (const [body, wanted] of faulty) {
    const answer = await daemon.call('POST', '/sweeps', body);
    assert.equal(answer.status, 422, `${JSON.stringify(body)}: ${answer.text}`);
    assert.deepEqual(pointers(answer), wanted, answer.text);
  }
  assert.equal(await count(), before_);
  assert.equal((await daemon.call('GET', '/sweeps/999999')).status, 404);
});

test('cancel ends what has not finished', { skip }, async () => {
  const made = await daemon.post('/sweeps', { name: 'long', base: { ...base(), epochs: 2000 }, grid: { T: [1, 2, 3, 4, 5] } });
  await waitFor(async () => (await daemon.get(`/sweeps/${made.id}`)).progress.running > 0, 20_000, 'a run to start');
  const answer = await daemon.call('POST', `/sweeps/${made.id}/cancel`);
  assert.equal(answer.status, 202);
  const done = await waitFor(async () => {
    const now = await daemon.get(`/sweeps/${made.id}`);
    return now.progress.cancelled === 5 && now;
  }, 20_000, 'all runs to be cancelled');
  assert.equal(done.status, 'cancelled');
  assert.equal((await daemon.call('POST', `/sweeps/${made.id}/cancel`)).status, 202, 'again changes nothing');
});

test('the same Idempotency-Key makes one sweep', { skip }, async () => {
  const body = { name: 'once', base: base(), grid: { T: [1, 2] } };
  const [a, b] = [await daemon.call('POST', '/sweeps', body, { 'Idempotency-Key': 'k1' }), await daemon.call('POST', '/sweeps', body, { 'Idempotency-Key': 'k1' })];
  assert.equal(a.json.id, b.json.id);
  await daemon.post(`/sweeps/${a.json.id}/cancel`);
});
