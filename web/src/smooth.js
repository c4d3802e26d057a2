// Smoothing and reduction of series. All functions are pure and keep lengths and NaN as they are.

/**
 * Exponential moving average over x, not over sample number: the weight of the past decays with the distance in x.
 * `tau` is in units of x; 0 returns y. A null or NaN stays a gap and does not poison what follows. The daemon does the
 * same (daemon/reduce.c) with all rows of a history of which it sends but some: averages of a sample are not the sample
 * of the averages, least of all when the sample keeps the extremes.
 */
export function smooth(x, y, tau) {
  if (!(tau > 0)) return y;
  let mean = null;
  let before = 0;
  return y.map((v, i) => {
    if (!isNumber(v)) return v;
    mean = mean === null ? v : follow(mean, v, x[i] - before, tau);
    before = x[i];
    return mean;
  });
}

const isNumber = (v) => v !== null && v !== undefined && Number.isFinite(v);
/** The average after a value at a distance of dx behind the last one. */
const follow = (mean, value, dx, tau) => mean + (1 - Math.exp(-Math.max(0, dx) / tau)) * (value - mean);

/** Continues averages behind which a value came; null where there is none yet. */
export function carryOn(x, averages, at, value, tau) {
  if (!isNumber(value)) return value ?? null;
  let i = averages.length - 1;
  while (i >= 0 && !isNumber(averages[i])) i--;
  return i < 0 ? value : follow(averages[i], value, at - x[i], tau);
}

/**
 * Indices of at most maxPoints samples that keep the first, the last, every gap, and the smallest and largest value of
 * each bucket, in order; and besides these the ones in `always`, such as those that a chart marks.
 */
export function thin(y, maxPoints, always = []) {
  const n = y.length;
  if (n <= maxPoints) return Array.from({ length: n }, (_, i) => i);
  const buckets = Math.max(1, Math.floor((maxPoints - 2) / 3));
  const keep = new Set([0, n - 1, ...always]);
  for (let b = 0; b < buckets; b++) {
    const from = Math.floor((b * n) / buckets);
    const to = Math.floor(((b + 1) * n) / buckets);
    let low = -1;
    let high = -1;
    let gap = -1;
    for (let i = from; i < to; i++) {
      if (y[i] === null || !Number.isFinite(y[i])) gap = i;
      else {
        if (low < 0 || y[i] < y[low]) low = i;
        if (high < 0 || y[i] > y[high]) high = i;
      }
    }
    for (const i of [low, high, gap]) if (i >= 0) keep.add(i);
  }
  return [...keep].sort((a, b) => a - b);
}
