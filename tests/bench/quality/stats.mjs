// The statistics of the quality benchmark: scores of predicted labels, and a bootstrap of a student's share of its teacher.

// Accuracy and the unweighted mean of the classes' F1 over `rows` (all when not given), as scikit-learn has them.
export function classScores(gold, predicted, rows) {
  const counts = new Map();
  const of = (label) => counts.get(label) ?? counts.set(label, { hit: 0, gold: 0, predicted: 0 }).get(label);
  const n = rows?.length ?? gold.length;
  let hits = 0;
  for (let k = 0; k < n; k++) {
    const i = rows ? rows[k] : k;
    of(gold[i]).gold++;
    of(predicted[i]).predicted++;
    if (gold[i] === predicted[i]) {
      of(gold[i]).hit++;
      hits++;
    }
  }
  let sum = 0;
  for (const c of counts.values()) sum += (2 * c.hit) / (c.gold + c.predicted);
  return { accuracy: hits / n, macroF1: sum / counts.size };
}

export const macroF1 = (gold, predicted) => classScores(gold, predicted).macroF1;

// Mean over runs of student / teacher, with a 95 % percentile interval from resampling both the runs and the rows.
// run: { predicted, teacher: { predicted } }; seeded, so the same results print the same interval.
export function interval(gold, runs, metric, resamples = 500) {
  let state = 12345;
  const below = (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const ratio = (run, rows) => classScores(gold, run.predicted, rows)[metric] / classScores(gold, run.teacher.predicted, rows)[metric];
  const average = (chosen, rows) => chosen.reduce((sum, run) => sum + ratio(run, rows), 0) / chosen.length;
  const drawn = [];
  for (let k = 0; k < resamples; k++) {
    const rows = Array.from(gold, () => below(gold.length));
    drawn.push(average(runs.map(() => runs[below(runs.length)]), rows));
  }
  drawn.sort((a, b) => a - b);
  return { value: average(runs), low: drawn[Math.floor(0.025 * resamples)], high: drawn[Math.ceil(0.975 * resamples) - 1] };
}
