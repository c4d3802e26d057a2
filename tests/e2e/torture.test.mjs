// The short form of torture.mjs: `make torture KILLS=1000` is the long one.
import test from 'node:test';
import assert from 'node:assert/strict';
import { noBinary } from './daemon.mjs';
import { torture } from './torture.mjs';

test('fifteen kills at random instants lose nothing', { skip: noBinary, timeout: 400_000 }, async () => {
  const outcome = await torture(15, 20);
  assert.equal(outcome.checks, 15);
  assert.ok(outcome.finished > 0, JSON.stringify(outcome));
});
