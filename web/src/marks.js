// The vertical marks of a run's curves: where it collapsed, where its guard went back to earlier weights, where it was
// taken up again, and where it ended early.
import { t } from './i18n.js';

const COLLAPSE = 0.6; // of the best macro-F1 so far

/** Where the run's guard went back: the weights of an earlier epoch, or the first ones. */
export function rollbacks(rows, x) {
  return rows.column('rollback').flatMap((back, i) => {
    if (!back) return [];
    const name = back.to_epoch ? t('mark.rollback', { epoch: back.to_epoch }) : t('mark.restart');
    return [{ x: x[i], name, bad: true }];
  });
}

/**
 * Where the scores fell off a cliff: the first epoch of each stretch in which macro-F1 is below COLLAPSE of the best so
 * far. A student that gives one class alone has 1/classes of a good one's, so it always shows. An epoch that was rolled
 * back says so itself.
 */
export function collapses(rows, x) {
  const found = [];
  const back = rows.column('rollback');
  let best = 0;
  let down = false;
  rows.column('macro_f1').forEach((v, i) => {
    const low = best > 0 && (v === null || v < COLLAPSE * best);
    if (low && !down && !back[i]) found.push({ x: x[i], name: t('mark.collapse'), bad: true });
    down = low && !back[i];
    best = Math.max(best, v ?? 0);
  });
  return found;
}

/** The first epoch of each attempt but the first: after a kill, a pause or a retry. */
export function resumptions(rows, x) {
  const attempt = rows.column('attempt');
  return attempt.flatMap((n, i) => (i > 0 && n > (attempt[i - 1] ?? n) ? [{ x: x[i], name: t('mark.resumed') }] : []));
}

/** Where the run stopped because it no longer got better. */
function earlyStop(rows, x, run) {
  const p = run?.progress;
  return p?.stopped_early && rows.last === p.epoch ? [{ x: x.at(-1), name: t('mark.early_stop') }] : [];
}

/**
 * Every x where a series that is shown should have a value and has none, each once. A series that is `partial` lacks
 * some by its nature, as the cross entropy of a batch without labelled rows.
 */
export function gapsOf(series) {
  const at = new Set();
  for (const s of series) {
    if (s.faint || s.hidden || s.partial) continue;
    s.y.forEach((v, i) => (v === null || Number.isNaN(v)) && at.add(s.x[i]));
  }
  return [...at];
}

/** All marks, in the order of x. Columns of epochs, where they lie, and the run's resource. */
export const marksOf = (rows, x, run) =>
  [...rollbacks(rows, x), ...collapses(rows, x), ...resumptions(rows, x), ...earlyStop(rows, x, run)].sort((a, b) => a.x - b.x);
