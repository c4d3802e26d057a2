// Retention as a person sees it: distilld gc says what would go, removes it, and what is needed again is made again.
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, noBinary, run, tinyTeacher, topics, waitFor } from './daemon.mjs';

test('old runs and the cache go, a run tagged keep and all models stay', { skip: noBinary, timeout: 120_000 }, async (t) => {
  let daemon = await Daemon.start();
  t.after(() => daemon.discard());
  daemon.ownsDir = true;
  assert.equal((await daemon.upload('topics', { train: { text: topics(120), filename: 'a.tsv' } })).status, 201);
  const teacher = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 1, save_as: 'teacher' });
  await daemon.waitState(teacher.id, 'finished');
  const student = { dataset: 'topics', teacher: 'teacher', layers: 1, augment: 0, cls_weight: 0, epochs: 1, tags: ['keep'] };
  const kept = await daemon.post('/experiments', student);
  await daemon.waitState(kept.id, 'finished');
  const cache = () => readdirSync(join(daemon.dataDir, 'cache')).filter((name) => name.startsWith('logits-'));
  assert.equal(cache().length, 2, 'train and dev');
  const { dataDir } = daemon;
  const gc = async (...words) => run(['gc', ...words, '--url', daemon.url]);
  assert.match((await gc()).stdout, /^0 things, 0 bytes removed\n$/);

  await daemon.stop();
  execFileSync('sqlite3', [join(dataDir, 'distilld.db'), 'UPDATE experiments SET finished_ms = finished_ms - 10 * 86400000']);
  daemon = await Daemon.start({ dataDir, args: ['--keep-runs-days', '7'] });
  daemon.ownsDir = true;
  await waitFor(async () => (await daemon.call('GET', `/experiments/${teacher.id}`)).status === 404, 20_000, 'the daemon to look by itself');
  await waitFor(() => /retention: removed run 1 .*keep-runs-days/.test(daemon.output), 20_000, 'its line in the log');
  assert.ok(!existsSync(join(dataDir, 'runs', String(teacher.id))));
  assert.equal((await daemon.get(`/experiments/${kept.id}`)).status, 'finished');
  assert.deepEqual((await daemon.get('/models')).items.map((model) => model.name).sort(), [`exp-${kept.id}`, 'teacher']);

  await daemon.stop();
  daemon = await Daemon.start({ dataDir, args: ['--keep-cache-bytes', '100M'] });
  daemon.ownsDir = true;
  assert.match((await gc('--dry-run')).stdout, /^0 things/);
  await daemon.stop();
  daemon = await Daemon.start({ dataDir, args: ['--keep-cache-bytes', '1'] });
  daemon.ownsDir = true;
  await waitFor(() => cache().length === 0, 20_000, 'the cache to go');
  const again = await daemon.post('/experiments', { ...student, name: 'again' });
  await daemon.waitState(again.id, 'finished');
  assert.equal(cache().length, 2, 'what is needed is computed again');
  assert.match((await gc('--dry-run')).stdout, /^(cache +logits-\S+ +\d+ bytes .*\n){2}2 things, \d+ bytes would be removed\n$/);
  assert.equal(cache().length, 2);
  assert.match((await gc()).stdout, /2 things, \d+ bytes removed/);
  assert.equal(cache().length, 0);
  const scores = async (id) => (await daemon.get(`/experiments/${id}/metrics`)).epochs.map((epoch) => epoch.train_loss);
  assert.deepEqual(await scores(again.id), await scores(kept.id));
});
