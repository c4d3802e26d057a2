// Starts the real daemon for the end-to-end tests and talks to it.  Nothing here is mocked: each test gets a daemon of its own
// on a free port and a data directory of its own, which are removed at the end.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { once } from 'node:events';
import { createHash } from 'node:crypto';

export const binary = process.env.DISTILLD_BIN ?? resolve('build/distilld');
export const shared = process.env.DISTILLD_SHARED ?? resolve('../shared');
export const noBinary = existsSync(binary) ? false : `${binary} is not built`;
export const noShared = existsSync(join(shared, 'data')) ? false : `no shared data at ${shared}`;

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

export class Daemon {
  // options: args (more command line), dataDir (kept when given), env, executable (another build)
  static async start(options = {}) {
    const daemon = new Daemon();
    daemon.ownsDir = !options.dataDir;
    daemon.dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), 'distilld-e2e-'));
    const args = ['serve', '--listen', options.listen ?? '127.0.0.1:0', '--data-dir', daemon.dataDir, ...(options.args ?? [])];
    daemon.process = spawn(options.executable ?? binary, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...options.env } });
    daemon.output = '';
    daemon.exited = once(daemon.process, 'exit').then(([code, signal]) => (daemon.exit = { code, signal }));
    for (const stream of [daemon.process.stdout, daemon.process.stderr]) {
      stream.setEncoding('utf8');
      stream.on('data', (text) => (daemon.output += text));
    }
    await waitFor(async () => {
      if (daemon.exit) throw new Error(`the daemon ended: ${JSON.stringify(daemon.exit)}\n${daemon.output}`);
      daemon.url ??= daemon.output.match(/https?:\/\/(?:\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]):\d+/)?.[0];
      return daemon.url && (await fetch(`${daemon.url}/readyz`).then((r) => r.ok, () => false));
    }, 20_000, 'the daemon to be ready');
    return daemon;
  }

  async stop(signal = 'SIGTERM') {
    if (!this.exit) this.process.kill(signal);
    await this.exited;
    return this.exit;
  }

  // Ends the daemon and removes what it left; for `after` hooks.
  async discard() {
    await this.stop('SIGKILL');
    if (this.ownsDir) rmSync(this.dataDir, { recursive: true, force: true });
  }

  // A call of the API: path below /api/v1 or absolute; body: object (JSON), FormData or undefined.
  async call(method, path, body, headers = {}) {
    const init = { method, headers: { ...headers } };
    if (body instanceof FormData || typeof body === 'string') init.body = body;
    else if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers['Content-Type'] ??= method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    }
    const response = await fetch(this.url + (path.startsWith('/api/') || path.startsWith('http') ? path : `/api/v1${path}`), init);
    const bytes = Buffer.from(await response.arrayBuffer());
    const type = response.headers.get('content-type') ?? '';
    const text = type.includes('json') || type.startsWith('text/') ? bytes.toString('utf8') : undefined;
    return { status: response.status, headers: response.headers, type, bytes, text, json: type.includes('json') && text ? JSON.parse(text) : undefined };
  }

  async get(path, headers) {
    const answer = await this.call('GET', path, undefined, headers);
    if (answer.status !== 200) throw new Error(`GET ${path}: ${answer.status} ${answer.text}`);
    return answer.json ?? answer.text ?? answer.bytes;
  }

  async post(path, body, expected = [200, 201, 202]) {
    const answer = await this.call('POST', path, body);
    if (!expected.includes(answer.status)) throw new Error(`POST ${path}: ${answer.status} ${answer.text}`);
    return answer.json;
  }

  // Waits until the experiment is in one of the states; fails when it ends in another.
  async waitState(id, states, timeoutMs = 120_000) {
    const wanted = [states].flat();
    let experiment;
    await waitFor(async () => {
      experiment = await this.get(`/experiments/${id}`);
      if (wanted.includes(experiment.status)) return true;
      if (['finished', 'failed', 'cancelled'].includes(experiment.status)) {
        throw new Error(`experiment ${id} is ${experiment.status}, not ${wanted}: ${JSON.stringify(experiment.error)}`);
      }
      return false;
    }, timeoutMs, `experiment ${id} to be ${wanted}`);
    return experiment;
  }

  async waitEpoch(id, epoch, timeoutMs = 120_000) {
    await waitFor(async () => (await this.get(`/experiments/${id}/metrics`)).epochs.length >= epoch, timeoutMs, `epoch ${epoch} of ${id}`);
  }

  async upload(name, files, fields = {}) {
    const form = new FormData();
    form.set('name', name);
    for (const [key, value] of Object.entries(fields)) form.set(key, String(value));
    for (const [split, { text, filename }] of Object.entries(files)) form.set(split, new Blob([text]), filename);
    return this.call('POST', '/datasets', form);
  }

  async archiveMember(path, member) {
    const { bytes, status, text } = await this.call('GET', path);
    if (status !== 200) throw new Error(`GET ${path}: ${status} ${text}`);
    const tar = spawn('tar', ['-xzO', '--wildcards', `*/${member}`], { stdio: ['pipe', 'pipe', 'inherit'] });
    const chunks = [];
    tar.stdout.on('data', (chunk) => chunks.push(chunk));
    tar.stdin.end(bytes);
    const [code] = await once(tar, 'close');
    if (code !== 0) throw new Error(`tar: exit ${code}`);
    return Buffer.concat(chunks);
  }
}

export const patience = process.env.DISTILLD_SANITIZED ? 8 : 1; // a sanitizer makes training ten times slower

export async function waitFor(condition, timeoutMs, what) {
  const end = Date.now() + timeoutMs * patience;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${(timeoutMs * patience) / 1000} s in vain for ${what}`);
    await sleep(50);
  }
}

// Runs the binary to its end: { code, stdout, stderr }.
export async function run(args, { input, env, cwd } = {}) {
  const child = spawn(binary, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env }, cwd });
  let stdout = '', stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  child.stdin.on('error', () => {});
  child.stdin.end(input ?? '');
  const [code, signal] = await once(child, 'close');
  return { code, signal, stdout, stderr };
}

// A small data set with something to learn: three topics with words of their own and words in common, Chinese and Latin.
export function topics(rows, seed = 1) {
  const words = {
    股票: ['大盘', '涨停', '沪指', '券商', '基金', 'A股', '反弹', '个股'],
    科技: ['手机', '芯片', '软件', '互联网', 'iPhone', '网络', '发布', '系统'],
    财经: ['央行', '通胀', '油价', '出口', 'GDP', '汇率', '税收', '经济'],
  };
  const common = ['今日', '公司', '市场', '分析', '预计', '，', '2024年', '增长', '中国'];
  let state = seed >>> 0;
  const next = (n) => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0), Math.floor((state / 2 ** 32) * n));
  const labels = Object.keys(words);
  let text = '';
  for (let i = 0; i < rows; i++) {
    const label = labels[next(5) < 3 ? 0 : 1 + next(2)];
    const parts = [];
    for (let k = 0, n = 3 + next(6); k < n; k++) {
      const own = next(100) < 55 ? label : labels[next(3)];
      parts.push(next(2) ? words[own][next(8)] : common[next(common.length)]);
    }
    text += `${parts.join('')}${i}\t${label}\n`;
  }
  return text;
}

// The smallest useful teacher specification.
export const tinyTeacher = {
  task: 'finetune', layers: 2, heads: 2, hidden_size: 32, intermediate_size: 64, epochs: 2, batch_size: 16, max_length: 24, vocab_size: 400,
  optimizer: { type: 'adamw', lr: 0.002 },
};
