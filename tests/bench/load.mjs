// Drives http_load, the clients of the benchmarks.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';

const loadBinary = resolve(process.env.BUILD ?? 'build', 'tests/bench/http_load');

// The clients, in a process of their own (http_load.c), connected when this returns.  Each call answers what http_load printed.
export async function openLoad(daemon, { paths, rate, idle = 0, readers = 0 }) {
  const child = spawn(loadBinary, [new URL(daemon.url).port, rate, idle, readers, ...paths].map(String), { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error('http_load ended early');
    return value;
  };
  const tell = async (line) => {
    child.stdin.write(`${line}\n`);
    return JSON.parse(await next());
  };
  await next();
  return {
    get: (seconds) => tell(`get ${seconds}`),
    burn: (seconds, cpu) => tell(`burn ${seconds} ${cpu}`), // as much CPU time, and nothing asked for
    wait: (seconds) => tell(`wait ${seconds}`),
    async end() {
      child.stdin.end();
      await once(child, 'exit');
    },
  };
}
