// Parts of the Compare page that only compute or build: what differs in specs, seeds that belong together, parallel
// coordinates, the difference of two confusion matrices.
import { h } from '../dom.js';
import { t } from '../i18n.js';
import { runColour, runDash } from '../colour.js';
import { number, shortScore } from '../format.js';

const AXES = [
  'layers',
  'heads',
  'init',
  'optimizer.type',
  'optimizer.lr',
  'T',
  'alpha',
  'epochs',
  'batch_size',
  'dataset',
  'teacher',
]; // of parallel coordinates, in order
const MOST_AXES = 7;
const LABELS = new Set(['name', 'notes', 'tags', 'priority', 'save_as']); // fields that decide nothing

/** {path: value} of a spec, nested fields joined by a dot, labels left out. */
export function flatten(spec, prefix = '') {
  const out = {};
  for (const [key, value] of Object.entries(spec)) {
    if (!prefix && LABELS.has(key)) continue;
    if (value && typeof value === 'object' && !Array.isArray(value)) Object.assign(out, flatten(value, `${key}.`));
    else out[prefix + key] = value;
  }
  return out;
}

/** Runs whose specs differ in nothing but the seed. [[id, …], …] */
export function seedGroups(ids, specOf) {
  const groups = new Map();
  for (const id of ids) {
    const { seed: _, ...rest } = flatten(specOf(id));
    const key = JSON.stringify(Object.entries(rest).sort());
    groups.set(key, [...(groups.get(key) ?? []), id]);
  }
  return [...groups.values()];
}

/** Whether runs differ in a field. flat: their flattened specs. */
export const differs = (flat, key) => new Set(flat.map((f) => JSON.stringify(f[key] ?? null))).size > 1;

/** Parallel coordinates over the fields that differ, with the best macro-F1 last; null with fewer than two runs. */
export function parallelOf(runs, label) {
  if (runs.length < 2) return null;
  const flat = runs.map((r) => flatten(r.spec));
  const keys = AXES.filter((key) => differs(flat, key)).slice(0, MOST_AXES);
  const axes = keys.map((key) => {
    const values = flat.map((f) => f[key]);
    return values.every((v) => typeof v === 'number')
      ? { name: key, format: number }
      : { name: key, categories: [...new Set(values.map((v) => String(v ?? '–')))] };
  });
  const valueOf = (f, key, i) => (axes[i].categories ? String(f[key] ?? '–') : f[key]);
  return {
    kind: 'parallel',
    axes: [...axes, { name: t('metric.macro_f1'), format: shortScore }],
    series: runs.map((r, i) => ({
      id: String(r.id),
      name: label(r.id),
      colour: runColour(r.id),
      dash: runDash(r.id),
      values: [...keys.map((key, k) => valueOf(flat[i], key, k)), r.best.macro_f1],
    })),
  };
}

/** Report b less report a, cell by cell; green where b is better. Both have the same classes. */
export function confusionDifference(a, b) {
  const difference = b.confusion_matrix.map((row, i) => row.map((n, j) => n - a.confusion_matrix[i][j]));
  const most = Math.max(1, ...difference.flat().map(Math.abs));
  const sign = (n) => (n > 0 ? `+${n}` : n < 0 ? `\u2212${-n}` : '0');
  const cell = (d, i, j) => {
    const better = i === j ? d > 0 : d < 0;
    return h(
      'td',
      { class: `num ${d === 0 ? '' : better ? 'hit' : 'miss'}`, vars: { '--v': (Math.abs(d) / most).toFixed(3) } },
      sign(d),
    );
  };
  return h(
    'table',
    { class: 'data confusion' },
    h('caption', {}, t('report.confusion_caption')),
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        h('td', {}),
        a.labels.map((name) => h('th', { scope: 'col', class: 'num' }, name)),
      ),
    ),
    h(
      'tbody',
      {},
      difference.map((row, i) =>
        h(
          'tr',
          {},
          h('th', { scope: 'row' }, a.labels[i]),
          row.map((d, j) => cell(d, i, j)),
        ),
      ),
    ),
  );
}
