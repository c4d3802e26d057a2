// What pages with charts keep in the address: x, smoothing, zoom, which series are hidden, which charts show their table.
import { t } from './i18n.js';
import { duration, fullTime } from './format.js';
import { route, setParams } from './router.js';

export const X_MODES = ['epoch', 'step', 'time', 'clock'];
const MOST_SMOOTHING = 0.98;

export const param = (name) => route().params.get(name);
export const xMode = () => (X_MODES.includes(param('x')) ? param('x') : 'epoch');
export const logY = () => param('log') === '1';
/** What an epoch's value keeps of the one before, 0 … 1. */
export const smoothing = () => Math.min(MOST_SMOOTHING, Math.max(0, Number(param('smooth')) || 0));
/** The same as epochs until a value has faded to 1/e; 0: no smoothing. */
export const tauOf = (kept) => (kept > 0 ? -1 / Math.log(kept) : 0);

/** The range of x that is zoomed into, or null. */
export function zoom(name) {
  const parts = (param(name) ?? '').split('~').map(Number);
  return parts.length === 2 && parts.every(Number.isFinite) ? parts : null;
}
export const zoomTo = (name) => (from, to) => {
  if (from === null && !param(name)) return;
  const short = (v) => (xMode() === 'clock' ? Math.round(v) : Number(v.toPrecision(7)));
  setParams({ [name]: from === null ? null : `${short(from)}~${short(to)}` });
};

/** Series that are switched off; `first`: those that are until the reader decides. */
export const hiddenSeries = (first = []) =>
  new Set(param('hide') === null ? first : param('hide').split(',').filter(Boolean));
export function toggleSeries(id, first = []) {
  const set = hiddenSeries(first);
  if (!set.delete(id)) set.add(id);
  setParams({ hide: set.size || first.length ? [...set].join(',') : null });
}

/** For chartPanel: whether the chart of that name shows its table. */
export function tableState(name) {
  const shown = () => new Set((param('table') ?? '').split(',').filter(Boolean));
  return {
    table: () => shown().has(name),
    onTable: (on) => {
      const set = shown();
      if (on) set.add(name);
      else set.delete(name);
      setParams({ table: [...set].join(',') || null });
    },
  };
}

/** Where rows of a run lie on x: Columns of epochs, or of steps. */
export function xOf(rows, run, perStep = false) {
  const mode = xMode();
  const stepsPerEpoch = (run?.progress?.steps ?? 0) / (run?.progress?.epochs || 1);
  if (mode === 'epoch')
    return perStep ? rows.column('step').map((s) => (stepsPerEpoch ? s / stepsPerEpoch : s)) : rows.column('epoch');
  if (mode === 'step') return perStep ? rows.column('step') : rows.column('epoch').map((e) => Math.round(e * stepsPerEpoch));
  const elapsed = rows.column('elapsed_seconds');
  if (mode === 'time') return elapsed;
  const start = Date.parse(run?.started_at ?? 0);
  return rows.column('recorded_at').map((at, i) => (at ? Date.parse(at) : start + 1000 * elapsed[i]));
}

/** The axis itself, for the models of lines.js. */
export function xAxis(perStep, range) {
  const mode = xMode();
  const formats = {
    epoch: (v) => (perStep ? String(Number(v.toFixed(2))) : String(Math.round(v))),
    step: (v) => String(Math.round(v)),
    time: duration,
    clock: (v) => fullTime(new Date(v).toISOString()),
  };
  return {
    name: t(`x.${mode}`),
    type: { clock: 'time', time: 'seconds' }[mode],
    format: formats[mode],
    whole: mode === 'step' || (mode === 'epoch' && !perStep),
    min: range?.[0],
    max: range?.[1],
  };
}
