// /metrics as Prometheus reads it: every line by the grammar of the text format 0.0.4, every family whole and in one piece, histograms
// that add up, and no series that a client could make.  Where promtool is installed it is asked, too.
import test from 'node:test';
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { Daemon, noBinary, tinyTeacher, topics } from './daemon.mjs';

const skip = noBinary;
let daemon;
test.before(async () => {
  if (skip) return;
  daemon = await Daemon.start({ args: ['--workers', '1', '--threads', '1'] });
});
test.after(() => daemon?.discard());

const name = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const sampleLine = new RegExp(`^(${name})(?:\\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\\\\n]|\\\\["\\\\n])*",?)*)\\})? (NaN|[+-]Inf|[+-]?(?:\\d+\\.?\\d*|\\.\\d+)(?:[eE][+-]?\\d+)?)$`);
const number = (text) => ({ '+Inf': Infinity, '-Inf': -Infinity })[text] ?? Number(text);

// Map of family name → { type, help, samples: [{ name, labels, value }] }; throws at the first fault.
export function parse(text) {
  assert.ok(text.endsWith('\n'), 'the last line must end');
  const families = new Map(), series = new Set();
  let family;
  for (const line of text.slice(0, -1).split('\n')) {
    const help = new RegExp(`^# HELP (${name}) (.+)$`).exec(line), type = new RegExp(`^# TYPE (${name}) (counter|gauge|histogram)$`).exec(line);
    if (help) {
      assert.ok(!families.has(help[1]), `${help[1]} comes twice`);
      assert.ok(!/\\[^\\n]/.test(help[2]), line);
      families.set(help[1], (family = { name: help[1], help: help[2], samples: [] }));
      continue;
    }
    if (type) {
      assert.equal(type[1], family?.name, `TYPE without its HELP: ${line}`);
      assert.ok(!family.type && family.samples.length === 0, line);
      family.type = type[2];
      continue;
    }
    const sample = sampleLine.exec(line);
    assert.ok(sample, `not a line of the format: ${line}`);
    assert.ok(family?.type, `a sample before its TYPE: ${line}`);
    const suffix = sample[1].slice(family.name.length);
    assert.ok(sample[1].startsWith(family.name) && (family.type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']).includes(suffix), `${line} in ${family.name}`);
    const labels = Object.fromEntries([...(sample[2] ?? '').matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value]));
    assert.ok(!series.has(`${sample[1]}{${sample[2] ?? ''}}`), `${line} comes twice`);
    series.add(`${sample[1]}{${sample[2] ?? ''}}`);
    family.samples.push({ name: sample[1], labels, value: number(sample[3]) });
  }
  return families;
}

function checkHistogram(family) {
  const groups = new Map();
  for (const sample of family.samples) {
    const { le, ...labels } = sample.labels, key = JSON.stringify(labels);
    const group = groups.get(key) ?? groups.set(key, { buckets: [] }).get(key);
    if (sample.name.endsWith('_bucket')) group.buckets.push([number(le), sample.value]);
    else group[sample.name.endsWith('_sum') ? 'sum' : 'count'] = sample.value;
  }
  for (const [key, { buckets, sum, count }] of groups) {
    assert.equal(buckets.at(-1)[0], Infinity, key);
    assert.equal(buckets.at(-1)[1], count, key);
    assert.ok(sum >= 0 && Number.isFinite(sum), key);
    for (let i = 1; i < buckets.length; i++) assert.ok(buckets[i][0] > buckets[i - 1][0] && buckets[i][1] >= buckets[i - 1][1], `${key}: ${JSON.stringify(buckets)}`);
  }
  return groups;
}

async function scrape() {
  const answer = await fetch(`${daemon.url}/metrics`, { headers: { 'Cache-Control': 'no-cache' } }); // not what another was told
  assert.equal(answer.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
  const text = await answer.text(), families = parse(text);
  for (const family of families.values()) {
    assert.match(family.name, /^distilld_[a-z0-9_]+$/);
    assert.equal(family.type === 'counter', family.name.endsWith('_total'), family.name);
    if (family.type === 'histogram') checkHistogram(family);
    else assert.ok(family.samples.length > 0, `${family.name} has no sample`);
  }
  return { families, text };
}
const value = (families, family, labels = {}) =>
  families.get(family)?.samples.find((sample) => Object.entries(labels).every(([key, wanted]) => sample.labels[key] === wanted))?.value;

test('queue, states, tokens, epochs, memory, disk and answer times are there and right', { skip }, async () => {
  await daemon.upload('topics', { train: { text: topics(200), filename: 'train.tsv' }, dev: { text: topics(40, 5), filename: 'dev.tsv' } });
  const before = (await scrape()).families;
  assert.equal(value(before, 'distilld_epochs_total'), 0);
  const long = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics', epochs: 2000 });
  await daemon.waitEpoch(long.id, 1);
  const waiting = await daemon.post('/experiments', { ...tinyTeacher, dataset: 'topics' });
  const running = (await scrape()).families;
  assert.equal(value(running, 'distilld_experiments', { state: 'running' }), 1);
  assert.equal(value(running, 'distilld_experiments', { state: 'queued' }), 1);
  assert.equal(value(running, 'distilld_workers_busy'), 1);
  assert.ok(value(running, 'distilld_tokens_per_second') > 0);
  for (const id of [waiting.id, long.id]) {
    await daemon.post(`/experiments/${id}/cancel`);
    await daemon.waitState(id, 'cancelled');
  }
  const { families } = await scrape();
  assert.equal(value(families, 'distilld_experiments', { state: 'cancelled' }), 2);
  assert.equal(value(families, 'distilld_epochs_total'), (await daemon.get(`/experiments/${long.id}/metrics`)).epochs.length);
  assert.ok(value(families, 'distilld_steps_total') >= value(families, 'distilld_epochs_total') * 13);
  for (const family of ['memory_resident_bytes', 'memory_limit_bytes', 'disk_free_bytes', 'disk_total_bytes', 'start_time_seconds']) assert.ok(value(families, `distilld_${family}`) > 0, family);
  const times = (method, route) => value(new Map([['t', { samples: families.get('distilld_http_request_duration_seconds').samples.filter((s) => s.name.endsWith('_count')) }]]), 't', { method, route });
  assert.equal(times('POST', '/api/v1/experiments'), 2);
  assert.equal(times('POST', '/api/v1/experiments/{id}/cancel'), 2);
  assert.ok(times('GET', '/metrics') >= 2);
});

test('no request makes a series of its own', { skip }, async () => {
  await fetch(`${daemon.url}/`);
  await fetch(`${daemon.url}/nothing`);
  await fetch(`${daemon.url}/api/v1/experiments/1/metrics`).then((r) => r.text());
  await scrape();
  const seriesOf = ({ families }) => [...families.values()].flatMap((family) => family.samples.map((sample) => sample.name + JSON.stringify(sample.labels))).sort();
  const before = seriesOf(await scrape());
  for (let i = 0; i < 40; i++) {
    await fetch(`${daemon.url}/api/v1/nothing-${i}"\\n`).then((r) => r.text());
    await fetch(`${daemon.url}/page-${i}`, { method: i % 2 ? 'GET' : 'PUT' }).then((r) => r.text());
    await fetch(`${daemon.url}/api/v1/experiments/${i + 1}/metrics`).then((r) => r.text());
  }
  assert.deepEqual(seriesOf(await scrape()), before);
});

const promtool = spawnSync('promtool', ['--version']);
if (!promtool.error) {
  test('promtool has nothing to say', { skip }, async () => {
    const said = spawnSync('promtool', ['check', 'metrics'], { input: (await scrape()).text, encoding: 'utf8' });
    assert.deepEqual([said.status, said.stdout + said.stderr], [0, '']);
  });
}
