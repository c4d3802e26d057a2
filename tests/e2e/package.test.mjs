// The Debian package's description agrees with the tree.  The package itself is built and lived through by `make deb-check`.
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { binary, noBinary } from './daemon.mjs';

const read = (path) => readFileSync(path, 'utf8');
const lines = (path) => read(path).split('\n').filter((line) => line && !line.startsWith('#'));

test('the package has the version of the binary', { skip: noBinary }, () => {
  const [, version] = read('debian/changelog').match(/^distilld \((\S+)\) /);
  assert.equal(execFileSync(binary, ['version'], { encoding: 'utf8' }).split(' ')[1], version);
});

test('every file that the package names is there', () => {
  for (const line of lines('debian/distilld.install')) assert.ok(existsSync(line.split(/\s+/)[0]), line);
  for (const path of lines('debian/distilld.docs')) assert.ok(existsSync(path), path);
  for (const [, path] of read('Makefile').matchAll(/^\tinstall -D -m \d+ ([a-z]\S+) /gm)) assert.ok(existsSync(path), path);
});

test('it is built from what tools/install-deps installs', () => {
  const field = read('debian/control').match(/^Build-Depends:((?:.*\n)(?:[ \t].*\n)*)/m)[1];
  const needed = field.split(',').map((item) => item.trim().split(/[ |]/)[0]).filter((name) => !name.startsWith('d') && !['nodejs', 'npm'].includes(name));
  const [, build] = read('tools/install-deps').match(/^build=\(([^)]*)\)/m);
  const always = ['gcc', 'make', 'libc6-dev', 'curl', 'ca-certificates']; // build-essential, and what the demo needs
  assert.deepEqual(needed.sort(), build.split(/\s+/).filter((name) => name && !always.includes(name)).sort());
});
