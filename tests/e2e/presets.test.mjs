// Presets over HTTP and from the command line: listed with their fields, they fill what is not given, a clone can change to
// one, and a sweep can try them all.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Daemon, noBinary, run, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
let daemon;
const given = { dataset: 'news', teacher: 'teacher', max_length: 16 };
const dry = async (body) => (await daemon.post('/experiments?dry_run=1', body)).spec;

before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
  await daemon.upload('news', { train: { text: topics(100), filename: 'train.tsv' }, dev: { text: topics(30, 5), filename: 'dev.tsv' } });
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', save_as: 'teacher', epochs: 1 });
  await daemon.waitState(id, 'finished');
});
after(() => daemon?.discard());

test('every preset is listed and fills a spec with its fields', { skip }, async () => {
  const { items } = await daemon.get('/presets');
  assert.deepEqual(items.map((p) => p.name), ['note', 'balanced', 'strong', 'tiny']);
  for (const { name, why, fields } of items) {
    const spec = await dry({ ...given, preset: name });
    assert.ok(why.length > 10);
    assert.equal(spec.preset, undefined, 'the resolved spec has the values instead');
    const { optimizer, ...flat } = fields;
    for (const [key, value] of Object.entries(flat)) assert.deepEqual(spec[key], value, `${name}: ${key}`);
    for (const [key, value] of Object.entries(optimizer ?? {})) assert.equal(spec.optimizer[key], value, `${name}: optimizer.${key}`);
  }
  assert.deepEqual(await dry({ ...given, preset: 'balanced' }), await dry(given));
  assert.equal((await dry({ ...given, preset: 'note', T: 2 })).T, 2);
  for (const [body, pointer] of [[{ ...given, preset: 'best' }, '/preset'], [{ dataset: 'news', task: 'finetune', preset: 'note' }, '/preset']]) {
    const answer = await daemon.call('POST', '/experiments?dry_run=1', body);
    assert.equal(answer.status, 422);
    assert.deepEqual(answer.json.errors.map((e) => e.pointer), [pointer]);
  }
});

test('a clone changes to a preset, a sweep tries them, the command line takes one', { skip }, async () => {
  const first = await daemon.post('/experiments', { ...given, layers: 1, epochs: 1, alpha: 0.5 });
  await daemon.post(`/experiments/${first.id}/cancel`, undefined, [202, 409]);
  const clone = await daemon.post(`/experiments/${first.id}/clone`, { preset: 'note', epochs: 2 });
  assert.deepEqual([clone.spec.alpha, clone.spec.epochs, clone.spec.optimizer.type, clone.spec.optimizer.max_grad_norm], [0.2, 2, 'sgd', 0]);
  await daemon.post(`/experiments/${clone.id}/cancel`, undefined, [202, 409]);
  const sweep = await daemon.post('/sweeps?dry_run=1', { base: { ...given, layers: 1, epochs: 1 }, grid: { preset: ['note', 'tiny'] } });
  assert.equal(sweep.runs, 2);
  const env = { DISTILLD_URL: daemon.url };
  const shown = await run(['submit', '--dry-run', '--preset', 'note', '-'], { env, input: JSON.stringify(given) });
  assert.equal(shown.code, 0, shown.stderr);
  assert.match(shown.stdout, /"schedule":\s*"constant"/);
  const refused = await run(['submit', '--dry-run', '--preset', 'best', '-'], { env, input: JSON.stringify(given) });
  assert.notEqual(refused.code, 0);
  assert.match(refused.stderr, /\/preset/);
});
