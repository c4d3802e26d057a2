// An older database put back by hand: what came after it is set aside, not removed, and comes back with the newer database.
import { test } from 'node:test';
import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Daemon, noBinary, run, sha256, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
const list = (dir) => (existsSync(dir) ? readdirSync(dir).sort() : []);

// The database of a stopped daemon is one file.
const keep = (daemon, name) => cpSync(join(daemon.dataDir, 'distilld.db'), `${daemon.dataDir}-${name}`);
const putBack = (dataDir, name) => {
  for (const tail of ['-wal', '-shm']) rmSync(join(dataDir, `distilld.db${tail}`), { force: true });
  cpSync(`${dataDir}-${name}`, join(dataDir, 'distilld.db'));
};

test('what an older database does not know is set aside and comes back', { skip, timeout: 180_000 }, async () => {
  let daemon = await Daemon.start();
  const { dataDir } = daemon;
  const again = async () => {
    await daemon.stop();
    daemon = await Daemon.start({ dataDir });
  };
  try {
    await daemon.upload('early', { train: { text: topics(200), filename: 'train.tsv' } });
    const first = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'early', epochs: 1, save_as: 'early-teacher' });
    await daemon.waitState(first.id, 'finished');
    await daemon.stop();
    keep(daemon, 'old');

    daemon = await Daemon.start({ dataDir });
    await daemon.upload('late', { train: { text: topics(200, 7), filename: 'train.tsv' } });
    const second = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'late', epochs: 2, save_as: 'late-teacher' });
    await daemon.waitState(second.id, 'finished');
    const model = sha256(await daemon.archiveMember('/models/late-teacher/archive', 'model.safetensors'));
    const report = await daemon.get(`/experiments/${second.id}/epochs/best/report`);
    // Deleted things were never a newer database's: they must stay gone.
    await daemon.upload('gone', { train: { text: topics(50), filename: 'train.tsv' } });
    assert.equal((await daemon.call('DELETE', '/datasets/gone')).status, 204);
    await daemon.stop();
    keep(daemon, 'new');

    putBack(dataDir, 'old');
    daemon = await Daemon.start({ dataDir });
    assert.equal((await daemon.call('GET', '/models/late-teacher')).status, 404);
    assert.equal((await daemon.call('GET', `/experiments/${second.id}`)).status, 404);
    const orphaned = join(dataDir, 'orphaned');
    assert.match(list(join(orphaned, 'datasets')).join(), /^late-s[0-9a-f]{8}-\d+$/);
    assert.match(list(join(orphaned, 'models')).join(), /^late-teacher-s[0-9a-f]{8}-\d+$/);
    assert.deepEqual(list(join(orphaned, 'runs')), [String(second.id)]);
    assert.equal(daemon.output.match(/ warning recovery: moved .* to .*\/orphaned\//g)?.length, 3);
    assert.match(daemon.output, /a newer database must have\. Put that back/);
    const doctor = await run(['doctor', '--json', '--listen', '127.0.0.1:0', '--data-dir', dataDir]);
    const finding = JSON.parse(doctor.stdout).checks.find((check) => check.check === 'orphaned');
    assert.equal(finding.level, 'warn');
    assert.match(finding.detail, /^3 of data sets, models and runs/);

    // The old database goes on, with names and ids that the newer one never gave out.
    await daemon.upload('other', { train: { text: topics(60), filename: 'train.tsv' } });
    const forked = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'other', epochs: 1, save_as: 'forked-teacher' });
    assert.ok(forked.id > second.id);
    await daemon.waitState(forked.id, 'finished');
    await again();
    assert.equal((await daemon.call('GET', '/datasets/other')).status, 200);
    assert.equal(list(join(orphaned, 'datasets')).length, 1);
    assert.equal(list(join(dataDir, 'datasets')).length, 2);

    await daemon.stop();
    putBack(dataDir, 'new');
    daemon = await Daemon.start({ dataDir });
    assert.equal(sha256(await daemon.archiveMember('/models/late-teacher/archive', 'model.safetensors')), model);
    assert.deepEqual(await daemon.get(`/experiments/${second.id}/epochs/best/report`), report);
    // … so what was made under it is set aside now, not lost.
    assert.match(list(join(orphaned, 'datasets')).join(), /^other-s[0-9a-f]{8}-\d+$/);
    assert.match(list(join(orphaned, 'models')).join(), /^forked-teacher-s[0-9a-f]{8}-\d+$/);
    assert.deepEqual(list(join(orphaned, 'runs')), [String(forked.id)]);
    const third = await daemon.post(`/experiments/${second.id}/clone`, { epochs: 1 });
    await daemon.waitState(third.id, 'finished');
  } finally {
    await daemon.stop('SIGKILL');
    for (const tail of ['', '-old', '-new']) rmSync(dataDir + tail, { recursive: true, force: true });
  }
});

test('what a kill left is removed, what nobody here made is set aside', { skip, timeout: 60_000 }, async () => {
  let daemon = await Daemon.start();
  const { dataDir } = daemon;
  try {
    for (const name of ['a', 'b', 'c']) await daemon.upload(name, { train: { text: topics(50), filename: 'train.tsv' } });
    const [, b] = list(join(dataDir, 'datasets'));
    await daemon.stop();
    mkdirSync(join(dataDir, 'datasets', b.replace(/^b-/, 'crashed-'))); // a number that was given out, and no row: deleted or never acknowledged
    mkdirSync(join(dataDir, 'models', 'future-s12345678-1'));
    mkdirSync(join(dataDir, 'models', 'by-hand'));
    mkdirSync(join(dataDir, 'models', 'x.tmp-1234'));
    mkdirSync(join(dataDir, 'runs', '77'));
    daemon = await Daemon.start({ dataDir });
    assert.equal(list(join(dataDir, 'datasets')).length, 3);
    assert.deepEqual(list(join(dataDir, 'models')), []);
    assert.deepEqual(list(join(dataDir, 'runs')), []);
    assert.deepEqual(list(join(dataDir, 'orphaned', 'models')), ['by-hand', 'future-s12345678-1']);
    assert.deepEqual(list(join(dataDir, 'orphaned', 'runs')), ['77']);
    assert.deepEqual(list(join(dataDir, 'orphaned', 'datasets')), []);
    // Twice the same name: the first stays.
    await daemon.stop();
    mkdirSync(join(dataDir, 'models', 'by-hand'));
    daemon = await Daemon.start({ dataDir });
    assert.deepEqual(list(join(dataDir, 'orphaned', 'models')), ['by-hand', 'by-hand.2', 'future-s12345678-1']);
    const gc = await daemon.post('/gc?dry_run=1', {});
    assert.deepEqual(gc.items, [], 'nothing goes unless it is configured');
    await daemon.stop();
    daemon = await Daemon.start({ dataDir, args: ['--keep-orphaned-days', '1'] });
    assert.deepEqual((await daemon.post('/gc?dry_run=1', {})).items, [], 'a day is not over');
    assert.equal(list(join(dataDir, 'orphaned', 'models')).length, 3);
  } finally {
    await daemon.stop('SIGKILL');
    rmSync(dataDir, { recursive: true, force: true });
  }
});
