// The vertical marks of a run's curves: where it collapsed, and where its guard went back to earlier weights.
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
