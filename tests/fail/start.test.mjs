// Each thing that a start asks of disk, memory and database fails in turn.  The daemon comes up, or ends with a status and the
// reason; either way the next start finds everything as it was.
import test from 'node:test';
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, tinyTeacher, topics, waitFor } from '../e2e/daemon.mjs';
import { Control, everything, integrity, kinds, positions, temporaries } from './plan.mjs';

let dataDir, control, before;
const args = ['--workers', '1', '--threads', '1'];
const start = () => Daemon.start({ dataDir, args, env: { DISTILLD_FAIL_CONTROL: control.path } });
async function state(daemon) {
  const kept = {};
  for (const path of ['/experiments', '/experiments/1/metrics', '/models', '/datasets']) kept[path] = await daemon.get(path);
  return kept;
}

test.before(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'distilld-fail-'));
  control = new Control(join(dataDir, 'control'));
  const daemon = await start();
  await daemon.upload('topics', { train: { text: topics(48), filename: 'train.tsv' }, dev: { text: topics(24, 5), filename: 'dev.tsv' } });
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', layers: 1, epochs: 1, save_as: 'teacher' });
  await daemon.waitState(id, 'finished');
  before = await state(daemon);
  await daemon.stop();
});
test.after(() => rmSync(dataDir, { recursive: true, force: true }));

for (const [kind, error, few] of kinds) {
  test(`a start in which ${kind} fails with ${error}`, { timeout: everything ? 3600_000 : 180_000 }, async (t) => {
    control.plan(`${kind}:4000000000:${error}`);
    await (await start()).stop();
    const total = control.calls, outcome = { started: 0, refused: 0 };
    for (const n of positions(total, Math.ceil(few / 2))) {
      control.plan(`${kind}:${n}:${error}`);
      const daemon = await start().catch((failure) => failure);
      control.plan('');
      const what = `${kind}:${n} of ${total}: ${daemon.message ?? daemon.output}`;
      if (daemon instanceof Error) {
        assert.match(daemon.message, /^the daemon ended: \{"code":[1-9]\d*,"signal":null\}\n.{15,}/, what);
        outcome.refused++;
      } else {
        try {
          // Tokens that could not be read let nobody in until they can.
          await waitFor(async () => (await daemon.call('GET', '/experiments')).status !== 401, 10_000, 'the tokens to be read again');
          assert.deepEqual(await state(daemon), before, what);
          assert.deepEqual(await daemon.stop(), { code: 0, signal: null }, what);
        } finally {
          await daemon.stop('SIGKILL');
        }
        outcome.started++;
      }
      assert.deepEqual(temporaries(dataDir), []);
    }
    control.plan('');
    const daemon = await start();
    assert.deepEqual(await state(daemon), before);
    await daemon.stop();
    integrity(dataDir);
    t.diagnostic(`${total} positions; ${outcome.started} started all the same, ${outcome.refused} refused`);
  });
}
