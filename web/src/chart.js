// The one adapter around ECharts: no other file imports it. Loaded on demand, so that the first paint does not wait for
// it. Takes plain models (see drawLines) and knows nothing of runs. Canvas renderer; tooltips are DOM built here, never
// markup, so the Content-Security-Policy holds.
import { init, use, connect } from 'echarts/core';
import { LineChart, ScatterChart, ParallelChart } from 'echarts/charts';
import {
  DatasetComponent,
  GridComponent,
  MarkLineComponent,
  ParallelComponent,
  TooltipComponent,
} from 'echarts/components';
import { LabelLayout } from 'echarts/features';
import { CanvasRenderer } from 'echarts/renderers';
import { h } from './dom.js';
import { gapsOf } from './marks.js';
import { onTheme, token } from './theme.js';

use([
  LineChart,
  ScatterChart,
  ParallelChart,
  DatasetComponent,
  GridComponent,
  MarkLineComponent,
  ParallelComponent,
  TooltipComponent,
  LabelLayout,
  CanvasRenderer,
]);

const FEW_POINTS = 40; // up to here each sample is marked
const PNG_SCALE = 2;
const LABEL_EDGE = 0.15; // so near an edge a centred label would be cut off

function palette() {
  const names = ['ink', 'ink-2', 'ink-3', 'rule', 'rule-2', 'panel', 'bad', 'accent'];
  return Object.fromEntries(names.map((name) => [name, token(`--${name}`)]));
}

const font = () => ({ fontFamily: token('--sans'), fontSize: 11 });

function axis(spec, colours, vertical) {
  const text = { ...font(), color: colours['ink-2'] };
  const ends = vertical || spec.type === 'time' ? undefined : Boolean(spec.whole); // odd ends are not worth a label
  return {
    type: spec.log ? 'log' : spec.type === 'time' ? 'time' : 'value',
    name: spec.name,
    nameLocation: 'end',
    nameGap: vertical ? 8 : 6,
    nameTextStyle: {
      ...text,
      color: colours['ink-3'],
      align: vertical ? 'left' : 'right',
      verticalAlign: vertical ? 'bottom' : 'top',
      padding: vertical ? [0, 0, 0, -34] : [22, 0, 0, 0],
    },
    min: spec.min ?? (vertical ? undefined : 'dataMin'),
    max: spec.max ?? (vertical ? undefined : 'dataMax'),
    scale: true,
    minInterval: spec.whole ? 1 : undefined,
    splitNumber: vertical ? 5 : 6,
    axisLine: { show: !vertical, onZero: false, lineStyle: { color: colours['rule-2'] } },
    axisTick: { show: !vertical, lineStyle: { color: colours['rule-2'] } },
    axisLabel: {
      ...text,
      hideOverlap: true,
      showMinLabel: ends,
      showMaxLabel: ends,
      formatter: spec.type === 'time' ? undefined : (spec.tick ?? spec.format),
    },
    splitLine: { show: vertical, lineStyle: { color: colours.rule } },
    axisPointer: { label: { show: false } },
  };
}

/** A value in words: a gap says NaN, unless the series is `partial` and has no value there by its nature. */
const told = (model, series, value) => (series.partial && (value ?? null) === null ? '–' : model.y.format(value ?? NaN));

/** Rows of the tooltip, the largest value first. */
function readout(model, at, hits) {
  const rows = [];
  for (const hit of hits) {
    const series = model.series.find((s) => s.id === hit.seriesId);
    if (!series || series.faint) continue;
    rows.push({ series, value: series.y[hit.dataIndex], raw: series.raw?.[hit.dataIndex] });
  }
  rows.sort((a, b) => (b.value ?? -Infinity) - (a.value ?? -Infinity));
  return h(
    'div',
    { class: 'readout' },
    h('div', { class: 'readout-x' }, `${model.x.name} ${model.x.format(at)}`),
    h(
      'table',
      {},
      rows.map(({ series, value, raw }) =>
        h(
          'tr',
          {},
          h('td', {}, h('i', { class: 'swatch', vars: { '--c': series.colour } }), series.name),
          h('td', { class: 'num' }, told(model, series, value)),
          raw !== undefined && h('td', { class: 'num faint' }, told(model, series, raw)),
        ),
      ),
      (model.refs ?? []).map((ref) =>
        h(
          'tr',
          { class: 'faint' },
          h('td', {}, h('i', { class: 'swatch line', vars: { '--c': ref.colour } }), ref.name),
          h('td', { class: 'num' }, model.y.format(ref.y)),
        ),
      ),
    ),
  );
}

const tooltipStyle = (colours) => ({
  backgroundColor: colours.panel,
  borderColor: colours['rule-2'],
  borderWidth: 1,
  padding: 8,
  textStyle: { ...font(), color: colours.ink },
  transitionDuration: 0,
  confine: true,
  extraCssText: 'box-shadow: 0 2px 10px rgb(0 0 0 / 14%); border-radius: 3px;',
});

/** Vertical lines: named marks, and every x where a series has a gap (NaN is shown, never skipped). */
function verticals(model, colours) {
  const gaps = gapsOf(model.series).map((x) => ({ x, name: 'NaN', bad: true }));
  return [...(model.marks ?? []), ...gaps].map((mark) => ({
    xAxis: mark.x,
    label: { formatter: mark.name, color: mark.bad ? colours.bad : colours['ink-2'] },
    lineStyle: { color: mark.bad ? colours.bad : colours['ink-3'], type: [2, 3], width: 1 },
  }));
}

/** How a label stands at its point: towards the middle where it would be cut off at an edge of the plot. */
function edgeAlign(x, model, shown) {
  const ends = shown.flatMap((s) => (s.x.length ? [s.x[0], s.x.at(-1)] : []));
  const low = model.x.min ?? Math.min(...ends);
  const high = model.x.max ?? Math.max(...ends);
  const share = (x - low) / (high - low || 1);
  return share < LABEL_EDGE ? 'left' : share > 1 - LABEL_EDGE ? 'right' : 'center';
}

/** A single x, as of one epoch, stands in the middle of the plot and not on its edge. */
function withRoom(model, shown) {
  const ends = shown.flatMap((s) => (s.x.length ? [s.x[0], s.x.at(-1)] : []));
  if (!ends.length || model.x.min !== undefined || ends.some((x) => x !== ends[0])) return model;
  const room = model.x.type === 'time' ? 60_000 : 1;
  return { ...model, x: { ...model.x, min: ends[0] - room, max: ends[0] + room } };
}

function lineOption(given) {
  const colours = palette();
  const shown = given.series.filter((s) => !s.hidden);
  const model = withRoom(given, shown);
  const positive = (y) => (model.y.log ? y.map((v) => (v > 0 ? v : null)) : y);
  const series = shown.map((s, i) => ({
    id: s.id,
    name: s.name,
    type: 'line',
    datasetIndex: i,
    encode: { x: 'x', y: 'y' },
    showSymbol: !s.faint && s.x.length <= FEW_POINTS,
    symbol: s.symbol ?? 'circle',
    symbolSize: s.x.length <= 1 ? 6 : 4,
    sampling: s.x.length > 1500 ? 'lttb' : undefined,
    connectNulls: false,
    silent: s.faint === true,
    z: s.faint ? 2 : s.front ? 4 : 3,
    itemStyle: { color: s.colour },
    lineStyle: {
      color: s.colour,
      width: s.width ?? 1.5,
      type: s.dash ?? 'solid',
      opacity: s.faint ? 0.28 : (s.opacity ?? 1),
      join: 'round',
    },
    emphasis: { disabled: true },
    labelLayout: s.end && !s.faint ? { moveOverlap: 'shiftY' } : undefined,
    endLabel:
      s.end && !s.faint
        ? { show: true, formatter: s.end, ...font(), fontSize: 10.5, color: s.colour, distance: 4 }
        : undefined,
  }));
  const label = { ...font(), fontSize: 10.5, distance: 3 };
  const lines = verticals({ ...model, series: shown }, colours);
  for (const ref of model.refs ?? [])
    lines.push({
      yAxis: ref.y,
      label: { show: false }, // its legend entry says what it is
      lineStyle: { color: ref.colour, type: [6, 4], width: 1.2 },
    });
  if (lines.length && series.length)
    series.push({
      id: ':lines',
      type: 'line',
      data: [],
      silent: true,
      markLine: {
        symbol: 'none',
        silent: true,
        animation: false,
        label: { ...label, position: 'insideEndTop' },
        data: lines,
      },
    });
  if (model.refs?.length && shown[0]?.x.length)
    series.push({
      id: ':reach', // unseen points that make the axis reach the reference lines
      type: 'scatter',
      data: model.refs.map((ref) => [shown[0].x[0], ref.y]),
      symbolSize: 0,
      silent: true,
      tooltip: { show: false },
    });
  for (const point of model.points ?? []) {
    const align = edgeAlign(point.x, model, shown);
    series.push({
      id: `:point:${point.name}`,
      type: 'scatter',
      data: [[point.x, point.y]],
      symbol: 'circle',
      symbolSize: 9,
      silent: true,
      z: 5,
      tooltip: { show: false },
      itemStyle: { color: colours.panel, borderColor: point.colour, borderWidth: 2 },
      label: {
        show: true,
        formatter: point.name,
        position: point.below ? 'bottom' : 'top',
        align,
        offset: [{ left: -6, right: 6 }[align] ?? 0, 0],
        ...font(),
        color: colours.ink,
        textBorderColor: colours.panel,
        textBorderWidth: 3,
      },
    });
  }
  return {
    animation: false,
    textStyle: font(),
    grid: { left: 44, right: shown.some((s) => s.end) ? 34 : 14, top: 26, bottom: 30 },
    tooltip: {
      trigger: 'axis',
      axisPointer: { type: 'line', lineStyle: { color: colours['ink-3'], type: 'solid' }, snap: true },
      ...tooltipStyle(colours),
      formatter: (hits) => readout(model, hits[0].axisValue, hits),
    },
    dataset: shown.map((s) => ({ source: { x: s.x, y: positive(s.y) } })),
    xAxis: axis(model.x, colours, false),
    yAxis: axis(model.y, colours, true),
    series,
  };
}

function scatterOption(model) {
  const colours = palette();
  return {
    animation: false,
    textStyle: font(),
    grid: { left: 48, right: 24, top: 26, bottom: 34 },
    tooltip: {
      trigger: 'item',
      ...tooltipStyle(colours),
      formatter: (hit) =>
        h(
          'div',
          { class: 'readout' },
          hit.seriesName,
          h(
            'div',
            { class: 'num' },
            `${model.x.name} ${model.x.format(hit.value[0])} · ${model.y.name} ${model.y.format(hit.value[1])}`,
          ),
        ),
    },
    xAxis: { ...axis(model.x, colours, false), min: undefined, max: undefined },
    yAxis: axis(model.y, colours, true),
    series: model.series.map((s) => ({
      id: s.id,
      name: s.name,
      type: 'scatter',
      symbol: s.symbol,
      symbolSize: 11,
      data: [[s.x, s.y]],
      itemStyle: { color: s.colour },
      label: { show: true, formatter: s.label, position: 'right', ...font(), color: colours['ink-2'] },
      labelLayout: { hideOverlap: true },
    })),
  };
}

function parallelOption(model) {
  const colours = palette();
  return {
    animation: false,
    textStyle: font(),
    parallel: { left: 60, right: 60, top: 36, bottom: 20 },
    parallelAxis: model.axes.map((a, i) => ({
      dim: i,
      name: a.name,
      type: a.categories ? 'category' : a.log ? 'log' : 'value',
      data: a.categories,
      scale: true,
      nameTextStyle: { ...font(), color: colours.ink },
      z: 10, // above the lines, which would strike the labels through
      axisLabel: {
        ...font(),
        color: colours.ink,
        backgroundColor: colours.panel,
        padding: [1, 3],
        margin: 6,
        formatter: a.format,
      },
      axisLine: { lineStyle: { color: colours['rule-2'] } },
      axisTick: { lineStyle: { color: colours['rule-2'] } },
    })),
    series: model.series.map((s) => ({
      id: s.id,
      name: s.name,
      type: 'parallel',
      data: [s.values],
      lineStyle: { color: s.colour, width: 2, opacity: 0.9, type: s.dash ?? 'solid' },
    })),
  };
}

const options = { lines: lineOption, scatter: scatterOption, parallel: parallelOption };

/**
 * A chart in an element. `group` synchronises the crosshair with the other charts of that name; onZoom(from, to) is
 * called when the reader drags over a range of x, onZoom(null, null) on a double click.
 */
export function createChart(element, { group = null, onZoom = null } = {}) {
  const chart = init(element, null, { renderer: 'canvas' });
  let model = null;
  let drawn = false;
  let cursor = -1;
  if (group) {
    chart.group = group;
    connect(group);
  }
  const resizer = new ResizeObserver(([{ contentRect }]) => {
    // Its first call says what init has just measured; to resize would draw everything a second time.
    if (Math.floor(contentRect.width) !== chart.getWidth() || Math.floor(contentRect.height) !== chart.getHeight()) chart.resize();
  });
  resizer.observe(element);

  function draw(next) {
    model = next;
    chart.setOption(options[model.kind ?? 'lines'](model), {
      notMerge: false,
      replaceMerge: ['series', 'dataset'],
      lazyUpdate: drawn, // the first time in the frame that shows the element
    });
    drawn = true;
  }
  const offTheme = onTheme(() => model && draw(model));
  if (onZoom) dragZoom(chart, element, onZoom);

  /** Moves the crosshair by keyboard and answers what it reads, for a live region. */
  function step(by) {
    const shown = model?.series.filter((s) => !s.hidden && !s.faint) ?? [];
    const longest = shown.reduce((a, b) => (b.x.length > (a?.x.length ?? 0) ? b : a), null);
    if (!longest || model.kind) return '';
    cursor = cursor < 0 ? longest.x.length - 1 : Math.min(longest.x.length - 1, Math.max(0, cursor + by));
    const x = longest.x[cursor];
    const index = model.series.filter((s) => !s.hidden).indexOf(longest);
    chart.dispatchAction({ type: 'showTip', seriesIndex: index, dataIndex: cursor });
    const values = shown.filter((s) => s.x[cursor] === x).map((s) => `${s.name} ${told(model, s, s.y[cursor])}`);
    return `${model.x.name} ${model.x.format(x)}: ${values.join(', ')}`;
  }

  return {
    draw,
    step,
    hideTip: () => chart.dispatchAction({ type: 'hideTip' }),
    /** A PNG on the paper of the current theme, at twice the size, with the title and the names of the lines above. */
    png: (title) => {
      const plot = chart.renderToCanvas({ pixelRatio: PNG_SCALE, backgroundColor: token('--panel') });
      const names = model.series.filter((s) => !s.hidden && !s.faint);
      return new Promise((resolve) => withTitle(plot, title, names).toBlob(resolve, 'image/png'));
    },
    stop() {
      offTheme();
      resizer.disconnect();
      chart.dispose();
    },
  };
}

/** The plot below a line that says what it shows. */
function withTitle(plot, title, names) {
  const head = 30 * PNG_SCALE;
  const canvas = h('canvas', { width: plot.width, height: plot.height + head });
  const pen = canvas.getContext('2d');
  pen.fillStyle = token('--panel');
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(plot, 0, head);
  pen.scale(PNG_SCALE, PNG_SCALE);
  pen.textBaseline = 'middle';
  pen.font = `600 13px ${token('--sans')}`;
  pen.fillStyle = token('--ink');
  pen.fillText(title, 12, 18);
  let x = 12 + pen.measureText(title).width + 16;
  pen.font = `11.5px ${token('--sans')}`;
  for (const { name, colour, dash } of names) {
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.setLineDash(Array.isArray(dash) ? dash : []);
    pen.beginPath();
    pen.moveTo(x, 18);
    pen.lineTo(x + 18, 18);
    pen.stroke();
    pen.fillText(name, x + 23, 18);
    x += 23 + pen.measureText(name).width + 14;
  }
  return canvas;
}

/** Dragging with a mouse or pen selects a range of x. Touch is left to scrolling. */
function dragZoom(chart, element, onZoom) {
  const band = h('div', { class: 'zoom-band', hidden: true });
  element.append(band);
  let from = null;
  const inside = (event) => event.clientX - element.getBoundingClientRect().left;
  element.addEventListener('pointerdown', (event) => {
    if (event.pointerType === 'touch' || event.button !== 0) return;
    from = inside(event);
  });
  addEventListenerWhileConnected(element, 'pointermove', (event) => {
    if (from === null) return;
    const to = inside(event);
    band.hidden = Math.abs(to - from) < 4;
    band.style.left = `${Math.min(from, to)}px`;
    band.style.width = `${Math.abs(to - from)}px`;
  });
  addEventListenerWhileConnected(element, 'pointerup', (event) => {
    if (from === null) return;
    const range = [from, inside(event)].sort((a, b) => a - b);
    from = null;
    band.hidden = true;
    if (range[1] - range[0] < 4) return;
    const [low, high] = range.map((px) => chart.convertFromPixel({ xAxisIndex: 0 }, px));
    if (Number.isFinite(low) && Number.isFinite(high)) onZoom(low, high);
  });
  element.addEventListener('dblclick', () => onZoom(null, null));
}

/** A drag may end outside of the chart: listens on the window, until the element has left the page. */
function addEventListenerWhileConnected(element, type, fn) {
  const listener = (event) => (element.isConnected ? fn(event) : removeEventListener(type, listener));
  addEventListener(type, listener);
}
