// The one store: what GETs answered and what events added. Pages read it and subscribe to topics; they never keep
// copies. History is fetched once: afterwards only deltas (events, or `?after=` when events were missed) are added.
//
// Topics: 'run:<id>' a resource changed, 'runs' some resource changed or appeared (payload: id), 'gone' one was deleted,
// 'state' a run has another status, 'metrics:<id>', 'steps:<id>', 'log:<id>' rows were added, 'stream' the line's state changed, 'reset' events were missed.
import { get, query } from './api.js';
import { COMPARED, comparePath, SERIES_POINTS } from './first.js';
import { Columns } from './columns.js';
import { connect } from './stream.js';
import { thin } from './smooth.js';

export const FINAL = new Set(['finished', 'failed', 'cancelled']);
export const STEP_POINTS = 1500;
const LOG_LINES = 5000;
const LOG_PAGE = 500;

const listeners = new Map();
const runs = new Map();
const touched = new Map(); // id → how many events changed the resource; lets a slow GET lose against a newer event
const metrics = new Map();
const steps = new Map();
const logs = new Map();
let line = { state: 'connecting', since: Date.now() };
let stream = null;

export function on(topic, fn) {
  if (!listeners.has(topic)) listeners.set(topic, new Set());
  listeners.get(topic).add(fn);
  return () => listeners.get(topic).delete(fn);
}

function emit(topic, payload) {
  for (const fn of [...(listeners.get(topic) ?? [])]) fn(payload);
}

export const run = (id) => runs.get(id);
export const isFinal = (id) => FINAL.has(runs.get(id)?.status);
export const streamState = () => line;
export const retryStream = () => stream?.retry();

/** Puts a resource that some call answered into the store and returns what the store holds: an event may have overtaken the answer. */
export function keep(resource) {
  const held = runs.get(resource.id);
  if (held && resource.revision < held.revision) return held;
  runs.set(resource.id, resource);
  const history = metrics.get(resource.id);
  if (history && !FINAL.has(resource.status)) history.whole = false; // a retry moves it again
  touched.set(resource.id, (touched.get(resource.id) ?? 0) + 1);
  emit(`run:${resource.id}`, resource);
  emit('runs', resource.id);
  if (held?.status !== resource.status) emit('state', resource.id);
  return resource;
}

export function forget(id) {
  for (const map of [runs, metrics, steps, logs]) map.delete(id);
  emit('gone', id);
}

export async function loadRun(id) {
  const before = touched.get(id);
  const resource = await get(`experiments/${id}`);
  return touched.get(id) === before ? keep(resource) : runs.get(id);
}

/** One page of the history. The resources are kept; the ids are answered in order. */
export async function loadRuns(search, signal) {
  const before = new Map(touched);
  const page = await get(`experiments${search}`, { signal });
  for (const resource of page.items) if (touched.get(resource.id) === before.get(resource.id)) keep(resource);
  return { ids: page.items.map((r) => r.id), next: page.next_cursor, total: page.total ?? null };
}

// ---- metrics per epoch --------------------------------------------------------------------------------------------
// An entry holds all columns (`names` null) or some (a Set of them: the list wants one, Compare a few).

/** All columns of a run, or null when not all are here. */
export const metricsOf = (id) => (metrics.get(id)?.names === null ? metrics.get(id).rows : null);
/** Those columns that were asked for with loadSeries, or more. */
export const seriesOf = (id) => metrics.get(id)?.rows ?? null;
export const hasSeries = (id, names) => {
  const held = metrics.get(id)?.names;
  return held === null || (held !== undefined && names.every((name) => held.has(name)));
};

function entryOf(id) {
  if (!metrics.has(id)) metrics.set(id, { rows: new Columns('epoch'), names: new Set(), whole: false, pending: null, early: [] });
  return metrics.get(id);
}

/** Adds epochs to what is held of a run; of its columns only those that are held. */
function addEpochs(id, list) {
  const { rows, names } = metrics.get(id);
  for (const row of list) rows.add(names ? Object.fromEntries(['epoch', ...names].map((name) => [name, row[name]])) : row);
  if (rows.length > 2 * SERIES_POINTS) rows.pick(thin(rows.column('macro_f1'), SERIES_POINTS, marked(rows)));
  emit(`metrics:${id}`, rows);
}

/** The rows that charts mark, as the daemon keeps them too. */
function marked(rows) {
  const [back, attempt, best] = ['rollback', 'attempt', 'is_best'].map((name) => rows.column(name));
  const stays = (i) => Boolean(back[i]) || (i > 0 && attempt[i] !== attempt[i - 1]) || i === best.lastIndexOf(true);
  return back.map((_, i) => i).filter(stays);
}

/** One reading at a time; epochs that events bring meanwhile go behind what was read. */
function reading(ids, work) {
  const pending = work().finally(() => {
    for (const id of ids) {
      const entry = metrics.get(id);
      if (!entry) continue;
      entry.pending = null;
      const early = entry.early.splice(0);
      if (early.length && (entry.names === null || entry.names.size)) addEpochs(id, early);
    }
  });
  for (const id of ids) entryOf(id).pending = pending;
  return pending;
}

/** Whether averages have to come from the daemon: it has more rows than are here. */
export const lacksAverages = (rows, tau) => tau > 0 && rows.reduced && rows.tau !== tau;

/**
 * All columns of a run: fetched once, then only the epochs that are missing; a final run that was read whole never again.
 * Of a history that came reduced, averages (tau epochs to fade to 1/e) come with another reading.
 */
export async function loadMetrics(id, tau = 0) {
  const entry = entryOf(id);
  while (entry.pending) await entry.pending.catch(() => {});
  const anew = entry.names !== null || lacksAverages(entry.rows, tau);
  if (entry.whole && !anew) return entry.rows;
  return reading([id], async () => {
    const wasFinal = isFinal(id);
    const after = !anew && entry.rows.length ? entry.rows.last : null;
    const smooth = anew && lacksAverages(entry.rows, tau) ? tau : null;
    const answer = await get(`experiments/${id}/metrics${query({ max_points: SERIES_POINTS, after, smooth })}`);
    if (anew) entry.rows = new Columns('epoch', undefined, { reduced: answer.reduced, tau: smooth ?? 0 });
    entry.names = null;
    entry.whole = wasFinal;
    addEpochs(id, answer.epochs);
    return entry.rows;
  });
}

/** Some epochs of a run, up to and with the last, as they are wanted for a zoom; not kept. */
export async function readEpochs(id, first, last, tau = 0) {
  const range = { after: first - 1, before: last, max_points: SERIES_POINTS, smooth: tau || null };
  const { epochs, reduced } = await get(`experiments/${id}/metrics${query(range)}`);
  return Columns.of('epoch', epochs, { reduced, tau });
}

/** The epochs that are missing behind those held, in the columns that are held. */
async function loadMissing(id) {
  const entry = metrics.get(id);
  if (entry.names === null) return loadMetrics(id);
  if (entry.pending || !entry.names.size) return undefined;
  return reading([id], async () => {
    const { epochs } = await get(`experiments/${id}/metrics${query({ max_points: SERIES_POINTS, after: entry.rows.last ?? 0 })}`);
    addEpochs(id, epochs);
  });
}

/**
 * Some columns of many runs, and the runs themselves, in one call; asks only for runs of which something is missing, be
 * it averages of a history that came reduced.
 */
export async function loadSeries(ids, names, tau = 0) {
  await Promise.all(ids.map((id) => metrics.get(id)?.pending?.catch(() => {})));
  const lacking = (id) => metrics.get(id)?.names !== null && lacksAverages(entryOf(id).rows, tau);
  const wanted = ids.filter((id) => !runs.has(id) || !hasSeries(id, names) || lacking(id)).slice(0, COMPARED);
  if (!wanted.length) return;
  const fields = [...new Set([...names, ...wanted.flatMap((id) => [...(metrics.get(id)?.names ?? [])])])];
  const smoothed = wanted.some(lacking) ? tau : 0;
  const before = new Map(touched);
  await reading(wanted, async () => {
    const { experiments } = await get(comparePath(wanted, fields, smoothed || null));
    for (const { series, smooth, ...resource } of experiments) {
      const entry = entryOf(resource.id);
      if (entry.names !== null) {
        const reduced = series.epoch.length < (resource.progress?.epoch ?? 0);
        entry.rows = new Columns('epoch', series, { reduced, tau: smoothed });
        if (smooth) entry.rows.setAverages(smooth);
        entry.names = new Set(fields);
        entry.whole = FINAL.has(resource.status);
        emit(`metrics:${resource.id}`, entry.rows);
      }
      const held = runs.get(resource.id);
      const overtaken = touched.get(resource.id) !== before.get(resource.id);
      if (!held || (!overtaken && held.revision !== resource.revision)) keep(resource);
    }
  });
}

// ---- steps ---------------------------------------------------------------------------------------------------------

export const stepsOf = (id) => steps.get(id) ?? null;

/**
 * The steps of a run between two steps (null: open), reduced by the server; kept for the open range only. tau: with
 * averages (as many steps to fade to 1/e), where the server has more steps than it sends.
 */
export async function loadSteps(id, from = null, to = null, tau = 0) {
  const whole = from === null && to === null;
  const held = whole ? steps.get(id) : null;
  if (held && !lacksAverages(held, tau)) return held;
  const smooth = whole && !held ? 0 : tau; // a first reading tells whether averages have to be asked for
  const range = whole ? {} : { after: Math.floor(from) - 1, before: Math.ceil(to) };
  const answer = await get(`experiments/${id}/steps${query({ max_points: STEP_POINTS, ...range, smooth: smooth || null })}`);
  const rows = Columns.of('step', answer.steps, { reduced: answer.reduced, tau: smooth });
  if (!whole) return rows;
  const live = steps.get(id);
  if (live) rows.addFrom(live); // events are ahead of what the daemon has stored
  steps.set(id, rows);
  return lacksAverages(rows, tau) ? loadSteps(id, null, null, tau) : rows;
}

function addSteps(id, items) {
  const rows = steps.get(id);
  if (!rows) return;
  for (const row of items) {
    if (row.step > (rows.last ?? 0) + 1) rows.reduced = true; // events bring but some of the steps
    rows.add(row);
  }
  if (rows.length > 2 * STEP_POINTS) rows.pick(thin(rows.column('loss'), STEP_POINTS));
  emit(`steps:${id}`, rows);
}

// ---- log -----------------------------------------------------------------------------------------------------------

/** Reads the log from where it is known to, page by page. */
export async function loadLog(id) {
  if (!logs.has(id)) logs.set(id, { lines: [], seen: new Set() });
  for (;;) {
    const after = logs.get(id)?.lines.at(-1)?.seq ?? 0;
    const { items } = await get(`experiments/${id}/log?limit=${LOG_PAGE}&after=${after}`);
    addLog(id, items);
    if (items.length < LOG_PAGE) return logOf(id);
  }
}

export const logOf = (id) => logs.get(id)?.lines ?? [];

function addLog(id, lines) {
  const entry = logs.get(id);
  if (!entry) return;
  for (const item of lines) {
    if (entry.seen.has(item.seq)) continue;
    entry.seen.add(item.seq);
    entry.lines.push(item);
  }
  entry.lines.sort((a, b) => a.seq - b.seq);
  if (entry.lines.length > LOG_LINES) entry.lines.splice(0, entry.lines.length - LOG_LINES);
  emit(`log:${id}`, entry.lines);
}

// ---- events --------------------------------------------------------------------------------------------------------

/** An epoch: a row of the metrics, and what it changes of the run (no status event comes with it). */
function receiveEpoch(id, { experiment_id: _, progress, best, retention, revision, ...row }) {
  const entry = metrics.get(id);
  if (entry?.pending) entry.early.push(row);
  else if (entry && (entry.names === null || entry.names.size)) {
    // A gap: what lies between is asked for, and only that.
    if (row.epoch > (entry.rows.last ?? 0) + 1) loadMissing(id).catch(() => {});
    else addEpochs(id, [row]);
  }
  const held = runs.get(id);
  if (held && progress && !(revision < held.revision))
    keep({ ...held, progress: { ...held.progress, ...progress }, best, retention, revision, last: row });
}

function receive(type, data) {
  if (type === 'reset') {
    catchUp();
    return;
  }
  const id = data?.experiment_id;
  if (!id) return;
  if (type === 'status') {
    if (data.status === 'deleted') {
      forget(id);
      return;
    }
    const { experiment_id: _, ...resource } = data;
    keep(resource);
  } else if (type === 'epoch') {
    receiveEpoch(id, data);
  } else if (type === 'step') {
    addSteps(id, data.steps);
    const resource = runs.get(id);
    if (resource && data.progress) keep({ ...resource, progress: { ...resource.progress, ...data.progress } });
  } else if (type === 'log') {
    addLog(id, [data]);
  }
}

/** Steps after the last one that is here. */
function catchUpSteps(id) {
  const rows = steps.get(id);
  if (!rows || isFinal(id)) return;
  loadSteps(id, rows.length ? rows.last + 1 : 1, Number.MAX_SAFE_INTEGER, rows.tau)
    .then((more) => {
      steps.get(id)?.addFrom(more);
      addSteps(id, []);
    })
    .catch(() => {});
}

let watched = null;
const askSteps = () => stream?.want(document.visibilityState === 'visible' ? watched : null);
/** The run whose steps are in view; null: none. Hidden pages do not ask for steps, and catch up when they are shown. */
export function watchSteps(id) {
  watched = id;
  askSteps();
  if (id) catchUpSteps(id);
}

/** Events were missed: asks for what came since, for everything that is still moving and has been read before. */
function catchUp() {
  for (const [id, entry] of metrics) if (!entry.whole) loadMissing(id).catch(() => {});
  for (const id of steps.keys()) catchUpSteps(id);
  for (const id of logs.keys()) loadLog(id).catch(() => {});
  emit('reset');
}

export function start() {
  document.addEventListener('visibilitychange', () => {
    askSteps();
    if (watched && document.visibilityState === 'visible') catchUpSteps(watched);
  });
  stream = connect(receive, (state, since) => {
    const back = line.state === 'lost' && state === 'live';
    line = { state, since };
    emit('stream', line);
    if (back) catchUp();
  });
}
