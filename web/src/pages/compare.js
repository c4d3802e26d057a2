// Compare: several runs side by side: two overlaid charts, a table with differences to a baseline, what differs in the
// specs, quality against size and time, parallel coordinates, and where two confusion matrices differ. Live as the Run
// page is, from the same store.
import { debounce, fill, h } from '../dom.js';
import { t } from '../i18n.js';
import { explain, get, query } from '../api.js';
import { chartPanel } from '../chartpanel.js';
import { runColour, runDash, runSymbol } from '../colour.js';
import { bytes, delta, duration, number, percent, score, shortScore } from '../format.js';
import { attempt, chip, notice, segmented } from '../widgets.js';
import { href, route, setParams } from '../router.js';
import { hiddenSeries, logY, param, smoothing, tableState, tauOf, toggleSeries, X_MODES, xAxis, xMode, xOf, zoom, zoomTo } from '../view.js';
import { loadRun, loadRuns, loadSeries, on, run, seriesOf } from '../store.js';
import { comparedEpoch, comparedIds, comparedMetric, comparedSeries, METRICS } from '../first.js';
import { smooth } from '../smooth.js';
import { leadTable } from './lead.js';
import { confusionDifference, differs, flatten, parallelOf, seedGroups } from './compare-parts.js';

/** When the browser has nothing more urgent to do, such as the charts. */
const later = (fn) => (window.requestIdleCallback ?? setTimeout)(fn);

export function mount(root) {
  let ids = [];
  let offs = [];
  let panels = [];
  const note = h('p', { role: 'status' });
  const controls = h('div', { class: 'toolbar slim' });
  const chartsHost = h('div', { class: 'charts two' });
  const table = h('div', { class: 'scroll-x' });
  const specs = h('div', { class: 'scroll-x' });
  const scatters = h('div', { class: 'charts two' });
  const parallels = h('div', { class: 'charts' });
  const confusion = h('section', {});
  const lead = h('div', { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': t('lead.title') });
  const body = h(
    'div',
    {},
    controls,
    chartsHost,
    h('h2', { class: 'section' }, t('compare.scores')),
    table,
    h('h2', { class: 'section' }, t('lead.title')),
    lead,
    h('h2', { class: 'section' }, t('compare.specs')),
    specs,
    h('h2', { class: 'section' }, t('compare.trade')),
    scatters,
    parallels,
    confusion,
  );
  fill(root, h('div', { class: 'page' }, h('h1', { class: 'page-title' }, t('nav.compare')), note, body));

  const seeds = () => param('seeds') === '1';
  const baseline = () => (ids.includes(Number(param('base'))) ? Number(param('base')) : ids[0]);
  const series = () => comparedSeries(route().params);
  const label = (id) => (run(id)?.name ? `#${id} ${run(id).name}` : `#${id}`);

  // ---- curves ----
  const tau = () => tauOf(smoothing());
  /** A column, smoothed as the reader wants it. */
  const averaged = (rows, name) => rows.averages(name, tau()) ?? smooth(rows.column('epoch'), rows.column(name), tau());

  function lineOf(id, name) {
    const rows = seriesOf(id);
    if (!rows?.length) return [];
    const x = xOf(rows, run(id));
    const y = rows.column(name);
    const base = {
      id: String(id),
      toggle: String(id),
      name: label(id),
      colour: runColour(id),
      dash: runDash(id),
      symbol: runSymbol(id),
    };
    if (!smoothing()) return [{ ...base, x, y }];
    return [
      { ...base, id: `${id}:raw`, faint: true, x, y },
      { ...base, x, y: averaged(rows, name), raw: y },
    ];
  }

  /** Mean over the seeds of a group at each epoch that all have, and the range from the least to the largest. */
  function groupLines(group, name) {
    const members = group.filter((id) => seriesOf(id)?.length);
    if (members.length < 2) return members.flatMap((id) => lineOf(id, name));
    const [id] = members;
    const first = seriesOf(id);
    const places = new Map(xOf(first, run(id)).map((x, i) => [first.column('epoch')[i], x]));
    const columns = members.map((member) => {
      const rows = seriesOf(member);
      const y = averaged(rows, name);
      return new Map(rows.column('epoch').map((epoch, i) => [epoch, y[i]]));
    });
    const shared = first.column('epoch').filter((epoch) => columns.every((column) => column.has(epoch)));
    const over = (fn) =>
      shared.map((epoch) => {
        const values = columns.map((column) => column.get(epoch)).filter((v) => v !== null);
        return values.length ? fn(values) : null;
      });
    const base = { toggle: String(id), colour: runColour(id), x: shared.map((epoch) => places.get(epoch)) };
    return [
      { ...base, id: `${id}:low`, upTo: `${id}:high`, faint: true, y: over((v) => Math.min(...v)) },
      { ...base, id: `${id}:high`, faint: true, y: over((v) => Math.max(...v)) },
      {
        ...base,
        id: String(id),
        name: t('compare.mean_of', { name: label(id), n: members.length }),
        dash: runDash(id),
        symbol: runSymbol(id),
        width: 2,
        y: over((v) => v.reduce((a, b) => a + b, 0) / v.length),
      },
    ];
  }

  function curveModel(name) {
    const series = seeds()
      ? seedGroups(ids.filter(run), (id) => run(id).spec).flatMap((group) => groupLines(group, name))
      : ids.flatMap((id) => lineOf(id, name));
    if (!series.length) return null;
    const isScore = METRICS.scores.includes(name);
    return {
      x: xAxis(false, zoom('z')),
      y: {
        name: t(`metric.${name}`),
        log: logY() && !isScore,
        format: isScore ? score : number,
        tick: isScore ? shortScore : undefined,
      },
      series,
    };
  }

  function curveSummary(name) {
    const lower = !METRICS.scores.includes(name);
    const ends = ids.map((id) => [id, bestOf(id, name)]).filter(([, v]) => v !== null);
    if (!ends.length) return t('chart.nothing_yet');
    ends.sort((a, b) => (lower ? a[1] - b[1] : b[1] - a[1]));
    const format = lower ? number : score;
    if (ends.length === 1)
      return t('summary.compare_one', { metric: t(`metric.${name}`), best: label(ends[0][0]), value: format(ends[0][1]) });
    return t('summary.compare', {
      metric: t(`metric.${name}`),
      best: label(ends[0][0]),
      value: format(ends[0][1]),
      worst: label(ends.at(-1)[0]),
      low: format(ends.at(-1)[1]),
    });
  }
  function bestOf(id, name) {
    const values =
      seriesOf(id)
        ?.column(name)
        .filter((v) => v !== null) ?? [];
    if (!values.length) return null;
    return values.reduce((a, b) => (METRICS.scores.includes(name) ? Math.max(a, b) : Math.min(a, b)));
  }

  function curvePanel(key, otherwise) {
    const name = () => comparedMetric(route().params, key);
    const panel = chartPanel({
      title: t(key === 'm1' ? 'compare.first' : 'compare.second'),
      name: `compare-${key}`,
      group: 'compare',
      tall: true,
      top: true,
      ...tableState(key),
      hidden: hiddenSeries,
      onToggle: toggleSeries,
      onZoom: zoomTo('z'),
      model: () => curveModel(name()),
      summary: () => curveSummary(name()),
    });
    const select = h(
      'select',
      {
        'aria-label': t('compare.metric'),
        value: name(),
        onchange: (e) => setParams({ [key]: e.target.value === otherwise ? null : e.target.value }),
      },
      METRICS.all.map((m) => h('option', { value: m }, t(`metric.${m}`))),
    );
    panel.element.querySelector('h2').replaceChildren(select);
    return panel;
  }

  // ---- table ----
  function drawTable() {
    const base = run(baseline());
    const at = param('at') ?? 'best';
    const scoresOf = (r) => {
      if (at === 'best' || at === 'last') return r[at];
      const rows = seriesOf(r.id);
      const i = rows ? rows.column('epoch').indexOf(Number(at)) : -1;
      if (i < 0) return null;
      return { epoch: Number(at), ...Object.fromEntries(METRICS.all.map((m) => [m, rows.column(m)[i]])) };
    };
    const reference = base && scoresOf(base);
    const keys = ['macro_f1', 'accuracy', 'weighted_f1'];
    fill(
      table,
      h(
        'table',
        { class: 'data wide' },
        h(
          'thead',
          {},
          h(
            'tr',
            {},
            h('th', { scope: 'col' }, t('compare.baseline')),
            h('th', { scope: 'col' }, t('column.name')),
            h('th', { scope: 'col', class: 'num' }, t('x.epoch')),
            keys.flatMap((k) => [
              h('th', { scope: 'col', class: 'num' }, t(`metric.${k}`)),
              h('th', { scope: 'col', class: 'num' }, 'Δ'),
            ]),
            ['column.retention', 'column.size', 'compare.time'].map((k) =>
              h('th', { scope: 'col', class: 'num' }, t(k)),
            ),
          ),
        ),
        h(
          'tbody',
          {},
          ids.map((id) => {
            const r = run(id);
            if (!r) return null;
            const s = scoresOf(r);
            return h(
              'tr',
              {},
              h(
                'td',
                {},
                h('input', {
                  type: 'radio',
                  name: 'baseline',
                  checked: id === baseline(),
                  'aria-label': t('compare.make_baseline', { name: label(id) }),
                  onchange: () => setParams({ base: id }),
                }),
              ),
              h('th', { scope: 'row' }, chip(id), h('a', { href: href(['runs', String(id)]) }, label(id))),
              h('td', { class: 'num' }, s?.epoch ?? '–'),
              keys.flatMap((k) => [
                h('td', { class: 'num strong' }, score(s?.[k])),
                h(
                  'td',
                  { class: 'num faint' },
                  id === baseline() || !s || !reference ? '' : delta(s[k] - reference[k]),
                ),
              ]),
              h('td', { class: 'num' }, percent(r.retention?.macro_f1)),
              h('td', { class: 'num' }, bytes(r.model?.bytes)),
              h('td', { class: 'num' }, duration(r.progress?.elapsed_seconds)),
            );
          }),
        ),
      ),
    );
  }

  function drawSpecs() {
    const known = ids.filter(run);
    const flat = known.map((id) => flatten(run(id).spec));
    const keys = [...new Set(flat.flatMap((f) => Object.keys(f)))];
    const differing = (key) => differs(flat, key);
    const shown = param('all') === '1' ? keys : keys.filter(differing);
    const printed = (v) => (v === undefined ? '–' : typeof v === 'string' ? v : JSON.stringify(v));
    fill(
      specs,
      h(
        'label',
        { class: 'check' },
        h('input', {
          type: 'checkbox',
          checked: param('all') !== '1',
          onchange: (e) => setParams({ all: e.target.checked ? null : '1' }),
        }),
        t('compare.only_differences'),
      ),
      shown.length
        ? h(
            'table',
            { class: 'data spec wide' },
            h(
              'thead',
              {},
              h(
                'tr',
                {},
                h('td', {}),
                known.map((id) => h('th', { scope: 'col' }, chip(id), label(id))),
              ),
            ),
            h(
              'tbody',
              {},
              shown.map((key) =>
                h(
                  'tr',
                  {},
                  h('th', { scope: 'row' }, key),
                  flat.map((f) => h('td', { class: differing(key) ? 'strong' : 'faint' }, printed(f[key]))),
                ),
              ),
            ),
          )
        : h('p', { class: 'faint' }, t('compare.same_specs')),
    );
  }

  // ---- quality against cost ----
  const costModel = (cost, name, format) => () => {
    const points = ids.map(run).filter((r) => r && typeof r.best?.macro_f1 === 'number' && typeof cost(r) === 'number');
    if (!points.length) return null;
    return {
      kind: 'scatter',
      x: { name, format },
      y: { name: t('metric.macro_f1'), format: score, tick: shortScore },
      series: points.map((r) => ({
        id: String(r.id),
        name: label(r.id),
        label: `#${r.id}`,
        colour: runColour(r.id),
        symbol: runSymbol(r.id),
        x: cost(r),
        y: r.best.macro_f1,
      })),
    };
  };
  const parallelModel = () =>
    parallelOf(
      ids.map(run).filter((r) => typeof r?.best?.macro_f1 === 'number'),
      label,
    );
  const countSummary = () => t('summary.points', { n: ids.filter((id) => run(id)?.best).length });

  // ---- confusion ----
  async function drawConfusion() {
    const other = Number(param('vs'));
    const choose = (key, value, list) =>
      h(
        'select',
        {
          'aria-label': t('compare.confusion'),
          value: String(value ?? ''),
          onchange: (e) => setParams({ [key]: e.target.value || null }),
        },
        h('option', { value: '' }, t('compare.choose')),
        list.map((id) => h('option', { value: String(id) }, label(id))),
      );
    const out = h('div', {});
    fill(
      confusion,
      h('h2', { class: 'section' }, t('compare.confusion')),
      h(
        'p',
        {},
        t('compare.confusion_text', { base: label(baseline()) }),
        ' ',
        choose(
          'vs',
          ids.includes(other) ? other : '',
          ids.filter((id) => id !== baseline()),
        ),
      ),
      out,
    );
    if (!ids.includes(other) || other === baseline()) return;
    const reports = await attempt(() =>
      Promise.all([baseline(), other].map((id) => get(`experiments/${id}/epochs/best/report`))),
    );
    if (!reports) return;
    const [a, b] = reports;
    if (a.labels.join('\n') !== b.labels.join('\n')) {
      fill(out, h('p', { class: 'faint' }, t('compare.other_classes')));
      return;
    }
    fill(out, confusionDifference(a, b));
  }

  // ---- frame ----
  // ---- is the lead noise? The daemon's answer for the baseline that was chosen, else for the best of them ----
  let askedLead = 0;
  async function drawLead() {
    const mine = ++askedLead;
    if (!lead.hasChildNodes()) fill(lead, h('p', { class: 'faint' }, t('chart.reading')));
    const scoreOf = (id) => run(id)?.best?.macro_f1 ?? -1;
    const best = ids.reduce((a, b) => (scoreOf(b) > scoreOf(a) ? b : a), ids[0]);
    const base = ids.includes(Number(param('base'))) ? Number(param('base')) : best;
    const search = query({ ids: ids.join(','), baseline: base, fields: 'macro_f1', max_points: 4 }); // the test alone is new
    const answer = await get(`compare${search}`).catch(() => null);
    if (mine !== askedLead) return;
    const significance = answer?.significance;
    if (significance?.others.length) fill(lead, leadTable(significance, (row) => label(row.id), label(significance.baseline)));
    else fill(lead, h('p', { class: 'faint' }, t('lead.none')));
  }

  function drawControls() {
    const at = param('at') ?? 'best';
    fill(
      controls,
      h('span', { class: 'label' }, 'x'),
      segmented(
        'x',
        X_MODES.map((m) => [m, t(`x.${m}`)]),
        xMode(),
        (m) => setParams({ x: m === 'epoch' ? null : m, z: null }),
      ),
      h(
        'label',
        { class: 'check' },
        h('input', {
          type: 'checkbox',
          checked: logY(),
          onchange: (e) => setParams({ log: e.target.checked ? '1' : null }),
        }),
        t('chart.log'),
      ),
      h(
        'label',
        { class: 'check' },
        t('chart.smoothing'),
        h('input', {
          type: 'range',
          min: '0',
          max: '0.95',
          step: '0.05',
          value: String(smoothing()),
          onchange: (e) => setParams({ smooth: Number(e.target.value) || null }),
        }),
      ),
      h(
        'label',
        { class: 'check' },
        h('input', {
          type: 'checkbox',
          checked: seeds(),
          onchange: (e) => setParams({ seeds: e.target.checked ? '1' : null }),
        }),
        t('compare.group_seeds'),
      ),
      h(
        'label',
        { class: 'check' },
        t('compare.scores_at'),
        h('input', {
          type: 'text',
          class: 'short',
          value: at,
          list: 'compare-at',
          'aria-label': t('compare.scores_at'),
          onchange: (e) => setParams({ at: ['', 'best'].includes(e.target.value) ? null : e.target.value }),
        }),
        h(
          'datalist',
          { id: 'compare-at' },
          ['best', 'last', '10', '20'].map((v) => h('option', { value: v })),
        ),
      ),
      zoom('z') &&
        h('button', { type: 'button', class: 'small', onclick: () => setParams({ z: null }) }, t('chart.reset_zoom')),
    );
  }

  const tableSoon = debounce(() => root.isConnected && drawTable(), 200);
  function drawCurves() {
    // another metric, smoothing or epoch may have been chosen
    loadSeries(ids, series(), tau()).then(() => comparedEpoch(route().params) && tableSoon(), () => {});
    if (!controls.contains(document.activeElement)) drawControls();
    panels.forEach((panel) => panel.now());
  }
  function redraw() {
    drawCurves();
    drawTable();
    drawSpecs();
  }

  function stop() {
    offs.forEach((off) => off());
    panels.forEach((panel) => panel.stop());
    offs = [];
    panels = [];
  }

  async function begin() {
    stop();
    body.hidden = ids.length === 0;
    if (!ids.length) {
      fill(
        note,
        h('p', { class: 'teach' }, t('compare.none'), ' ', h('a', { href: href(['runs']) }, t('nav.runs'))),
        suggestion,
      );
      return;
    }
    fill(note);
    const asked = shownIds;
    import('../lines.js'); // beside the numbers, not after them
    await loadAll();
    if (!root.isConnected || asked !== shownIds) return;
    const two = [curvePanel('m1', 'macro_f1'), curvePanel('m2', 'dev_loss')];
    const trade = [
      chartPanel({
        title: t('compare.f1_size'),
        name: 'compare-size',
        ...tableState('size'),
        model: costModel((r) => r.model?.bytes, t('column.size'), bytes),
        summary: countSummary,
      }),
      chartPanel({
        title: t('compare.f1_time'),
        name: 'compare-time',
        ...tableState('time'),
        model: costModel((r) => r.progress?.elapsed_seconds, t('compare.time'), duration),
        summary: countSummary,
      }),
      chartPanel({
        title: t('compare.parallel'),
        name: 'compare-parallel',
        ...tableState('parallel'),
        model: parallelModel,
        summary: countSummary,
      }),
    ];
    panels = [...two, ...trade];
    fill(
      chartsHost,
      two.map((p) => p.element),
    );
    for (const id of ids) {
      offs.push(
        on(`metrics:${id}`, () => two.forEach((p) => p.ask())),
        on(`run:${id}`, tableSoon),
        on(`run:${id}`, () => trade.forEach((p) => p.ask())),
      );
    }
    drawCurves();
    await Promise.all(two.map((p) => p.drawn));
    /** Below the tables, so that their library is fetched when a reader comes to them. */
    function placeTrade() {
      fill(
        scatters,
        trade.slice(0, 2).map((p) => p.element),
      );
      fill(parallels, trade[2].element);
    }
    for (const part of [drawTable, drawSpecs, drawConfusion, drawLead, placeTrade]) later(() => root.isConnected && asked === shownIds && part());
  }

  /** All runs and the columns in view, in one call; a run that is gone is left out and said. */
  async function loadAll() {
    try {
      await loadSeries(ids, series());
    } catch (problem) {
      if (problem.status !== 404) notice(explain(problem), { bad: true });
      const results = await Promise.allSettled(ids.map((id) => loadRun(id)));
      const failed = results.filter((r) => r.status === 'rejected');
      failed.forEach((r) => notice(explain(r.reason), { bad: true }));
      ids = ids.filter((_, i) => results[i].status === 'fulfilled');
      if (failed.length && ids.length) await loadSeries(ids, series()).catch(() => {});
    }
  }

  // ---- with nothing chosen: the newest runs as a suggestion ----
  const suggestion = h('p', { class: 'teach' });
  async function suggest() {
    const page = await attempt(() => loadRuns('?limit=4'));
    if (page?.ids.length >= 2)
      fill(
        suggestion,
        h(
          'a',
          { class: 'button', href: href(['compare'], { ids: page.ids.join(',') }) },
          t('compare.newest', { n: page.ids.length }),
        ),
      );
  }

  let shownIds = null;
  let shownVs = '';
  return {
    title: () => t('nav.compare'),
    update({ params }) {
      const wanted = params.get('ids') ?? '';
      const vs = `${params.get('vs')}|${params.get('base')}`;
      const [sameRuns, sameVs] = [wanted === shownIds, vs === shownVs];
      [shownIds, shownVs] = [wanted, vs];
      if (!sameRuns) {
        ids = comparedIds(params);
        if (!ids.length) suggest();
        begin();
        return;
      }
      redraw();
      if (!sameVs && ids.length) {
        drawConfusion();
        drawLead();
      }
    },
    keys: {},
    stop,
  };
}
