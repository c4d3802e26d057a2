// The columns of the history: what each shows, how it sorts. One row here is one column of the Runs page.
import { h, svg } from './dom.js';
import { t } from './i18n.js';
import { bytes, count, duration, NONE, number, percent, score, shortTime, fullTime } from './format.js';
import { progressBar, statusMark } from './widgets.js';
import { href } from './router.js';
import { runColour } from './colour.js';
import { seriesOf } from './store.js';

const SPARK_WIDTH = 64;
const SPARK_HEIGHT = 16;

export const optimizerName = (spec) =>
  typeof spec.optimizer === 'string' ? spec.optimizer : (spec.optimizer?.type ?? '');
export const learningRate = (spec) => spec.optimizer?.lr ?? null;

/** "milk-teacher → 3 × 768", "milk-teacher + 2 → …" with further ones, or only the shape where there is no teacher. */
export function shape(spec) {
  const own = spec.layers ? `${spec.layers} × ${spec.hidden_size ?? '?'}` : '';
  const from = spec.teacher || spec.model;
  const more = spec.teachers?.length ? ` + ${spec.teachers.length}` : '';
  return from ? `${from}${more} → ${own}` : own;
}

/** Macro-F1 per epoch as a small line: from 0 … 1 scaled to its own range, the best epoch as a dot. */
export function sparkline(id) {
  const rows = seriesOf(id);
  const host = h('span', { class: 'spark' });
  if (!rows || rows.length < 2) return host;
  const y = rows.column('macro_f1');
  const finite = y.filter((v) => v !== null);
  if (finite.length < 2) return host;
  const low = Math.min(...finite);
  const high = Math.max(...finite);
  const px = (i) => 2 + (i / (y.length - 1)) * (SPARK_WIDTH - 4);
  const py = (v) => SPARK_HEIGHT - 2 - ((v - low) / (high - low || 1)) * (SPARK_HEIGHT - 4);
  let d = '';
  let pen = 'M';
  y.forEach((v, i) => {
    if (v === null) pen = 'M';
    else {
      d += `${pen}${px(i).toFixed(1)} ${py(v).toFixed(1)}`;
      pen = 'L';
    }
  });
  const best = y.indexOf(high);
  host.append(
    svg(
      'svg',
      {
        viewBox: `0 0 ${SPARK_WIDTH} ${SPARK_HEIGHT}`,
        width: SPARK_WIDTH,
        height: SPARK_HEIGHT,
        'aria-hidden': 'true',
      },
      svg('path', { d, fill: 'none', stroke: runColour(id), 'stroke-width': '1.25', 'stroke-linejoin': 'round' }),
      svg('circle', { cx: px(best), cy: py(high), r: '1.9', fill: runColour(id) }),
    ),
  );
  return host;
}

function progressCell(r) {
  const p = r.progress ?? {};
  const done = p.epoch ?? 0;
  const all = p.epochs ?? r.spec?.epochs;
  const fraction = r.status === 'finished' ? 1 : p.steps ? p.step / p.steps : done / (all || 1);
  return [progressBar(fraction, t('column.progress')), h('span', { class: 'num' }, `${done}/${all ?? NONE}`)];
}

export function timeLeft(r) {
  if (r.status === 'running') return duration(r.progress?.eta_seconds);
  return NONE;
}

/** key → {cell(run), title(run): where the cell may be cut, sort: API key, rising: sorted upwards at first, num: right-aligned, phone: shown on narrow screens} */
export const COLUMNS = {
  status: { sort: 'status', phone: true, cell: (r) => statusMark(r.status) },
  name: {
    sort: 'name',
    phone: true,
    cell: (r) => [
      h('i', { class: 'chip', vars: { '--c': runColour(r.id) }, 'aria-hidden': 'true' }),
      h(
        'a',
        { href: href(['runs', String(r.id)]), class: 'run-name', title: r.name || `#${r.id}` },
        r.name || `#${r.id}`,
      ),
      h('span', { class: 'id' }, `#${r.id}`),
    ],
  },
  task: { cell: (r) => t(`task.${r.spec.task}`) },
  dataset: { sort: 'dataset', cell: (r) => r.spec.dataset, title: (r) => r.spec.dataset },
  shape: { sort: 'layers', cell: (r) => shape(r.spec), title: (r) => shape(r.spec) },
  optimizer: { cell: (r) => optimizerName(r.spec) },
  lr: { sort: 'lr', num: true, cell: (r) => number(learningRate(r.spec)) },
  T: { sort: 'T', num: true, cell: (r) => (r.spec.task === 'distill' ? number(r.spec.T) : NONE) },
  alpha: { sort: 'alpha', num: true, cell: (r) => (r.spec.task === 'distill' ? number(r.spec.alpha) : NONE) },
  seed: { num: true, cell: (r) => String(r.spec.seed ?? NONE) },
  best_f1: {
    sort: 'best_macro_f1',
    num: true,
    phone: true,
    cell: (r) => [sparkline(r.id), h('span', { class: 'num strong' }, score(r.best?.macro_f1))],
  },
  accuracy: { sort: 'best_accuracy', num: true, cell: (r) => score(r.best?.accuracy) },
  retention: { num: true, cell: (r) => percent(r.retention?.macro_f1) },
  progress: { phone: true, cell: progressCell },
  eta: { sort: 'queue', rising: true, num: true, phone: true, cell: timeLeft },
  speed: {
    num: true,
    cell: (r) =>
      r.status === 'running' && r.progress?.tokens_per_second ? count(Math.round(r.progress.tokens_per_second)) : NONE,
  },
  size: { sort: 'model_bytes', num: true, cell: (r) => bytes(r.model?.bytes) },
  tags: {
    title: (r) => (r.spec.tags ?? r.tags ?? []).join(', '),
    cell: (r) =>
      (r.spec.tags ?? r.tags ?? []).map((tag) => h('a', { class: 'tag', href: href(['runs'], { tag }) }, tag)),
  },
  priority: { sort: 'priority', num: true, cell: (r) => String(r.priority ?? r.spec.priority ?? 0) },
  started: {
    sort: 'started_at',
    num: true,
    cell: (r) => h('time', { title: fullTime(r.started_at), datetime: r.started_at ?? '' }, shortTime(r.started_at)),
  },
};

export const DEFAULT_COLUMNS = [
  'status',
  'name',
  'task',
  'dataset',
  'shape',
  'optimizer',
  'T',
  'alpha',
  'best_f1',
  'retention',
  'progress',
  'eta',
  'size',
  'tags',
  'started',
];
