// What the Sweeps page computes from a sweep's points; pure, tested in tests/browser/units.test.mjs.
import { t } from '../i18n.js';
import { score } from '../format.js';

const FEW_VALUES = 12;

/** A value of an axis, or {axis: value, …} as "T=4, alpha=0.2". */
export function showValue(value) {
  if (value === undefined || value === null) return '–';
  if (Array.isArray(value)) return value.join(',');
  if (typeof value === 'object')
    return Object.entries(value)
      .map(([k, v]) => `${k}=${showValue(v)}`)
      .join(', ');
  if (typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3) return value.toExponential();
  return String(value);
}

export const spreadText = (s) => (s.std === null ? score(s.mean) : `${score(s.mean)} ± ${score(s.std)}`);

const order = (a, b) => (typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b)));
function distinct(points, axis) {
  const byText = new Map(points.map((p) => [JSON.stringify(p.values[axis]), p.values[axis]]));
  return [...byText.values()].sort(order);
}

/** Mean and standard deviation of groups of n_i values with mean_i and std_i, as if all values were one group. */
export function pooled(groups) {
  const n = groups.reduce((sum, g) => sum + g.n, 0);
  if (!n) return { n: 0, mean: null, std: null };
  const mean = groups.reduce((sum, g) => sum + g.n * g.mean, 0) / n;
  const squares = groups.reduce((sum, g) => sum + (g.n - 1) * (g.std ?? 0) ** 2 + g.n * (g.mean - mean) ** 2, 0);
  return { n, mean, std: n > 1 ? Math.sqrt(squares / (n - 1)) : null };
}

/**
 * The heat map over two axes (y null: one row). Points that differ in further axes only share a cell, whose spread then
 * covers those axes too.
 */
export function cellsOf(points, x, y, metric) {
  const columns = distinct(points, x);
  const rows = y ? distinct(points, y) : [null];
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const cells = rows.map((rowValue) =>
    columns.map((columnValue) => {
      const inside = points.filter((p) => same(p.values[x], columnValue) && (!y || same(p.values[y], rowValue)));
      if (!inside.length) return null;
      const groups = inside.filter((p) => p.n).map((p) => ({ n: p.n, mean: p[metric].mean, std: p[metric].std }));
      return { ...pooled(groups), points: inside.map((p) => p.point), experiments: inside.flatMap((p) => p.experiments) };
    }),
  );
  const means = cells.flat().filter((c) => c && c.mean !== null).map((c) => c.mean);
  return { columns, rows, cells, low: Math.min(...means), high: Math.max(...means) };
}

/** Ranks from 1, ties sharing the mean of theirs. */
function ranks(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return values.map((v) => (sorted.indexOf(v) + sorted.lastIndexOf(v)) / 2 + 1);
}

/** Spearman's rank correlation; 0 where one side never changes. */
export function rankCorrelation(x, y) {
  const [a, b] = [ranks(x), ranks(y)];
  const middle = (x.length + 1) / 2;
  const product = (p, q) => p.reduce((sum, v, i) => sum + (v - middle) * (q[i] - middle), 0);
  return product(a, b) / Math.sqrt(product(a, a) * product(b, b)) || 0;
}

/**
 * How much each axis decides: the share of the points' variance that lies between its values (eta squared, which in a full
 * grid is the axis's main effect); of an axis that hardly repeats a value, the squared rank correlation. `trend`: the rank
 * correlation itself, null where the values are no numbers. The largest first; null with fewer than four points.
 */
export function importance(sweep, metric) {
  const points = sweep.points.filter((p) => p.n);
  if (points.length < 4) return null;
  const scores = points.map((p) => p[metric].mean);
  const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
  const all = mean(scores);
  const total = scores.reduce((sum, v) => sum + (v - all) ** 2, 0);
  const rows = sweep.axes.map((axis) => {
    const values = distinct(points, axis);
    const numbers = points.map((p) => p.values[axis]);
    const trend = numbers.every((v) => typeof v === 'number') && values.length > 1 ? rankCorrelation(numbers, scores) : null;
    const groups = values.map((value) => scores.filter((_, i) => JSON.stringify(numbers[i]) === JSON.stringify(value)));
    const between = groups.reduce((sum, g) => sum + g.length * (mean(g) - all) ** 2, 0);
    const repeats = values.length <= points.length / 2;
    return { axis, share: repeats ? (total > 0 ? between / total : 0) : (trend ?? 0) ** 2, trend };
  });
  return rows.sort((a, b) => b.share - a.share);
}

/** Parallel coordinates: an axis for each of the sweep's and one for the score, lines coloured by score. */
export function lineSeries(sweep, metric, colour) {
  const points = sweep.points.filter((p) => p.n).sort((a, b) => a[metric].mean - b[metric].mean);
  if (points.length < 2) return null;
  // the few values of a grid stand apart evenly; many drawn ones lie where they are
  const numeric = (axis) =>
    points.every((p) => typeof p.values[axis] === 'number') && distinct(points, axis).length > FEW_VALUES;
  const low = points[0][metric].mean;
  const high = points.at(-1)[metric].mean;
  return {
    kind: 'parallel',
    unnamed: true,
    axes: [
      ...sweep.axes.map((axis) =>
        numeric(axis)
          ? { name: axis, format: (v) => String(Number(Number(v).toPrecision(4))) }
          : { name: axis, categories: distinct(points, axis).map(showValue) },
      ),
      { name: t(`metric.${metric}`), format: score },
    ],
    series: points.map((p) => ({
      id: String(p.point),
      name: showValue(p.values),
      // the faintest still has to be seen, so colours begin at a third of the scale
      colour: colour(high > low ? 0.35 + (0.65 * (p[metric].mean - low)) / (high - low) : 1),
      values: [...sweep.axes.map((axis) => (numeric(axis) ? p.values[axis] : showValue(p.values[axis]))), p[metric].mean],
    })),
  };
}

/** "1, 2, 4" or "1..8", "0.1..1 log" as an axis; null when it cannot be read. */
export function parseAxis(text) {
  const range = /^\s*([-+\d.eE]+)\s*\.\.\s*([-+\d.eE]+)\s*(log)?\s*$/.exec(text);
  if (range) {
    const [min, max] = [Number(range[1]), Number(range[2])];
    if (!Number.isFinite(min) || !Number.isFinite(max)) return null;
    return { min, max, ...(range[3] ? { scale: 'log' } : {}) };
  }
  const values = text
    .split(',')
    .map((s) => s.trim())
    .filter(Boolean)
    .map((s) => (s === 'true' || s === 'false' ? s === 'true' : Number.isFinite(Number(s)) ? Number(s) : s));
  return values.length ? values : null;
}

/** How many runs a request makes. */
export function countRuns({ grid, count, seeds }) {
  const points = grid ? Object.values(grid).reduce((n, values) => n * values.length, 1) : (count ?? 0);
  return { points, runs: points * (seeds?.length || 1) };
}
