// Numbers and times as text. Scores have four digits, as scikit-learn's report and the tables of the field do. Without Intl:
// the first of its formatters costs 30 ms in a new page, more than all rows of a list.
import { t } from './i18n.js';

export const NONE = '–';

const missing = (v) => v === null || v === undefined || Number.isNaN(v);

export const score = (v) => (missing(v) ? NONE : v.toFixed(4).replace(/^(-?)0\./, '$1.'));

/** For axes: as many digits as the tick has. */
export const shortScore = (v) => String(Number(v.toFixed(4))).replace(/^(-?)0\./, '$1.');

/** Signed difference of two scores, with a true minus sign. */
export function delta(v) {
  if (missing(v)) return NONE;
  const text = Math.abs(v).toFixed(4).replace(/^0\./, '.');
  if (text === '.0000') return '±.0000';
  return v > 0 ? `+${text}` : v < 0 ? `\u2212${text}` : `±${text}`;
}

export const percent = (v, digits = 1) => (missing(v) ? NONE : `${(100 * v).toFixed(digits)}%`);

/** 12,436: with thousands apart, as both languages write them. */
export const count = (v) => (missing(v) ? NONE : String(v).replace(/\B(?=(\d{3})+$)/g, ','));

/** Up to four significant digits; scientific where that is shorter. For losses, rates, norms. */
export function number(v) {
  if (v === null || v === undefined) return NONE;
  if (Number.isNaN(v)) return 'NaN';
  if (!Number.isFinite(v)) return v > 0 ? '∞' : '\u2212∞';
  if (v === 0) return '0';
  const size = Math.abs(v);
  if (size >= 1e6 || size < 1e-3)
    return v
      .toExponential(2)
      .replace('e+', 'e')
      .replace(/\.?0+e/, 'e');
  if (Number.isInteger(v)) return String(v);
  return String(Number(v.toPrecision(4)));
}

/** Decimal units: 24.3 M float32 parameters are 97 MB. */
export function bytes(v) {
  if (missing(v)) return NONE;
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (v >= 999.5 && unit < units.length - 1) {
    v /= 1000;
    unit++;
  }
  return `${unit === 0 || v >= 99.5 ? Math.round(v) : v.toPrecision(3).replace(/\.?0+$/, '')} ${units[unit]}`;
}

export function parameters(v) {
  if (missing(v)) return NONE;
  return v >= 1e6 ? `${(v / 1e6).toFixed(1)} M` : v >= 1e3 ? `${(v / 1e3).toFixed(0)} k` : String(v);
}

export function duration(seconds) {
  if (missing(seconds) || seconds < 0) return NONE;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${String(s % 60).padStart(2, '0')} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, '0')} m`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const clock = (then, seconds) =>
  [then.getHours(), then.getMinutes(), ...(seconds ? [then.getSeconds()] : [])].map((n) => String(n).padStart(2, '0')).join(':');
const dateParts = (then) => ({ month: t('time.months').split(' ')[then.getMonth()], day: then.getDate(), year: then.getFullYear() });

/** "14:03" today, "Nov 21" this year, "2025-11-21" before. */
export function shortTime(iso, now = Date.now()) {
  if (!iso) return NONE;
  const then = new Date(iso);
  const today = new Date(now);
  if (then.toDateString() === today.toDateString()) return clock(then, false);
  return then.getFullYear() === today.getFullYear() ? t('time.day', dateParts(then)) : iso.slice(0, 10);
}

/** A tick of an axis of clock time, `step` ms from the next: "Nov 21", "14:03" or "14:03:22". */
export function tickTime(ms, step) {
  const then = new Date(ms);
  return step >= 86_400_000 ? t('time.day', dateParts(then)) : clock(then, step < 60_000);
}

/** "Nov 21, 2025, 14:03:22" */
export function fullTime(iso) {
  if (!iso) return NONE;
  const then = new Date(iso);
  return t('time.full', { ...dateParts(then), clock: clock(then, true) });
}
