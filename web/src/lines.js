// Line charts: the one adapter around uPlot, as plots.js is around ECharts, which takes several times as long to read and
// to draw. Loaded on demand, so that the first paint does not wait for it. Takes plain models and knows nothing of runs:
//
//   {x: {name, format, type: 'time' | 'seconds' | undefined, whole, min, max}, y: {name, format, tick, log},
//    series: [{id, name, colour, x, y, raw, dash, width, opacity, symbol, end, faint, front, upTo, partial, hidden}],
//    marks: [{x, name, bad}], refs: [{y, name, colour}], points: [{x, y, name, colour, below}]}
//
// x ascends within a series and need not be that of the others. null in y is a gap, which is marked and never bridged. The
// area from a series to that whose id is its `upTo` is tinted.
import uPlot from 'uplot';
import { h } from './dom.js';
import { tickTime } from './format.js';
import { gapsOf } from './marks.js';
import { PNG_SCALE, toPng } from './png.js';
import { onTheme, palette, token } from './theme.js';

const FAINT = 0.28; // opacity of a raw line behind its average
const BAND_ALPHA = '66'; // of a tint between two faint lines, whose opacity it has too
const FEW_POINTS = 40; // up to here each sample is marked
const LABEL_EDGE = 0.15; // so near an edge a centred label would be cut off
const END_LABEL_PX = 12; // between the labels at the ends of lines
const DRAG_PX = 4; // less is a click
const TIP_PX = 14; // between the crosshair and what it reads
const PLOT = { top: 26, right: 14, rightOfEnds: 34, bottom: 30, left: 44 }; // CSS pixels around the plot
const WHOLE = [1, 2, 5].flatMap((n) => Array.from({ length: 9 }, (_, k) => n * 10 ** k)).sort((a, b) => a - b);
const SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 432000, 864000];

// ---- what is drawn ---------------------------------------------------------------------------------------------------

/** A value in words: a gap says NaN, unless the series is `partial` and has no value there by its nature. */
const told = (model, series, value) => (series.partial && (value ?? null) === null ? '–' : model.y.format(value ?? NaN));

const depth = (series) => (series.faint ? 0 : series.front ? 2 : 1);

/** The model with the series that are seen, the hindmost first, and room beside an x that stands alone, as of one epoch. */
function prepared(model) {
  const shown = model.series.filter((s) => !s.hidden).sort((a, b) => depth(a) - depth(b));
  const ends = shown.flatMap((s) => (s.x.length ? [s.x[0], s.x.at(-1)] : []));
  const alone = ends.length > 0 && model.x.min === undefined && ends.every((x) => x === ends[0]);
  const room = model.x.type === 'time' ? 60_000 : 1;
  const x = alone ? { ...model.x, min: ends[0] - room, max: ends[0] + room } : model.x;
  const gaps = gapsOf(shown).map((at) => ({ x: at, name: 'NaN', bad: true }));
  return { ...model, x, shown, marks: [...(model.marks ?? []), ...gaps] };
}

/** Columns for uPlot: x, then each series; undefined where only other series have an x. */
function columns(model) {
  if (!model.shown.length) return [[]];
  const fit = (v) => (Number.isFinite(v) && (!model.y.log || v > 0) ? v : null);
  return uPlot.join(model.shown.map((s) => [s.x, s.y.map(fit)]));
}

/** What a chart is made for once; all else it reads from its model whenever it draws. */
const shapeOf = ({ x, y, shown }) =>
  JSON.stringify([x.type, x.whole, y.log, shown.map((s) => [s.id, s.colour, s.dash, s.width, s.opacity, s.faint, s.symbol, s.upTo, Boolean(s.end)])]);

// ---- how -------------------------------------------------------------------------------------------------------------

const SHAPES = {
  circle(path, x, y, r) {
    path.moveTo(x + r, y);
    path.arc(x, y, r, 0, 2 * Math.PI);
  },
  rect: (path, x, y, r) => path.rect(x - r, y - r, 2 * r, 2 * r),
  triangle: (path, x, y, r) => polygon(path, [[x, y - r], [x + r, y + r], [x - r, y + r]]),
  diamond: (path, x, y, r) => polygon(path, [[x, y - r], [x + r, y], [x, y + r], [x - r, y]]),
};
function polygon(path, [first, ...rest]) {
  path.moveTo(...first);
  for (const point of rest) path.lineTo(...point);
  path.closePath();
}

/** The symbols of a series, "circle" or "emptyCircle", of which now() tells the samples. Sizes are CSS pixels times k. */
function symbols({ symbol = 'circle', colour, faint }, now, colours, k) {
  const [, empty, name] = /^(empty)?(.*)$/.exec(symbol);
  const shape = SHAPES[name.toLowerCase()];
  return {
    show: () => !faint && now().x.length <= FEW_POINTS,
    width: empty ? 1.2 * k : 0,
    stroke: colour,
    fill: empty ? colours.panel : colour,
    paths(u, column, from, to) {
      const path = new Path2D();
      const radius = (now().x.length <= 1 ? 3 : 2) * k * uPlot.pxRatio;
      const [xs, ys] = [u.data[0], u.data[column]];
      for (let i = from; i <= to; i++)
        if ((ys[i] ?? null) !== null) shape(path, u.valToPos(xs[i], 'x', true), u.valToPos(ys[i], 'y', true), radius);
      return { stroke: path, fill: path, clip: null, flags: 3 };
    },
  };
}

/** A pen that counts in CSS pixels times k and leaves the canvas as it was. */
function withPen(u, k, draw) {
  const { ctx, bbox } = u;
  const unit = k * uPlot.pxRatio;
  const pen = {
    box: { left: bbox.left / unit, top: bbox.top / unit, right: (bbox.left + bbox.width) / unit, bottom: (bbox.top + bbox.height) / unit },
    x: (value) => u.valToPos(value, 'x', true) / unit,
    y: (value) => u.valToPos(value, 'y', true) / unit,
    line(x0, y0, x1, y1, colour, width, dash) {
      ctx.strokeStyle = colour;
      ctx.lineWidth = width;
      ctx.setLineDash(dash);
      ctx.beginPath();
      ctx.moveTo(x0, y0);
      ctx.lineTo(x1, y1);
      ctx.stroke();
    },
    text(words, x, y, colour, { align = 'left', baseline = 'middle', size = 10.5, halo = null, upright = false } = {}) {
      ctx.font = `${size}px ${token('--sans')}`;
      [ctx.textAlign, ctx.textBaseline, ctx.fillStyle] = [align, baseline, colour];
      ctx.save();
      ctx.translate(x, y);
      if (upright) ctx.rotate(-Math.PI / 2);
      if (halo) {
        [ctx.strokeStyle, ctx.lineWidth, ctx.lineJoin] = [halo, 3, 'round'];
        ctx.setLineDash([]);
        ctx.strokeText(words, 0, 0);
      }
      ctx.fillText(words, 0, 0);
      ctx.restore();
    },
    disc(x, y, radius, fill, colour) {
      [ctx.fillStyle, ctx.strokeStyle, ctx.lineWidth] = [fill, colour, 2];
      ctx.setLineDash([]);
      ctx.beginPath();
      ctx.arc(x, y, radius, 0, 2 * Math.PI);
      ctx.fill();
      ctx.stroke();
    },
  };
  ctx.save();
  ctx.scale(unit, unit);
  draw(pen);
  ctx.restore();
}

/** What stands over the lines: names of the axes, marks, reference lines, named points, words at the ends of lines. */
function overlay(pen, u, model, colours) {
  const { left, top, right, bottom } = pen.box;
  pen.text(model.y.name, left - 34, top - 8, colours['ink-3'], { baseline: 'bottom', size: 11 });
  pen.text(model.x.name, right, bottom + 19, colours['ink-3'], { align: 'right', baseline: 'top', size: 11 });
  if (u.scales.x.min === null || u.scales.y.min === null) return;
  const within = (x) => x >= u.scales.x.min && x <= u.scales.x.max;
  for (const mark of model.marks) {
    if (!within(mark.x)) continue;
    const x = Math.round(pen.x(mark.x)) + 0.5;
    pen.line(x, top, x, bottom, mark.bad ? colours.bad : colours['ink-3'], 1, [2, 3]);
    pen.text(mark.name, x - 3, top + 3, mark.bad ? colours.bad : colours['ink-2'], { align: 'right', baseline: 'bottom', upright: true });
  }
  for (const ref of model.refs ?? []) pen.line(left, pen.y(ref.y), right, pen.y(ref.y), ref.colour, 1.2, [6, 4]);
  for (const point of model.points ?? []) {
    if (!within(point.x)) continue;
    const [x, y] = [pen.x(point.x), pen.y(point.y)];
    const share = (x - left) / (right - left || 1);
    const [align, shift] = share < LABEL_EDGE ? ['left', -6] : share > 1 - LABEL_EDGE ? ['right', 6] : ['center', 0];
    pen.disc(x, y, 4.5, colours.panel, point.colour);
    pen.text(point.name, x + shift, point.below ? y + 8 : y - 8, colours.ink, { align, baseline: point.below ? 'top' : 'bottom', size: 11, halo: colours.panel });
  }
  for (const end of endsOf(pen, u, model)) pen.text(end.words, end.x + 4, end.y, end.colour);
}

/** Where the lines end that have a word there, from the top, moved apart and kept within the plot. */
function endsOf(pen, u, model) {
  const ends = [];
  model.shown.forEach((s, i) => {
    if (!s.end || s.faint) return;
    const y = u.data[i + 1];
    let last = u.series[0].idxs[1] ?? -1;
    while (last >= 0 && (y[last] ?? null) === null) last--;
    if (last >= 0) ends.push({ words: s.end, colour: s.colour, x: pen.x(u.data[0][last]), y: pen.y(y[last]) });
  });
  ends.sort((a, b) => a.y - b.y);
  ends.forEach((end, i) => (end.y = Math.max(end.y, i ? ends[i - 1].y + END_LABEL_PX : pen.box.top)));
  ends.reduceRight((lowest, end) => (end.y = Math.min(end.y, lowest)) - END_LABEL_PX, pen.box.bottom);
  return ends;
}

/** uPlot's options for what model() answers; widths, sizes and dashes are CSS pixels times k. */
function optionsOf(model, size, k) {
  const colours = palette();
  const now = model();
  const font = `${Math.round(11 * k)}px ${token('--sans')}`;
  const rule = (colour, more) => ({ stroke: colour, width: k, ...more });
  const axis = { font, stroke: colours['ink-2'], gap: 5 * k };
  return {
    ...size,
    padding: [PLOT.top, now.shown.some((s) => s.end) ? PLOT.rightOfEnds : PLOT.right, 0, 0].map((px) => px * k),
    ms: 1,
    legend: { show: false },
    scales: {
      x: { time: now.x.type === 'time', range: (u, low, high) => [model().x.min ?? low ?? 0, model().x.max ?? high ?? 1] },
      y: { distr: now.y.log ? 3 : 1, range: (u, low, high) => reach(model(), low, high) },
    },
    axes: [
      {
        ...axis,
        size: PLOT.bottom * k,
        space: (now.x.type ? 72 : 50) * k,
        incrs: now.x.type === 'seconds' ? SECONDS : now.x.whole ? WHOLE : undefined,
        values: (u, splits, i, space, step) => splits.map((v) => (model().x.type === 'time' ? tickTime(v, step) : model().x.format(v))),
        grid: { show: false },
        ticks: rule(colours['rule-2'], { size: 4 * k }),
        border: rule(colours['rule-2'], { show: true }),
      },
      {
        ...axis,
        size: (u, words) => Math.max(PLOT.left * k, widest(u, words, font) + 10 * k),
        space: 40 * k,
        values: (u, splits) => splits.map((v) => (v === null ? null : (model().y.tick ?? model().y.format)(v))),
        grid: rule(colours.rule),
        ticks: { show: false },
      },
    ],
    series: [
      {},
      ...now.shown.map((s, i) => ({
        pxAlign: 0,
        stroke: s.colour,
        width: (s.width ?? 1.5) * k,
        dash: Array.isArray(s.dash) ? s.dash.map((px) => px * k) : undefined,
        alpha: s.faint ? FAINT : (s.opacity ?? 1),
        points: symbols(s, () => model().shown[i], colours, k),
      })),
    ],
    bands: now.shown.flatMap((s, i) => (s.upTo ? [{ series: [1 + now.shown.findIndex((other) => other.id === s.upTo), 1 + i], fill: `${s.colour}${BAND_ALPHA}` }] : [])),
    hooks: { draw: [(u) => withPen(u, k, (pen) => overlay(pen, u, model(), colours))] },
  };
}

/** The range of y: the data in view and the reference lines, with a little room. */
function reach(model, low, high) {
  const all = [low, high, ...(model.refs ?? []).map((ref) => ref.y)].filter((v) => v !== null && (!model.y.log || v > 0));
  if (!all.length) return model.y.log ? [0.1, 1] : [0, 1];
  const [min, max] = [Math.min(...all), Math.max(...all)];
  return model.y.log ? uPlot.rangeLog(min, max, 10, false) : uPlot.rangeNum(min, max, { min: { pad: 0.08, soft: 0, mode: 3 }, max: { pad: 0.08, mode: 0 } });
}

/** CSS pixels of the longest of the words. */
function widest(u, words, font) {
  if (!words) return 0;
  u.ctx.save();
  u.ctx.font = font;
  const width = Math.max(0, ...words.map((w) => u.ctx.measureText(w ?? '').width));
  u.ctx.restore();
  return width;
}

// ---- the chart -------------------------------------------------------------------------------------------------------

/**
 * A chart in an element. `group` synchronises the crosshair with the other charts of that name; onZoom(from, to) is
 * called when the reader drags over a range of x, onZoom(null, null) on a double click.
 */
export function createLines(element, { group = null, onZoom = null } = {}) {
  const tip = h('div', { class: 'readout chart-tip', hidden: true });
  element.append(tip);
  let model = null;
  let shape = '';
  let u = null;
  let cursor = -1;
  let read = null; // the column of x that the tip tells

  const sizeOf = () => ({ width: element.clientWidth, height: element.clientHeight });
  const resizer = new ResizeObserver(() => {
    const { width, height } = sizeOf();
    if (u && width && (width !== u.width || height !== u.height)) u.setSize({ width, height });
  });
  resizer.observe(element);

  function interaction() {
    const of = (column) => model.shown[column - 1];
    return {
      y: false,
      dataIdx: (_, column, at) => at,
      move: (self, left, top) => [left < 0 || !self.data[0].length ? left : self.valToPos(self.data[0][self.posToIdx(left)], 'x'), top],
      drag: { x: Boolean(onZoom), y: false, setScale: false, dist: DRAG_PX },
      bind: { dblclick: () => null },
      points: { size: 7, width: 0, show: (_, column) => (of(column).faint ? null : h('div', {})), fill: (_, column) => of(column).colour },
      sync: group ? { key: group, scales: ['x', null], filters: { pub: (type) => type === 'mousemove' } } : undefined,
    };
  }

  function make() {
    u?.destroy();
    const options = optionsOf(() => model, sizeOf(), 1);
    options.cursor = interaction();
    options.hooks.setCursor = [() => showTip()];
    options.hooks.setSelect = [zoomed];
    u = new uPlot(options, columns(model), element);
  }

  function zoomed() {
    const { left, width } = u.select;
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (width >= DRAG_PX) onZoom(u.posToVal(left, 'x'), u.posToVal(left + width, 'x'));
  }
  if (onZoom) element.addEventListener('dblclick', () => onZoom(null, null));

  function draw(next) {
    model = prepared(next);
    const wanted = shapeOf(model);
    if (wanted !== shape) {
      shape = wanted;
      make();
    } else u.setData(columns(model));
    read = null;
    if (u.cursor.idx !== null) showTip();
  }
  const offTheme = onTheme(() => {
    if (u) make();
  });

  function showTip() {
    const at = u.cursor.idx ?? null;
    if (at === null || !model.shown.length) {
      tip.hidden = true;
      read = null;
      return;
    }
    if (at !== read) tip.replaceChildren(...readout(model, u.data, at));
    read = at;
    tip.hidden = false;
    place(u.bbox.left / uPlot.pxRatio + u.cursor.left, u.cursor.top + PLOT.top);
  }

  /** The tip beside a place of the chart: to its right, else to its left, else as far right as the chart goes. */
  function place(left, top) {
    const { offsetWidth: width, offsetHeight: height } = tip;
    const most = element.clientWidth - width;
    const beside = left + TIP_PX <= most ? left + TIP_PX : left - TIP_PX - width;
    tip.style.left = `${beside >= 0 ? beside : Math.max(0, most)}px`;
    tip.style.top = `${Math.max(0, Math.min(top - height / 2, element.clientHeight - height))}px`;
  }

  /** Moves the crosshair by keyboard and answers what it reads, for a live region. */
  function step(by) {
    const lines = model?.shown.filter((s) => !s.faint) ?? [];
    const longest = lines.reduce((a, b) => (b.x.length > (a?.x.length ?? 0) ? b : a), null);
    if (!longest) return '';
    cursor = cursor < 0 ? longest.x.length - 1 : Math.min(longest.x.length - 1, Math.max(0, cursor + by));
    const x = longest.x[cursor];
    u.setCursor({ left: u.valToPos(x, 'x'), top: element.clientHeight / 2 });
    const values = lines.map((s) => [s, s.x.indexOf(x)]).filter(([, i]) => i >= 0);
    return `${model.x.name} ${model.x.format(x)}: ${values.map(([s, i]) => `${s.name} ${told(model, s, s.y[i])}`).join(', ')}`;
  }

  return {
    draw,
    step,
    hideTip: () => u?.setCursor({ left: -10, top: -10 }),
    /** A PNG on the paper of the current theme, with the title and the names of the lines above. */
    async png(title) {
      const k = PNG_SCALE / uPlot.pxRatio;
      const large = new uPlot(optionsOf(() => model, { width: u.width * k, height: u.height * k }, k), columns(model));
      await null; // it draws in a microtask
      const blob = await toPng(large.ctx.canvas, title, model.shown.filter((s) => !s.faint));
      large.destroy();
      return blob;
    },
    stop() {
      offTheme();
      resizer.disconnect();
      u?.destroy();
    },
  };
}

/** Rows of the tip, the largest value first: every series that has this x, and the reference lines. */
function readout(model, data, at) {
  const x = data[0][at];
  const rows = model.shown.flatMap((s, i) => {
    if (s.faint || data[i + 1][at] === undefined) return [];
    const index = s.x[at] === x ? at : s.x.indexOf(x);
    return [{ series: s, value: s.y[index], raw: s.raw?.[index] }];
  });
  rows.sort((a, b) => (b.value ?? -Infinity) - (a.value ?? -Infinity));
  const swatch = (kind, colour) => h('i', { class: kind, vars: { '--c': colour } });
  return [
    h('div', { class: 'readout-x' }, `${model.x.name} ${model.x.format(x)}`),
    h(
      'table',
      {},
      rows.map(({ series, value, raw }) =>
        h(
          'tr',
          {},
          h('td', {}, swatch('swatch', series.colour), series.name),
          h('td', { class: 'num' }, told(model, series, value)),
          raw !== undefined && h('td', { class: 'num faint' }, told(model, series, raw)),
        ),
      ),
      (model.refs ?? []).map((ref) =>
        h(
          'tr',
          { class: 'faint' },
          h('td', {}, swatch('swatch line', ref.colour), ref.name),
          h('td', { class: 'num' }, model.y.format(ref.y)),
        ),
      ),
    ),
  ];
}
