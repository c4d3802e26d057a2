// What of the dashboard can be tested without a browser: dictionaries, smoothing, thinning, event parsing, colours.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';
import { test } from 'node:test';

const src = fileURLToPath(new URL('../../web/src/', import.meta.url));
const load = (name) => import(`../../web/src/${name}`);
const sources = [...readdirSync(src), ...readdirSync(join(src, 'pages')).map((f) => `pages/${f}`)].filter((f) =>
  f.endsWith('.js'),
);
const placeholders = (text) =>
  [...text.matchAll(/\{(\w+)\}/g)]
    .map((m) => m[1])
    .sort()
    .join();

test('the dictionaries have the same keys, with the same placeholders, none empty', async () => {
  const { default: en } = await load('i18n/en.js');
  const { default: zh } = await load('i18n/zh.js');
  assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort());
  for (const [key, text] of Object.entries(en)) {
    assert.ok(text && zh[key], `${key} is empty`);
    assert.equal(placeholders(zh[key]), placeholders(text), `placeholders of ${key}`);
  }
});

test('Chinese has Chinese punctuation', async () => {
  const { default: zh } = await load('i18n/zh.js');
  const { default: fields } = await load('i18n/fields.zh.js');
  const texts = [...Object.values(zh), ...Object.values(fields).flat()].map((text) => text.replaceAll('字段: 取值', ''));
  assert.deepEqual(texts.filter((text) => /[\u4e00-\u9fff][,;:?!]|[,;:?!][\u4e00-\u9fff]/.test(text)), []);
});

test('every key that the pages use is in the dictionaries, and every key there is used', async () => {
  const { default: en } = await load('i18n/en.js');
  const text = sources.map((file) => readFileSync(join(src, file), 'utf8')).join('\n');
  const literal = new Set([...text.matchAll(/'([a-z]+\.[^'\s]*)'/g)].map((m) => m[1]));
  const prefixes = [...text.matchAll(/(?:\bt|known|hasText)\(`([a-z0-9_]+\.[a-z0-9_]*)\$\{/g)]
    .map((m) => m[1])
    .concat('problem.');
  for (const [, key] of text.matchAll(/\bt\('([^']+)'/g)) assert.ok(key in en, `t('${key}') is in no dictionary`);
  for (const key of Object.keys(en))
    assert.ok(literal.has(key) || prefixes.some((p) => key.startsWith(p)), `${key} is used nowhere`);
});

test('smoothing keeps a constant, keeps gaps, starts unbiased, and does not depend on the sampling', async () => {
  const { smooth } = await load('smooth.js');
  assert.deepEqual(smooth([1, 2, 3], [5, 5, 5], 2), [5, 5, 5]);
  const gap = smooth([1, 2, 3], [4, null, 4], 2);
  assert.equal(gap[1], null);
  assert.ok(Math.abs(gap[2] - 4) < 1e-12);
  assert.equal(smooth([1, 2], [1, 9], 3)[0], 1);
  const y = [3, 1, 2];
  assert.equal(smooth([1, 2, 3], y, 0), y);
  // the same sine, sampled at every 1 and at every 4: the smoothed curves agree where both have a point
  const curve = (step) => {
    const x = Array.from({ length: 2000 / step + 1 }, (_, i) => i * step);
    return new Map(
      smooth(
        x,
        x.map((v) => Math.sin(v / 200)),
        100,
      ).map((v, i) => [x[i], v]),
    );
  };
  const [dense, sparse] = [curve(1), curve(4)];
  for (const [x, v] of sparse)
    if (x > 400) assert.ok(Math.abs(v - dense.get(x)) < 0.02, `at ${x}: ${v} and ${dense.get(x)}`);
});

test('averages that came with rows are carried on by the rows that follow, and not by those that replace', async () => {
  const { Columns } = await load('columns.js');
  const { smooth } = await load('smooth.js');
  const y = [3, 1, null, 4, 1, 5];
  const x = y.map((_, i) => 2 * i + 1);
  const all = smooth(x, y, 3);
  const rows = Columns.of('step', x.slice(0, 2).map((step, i) => ({ step, loss: y[i], smooth: { loss: all[i] } })), { reduced: true, tau: 3 });
  x.slice(2).forEach((step, i) => rows.add({ step, loss: y[i + 2] }));
  rows.add({ step: 1, loss: 9 });
  assert.deepEqual(rows.averages('loss', 3), all);
  assert.equal(rows.averages('loss', 4), null, 'these are of another tau');
  assert.deepEqual(rows.keysBetween(x, 4, 8), [3, 9]);
});

test('thinning keeps the ends, the extremes and the gaps, in order and within the limit', async () => {
  const { thin } = await load('smooth.js');
  const y = Array.from({ length: 10000 }, (_, i) => Math.sin(i / 50));
  y[1234] = 99;
  y[4321] = -99;
  y[7777] = null;
  const kept = thin(y, 1500);
  assert.ok(kept.length <= 1500);
  for (const i of [0, 9999, 1234, 4321, 7777]) assert.ok(kept.includes(i), `${i} is gone`);
  assert.deepEqual(
    kept,
    [...kept].sort((a, b) => a - b),
  );
  assert.deepEqual(thin([1, 2, 3], 10), [0, 1, 2]);
});

test('columns are ordered by their key, replace what is known, and fill what is missing with null', async () => {
  const { Columns } = await load('columns.js');
  const rows = new Columns('epoch');
  for (const row of [
    { epoch: 1, a: 1 },
    { epoch: 3, a: 3 },
    { epoch: 2, a: 2, b: 7 },
    { epoch: 3, a: 4 },
  ])
    rows.add(row);
  assert.deepEqual(rows.column('epoch'), [1, 2, 3]);
  assert.deepEqual(rows.column('a'), [1, 2, 4]);
  assert.deepEqual(rows.column('b'), [null, 7, null]);
  assert.deepEqual(rows.column('never'), [null, null, null]);
});

test('events are read from any chunking, comments and unknown fields are passed over', async () => {
  const { parser } = await load('sse.js');
  const stream =
    ': hello\nretry: 100\n\nid: a-1\nevent: step\ndata: {"x":\ndata: 1}\n\nid: a-2\nevent: reset\n\ndata:last\n\n';
  for (const size of [1, 2, 3, 7, stream.length]) {
    const events = [];
    const feed = parser((...event) => events.push(event));
    for (let i = 0; i < stream.length; i += size) feed(stream.slice(i, i + size));
    assert.deepEqual(events, [
      ['step', '{"x":\n1}', 'a-1'],
      ['reset', '', 'a-2'],
      ['message', 'last', 'a-2'],
    ]);
  }
});

test('the colours of runs keep 3:1 with the paper in both themes, and neighbours differ', async () => {
  globalThis.document ??= { documentElement: { dataset: {} } };
  globalThis.matchMedia ??= () => ({ matches: false, addEventListener() {} });
  const { runColour } = await load('colour.js');
  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
  const luminance = (hex) =>
    channels(hex)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  for (let id = 1; id <= 500; id++) {
    assert.ok(contrast(runColour(id, false), '#ffffff') >= 3, `${id} on white`);
    assert.ok(contrast(runColour(id, true), '#181b1e') >= 3, `${id} on dark`);
    const apart = channels(runColour(id, false)).map((v, i) => Math.abs(v - channels(runColour(id + 1, false))[i]));
    assert.ok(Math.max(...apart) > 0.15, `${id} and ${id + 1} look alike`);
  }
});

test('a value that is missing is marked once, but not where its series lacks some by nature', async () => {
  const { gapsOf } = await load('marks.js');
  const x = [1, 2, 3];
  assert.deepEqual(gapsOf([{ x, y: [1, null, NaN] }, { x, y: [1, null, 1] }]), [2, 3]);
  const unseen = [{ partial: true }, { faint: true }, { hidden: true }].map((s) => ({ ...s, x, y: [null, 1, 1] }));
  assert.deepEqual(gapsOf([...unseen, { x, y: [1, 1, 1] }]), []);
});

test('a rolled-back epoch is marked with where the run went, other collapses as such, once a stretch', async () => {
  const { Columns } = await load('columns.js');
  const { collapses, rollbacks } = await load('marks.js');
  const rows = new Columns('epoch');
  const scores = [0.5, 0.8, 0.2, 0.81, 0.1, 0.1, 0.82, 0.3];
  scores.forEach((macro_f1, i) => {
    const to = { 2: { reason: 'f1_fell', to_epoch: 2 }, 7: { reason: 'not_finite', to_epoch: 0 } }[i] ?? null;
    rows.add({ epoch: i + 1, macro_f1, rollback: to });
  });
  const x = rows.column('epoch');
  assert.deepEqual(
    rollbacks(rows, x).map((mark) => [mark.x, mark.bad]),
    [
      [3, true],
      [8, true],
    ],
  );
  assert.match(rollbacks(rows, x)[0].name, /2/);
  assert.deepEqual(
    collapses(rows, x).map((mark) => mark.x),
    [5],
  );
});
