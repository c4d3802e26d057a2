// The command line as a user sees it: help, exit codes, run in the foreground, predict, inspect, and the client commands.
import test from 'node:test';
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, rmSync, writeFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Daemon, binary, noBinary, run, sha256, sleep, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
const commands = ['serve', 'run', 'predict', 'inspect', 'prune', 'quantize', 'submit', 'watch', 'list', 'show', 'version'];
const dir = mkdtempSync(join(tmpdir(), 'distilld-cli-'));
test.after(() => rmSync(dir, { recursive: true, force: true }));
const path = (name) => join(dir, name);

test('help names every command, each command has help, mistakes exit 64', { skip }, async () => {
  const help = await run(['help']);
  assert.equal(help.code, 0);
  for (const command of commands) {
    assert.match(help.stdout, new RegExp(`\\b${command}\\b`));
    const own = await run([command, '--help']);
    assert.equal(own.code, 0, `${command} --help`);
    assert.match(own.stdout, /usage|Usage/);
  }
  const wrong = await run(['trian']);
  assert.equal(wrong.code, 64);
  assert.match(wrong.stderr, /trian/);
  assert.equal((await run(['serve', '--no-such-option'])).code, 64);
  assert.match((await run(['version'])).stdout, /distilld \d+\.\d+\.\d+/);
  assert.match((await run(['--version'])).stdout, /distilld \d+\.\d+\.\d+/);
});

test('serve refuses to listen beyond loopback without a token, and says the remedy', { skip }, async () => {
  const refused = await run(['serve', '--listen', '0.0.0.0:0', '--data-dir', path('d0')]);
  assert.notEqual(refused.code, 0);
  assert.match(refused.stderr, /token/);
});

test('run trains in the foreground, shows progress, and goes on after Ctrl-C to the same bits', { skip, timeout: 240_000 }, async () => {
  writeFileSync(path('train.tsv'), topics(900));
  writeFileSync(path('dev.tsv'), topics(120, 9));
  const spec = { ...tinyTeacher, epochs: 4, batch_size: 8, dataset: path('train.tsv') };
  writeFileSync(path('spec.json'), JSON.stringify(spec));
  const whole = await run(['run', path('spec.json'), '--data-dir', path('w'), '--out', path('whole')]);
  assert.equal(whole.code, 0, whole.stderr);
  assert.match(whole.stdout + whole.stderr, /loss/);
  assert.match(whole.stdout, /macro avg/);

  const child = spawn(binary, ['run', path('spec.json'), '--data-dir', path('i'), '--out', path('interrupted')], { stdio: 'pipe' });
  let output = '';
  const closed = once(child, 'close');
  child.stdout.on('data', (text) => (output += text));
  child.stderr.on('data', (text) => (output += text));
  while (!/epoch +[12]\b|1\/4/.test(output) && child.exitCode === null) await sleep(20);
  child.kill('SIGINT');
  const [code] = await closed;
  assert.ok([130, 0].includes(code), `exit ${code}: ${output}`);
  const again = await run(['run', path('spec.json'), '--data-dir', path('i'), '--out', path('interrupted')]);
  assert.equal(again.code, 0, again.stderr);
  const weights = (name) => sha256(readFileSync(join(path(name), 'model.safetensors')));
  assert.equal(weights('interrupted'), weights('whole'));
});

// A handler on a thread that multiplies would break oneDNN's products (daemon/signals.c).
test('run takes its signals on a thread of their own', { skip, timeout: 60_000 }, async () => {
  writeFileSync(path('long.json'), JSON.stringify({ ...tinyTeacher, epochs: 400, batch_size: 8, dataset: path('train.tsv') }));
  const child = spawn(binary, ['run', path('long.json'), '--data-dir', path('l'), '--out', path('long')], { stdio: 'pipe' });
  const closed = once(child, 'close');
  await once(child.stderr, 'data');
  const tasks = `/proc/${child.pid}/task`;
  const open = readdirSync(tasks).flatMap((task) => {
    const name = readFileSync(join(tasks, task, 'comm'), 'utf8').trim();
    const blocked = BigInt(`0x${/SigBlk:\s*(\w+)/.exec(readFileSync(join(tasks, task, 'status'), 'utf8'))[1]}`);
    const both = (1n << 1n) | (1n << 14n); // SIGINT, SIGTERM
    return (blocked & both) === both ? [] : [name];
  });
  child.kill('SIGTERM');
  assert.deepEqual(await closed, [130, null]);
  assert.deepEqual(open, ['signals']);
});

test('run takes several teachers by path, also two directories of one name', { skip }, async () => {
  cpSync(path('whole'), path('elsewhere/whole'), { recursive: true });
  const teachers = [path('interrupted'), path('elsewhere/whole')];
  const spec = { dataset: path('train.tsv'), teacher: path('whole'), teachers, layers: 1, init: 'random', epochs: 1, batch_size: 32, max_length: 24 };
  writeFileSync(path('several.json'), JSON.stringify(spec));
  const made = await run(['run', path('several.json'), '--data-dir', path('s'), '--out', path('student')]);
  assert.equal(made.code, 0, made.stderr);
  const card = readFileSync(join(path('student'), 'README.md'), 'utf8');
  assert.match(card, /mean of the probabilities of the teachers `whole` \(.*\), `interrupted` \(.*\) and `whole-3` \(/);
});

test('a spec with faults exits 65 and names the field', { skip }, async () => {
  writeFileSync(path('bad.json'), JSON.stringify({ dataset: path('train.tsv'), task: 'finetune', alhpa: 1 }));
  const bad = await run(['run', path('bad.json'), '--data-dir', path('x')]);
  assert.equal(bad.code, 65, bad.stderr);
  assert.match(bad.stderr, /alhpa/);
  assert.equal((await run(['run', path('missing.json')])).code, 66);
});

test('predict and inspect read the model that run wrote', { skip }, async () => {
  const inspected = await run(['inspect', path('whole')]);
  assert.equal(inspected.code, 0, inspected.stderr);
  assert.match(inspected.stdout, /layers +2/i);
  const predicted = await run(['predict', path('whole')], { input: '大盘涨停\n手机芯片\n' });
  assert.equal(predicted.code, 0, predicted.stderr);
  assert.equal(predicted.stdout.trim().split('\n').length, 2);
  const json = await run(['predict', path('whole'), '--json', '央行通胀']);
  assert.ok(JSON.parse(json.stdout.trim().split('\n')[0]));
  assert.equal((await run(['predict', path('nothing')], { input: 'a\n' })).code, 66);
  writeFileSync(path('trash.safetensors'), Buffer.alloc(100, 1));
  const trash = await run(['inspect', path('trash.safetensors')]);
  assert.ok([65, 66].includes(trash.code), trash.stderr);
});

test('prune keeps the answers and says what was saved', { skip }, async () => {
  const pruned = await run(['prune', path('whole'), '--dataset', path('dev.tsv'), '--texts', path('train.tsv'), '--out', path('pruned')]);
  assert.equal(pruned.code, 0, pruned.stderr);
  assert.match(pruned.stdout, /vocabulary +\d+ -> \d+\n/);
  const input = readFileSync(path('dev.tsv'), 'utf8').split('\n').map((line) => line.split('\t')[0]).join('\n');
  const answer = async (model) => (await run(['predict', path(model), '--json'], { input })).stdout;
  assert.equal(await answer('pruned'), await answer('whole'));
  assert.equal((await run(['prune', path('whole')])).code, 64);
  assert.equal((await run(['prune', path('nothing'), '--texts', path('dev.tsv')])).code, 66);
  assert.equal((await run(['prune', path('whole'), '--texts', path('nothing')])).code, 66);
});

test('quantize measures what it loses, and predict reads what it wrote', { skip }, async () => {
  const made = await run(['quantize', path('whole'), '--dataset', path('dev.tsv'), '--split', 'train', '--out', path('int8')]);
  assert.equal(made.code, 0, made.stderr);
  assert.match(made.stdout, /macro F1 +0\.\d{4} -> 0\.\d{4}/);
  assert.match((await run(['inspect', path('int8')])).stdout, /safetensors_int8/);
  const answer = await run(['predict', path('int8')], { input: '大盘涨停\n手机芯片\n' });
  assert.equal(answer.code, 0, answer.stderr);
  assert.equal(answer.stdout.trim().split('\n').length, 2);
  assert.equal((await run(['quantize', path('int8'), '--out', path('twice')])).code, 65);
});

test('submit, list, show and watch talk to a daemon', { skip, timeout: 120_000 }, async (t) => {
  const daemon = await Daemon.start();
  t.after(() => daemon.discard());
  await daemon.upload('topics', { train: { text: topics(400), filename: 'train.tsv' } });
  const env = { DISTILLD_URL: daemon.url };
  writeFileSync(path('submit.json'), JSON.stringify({ ...tinyTeacher, dataset: 'topics', name: 'from the command line' }));
  const submitted = await run(['submit', path('submit.json')], { env });
  assert.equal(submitted.code, 0, submitted.stderr);
  const watched = await run(['watch', '1'], { env });
  assert.equal(watched.code, 0, watched.stderr);
  assert.match(watched.stdout, /finished/);
  const listed = await run(['list'], { env });
  assert.match(listed.stdout, /from the command line/);
  const shown = await run(['show', '1'], { env });
  assert.match(shown.stdout, /finished/);
  const missing = await run(['show', '99'], { env });
  assert.equal(missing.code, 66);
  const refused = await run(['submit', '-'], { env, input: '{"dataset":"topics","task":"finetune","alpah":1}' });
  assert.equal(refused.code, 65);
  assert.match(refused.stderr, /alpah/);
  const away = await run(['list', '--url', 'http://127.0.0.1:9']);
  assert.notEqual(away.code, 0);
  assert.match(away.stderr, /127\.0\.0\.1:9/);
});
