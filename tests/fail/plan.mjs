// Faults in a daemon built with -DDD_FAILPOINTS (`make failpoints`): plans that are armed while it runs, through the file that
// base/failpoint.c describes.  DISTILLD_FAIL_ALL=1 goes through every position instead of a fixed few of each kind.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, copyFileSync, existsSync, ftruncateSync, mkdtempSync, openSync, readSync, readdirSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { waitFor } from '../e2e/daemon.mjs';

export const everything = Boolean(process.env.DISTILLD_FAIL_ALL);

// What fails, how, and how many positions of it a short run looks at.
export const kinds = [
  ['alloc', 'ENOMEM', 12],
  ['sqlite', 'ENOSPC', 6], ['sqlite', 'EIO', 6], ['sqlite', 'EBUSY', 6], ['sqlite', 'ENOMEM', 4],
  ['write', 'ENOSPC', 6], ['write', 'EIO', 4], ['fsync', 'EIO', 5], ['fsync', 'ENOSPC', 3], ['rename', 'EIO', 4], ['close', 'EIO', 3],
  ['open', 'EMFILE', 5], ['read', 'EIO', 4], ['mmap', 'ENOMEM', 3], ['mkdir', 'ENOSPC', 3], ['link', 'EIO', 2], ['unlink', 'EIO', 3],
  ['random', 'EIO', 2],
];

const OFFSET = { wanted: 0, armed: 4, injected: 8, calls: 16, plan: 64 };

export class Control {
  constructor(path) {
    this.path = path;
    this.fd = openSync(path, 'w+');
    ftruncateSync(this.fd, 4096);
    this.generation = 0;
  }

  read(offset, bytes) {
    const buffer = Buffer.alloc(bytes);
    readSync(this.fd, buffer, 0, bytes, offset);
    return bytes === 4 ? buffer.readUInt32LE() : Number(buffer.readBigUInt64LE());
  }

  get injected() { return this.read(OFFSET.injected, 8); }
  get calls() { return this.read(OFFSET.calls, 8); }

  // What the daemon arms at the next failpoint that it passes.
  plan(plan) {
    writeSync(this.fd, Buffer.from(`${plan}\0`), 0, plan.length + 1, OFFSET.plan);
    const wanted = Buffer.alloc(4);
    wanted.writeUInt32LE(++this.generation);
    writeSync(this.fd, wanted, 0, 4, OFFSET.wanted);
  }

  // Any request passes one.
  async arm(daemon, plan) {
    this.plan(plan);
    await waitFor(async () => {
      await fetch(`${daemon.url}/healthz`).catch(() => {});
      return this.read(OFFSET.armed, 4) === this.generation;
    }, 10_000, `the plan "${plan}" to be armed; is this a build with failpoints?`);
  }

  close() { closeSync(this.fd); }
}

// Of the positions 1 … total, `few` evenly from the first to the last, or all.
export function positions(total, few) {
  const count = everything ? total : Math.min(total, few);
  const picked = new Set();
  for (let i = 0; i < count; i++) picked.add(count === 1 ? 1 : 1 + Math.round((i * (total - 1)) / (count - 1)));
  return [...picked];
}

export const temporaries = (dataDir) => readdirSync(dataDir, { recursive: true }).map(String).filter((name) => /\.tmp-|\.new-|\.tmp$|\.old$/.test(name));

// On a copy, with the log beside it: the daemon may have it open.
export function integrity(dataDir) {
  const copy = mkdtempSync(join(tmpdir(), 'distilld-fail-db-'));
  for (const name of ['distilld.db', 'distilld.db-wal']) {
    if (existsSync(join(dataDir, name))) copyFileSync(join(dataDir, name), join(copy, name));
  }
  const said = execFileSync('sqlite3', [join(copy, 'distilld.db'), 'PRAGMA integrity_check; PRAGMA foreign_key_check;'], { encoding: 'utf8' });
  rmSync(copy, { recursive: true });
  assert.equal(said, 'ok\n');
}
