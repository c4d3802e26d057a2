// Sweeps: the list with a form that makes one, and one sweep: heat map over any two axes (a table whose cells are
// coloured, so it is its own twin), parallel coordinates coloured by score, best point, table of all points. Live: a
// change of one of its runs asks for the sweep again, at most every two seconds.
import { debounce, fill, h } from '../dom.js';
import { t } from '../i18n.js';
import { get, post, query } from '../api.js';
import { chartPanel } from '../chartpanel.js';
import { oklch } from '../colour.js';
import { isDark, onTheme } from '../theme.js';
import { duration, percent, shortTime, score } from '../format.js';
import { attempt, confirmDialog, curlFor, progressBar, segmented, statusMark, teach } from '../widgets.js';
import { href, route, setParams } from '../router.js';
import { on, run } from '../store.js';
import { intervalText, testText, ties, verdict } from './lead.js';
import { cellsOf, importance, lineSeries, showValue, spreadText } from './sweep-parts.js';
import { sweepForm } from './sweep-form.js';

const NO_TREND = 0.2; // below it a rank correlation says nothing to the eye
const REFRESH_MS = 2000;
const METRICS = ['macro_f1', 'accuracy'];

const EXAMPLE = {
  name: 'T and alpha',
  base: { dataset: 'packages', teacher: 'packages-teacher', layers: 3, epochs: 20 },
  grid: { T: [1, 2, 4, 8], alpha: [0.2, 0.5, 0.9] },
  seeds: [1, 2, 3],
};

export function mount(root, { parts }) {
  return parts[1] ? one(root, Number(parts[1])) : list(root);
}

const done = (progress) => progress.finished + progress.failed + progress.cancelled;

// ---- the list ------------------------------------------------------------------------------------------------------

function list(root) {
  const host = h('div', {});
  const form = sweepForm();
  fill(root, h('div', { class: 'page' }, h('h1', { class: 'page-title' }, t('nav.sweeps')), host, form.element));

  async function load() {
    const page = await attempt(() => get('sweeps?limit=100'));
    if (!page) return;
    if (!page.items.length) {
      fill(host, teach(t('sweeps.empty_title'), t('sweeps.empty_text'), curlFor('sweeps', EXAMPLE)));
      return;
    }
    const columns = ['status', 'name', 'axes', 'points', 'seeds', 'progress', 'created'];
    fill(
      host,
      h(
        'div',
        { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': t('nav.sweeps') },
        h(
          'table',
          { class: 'data wide' },
          h('thead', {}, h('tr', {}, columns.map((c) => h('th', { scope: 'col', class: ['points', 'seeds'].includes(c) ? 'num' : '' }, t(`sweeps.${c}`))))),
          h('tbody', {}, page.items.map(row)),
        ),
      ),
    );
  }
  const row = (s) =>
    h(
      'tr',
      {},
      h('td', {}, statusMark(s.status)),
      h('th', { scope: 'row' }, h('a', { href: href(['sweeps', String(s.id)]) }, `#${s.id} ${s.name}`)),
      h('td', {}, s.axes.join(' × ')),
      h('td', { class: 'num' }, String(s.points_total)),
      h('td', { class: 'num' }, String(s.seeds?.length ?? 1)),
      h('td', {}, progressBar(done(s.progress) / (s.progress.total || 1), s.name), ` ${done(s.progress)}/${s.progress.total}`),
      h('td', {}, shortTime(s.created_at)),
    );
  const again = debounce(load, REFRESH_MS);
  const off = on('state', (id) => run(id)?.sweep_id && again());
  load();
  return {
    title: () => t('nav.sweeps'),
    update() {},
    keys: {},
    stop() {
      off();
      again.cancel();
      form.stop();
    },
  };
}

// ---- one sweep -----------------------------------------------------------------------------------------------------

function one(root, id) {
  let sweep = null;
  const head = h('div', {});
  const heat = h('section', {});
  const matters = h('section', {});
  const table = h('section', {});
  const param = (name) => route().params.get(name);
  const metric = () => (METRICS.includes(param('metric')) ? param('metric') : 'macro_f1');
  const axisOf = (name, otherwise) => (sweep.axes.includes(param(name)) ? param(name) : otherwise);

  const parallel = chartPanel({
    title: t('compare.parallel'),
    name: `sweep-${id}-parallel`,
    tall: true,
    hidden: () => new Set(),
    model: () => sweep && lineSeries(sweep, metric(), scale),
    summary: () => t('sweeps.points_summary', { n: sweep?.points.filter((p) => p.n).length ?? 0 }),
  });
  fill(
    root,
    h('div', { class: 'page' }, head, h('div', { class: 'columns' }, heat, matters), h('div', { class: 'charts' }, parallel.element), table),
  );

  /** A score as a colour: from paper to ink of one hue, so that lightness alone says which is better. */
  function scale(share) {
    return isDark() ? oklch(0.28 + 0.42 * share, 0.02 + 0.09 * share, 165) : oklch(0.96 - 0.46 * share, 0.02 + 0.08 * share, 165);
  }
  /** Black or white, whichever has the larger contrast: they meet at 4.58:1, where OKLCH's lightness is 0.564. */
  const inkOn = (share) => ((isDark() ? 0.28 + 0.42 * share : 0.96 - 0.46 * share) > 0.564 ? '#000000' : '#ffffff');

  function drawHead() {
    const { progress, best } = sweep;
    const runner = best && best.runner_up !== null ? sweep.points[best.runner_up] : null;
    fill(
      head,
      h('p', { class: 'crumbs' }, h('a', { href: href(['sweeps']) }, t('nav.sweeps'))),
      h(
        'div',
        { class: 'toolbar' },
        h('h1', { class: 'page-title' }, `#${sweep.id} ${sweep.name}`),
        h('span', { class: 'run-state' }, statusMark(sweep.status)),
        h('span', { class: 'num' }, t('sweeps.progress_of', { done: done(progress), total: progress.total })),
        progressBar(done(progress) / (progress.total || 1), t('sweeps.progress')),
        h('span', { class: 'spring' }),
        segmented('metric', METRICS.map((m) => [m, t(`metric.${m}`)]), metric(), (m) => setParams({ metric: m === 'macro_f1' ? null : m })),
        h('a', { class: 'button', href: href(['compare'], { ids: bestIds().join(',') }) }, t('sweeps.compare_best')),
        h('a', { class: 'button', href: `/api/v1/sweeps/${id}?format=csv`, download: `sweep-${id}.csv` }, 'CSV'),
        sweep.status === 'running' && h('button', { type: 'button', onclick: cancel }, t('sweeps.cancel')),
      ),
      best &&
        h(
          'p',
          { class: 'lead' },
          t('sweeps.best', { values: showValue(best.values), metric: t(`metric.${best.metric}`), score: spreadText(sweep.points[best.point][best.metric]) }),
          ' ',
          runner &&
            t(best.within_noise === null ? 'sweeps.unknown_noise' : best.within_noise ? 'sweeps.within_noise' : 'sweeps.beyond_noise', {
              values: showValue(runner.values),
              difference: score(best.difference),
            }),
          ' ',
          sweep.significance &&
            `${t('sweeps.ties', { n: ties(sweep.significance), others: sweep.significance.others.length })} ${testText(sweep.significance)}`,
        ),
      sweep.asha && h('p', { class: 'lead' }, ashaText()),
    );
  }
  /** What successive halving has done so far, and what it has spared. */
  function ashaText() {
    const rungs = sweep.asha.rungs.map((r) => t('sweeps.rung', { epoch: r.epoch, points: r.points, promoted: r.promoted }));
    const cost = { done: sweep.epochs_done, total: sweep.epochs_total, share: percent(sweep.epochs_done / (sweep.epochs_total || 1)) };
    return [t('sweeps.asha_rule', { eta: sweep.asha.eta }), ...rungs, t('sweeps.asha_cost', cost)].join(' ');
  }
  /** The first run of each of the four best points. */
  function bestIds() {
    const ranked = sweep.points.filter((p) => p.n).sort((a, b) => b[metric()].mean - a[metric()].mean);
    return ranked.slice(0, 4).map((p) => p.experiments[0]);
  }

  async function cancel() {
    if (await confirmDialog(t('sweeps.cancel_title'), t('sweeps.cancel_text'), t('sweeps.cancel'), { danger: true }))
      attempt(() => post(`sweeps/${id}/cancel`)).then(load);
  }

  function drawHeat() {
    const x = axisOf('hx', sweep.axes[0]);
    const y = axisOf('hy', sweep.axes.find((a) => a !== x) ?? null);
    const choose = (key, value) =>
      h(
        'label',
        { class: 'check' },
        t(`sweeps.${key}`),
        h(
          'select',
          { value, onchange: (e) => setParams({ [key]: e.target.value }) },
          sweep.axes.map((a) => h('option', { value: a }, a)),
        ),
      );
    const { columns, rows, cells, low, high } = cellsOf(sweep.points, x, y, metric());
    fill(
      heat,
      h('h2', { class: 'section' }, t('sweeps.heat', { x, y: y ?? '' })),
      h('div', { class: 'toolbar slim' }, sweep.axes.length > 1 && [choose('hx', x), choose('hy', y)], h('span', { class: 'faint' }, t('sweeps.heat_text', { metric: t(`metric.${metric()}`) }))),
      h(
        'div',
        { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': t('sweeps.heat', { x, y: y ?? '' }) },
        h(
          'table',
          { class: 'heat' },
          h('caption', { class: 'sr' }, t('sweeps.heat', { x, y: y ?? '' })),
          h('thead', {}, h('tr', {}, h('td', {}, y ? `${y} ↓  ${x} →` : `${x} →`), columns.map((v) => h('th', { scope: 'col', class: 'num' }, showValue(v))))),
          h(
            'tbody',
            {},
            rows.map((rowValue, r) =>
              h(
                'tr',
                {},
                h('th', { scope: 'row', class: 'num' }, y ? showValue(rowValue) : t(`metric.${metric()}`)),
                columns.map((_, c) => heatCell(cells[r][c], low, high)),
              ),
            ),
          ),
        ),
      ),
    );
  }
  function heatCell(cell, low, high) {
    if (!cell || cell.mean === null) return h('td', { class: 'none' }, cell ? t('sweeps.waiting') : '–');
    const share = high > low ? (cell.mean - low) / (high - low) : 1;
    const best = sweep.best && cell.points.includes(sweep.best.point);
    const halted = cell.points.every((i) => sweep.points[i].stopped);
    return h(
      'td',
      { class: best ? 'best' : '', vars: { '--cell': scale(share), '--on': inkOn(share) } },
      h('a', { href: href(['compare'], { ids: cell.experiments.slice(0, 50).join(','), seeds: cell.experiments.length > 1 ? '1' : null }) }, score(cell.mean)),
      h('small', {}, `${cell.std === null ? '' : `± ${score(cell.std)} · `}n ${cell.n}`, best && ` · ${t('sweeps.best_mark')}`, halted && ` · ${t('sweeps.halted')}`),
    );
  }

  /** Which setting decides, by the points that have a score. */
  function drawMatters() {
    const rows = sweep.axes.length > 1 ? importance(sweep, metric()) : null;
    if (!rows) {
      fill(matters);
      return;
    }
    const said = ({ trend }) => t(trend === null ? 'sweeps.trend_none' : Math.abs(trend) < NO_TREND ? 'sweeps.trend_flat' : trend > 0 ? 'sweeps.trend_up' : 'sweeps.trend_down');
    fill(
      matters,
      h('h2', { class: 'section' }, t('sweeps.matters')),
      h(
        'table',
        { class: 'data' },
        h('caption', {}, t('sweeps.matters_help')),
        h('thead', {}, h('tr', {}, ['axis', 'share', 'trend'].map((c) => h('th', { scope: 'col', class: c === 'share' ? 'num' : '' }, t(`sweeps.${c}`))))),
        h(
          'tbody',
          {},
          rows.map((row) =>
            h(
              'tr',
              {},
              h('th', { scope: 'row' }, row.axis),
              h('td', { class: 'num' }, h('span', { class: 'meter', vars: { '--v': row.share.toFixed(3) } }, percent(row.share, 0))),
              h('td', { title: row.trend === null ? null : `ρ ${row.trend.toFixed(2)}` }, said(row)),
            ),
          ),
        ),
      ),
    );
  }

  function drawTable() {
    const m = metric();
    const ranked = [...sweep.points].sort((a, b) => (b[m].mean ?? -1) - (a[m].mean ?? -1));
    const leads = new Map((sweep.significance?.others ?? []).map((row) => [row.point, row]));
    const columns = ['n', 'mean', 'std', 'min', 'max', 'retention', 'time', sweep.asha && 'epochs', leads.size && 'lead', 'runs'].filter(Boolean);
    fill(
      table,
      h('h2', { class: 'section' }, t('sweeps.all_points')),
      h(
        'div',
        { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': t('sweeps.all_points') },
        h(
          'table',
          { class: 'data wide' },
          h('thead', {}, h('tr', {}, sweep.axes.map((a) => h('th', { scope: 'col' }, a)), columns.map((c) => h('th', { scope: 'col', class: 'num' }, t(`sweeps.${c}`))))),
          h(
            'tbody',
            {},
            ranked.map((p) =>
              h(
                'tr',
                {},
                sweep.axes.map((a) => h('td', {}, showValue(p.values[a]))),
                h('td', { class: 'num' }, String(p.n)),
                h('td', { class: 'num strong' }, score(p[m].mean)),
                ['std', 'min', 'max'].map((k) => h('td', { class: 'num' }, score(p[m][k]))),
                h('td', { class: 'num' }, percent(p.retention)),
                h('td', { class: 'num' }, duration(p.seconds)),
                sweep.asha && h('td', { class: 'num nowrap', title: p.stopped }, p.stopped && `${t('sweeps.halted')} · `, String(p.epochs_done)),
                leads.size > 0 && h('td', { class: 'num nowrap' }, leads.has(p.point) ? `${intervalText(leads.get(p.point))} · ${verdict(leads.get(p.point))}` : t('sweeps.best_mark')),
                h('td', { class: 'num' }, p.experiments.map((e) => h('a', { href: href(['runs', String(e)]) }, `#${e} `))),
              ),
            ),
          ),
        ),
      ),
    );
  }

  function draw() {
    if (!sweep) return;
    if (!head.contains(document.activeElement) || document.activeElement.type !== 'radio') drawHead();
    if (!heat.contains(document.activeElement)) drawHeat();
    drawMatters();
    drawTable();
    parallel.element.hidden = !sweep.points.some((p) => p.n);
    parallel.now();
  }

  async function load() {
    const answer = await attempt(() => get(`sweeps/${id}${query({ metric: metric() === 'macro_f1' ? null : metric() })}`));
    if (!answer || !root.isConnected) return;
    sweep = answer;
    document.title = `#${sweep.id} ${sweep.name} · distilld`;
    draw();
  }
  let waiting = 0;
  function soon() {
    waiting ||= setTimeout(() => {
      waiting = 0;
      load();
    }, REFRESH_MS);
  }
  const offs = [on('runs', (runId) => run(runId)?.sweep_id === id && soon()), on('reset', soon), onTheme(draw)];
  let shown = '';
  return {
    title: () => `${t('nav.sweeps')} #${id}`,
    update() {
      if (sweep && shown === metric()) draw();
      else {
        shown = metric();
        load();
      }
    },
    keys: {},
    stop() {
      offs.forEach((off) => off());
      clearTimeout(waiting);
      parallel.stop();
    },
  };
}
