// What systemd sees: ready, the watchdog fed while workers advance and not while one is stuck, reload, stopping; and the unit file.
import test from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Daemon, binary, noBinary, tinyTeacher, topics, waitFor } from './daemon.mjs';

const has = (program, ...args) => spawnSync(program, args).status === 0;
const compiler = process.env.CC ?? 'cc';
const skip = noBinary || (has('perl', '-e', '1') && has(compiler, '--version') ? false : 'no perl or no C compiler');

// One line for each datagram on a socket, as systemd would read them; node has no Unix datagrams.
const listen = `use IO::Socket::UNIX; use Socket; $| = 1;
  my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $ARGV[0]) or die; print "listening\\n";
  while (defined $s->recv(my $m, 4096)) { $m =~ s/\\n/ /g; print "$m\\n" }`;

const preload = skip || (process.env.DISTILLD_SANITIZED ? 'a sanitizer wants to be loaded first' : false);
test('the watchdog is fed while runs advance, and not while one is stuck', { skip: preload, timeout: 120_000 }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'distilld-systemd-'));
  const socket = join(dir, 'notify'), block = join(dir, 'block'), shim = join(dir, 'shim.so'), config = join(dir, 'conf');
  execFileSync(compiler, ['-shared', '-fPIC', '-o', shim, fileURLToPath(new URL('blocked_link.c', import.meta.url))]);
  writeFileSync(config, 'log-level = info\n');
  const manager = spawn('perl', ['-e', listen, socket], { stdio: ['ignore', 'pipe', 'inherit'] });
  const heard = [];
  manager.stdout.setEncoding('utf8').on('data', (text) => heard.push(...text.split('\n').filter(Boolean)));
  let daemon;
  t.after(async () => {
    await daemon?.discard();
    manager.kill();
    rmSync(dir, { recursive: true, force: true });
  });
  const next = async (pattern, count = 1) => {
    const from = heard.length;
    await waitFor(() => heard.slice(from).filter((line) => pattern.test(line)).length >= count, 30_000, `${count} × ${pattern}, got ${heard.slice(from)}`);
    return heard.slice(from);
  };
  await waitFor(() => heard.includes('listening'), 10_000, 'the manager');
  daemon = await Daemon.start({
    args: ['--workers', '1', '--config', config],
    env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '300000', LD_PRELOAD: shim, BLOCK_FILE: block },
  });
  await waitFor(() => heard.includes('READY=1'), 10_000, 'READY=1');
  await next(/^WATCHDOG=1$/, 3); // idle
  assert.equal((await daemon.upload('topics', { train: { text: topics(200), filename: 'a.tsv' } })).status, 201);
  const { id } = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 5000 });
  await daemon.waitEpoch(id, 2);
  await next(/^WATCHDOG=1$/, 2); // training

  writeFileSync(block, '');
  const stuck = new RegExp(`^STATUS=experiment ${id} has not advanced for \\d+\\.\\d s; not fed$`);
  await next(stuck);
  assert.ok((await next(stuck, 3)).every((line) => stuck.test(line)), 'it is not fed');
  assert.match(daemon.output, new RegExp(`experiment ${id} has not advanced .* the watchdog will restart the daemon`));
  assert.equal((await daemon.get('/experiments')).items.length, 1, 'meanwhile it answers');
  rmSync(block);
  await next(/^WATCHDOG=1$/);
  await waitFor(() => daemon.output.includes(`experiment ${id} advances again`), 10_000, 'the line in the log');

  const reloaded = next(/^RELOADING=1/);
  writeFileSync(config, 'log-level = debug\n');
  daemon.process.kill('SIGHUP');
  await reloaded;
  await waitFor(() => daemon.output.includes('log level is debug'), 10_000, 'the new level');
  const stopping = next(/^STOPPING=1/);
  await daemon.stop();
  await stopping;
});

test('log lines are JSON when asked for', { skip: noBinary }, async (t) => {
  const daemon = await Daemon.start({ args: ['--log-format', 'json'] });
  t.after(() => daemon.discard());
  await daemon.call('DELETE', '/datasets/none');
  await daemon.stop();
  const lines = daemon.output.trim().split('\n').map((line) => JSON.parse(line));
  for (const line of lines) assert.deepEqual(Object.keys(line), ['time', 'level', 'component', 'message']);
  assert.ok(lines.some((line) => line.component === 'http' && /DELETE \/api\/v1\/datasets\/none 404/.test(line.message)));
});

const noAnalyze = has('systemd-analyze', '--version') ? false : 'no systemd-analyze';
const unit = 'systemd/distilld.service';

test('the unit gives away almost nothing', { skip: noAnalyze }, (t) => {
  const { stdout } = spawnSync('systemd-analyze', ['security', '--offline=yes', '--no-pager', unit], { encoding: 'utf8' });
  const exposure = Number(stdout.match(/exposure level for \S+: ([\d.]+)/)?.[1]);
  assert.ok(exposure <= 1.5, stdout);
  t.diagnostic(`exposure ${exposure}`);
});

test('systemd finds no fault in the unit', { skip: noAnalyze || noBinary }, (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'distilld-unit-'));
  t.after(() => rmSync(dir, { recursive: true, force: true }));
  const copy = join(dir, 'distilld.service'), text = readFileSync(unit, 'utf8');
  assert.match(text, /^ExecStart=distilld serve$/m);
  const verify = (content) => {
    writeFileSync(copy, content);
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', copy], { encoding: 'utf8' });
    return { status, mine: stderr.split('\n').filter((line) => line.includes('distilld')) };
  };
  const here = text.replace('ExecStart=distilld', `ExecStart=${binary}`); // not installed in /usr/bin
  assert.deepEqual(verify(here), { status: 0, mine: [] });
  assert.match(verify(`${here}\n[Service]\nWatchdogSec=often\n`).mine.join(), /often/, 'it would tell');
});

test('the unit is one that notifies, is watched and reloads', () => {
  const lines = readFileSync(unit, 'utf8').split('\n');
  for (const line of ['Type=notify', 'NotifyAccess=main', 'WatchdogSec=10min', 'Restart=on-failure', 'ExecReload=/bin/kill -HUP $MAINPID',
    'User=distilld', 'StateDirectory=distilld']) assert.ok(lines.includes(line), line);
  // The account and the directory that sysusers and tmpfiles make are those of the unit.
  assert.match(readFileSync('systemd/distilld.sysusers', 'utf8'), /^u distilld - "[^"]+" \/var\/lib\/distilld \/usr\/sbin\/nologin$/m);
  assert.match(readFileSync('systemd/distilld.tmpfiles', 'utf8'), /^d \/var\/lib\/distilld 0750 distilld distilld -$/m);
  assert.ok(lines.includes('StateDirectoryMode=0750'));
});
