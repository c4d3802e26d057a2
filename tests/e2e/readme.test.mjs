// The README's curl commands, run as they stand (with the port of a daemon of our own).
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { Daemon, noBinary, topics, patience } from './daemon.mjs';

for (const file of ['README.md', 'README.zh-CN.md']) {
  test(`every curl of ${file} does what it says`, { skip: noBinary, timeout: 300_000 * patience }, async (t) => {
    const daemon = await Daemon.start();
    const cwd = mkdtempSync(join(tmpdir(), 'distilld-readme-'));
    t.after(async () => {
      await daemon.discard();
      rmSync(cwd, { recursive: true, force: true });
    });
    writeFileSync(join(cwd, 'train.tsv'), topics(240));
    writeFileSync(join(cwd, 'dev.tsv'), topics(60, 3));
    const [, tested] = readFileSync(file, 'utf8').match(/<!-- test:begin -->([\s\S]*?)<!-- test:end -->/);
    const blocks = [...tested.matchAll(/```sh\n([\s\S]*?)```/g)].map((match) => match[1].replaceAll('http://127.0.0.1:8080', daemon.url).replaceAll('curl ', 'curl -sS --fail-with-body '));
    assert.ok(blocks.length >= 4);
    for (const block of blocks) {
      const running = (await daemon.get('/experiments')).items.find((item) => ['queued', 'running'].includes(item.status));
      if (running) await daemon.waitState(running.id, 'finished');
      execFileSync('bash', ['-euc', block], { cwd, encoding: 'utf8' });
    }
    assert.ok(statSync(join(cwd, 'student.tar.gz')).size > 100_000);
    assert.equal((await daemon.get('/experiments/2')).spec.optimizer.type, 'sgd');
  });
}
