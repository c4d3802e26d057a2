// The first request of a page, known from its address alone: early.js sends it while the rest of the dashboard is still
// being read, and api.js takes the answer when the page asks for the same path.
export const NAV = ['runs', 'compare', 'sweeps', 'datasets', 'models', 'new', 'system'];

export const LIST_PAGE = 60; // small, so that the first rows come soon
export const FILTERS = ['q', 'status', 'dataset', 'teacher', 'tag', 'task', 'optimizer'];
export const COMPARED = 50;
export const SERIES_POINTS = 1500;

const SCORES = ['macro_f1', 'weighted_f1', 'accuracy', 'macro_precision', 'macro_recall', 'teacher_agreement'];
export const METRICS = { scores: SCORES, all: [...SCORES, 'train_loss', 'train_kl', 'train_ce', 'train_hidden', 'train_cls', 'train_attention', 'train_relation', 'dev_loss', 'dev_kl', 'dev_ce'] };
const X_COLUMNS = { time: ['elapsed_seconds'], clock: ['elapsed_seconds', 'recorded_at'] };
const TABLE = ['macro_f1', 'accuracy', 'weighted_f1'];

export function query(params) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(params))
    if (value !== null && value !== undefined && value !== '') search.set(key, value);
  const text = search.toString();
  return text ? `?${text}` : '';
}

/** What the address of the Runs page asks of the list. */
export function listSearch(params) {
  const wanted = { sort: params.get('sort') ?? '-id' };
  for (const name of FILTERS) wanted[name] = params.get(name);
  return wanted;
}

/** The runs of the address of the Compare page. */
export const comparedIds = (params) =>
  [...new Set((params.get('ids') ?? '').split(',').map(Number))].filter((n) => Number.isInteger(n) && n > 0).slice(0, COMPARED);
/** The epoch whose scores are asked for; null: the best or the last, which are in the runs' own words. */
export const comparedEpoch = (params) => Number(params.get('at')) || null;
/** The columns that it shows, besides the epochs: no more, the answer is most of what the page waits for. */
export const comparedMetric = (params, key) =>
  METRICS.all.includes(params.get(key)) ? params.get(key) : { m1: 'macro_f1', m2: 'dev_loss' }[key];
export const comparedSeries = (params) => [
  ...new Set([
    ...(X_COLUMNS[params.get('x')] ?? []),
    ...(comparedEpoch(params) ? TABLE : []),
    comparedMetric(params, 'm1'),
    comparedMetric(params, 'm2'),
  ]),
];
export const comparePath = (ids, names, smooth = null) =>
  `compare${query({ ids: ids.join(','), fields: names.join(','), max_points: SERIES_POINTS, smooth })}`;

/** The path below /api/v1, or null. */
export function firstPath(pathname, search) {
  const [page = 'runs', id] = pathname.split('/').filter(Boolean);
  const params = new URLSearchParams(search);
  if (page === 'runs' && !id) return `experiments${query({ ...listSearch(params), limit: LIST_PAGE })}`;
  if (page === 'runs' && /^\d+$/.test(id)) return `experiments/${id}`;
  if (page === 'compare' && comparedIds(params).length) return comparePath(comparedIds(params), comparedSeries(params));
  return null;
}

/** Whether the first thing to see on the page is a chart. */
export function drawsCharts(pathname, search) {
  const [page, id] = pathname.split('/').filter(Boolean);
  return (page === 'runs' && Boolean(id)) || (page === 'compare' && comparedIds(new URLSearchParams(search)).length > 0);
}
