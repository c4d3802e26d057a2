// Smoothing and reduction of series. All functions are pure and keep lengths and NaN as they are.

/**
 * Exponential moving average over x, not over sample number: the weight of the past decays with the distance in x, so
 * the same curve sampled more or less densely is smoothed alike. `tau` is in units of x; 0 returns y. The start is
 * corrected for bias. A null or NaN stays a gap and does not poison what follows.
 */
export function smooth(x, y, tau) {
  if (!(tau > 0)) return y;
  const out = new Array(y.length);
  let sum = 0;
  let weight = 0;
  let before = NaN;
  for (let i = 0; i < y.length; i++) {
    const v = y[i];
    if (v === null || v === undefined || !Number.isFinite(v)) {
      out[i] = v;
      continue;
    }
    const keep = Number.isNaN(before) ? 0 : Math.exp(-Math.max(0, x[i] - before) / tau);
    const gain = Number.isNaN(before) ? 1 : 1 - keep;
    sum = keep * sum + gain * v;
    weight = keep * weight + gain;
    out[i] = sum / weight;
    before = x[i];
  }
  return out;
}

/**
 * Indices of at most maxPoints samples that keep the first, the last, every gap, and the smallest and largest value of
 * each bucket, in order.
 */
export function thin(y, maxPoints) {
  const n = y.length;
  if (n <= maxPoints) return Array.from({ length: n }, (_, i) => i);
  const buckets = Math.max(1, Math.floor((maxPoints - 2) / 3));
  const keep = new Set([0, n - 1]);
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
