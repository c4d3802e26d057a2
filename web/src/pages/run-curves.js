// The curves of one run: losses and scores per epoch, and loss, learning rate and gradient norm per step. All live, all
// from the store; zooming the steps asks the daemon again for that range only.
import { debounce, h } from '../dom.js';
import { t } from '../i18n.js';
import { chartPanel } from '../chartpanel.js';
import { partColours, runColour } from '../colour.js';
import { number, score, shortScore } from '../format.js';
import { explain } from '../api.js';
import { notice, segmented } from '../widgets.js';
import { setParams } from '../router.js';
import { lacksAverages, loadMetrics, loadSteps, metricsOf, on, readEpochs, run, stepsOf, watchSteps } from '../store.js';
import { detail } from '../detail.js';
import { marksOf } from '../marks.js';
import { smooth } from '../smooth.js';
import { token } from '../theme.js';
import { hiddenSeries, logY, param, smoothing, tableState, tauOf, toggleSeries, X_MODES, xAxis, xMode, xOf, zoom, zoomTo } from '../view.js';

const SMOOTHINGS = [0, 0.4, 0.7, 0.9];
const STEP_UNITS = 200; // smoothing of step curves counts in 1/200 of the run, so that it does not depend on its length
const HIDDEN_AT_FIRST = ['teacher_agreement', 'dev_kl', 'dev_ce'];

export function curves(id) {
  const hidden = () => hiddenSeries(HIDDEN_AT_FIRST);
  const toggle = (seriesId) => toggleSeries(seriesId, HIDDEN_AT_FIRST);

  /** Epochs or steps until a value has faded to 1/e; 0: no smoothing. */
  function tau(perStep) {
    const unit = perStep ? Math.max(1, (run(id)?.progress?.steps ?? 1) / STEP_UNITS) : 1;
    return unit * tauOf(smoothing());
  }

  /** A series of a column, and its raw self behind it when it is smoothed. */
  function smoothed(spec, rows, column, x) {
    const y = rows.column(column);
    const average = spec.plain ? 0 : tau(spec.perStep);
    if (!average) return [{ ...spec, x, y }];
    return [
      { ...spec, id: `${spec.id}:raw`, toggle: spec.id, faint: true, x, y },
      { ...spec, x, y: rows.averages(column, average) ?? smooth(rows.column(rows.key), y, average), raw: y },
    ];
  }

  const distils = () => run(id)?.spec.task === 'distill'; // else the total is the cross entropy
  const some = (column) => column.some((v) => v !== null);

  // ---- epochs ----
  const colours = () => {
    const [kl, ce, third] = partColours(id).map(token);
    return { own: runColour(id), kl, ce, dev: token('--c-dev'), third };
  };
  const epochs = detail({
    load: async (average) => {
      const rows = metricsOf(id);
      return rows && !lacksAverages(rows, average) ? rows : loadMetrics(id, average);
    },
    held: () => metricsOf(id),
    read: (first, last, average) => readEpochs(id, first, last, average),
    xOf: (rows) => xOf(rows, run(id)),
    range: () => zoom('z'),
    tau: () => tau(false),
    changed: () => [loss, scores].forEach((panel) => panel.now()),
    failed: (problem) => notice(explain(problem), { bad: true }),
  });
  function epochModel(list, y, extra) {
    const rows = epochs.rows();
    if (!rows?.length) return null;
    const x = xOf(rows, run(id));
    const series = list(colours())
      .filter((s) => some(rows.column(s.id)))
      .flatMap((s) => smoothed({ ...s, name: t(`metric.${s.id}`) }, rows, s.id, x));
    return { x: xAxis(false, zoom('z')), y, series, marks: marksOf(rows, x, run(id)), ...extra?.(rows, x) };
  }

  const lossModel = () =>
    epochModel(
      (c) => [
        { id: 'train_loss', colour: c.own, width: 2 },
        ...(distils()
          ? [
              { id: 'train_kl', colour: c.kl, dash: [7, 3] },
              { id: 'train_ce', colour: c.ce, dash: [2, 3] },
            ]
          : []),
        ...(run(id)?.spec?.hidden_weight > 0 ? [{ id: 'train_hidden', colour: c.third, dash: [5, 2] }] : []),
        ...(run(id)?.spec?.cls_weight > 0 ? [{ id: 'train_cls', colour: c.third, dash: [1, 2] }] : []),
        ...(run(id)?.spec?.attention_weight > 0 ? [{ id: 'train_attention', colour: c.third, dash: [9, 2] }] : []),
        ...(run(id)?.spec?.relation_weight > 0 ? [{ id: 'train_relation', colour: c.third, dash: [4, 2, 1, 2] }] : []),
        { id: 'dev_loss', colour: c.dev, width: 2, dash: [9, 3, 2, 3], symbol: 'emptyCircle' },
        ...(distils()
          ? [
              { id: 'dev_kl', colour: c.kl, dash: [9, 3, 2, 3], symbol: 'emptyCircle' },
              { id: 'dev_ce', colour: c.ce, dash: [9, 3, 2, 3], symbol: 'emptyCircle' },
            ]
          : []),
      ],
      { name: t('axis.loss'), log: logY(), format: number },
    );

  const scoreModel = () =>
    epochModel(
      (c) => [
        { id: 'macro_f1', colour: c.own, width: 2 },
        { id: 'weighted_f1', colour: c.kl, dash: [7, 3] },
        { id: 'accuracy', colour: c.dev, dash: [2, 3] },
        { id: 'teacher_agreement', colour: c.third, dash: [9, 3, 2, 3] },
      ],
      { name: t('axis.score'), format: score, tick: shortScore },
      (rows, x) => {
        const teacher = run(id)?.teacher;
        const best = run(id)?.best;
        const at = best?.epoch ? rows.column('epoch').indexOf(best.epoch) : -1;
        const hide = hidden();
        return {
          refs:
            typeof teacher?.macro_f1 === 'number'
              ? [{ y: teacher.macro_f1, name: t('metric.teacher_macro_f1'), colour: token('--ink-2') }]
              : [],
          points:
            at >= 0 && !hide.has('macro_f1') && !smoothing()
              ? [
                  {
                    x: x[at],
                    y: best.macro_f1,
                    name: t('mark.best', { score: score(best.macro_f1) }),
                    colour: runColour(id),
                    below: true,
                  },
                ]
              : [],
        };
      },
    );

  const nothing = (rows) => t(rows ? 'chart.nothing_yet' : 'chart.reading');
  function lossSummary() {
    const rows = metricsOf(id);
    if (!rows?.length) return nothing(rows);
    const train = rows.column('train_loss');
    const dev = rows.column('dev_loss');
    const finite = dev.map((v) => v ?? Infinity);
    const low = finite.indexOf(Math.min(...finite));
    if (rows.length === 1) return t('summary.loss_one', { train: number(train[0] ?? NaN), dev: number(dev[0] ?? NaN) });
    return t('summary.loss', {
      epochs: rows.length,
      first: number(train[0] ?? NaN),
      last: number(train.at(-1) ?? NaN),
      dev: number(dev[low] ?? NaN),
      epoch: rows.column('epoch')[low],
    });
  }
  function scoreSummary() {
    const rows = metricsOf(id);
    const r = run(id);
    if (!rows?.length || !r?.best?.epoch) return nothing(rows);
    const share = r.retention?.macro_f1;
    return t(typeof share === 'number' ? 'summary.score_teacher' : 'summary.score', {
      best: score(r.best.macro_f1),
      epoch: r.best.epoch,
      last: score(r.last?.macro_f1),
      share: typeof share === 'number' ? `${(100 * share).toFixed(1)}%` : '',
    });
  }

  const common = { hidden, onToggle: toggle, group: `run-${id}` };
  const loss = chartPanel({
    ...common,
    top: true,
    ...tableState('loss'),
    title: t('chart.loss'),
    name: `run-${id}-loss`,
    model: lossModel,
    summary: lossSummary,
    onZoom: zoomTo('z'),
    tall: true,
  });
  const scores = chartPanel({
    ...common,
    top: true,
    ...tableState('score'),
    title: t('chart.score'),
    name: `run-${id}-scores`,
    model: scoreModel,
    summary: scoreSummary,
    onZoom: zoomTo('z'),
    tall: true,
  });

  // ---- steps ----
  const steps = detail({
    load: (average) => loadSteps(id, null, null, average),
    held: () => stepsOf(id),
    read: (first, last, average) => loadSteps(id, first, last, average),
    xOf: (rows) => xOf(rows, run(id), true),
    range: () => zoom('sz'),
    tau: () => tau(true),
    changed: () => stepPanels.forEach((panel) => panel.now()),
  });
  function stepModel(list, y) {
    return () => {
      const rows = steps.rows();
      if (!rows?.length) return null;
      const x = xOf(rows, run(id), true);
      const series = list(colours())
        .filter((s) => some(rows.column(s.column)))
        .flatMap((s) => smoothed({ ...s, perStep: true, name: t(`metric.${s.id}`) }, rows, s.column, x));
      return { x: xAxis(true, zoom('sz')), y: y(), series };
    };
  }
  const stepSummary = (column, key) => () => {
    const rows = steps.rows();
    if (!rows?.length) return nothing(rows);
    const values = rows.column(column).filter((v) => v !== null);
    if (!values.length) return t('chart.nothing_yet');
    const low = values.reduce((a, b) => Math.min(a, b));
    const high = values.reduce((a, b) => Math.max(a, b));
    return t(key, { last: number(values.at(-1)), low: number(low), high: number(high) });
  };
  const stepPanels = [
    chartPanel({
      ...common,
      ...tableState('step_loss'),
      group: `run-${id}-steps`,
      title: t('chart.step_loss'),
      name: `run-${id}-step-loss`,
      onZoom: zoomTo('sz'),
      model: stepModel(
        (c) => [
          { id: 'step_loss', column: 'loss', colour: c.own, width: 1, front: distils(), end: distils() ? 'Σ' : undefined },
          ...(distils()
            ? [
                { id: 'step_kl', column: 'kl', colour: c.kl, width: 1, opacity: 0.55, end: 'KL' },
                // a batch may have no labelled row, and then no CE
                { id: 'step_ce', column: 'ce', colour: c.ce, width: 1, opacity: 0.55, end: 'CE', partial: true },
              ]
            : []),
        ],
        () => ({ name: t('axis.loss'), log: logY(), format: number }),
      ),
      summary: stepSummary('loss', 'summary.steps'),
    }),
    chartPanel({
      ...common,
      ...tableState('lr'),
      group: `run-${id}-steps`,
      title: t('chart.lr'),
      name: `run-${id}-lr`,
      onZoom: zoomTo('sz'),
      model: stepModel(
        (c) => [{ id: 'step_lr', column: 'lr', colour: c.own, plain: true }],
        () => ({ name: t('axis.lr'), format: number }),
      ),
      summary: stepSummary('lr', 'summary.steps'),
    }),
    chartPanel({
      ...common,
      ...tableState('norm'),
      group: `run-${id}-steps`,
      title: t('chart.grad_norm'),
      name: `run-${id}-gradient-norm`,
      onZoom: zoomTo('sz'),
      model: stepModel(
        (c) => [{ id: 'step_norm', column: 'grad_norm', colour: c.own, width: 1 }],
        () => ({ name: t('axis.norm'), log: logY(), format: number }),
      ),
      summary: stepSummary('grad_norm', 'summary.steps'),
    }),
  ];

  // ---- controls ----
  const controls = h('div', { class: 'toolbar slim' });
  function drawControls() {
    const slider = h('input', {
      type: 'range',
      min: '0',
      max: '0.95',
      step: '0.05',
      value: String(smoothing()),
      'aria-label': t('chart.smoothing'),
      oninput: debounce((e) => setParams({ smooth: Number(e.target.value) || null }), 60),
    });
    controls.replaceChildren(
      h('span', { class: 'label' }, 'x'),
      segmented(
        'x',
        X_MODES.map((m) => [m, t(`x.${m}`)]),
        xMode(),
        (m) => setParams({ x: m === 'epoch' ? null : m, z: null, sz: null }),
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
        slider,
        h('output', { class: 'num' }, smoothing().toFixed(2)),
      ),
    );
    if (zoom('z') || zoom('sz'))
      controls.append(
        h(
          'button',
          { type: 'button', class: 'small', onclick: () => setParams({ z: null, sz: null }) },
          t('chart.reset_zoom'),
        ),
      );
    else controls.append(h('span', { class: 'faint hint' }, t('chart.zoom_hint')));
  }
  let controlsKey = '';
  function update() {
    const key = ['x', 'log', 'smooth', 'z', 'sz'].map(param).join('|');
    if (key !== controlsKey) {
      controlsKey = key;
      const inside = controls.contains(document.activeElement) && document.activeElement.type === 'range';
      if (inside) controls.querySelector('output').textContent = smoothing().toFixed(2);
      else drawControls();
    }
    for (const panel of [loss, scores, ...stepPanels]) panel.now();
    epochs.ask();
    steps.ask();
  }

  const offs = [
    on(`metrics:${id}`, () => {
      loss.ask();
      scores.ask();
    }),
    on(`steps:${id}`, () => stepPanels.forEach((panel) => panel.ask())),
    on(`run:${id}`, () => scores.ask()),
  ];
  const element = h(
    'div',
    {},
    controls,
    h('div', { class: 'charts two' }, loss.element, scores.element),
    h(
      'div',
      { class: 'charts three' },
      stepPanels.map((p) => p.element),
    ),
  );
  drawControls();
  epochs.ask();
  steps.ask();
  watchSteps(id);

  return {
    element,
    update,
    cycleSmoothing() {
      const next = SMOOTHINGS[(SMOOTHINGS.findIndex((s) => s >= smoothing()) + 1) % SMOOTHINGS.length];
      setParams({ smooth: next || null });
    },
    stop() {
      watchSteps(null);
      for (const off of offs) off();
      for (const panel of [loss, scores, ...stepPanels]) panel.stop();
    },
  };
}
