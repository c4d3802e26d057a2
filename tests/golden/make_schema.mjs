// Writes the database of a distilld as it was left by kill -9, as SQL: what test_schema migrates.
//   node tests/golden/make_schema.mjs BINARY [DIR]    into DIR (tests/golden/fixtures/schema)/v<schema version>.sql
// Run it with the last binary of a schema version, before the next version is made.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Daemon, tinyTeacher, topics, waitFor } from '../e2e/daemon.mjs';

const [binary, out = 'tests/golden/fixtures/schema'] = process.argv.slice(2);
if (!binary) {
  console.error('usage: node tests/golden/make_schema.mjs BINARY [DIR]');
  process.exit(64);
}

const daemon = await Daemon.start({ executable: resolve(binary), args: ['--workers', '1', '--threads', '1'] });
try {
  const student = { dataset: 'news', teacher: 'teacher', layers: 1, epochs: 2, batch_size: 16, max_length: 16 };
  await daemon.upload('news', { train: { text: topics(64), filename: 'train.tsv' }, dev: { text: topics(20, 5), filename: 'dev.tsv' } });
  const teacher = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'news', save_as: 'teacher' });
  await daemon.waitState(teacher.id, 'finished');
  const whole = await daemon.call('POST', '/experiments', { ...student, name: "it's whole: 学生", tags: ['milk', 'keep'], notes: 'two\nlines' }, { 'Idempotency-Key': 'once' });
  await daemon.waitState(whole.json.id, 'finished');
  // Before version 2 there are no sweeps, before version 3 none that decide: those answers are 404 and 422.
  for (const asha of [undefined, { eta: 2, min_epochs: 1 }]) {
    const sweep = await daemon.call('POST', '/sweeps', { name: 'grid', base: student, grid: { T: [1, 4] }, asha });
    if (sweep.status === 201) await waitFor(async () => (await daemon.get(`/sweeps/${sweep.json.id}`)).status === 'finished', 60_000, 'the sweep');
  }
  // Four states that are not the end: paused, cancelled, running when it is killed, queued.
  const long = { ...student, epochs: 10_000 };
  const begun = async (spec) => {
    const { id } = await daemon.post('/experiments', spec);
    await daemon.waitEpoch(id, 1);
    return id;
  };
  const paused = await begun({ ...long, name: 'paused' });
  await daemon.post(`/experiments/${paused}/pause`);
  await daemon.waitState(paused, 'paused');
  const cancelled = await begun({ ...long, name: 'cancelled' });
  await daemon.post(`/experiments/${cancelled}/cancel`);
  await daemon.waitState(cancelled, 'cancelled');
  await begun({ ...long, name: 'running' });
  await daemon.post('/experiments', { ...student, name: 'queued', priority: 5 });
  await daemon.stop('SIGKILL');

  const db = join(daemon.dataDir, 'distilld.db');
  const sqlite = (...args) => execFileSync('sqlite3', [db, ...args], { encoding: 'utf8' });
  const version = Number(sqlite('PRAGMA user_version'));
  // Thousands of tiny epochs may have passed; a few of them tell as much.
  for (const table of ['epochs', 'steps', 'predictions']) sqlite(`DELETE FROM ${table} WHERE epoch > 3`);
  const head = `PRAGMA application_id=${sqlite('PRAGMA application_id').trim()};\nPRAGMA user_version=${version};\n`;
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, `v${version}.sql`), head + sqlite('.dump'));
  console.log(`schema version ${version}`);
} finally {
  await daemon.discard();
}
