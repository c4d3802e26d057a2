// The curves of one run: losses and scores per epoch, and loss, learning rate and gradient norm per step. All live, all
// from the store; zooming the steps asks the daemon again for that range only.
import { debounce, h } from '../dom.js';
import { t } from '../i18n.js';
import { chartPanel } from '../chartpanel.js';
import { runColour } from '../colour.js';
import { duration, fullTime, number, score, shortScore } from '../format.js';
import { segmented } from '../widgets.js';
import { route, setParams } from '../router.js';
import { loadSteps, metricsOf, on, run, watchSteps } from '../store.js';
import { collapses, rollbacks } from '../marks.js';
import { smooth } from '../smooth.js';
import { token } from '../theme.js';

const SMOOTHINGS = [0, 0.4, 0.7, 0.9];
const STEP_UNITS = 200; // smoothing of step curves counts in 1/200 of the run, so that it does not depend on its length
const LEAST_WAIT_S = 1;
const HIDDEN_AT_FIRST = ['teacher_agreement'];

export function curves(id) {
  const param = (name) => route().params.get(name);
  const xMode = () => (['step', 'time', 'clock'].includes(param('x')) ? param('x') : 'epoch');
  const logY = () => param('log') === '1';
  const smoothing = () => Math.min(0.98, Math.max(0, Number(param('smooth')) || 0));
  const hidden = () => new Set(param('hide') === null ? HIDDEN_AT_FIRST : param('hide').split(',').filter(Boolean));
  const zoom = (name) => {
    const parts = (param(name) ?? '').split('~').map(Number);
    return parts.length === 2 && parts.every(Number.isFinite) ? parts : null;
  };
  const toggle = (seriesId) => {
    const set = hidden();
    if (!set.delete(seriesId)) set.add(seriesId);
    setParams({ hide: [...set].join(',') });
  };
  const zoomTo = (name) => (from, to) => {
    if (from === null && !param(name)) return;
    const short = (v) => (xMode() === 'clock' ? Math.round(v) : Number(v.toPrecision(7)));
    setParams({ [name]: from === null ? null : `${short(from)}~${short(to)}` });
  };
  const tables = () => new Set((param('table') ?? '').split(',').filter(Boolean));
  const tableState = (name) => ({
    table: () => tables().has(name),
    onTable: (shown) => {
      const set = tables();
      if (shown) set.add(name);
      else set.delete(name);
      setParams({ table: [...set].join(',') || null });
    },
  });

  // ---- x ----
  /** Values of x for rows that carry epoch or step and elapsed seconds, in the chosen unit. */
  function xOf(rows, perStep) {
    const mode = xMode();
    const r = run(id);
    const stepsPerEpoch = (r?.progress?.steps ?? 0) / (r?.progress?.epochs || 1);
    if (mode === 'epoch')
      return perStep ? rows.column('step').map((s) => (stepsPerEpoch ? s / stepsPerEpoch : s)) : rows.column('epoch');
    if (mode === 'step')
      return perStep ? rows.column('step') : rows.column('epoch').map((e) => Math.round(e * stepsPerEpoch));
    const elapsed = rows.column('elapsed_seconds');
    if (mode === 'time') return elapsed;
    const start = Date.parse(r?.started_at ?? 0);
    return rows.column('recorded_at').map((at, i) => (at ? Date.parse(at) : start + 1000 * elapsed[i]));
  }
  function xAxis(perStep, range) {
    const formats = {
      epoch: (v) => (perStep ? String(Number(v.toFixed(2))) : String(Math.round(v))),
      step: (v) => String(Math.round(v)),
      time: duration,
      clock: (v) => fullTime(new Date(v).toISOString()),
    };
    const mode = xMode();
    return {
      name: t(`x.${mode}`),
      type: mode === 'clock' ? 'time' : 'value',
      format: formats[mode],
      whole: mode === 'step' || (mode === 'epoch' && !perStep),
      min: range?.[0],
      max: range?.[1],
    };
  }

  /** A series, and its raw self behind it when it is smoothed. */
  function smoothed(spec, key, x, y) {
    const s = smoothing();
    if (!s || spec.plain) return [{ ...spec, x, y }];
    const unit = spec.perStep ? Math.max(1, (run(id)?.progress?.steps ?? 1) / STEP_UNITS) : 1;
    return [
      { ...spec, id: `${spec.id}:raw`, toggle: spec.id, faint: true, x, y },
      { ...spec, x, y: smooth(key, y, -unit / Math.log(s)), raw: y },
    ];
  }

  const distils = () => run(id)?.spec.task === 'distill'; // else the total is the cross entropy
  const some = (column) => column.some((v) => v !== null);

  // ---- epochs ----
  const colours = () => ({
    own: runColour(id),
    kl: token('--c-kl'),
    ce: token('--c-ce'),
    dev: token('--c-dev'),
    third: token('--c-third'),
  });
  function epochModel(list, y, extra) {
    const rows = metricsOf(id);
    if (!rows?.length) return null;
    const x = xOf(rows, false);
    const series = list(colours())
      .filter((s) => some(rows.column(s.id)))
      .flatMap((s) => smoothed({ ...s, name: t(`metric.${s.id}`) }, rows.column('epoch'), x, rows.column(s.id)));
    return { x: xAxis(false, zoom('z')), y, series, marks: marks(rows, x), ...extra?.(rows, x) };
  }

  function marks(rows, x) {
    return [...rollbacks(rows, x), ...collapses(rows, x), ...resumptions(rows, x)];
  }

  /**
   * Where the run was taken up again after a kill, a pause or a retry: the attempts − 1 longest waits between two epochs
   * that are not explained by the time the later epoch took.
   */
  function resumptions(rows, x) {
    const again = (run(id)?.attempts ?? 1) - 1;
    if (again < 1) return [];
    const at = rows.column('recorded_at').map((time) => (time ? Date.parse(time) / 1000 : NaN));
    const seconds = rows.column('seconds');
    const waits = x
      .map((_, i) => ({ i, wait: i ? at[i] - at[i - 1] - (seconds[i] ?? 0) : 0 }))
      .filter(({ wait }) => wait > LEAST_WAIT_S);
    waits.sort((a, b) => b.wait - a.wait);
    return waits.slice(0, again).map(({ i }) => ({ x: x[i], name: t('mark.resumed') }));
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
        { id: 'dev_loss', colour: c.dev, width: 2, dash: [9, 3, 2, 3], symbol: 'emptyCircle' },
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

  function lossSummary() {
    const rows = metricsOf(id);
    if (!rows?.length) return t('chart.nothing_yet');
    const train = rows.column('train_loss');
    const dev = rows.column('dev_loss');
    const finite = dev.map((v) => v ?? Infinity);
    const low = finite.indexOf(Math.min(...finite));
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
    if (!rows?.length || !r?.best?.epoch) return t('chart.nothing_yet');
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
    ...tableState('score'),
    title: t('chart.score'),
    name: `run-${id}-scores`,
    model: scoreModel,
    summary: scoreSummary,
    onZoom: zoomTo('z'),
    tall: true,
  });

  // ---- steps ----
  let stepRows = null; // of the zoomed range; the open range lives in the store and grows
  let stepRange = '';
  async function readSteps() {
    const range = stepZoom();
    const key = range ? range.join() : '';
    if (stepRows && key === stepRange) return;
    stepRange = key;
    try {
      const rows = await loadSteps(id, range?.[0] ?? null, range?.[1] ?? null);
      if (key === stepRange) stepRows = rows;
      stepPanels.forEach((panel) => panel.now());
    } catch {
      stepRange = '?'; // asked again with the next change
    }
  }
  /** The zoom of the step charts in steps, whatever x shows. */
  function stepZoom() {
    const range = zoom('sz');
    if (!range) return null;
    const r = run(id);
    const perEpoch = (r?.progress?.steps ?? 0) / (r?.progress?.epochs || 1);
    if (xMode() === 'step') return range.map(Math.round);
    if (xMode() === 'epoch') return [Math.floor(range[0] * perEpoch), Math.ceil(range[1] * perEpoch)];
    return null; // time: the axis is cut, the points are those at hand
  }
  function stepModel(list, y) {
    return () => {
      if (!stepRows?.length) return null;
      const x = xOf(stepRows, true);
      const series = list(colours())
        .filter((s) => some(stepRows.column(s.column)))
        .flatMap((s) =>
          smoothed(
            { ...s, perStep: true, name: t(`metric.${s.id}`) },
            stepRows.column('step'),
            x,
            stepRows.column(s.column),
          ),
        );
      return { x: xAxis(true, zoom('sz')), y: y(), series };
    };
  }
  const stepSummary = (column, key) => () => {
    if (!stepRows?.length) return t('chart.nothing_yet');
    const values = stepRows.column(column).filter((v) => v !== null);
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
          { id: 'step_loss', column: 'loss', colour: c.own, width: 1, end: distils() ? 'Σ' : undefined },
          ...(distils()
            ? [
                { id: 'step_kl', column: 'kl', colour: c.kl, width: 1, end: 'KL' },
                { id: 'step_ce', column: 'ce', colour: c.ce, width: 1, end: 'CE' },
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
        ['epoch', 'step', 'time', 'clock'].map((m) => [m, t(`x.${m}`)]),
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
    readSteps();
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
  readSteps();
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
