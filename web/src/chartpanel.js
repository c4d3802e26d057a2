// A chart with all that belongs to it: title, one-sentence summary, legend whose entries switch series, data-table
// twin, export as PNG and CSV, crosshair by keyboard.
import { fill, h, setText } from './dom.js';
import { download } from './widgets.js';
import { redrawer } from './redraw.js';
import { t } from './i18n.js';

const TABLE_ROWS = 2000;
const NAMED_MARKS = 8;

/** The library of lines is small and comes at once; that of the other kinds is fetched when the first is seen. */
const adapter = (kind) => (kind ? import('./plots.js').then((m) => m.createPlot) : import('./lines.js').then((m) => m.createLines));

/**
 * options: title, name (file name), group, tall; model() answers the chart model of lines.js or plots.js; summary() one sentence;
 * top: whether it is in view when the page comes up; hidden() a Set of series ids, onToggle(id); onZoom(from, to); table() whether the twin is shown, onTable(shown).
 * Answers {element, ask, now, drawn, stop}: ask() redraws within a second, now() at once; drawn is a promise of the first time.
 */
export function chartPanel(options) {
  let shownTable = options.table?.() ?? false;
  const canvas = h('div', {
    class: 'chart',
    hidden: shownTable,
    tabindex: '0',
    role: 'img',
    'aria-label': options.title,
    onkeydown: onKey,
  });
  const spoken = h('span', { class: 'sr', 'aria-live': 'polite' });
  const summary = h('p', { class: 'chart-summary' });
  const marks = h('p', { class: 'chart-marks', hidden: true });
  const legend = h('div', { class: 'legend' });
  const twin = h('div', { class: 'twin', tabindex: '0', role: 'region', 'aria-label': options.title, hidden: !shownTable });
  const tableButton = h(
    'button',
    { type: 'button', class: 'quiet', 'aria-pressed': String(shownTable), onclick: toggleTable },
    t('chart.table'),
  );
  const element = h(
    'figure',
    { class: `panel chart-panel${options.tall ? ' tall' : ''}` },
    h(
      'figcaption',
      { class: 'panel-head' },
      h('h2', {}, options.title),
      h(
        'span',
        { class: 'panel-tools' },
        tableButton,
        h('button', { type: 'button', class: 'quiet', onclick: exportPng }, 'PNG'),
        h('button', { type: 'button', class: 'quiet', onclick: exportCsv }, 'CSV'),
      ),
      legend,
    ),
    canvas,
    twin,
    summary,
    marks,
    spoken,
  );
  let chart = null;
  let loading = null;
  let seen;
  const drawn = new Promise((resolve) => {
    seen = resolve;
  });

  const drawing = redrawer(element, draw, options.top);

  function withHidden() {
    const model = options.model();
    if (!model) return null;
    const hidden = options.hidden?.() ?? new Set();
    return { ...model, series: model.series.map((s) => ({ ...s, hidden: hidden.has(s.toggle ?? s.id) })) };
  }

  function draw() {
    const model = withHidden();
    const sentence = options.summary();
    setText(summary, sentence);
    canvas.setAttribute('aria-label', `${options.title}. ${sentence}`);
    canvas.hidden = shownTable;
    twin.hidden = !shownTable;
    tableButton.setAttribute('aria-pressed', String(shownTable));
    drawMarks(model);
    if (model) drawLegend(model);
    if (model && !shownTable && !chart) {
      load(model.kind);
      return;
    }
    if (model && shownTable) fill(twin, tableOf(model));
    else if (model) chart.draw(model);
    seen();
  }

  function load(kind) {
    loading ??= adapter(kind).then((create) => {
      if (!element.isConnected) return;
      chart = create(canvas, { group: options.group, onZoom: options.onZoom });
      draw();
    });
  }

  /** The vertical marks as words; the table has those beyond the first few. */
  function drawMarks(model) {
    const named = model?.marks ?? [];
    const words = named
      .slice(0, NAMED_MARKS)
      .map((mark) => t('chart.mark', { x: `${model.x.name} ${model.x.format(mark.x)}`, name: mark.name }));
    if (named.length > NAMED_MARKS) words.push('…');
    marks.hidden = !named.length;
    setText(marks, words.join(' · '));
  }

  let legendKey = '';
  function drawLegend(model) {
    const entries = model.series.filter((s) => !s.faint);
    const refs = model.refs ?? [];
    const key = JSON.stringify([entries.map((s) => [s.id, s.name, s.colour, s.hidden]), refs]);
    if (key === legendKey) return;
    legendKey = key;
    const focused = legend.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    fill(
      legend,
      entries.map((s) =>
        h(
          'button',
          {
            type: 'button',
            class: 'legend-entry',
            title: s.name,
            dataset: { id: s.id },
            'aria-pressed': String(!s.hidden),
            onclick: () => options.onToggle?.(s.toggle ?? s.id),
          },
          swatch(s),
          s.name,
        ),
      ),
      refs.map((ref) =>
        h(
          'span',
          { class: 'legend-entry' },
          swatch({ colour: ref.colour, dash: [6, 4] }),
          `${ref.name} ${model.y.format(ref.y)}`,
        ),
      ),
    );
    if (focused) legend.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  }

  function toggleTable() {
    shownTable = !shownTable;
    options.onTable?.(shownTable);
    drawing.now();
  }

  function onKey(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
    if (by !== undefined && chart) {
      setText(spoken, chart.step(by));
      event.preventDefault();
    } else if (event.key === 'Escape') {
      chart?.hideTip();
      options.onZoom?.(null, null);
    }
  }

  async function exportPng() {
    if (chart) download(`${options.name}.png`, await chart.png(options.title));
  }

  function exportCsv() {
    const model = withHidden();
    if (!model) return;
    const { head, rows } = grid(model);
    const quoted = (v) => (/[",\n]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v);
    const text = [head, ...rows].map((row) => row.map((v) => quoted(v === null ? '' : String(v))).join(',')).join('\n');
    download(`${options.name}.csv`, new Blob([`${text}\n`], { type: 'text/csv' }));
  }

  return {
    element,
    ask: drawing.ask,
    now: drawing.now,
    drawn,
    stop() {
      drawing.stop();
      chart?.stop();
      chart = null;
    },
  };
}

/** A short piece of the line as it is drawn: colour and dash. */
export function swatch(series) {
  const kind = !series.dash || series.dash === 'solid' ? 'solid' : series.dash[0] <= 3 ? 'dotted' : 'dashed';
  return h('i', { class: `swatch line ${kind}`, vars: { '--c': series.colour } });
}

/** All visible series over the union of their x, as rows of numbers. */
function grid(model) {
  if (model.kind === 'scatter')
    return { head: ['', model.x.name, model.y.name], rows: model.series.map((s) => [s.name, s.x, s.y]) };
  if (model.kind === 'parallel')
    return { head: ['', ...model.axes.map((a) => a.name)], rows: model.series.map((s) => [s.name, ...s.values]) };
  const shown = model.series.filter((s) => !s.hidden && !s.faint);
  const xs = [...new Set(shown.flatMap((s) => s.x))].sort((a, b) => a - b);
  const maps = shown.map((s) => new Map(s.x.map((x, i) => [x, (s.raw ?? s.y)[i]])));
  const marks = model.marks ?? [];
  const named = (x) => marks.filter((mark) => mark.x === x).map((mark) => mark.name).join(', ');
  return {
    head: [model.x.name, ...shown.map((s) => s.name), ...(marks.length ? [t('chart.marks')] : [])],
    rows: xs.map((x) => [x, ...maps.map((m) => m.get(x) ?? null), ...(marks.length ? [named(x)] : [])]),
  };
}

function tableOf(model) {
  const { head, rows } = grid(model);
  const format = (v, column) =>
    typeof v === 'string' ? v : column === 0 ? model.x.format(v) : v === null ? '' : (model.y?.format ?? String)(v);
  return h(
    'table',
    { class: 'data' },
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        head.map((name, i) => h('th', { scope: 'col', class: i ? 'num' : '' }, name)),
      ),
    ),
    h(
      'tbody',
      {},
      rows.slice(-TABLE_ROWS).map((row) =>
        h(
          'tr',
          {},
          row.map((v, i) => h('td', { class: i ? 'num' : '' }, format(v, i))),
        ),
      ),
    ),
  );
}
