// Charts that are no curves, points in a plane and parallel coordinates: the one adapter around ECharts, which no other
// file imports. Loaded on demand. Takes plain models and knows nothing of runs:
//
//   {kind: 'scatter', x: {name, format}, y: {name, format, tick}, series: [{id, name, label, colour, symbol, x, y}]}
//   {kind: 'parallel', axes: [{name, format, categories, log}], series: [{id, name, colour, dash, values}]}
//
// Canvas renderer; tooltips are DOM built here, never markup, so the Content-Security-Policy holds.
import { init, use } from 'echarts/core';
import { ParallelChart, ScatterChart } from 'echarts/charts';
import { GridComponent, ParallelComponent, TooltipComponent } from 'echarts/components';
import { LabelLayout } from 'echarts/features';
import { CanvasRenderer } from 'echarts/renderers';
import { h } from './dom.js';
import { PNG_SCALE, toPng } from './png.js';
import { onTheme, palette, token } from './theme.js';

use([ScatterChart, ParallelChart, GridComponent, ParallelComponent, TooltipComponent, LabelLayout, CanvasRenderer]);

const font = () => ({ fontFamily: token('--sans'), fontSize: 11 });

function axis(spec, colours, vertical) {
  const text = { ...font(), color: colours['ink-2'] };
  const line = { lineStyle: { color: colours['rule-2'] } };
  return {
    type: 'value',
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
    scale: true,
    splitNumber: vertical ? 5 : 6,
    axisLine: { show: !vertical, onZero: false, ...line },
    axisTick: { show: !vertical, ...line },
    axisLabel: { ...text, hideOverlap: true, formatter: spec.tick ?? spec.format },
    splitLine: { show: vertical, lineStyle: { color: colours.rule } },
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
      backgroundColor: colours.panel,
      borderColor: colours['rule-2'],
      borderWidth: 1,
      padding: 8,
      textStyle: { ...font(), color: colours.ink },
      transitionDuration: 0,
      confine: true,
      extraCssText: 'box-shadow: 0 2px 10px rgb(0 0 0 / 14%); border-radius: 3px;',
      formatter: (hit) =>
        h(
          'div',
          { class: 'readout' },
          hit.seriesName,
          h('div', { class: 'num' }, `${model.x.name} ${model.x.format(hit.value[0])} · ${model.y.name} ${model.y.format(hit.value[1])}`),
        ),
    },
    xAxis: axis(model.x, colours, false),
    yAxis: axis(model.y, colours, true),
    series: model.series
      .filter((s) => !s.hidden)
      .map((s) => ({
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
    series: model.series
      .filter((s) => !s.hidden)
      .map((s) => ({
        id: s.id,
        name: s.name,
        type: 'parallel',
        data: [s.values],
        lineStyle: { color: s.colour, width: 2, opacity: 0.9, type: s.dash ?? 'solid' },
      })),
  };
}

const options = { scatter: scatterOption, parallel: parallelOption };

/** A chart in an element, of the same form as createLines of lines.js; it has no crosshair. */
export function createPlot(element) {
  const chart = init(element, null, { renderer: 'canvas' });
  let model = null;
  let drawn = false;
  const resizer = new ResizeObserver(([{ contentRect }]) => {
    // Its first call says what init has just measured; to resize would draw everything a second time.
    if (Math.floor(contentRect.width) !== chart.getWidth() || Math.floor(contentRect.height) !== chart.getHeight()) chart.resize();
  });
  resizer.observe(element);

  function draw(next) {
    model = next;
    chart.setOption(options[model.kind](model), {
      replaceMerge: ['series'],
      lazyUpdate: drawn, // the first time in the frame that shows the element
    });
    drawn = true;
  }
  const offTheme = onTheme(() => model && draw(model));

  return {
    draw,
    step: () => '',
    hideTip: () => chart.dispatchAction({ type: 'hideTip' }),
    png: (title) =>
      toPng(
        chart.renderToCanvas({ pixelRatio: PNG_SCALE, backgroundColor: token('--panel') }),
        title,
        model.unnamed ? [] : model.series.filter((s) => !s.hidden),
      ),
    stop() {
      offTheme();
      resizer.disconnect();
      chart.dispose();
    },
  };
}
