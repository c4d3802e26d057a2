// One run: what it is, how it goes, what it learnt, and everything one can do to it. The frame, head and actions are
// here; the curves are in run-curves.js, the report in run-report.js, the rest of the tabs in run-tabs.js.
import { fill, h, setText } from '../dom.js';
import { known as hasText, t } from '../i18n.js';
import { explain, patch, post, remove } from '../api.js';
import { attempt, chip, confirmDialog, dialog, notice, progressBar, statusMark } from '../widgets.js';
import { go, href, route, setParams } from '../router.js';
import { bytes, count, duration, fullTime, NONE, parameters, percent, score } from '../format.js';
import { FINAL, forget, keep, loadRun, on, run } from '../store.js';
import { shape, optimizerName } from '../runcolumns.js';
import { curves } from './run-curves.js';
import { reportTab } from './run-report.js';
import { logTab, predictionsTab, specTab } from './run-tabs.js';

const TABS = { report: reportTab, predictions: predictionsTab, spec: specTab, log: logTab };
const BUTTONS = ['pause', 'resume', 'cancel', 'retry', 'clone'];

export function mount(root, { parts }) {
  const id = Number(parts[1]);
  const offs = [];
  let graph = null;
  let tab = null;
  let tabName = '';
  let known = false;

  const name = h('h1', {});
  const facts = h('p', { class: 'facts' });
  const actions = h('div', { class: 'actions' });
  const state = h('div', { class: 'run-state' });
  const figures = h('dl', { class: 'figures' });
  const failure = h('div', { class: 'failure', role: 'alert', hidden: true });
  const curvesHost = h('section', { 'aria-label': t('run.curves') });
  const tabList = h('div', { class: 'tabs', role: 'tablist', 'aria-label': t('run.details') });
  const tabBody = h('section', { class: 'tab-body', role: 'tabpanel', id: 'tabpanel', tabindex: '0' });
  const page = h(
    'div',
    { class: 'page run-page' },
    h('header', { class: 'run-head' }, h('div', {}, name, facts), actions),
    failure,
    state,
    figures,
    curvesHost,
    tabList,
    tabBody,
  );
  fill(root, page);

  // ---- head ----
  function showHead() {
    const r = run(id);
    if (!r) return;
    const spec = r.spec;
    if (!name.contains(document.activeElement))
      fill(
        name,
        chip(id),
        h('span', { class: 'id' }, `#${id}`),
        ' ',
        r.name || NONE,
        h('button', { type: 'button', class: 'quiet edit', onclick: edit }, t('run.edit')),
      );
    fill(
      facts,
      [
        t(`task.${spec.task}`),
        h('a', { href: href(['datasets', spec.dataset]) }, spec.dataset),
        spec.teacher || spec.model
          ? h('a', { href: href(['models', spec.teacher || spec.model]) }, shape(spec))
          : shape(spec),
        optimizerName(spec),
        moving('T', spec.T, spec.T_end),
        moving('α', spec.alpha, spec.alpha_end),
        `${t('column.seed')} ${spec.seed}`,
      ]
        .filter(Boolean)
        .flatMap((part, i) => (i ? [h('span', { class: 'sep', 'aria-hidden': 'true' }, '·'), part] : [part])),
      h(
        'span',
        { class: 'tags' },
        (r.tags ?? spec.tags ?? []).map((tag) => h('a', { class: 'tag', href: href(['runs'], { tag }) }, tag)),
      ),
      (r.notes || spec.notes) && h('span', { class: 'notes' }, r.notes || spec.notes),
    );
    showState(r);
    showFigures(r);
    showActions(r);
    failure.hidden = !r.error;
    if (r.error)
      fill(
        failure,
        h('strong', {}, t('run.failed')),
        ' ',
        explain({ code: r.error.code, detail: r.error.message ?? r.error.detail }),
      );
    document.title = `${r.status === 'running' ? `${Math.round(100 * fraction(r))}% ` : ''}${r.name || `#${id}`} · distilld`;
  }

  /** A setting that may move over the run; nothing where the spec has none. */
  const moving = (label, from, to) =>
    from !== undefined && (to === undefined ? `${label} ${from}` : `${label} ${from} → ${to}`);

  const fraction = (r) => (r.status === 'finished' ? 1 : r.progress?.steps ? r.progress.step / r.progress.steps : 0);

  function showState(r) {
    const p = r.progress ?? {};
    const bits = [
      statusMark(r.status),
      r.pause_requested && t('run.pausing'),
      r.cancel_requested && t('run.cancelling'),
      r.stopped && h('span', {}, t(r.status === 'paused' ? 'run.rung_waits' : 'run.rung_stopped', { rung: r.stopped })),
      progressBar(fraction(r), t('column.progress')),
      h('span', { class: 'num' }, t('run.epoch_of', { epoch: p.epoch ?? 0, epochs: p.epochs ?? r.spec.epochs })),
    ];
    if (p.steps)
      bits.push(h('span', { class: 'num faint' }, t('run.step_of', { step: count(p.step), steps: count(p.steps) })));
    if (r.status === 'running') {
      if (p.phase && p.phase !== 'training') bits.push(h('span', {}, phaseText(p)));
      if (typeof p.eta_seconds === 'number')
        bits.push(h('span', { class: 'num' }, t('run.left', { time: duration(p.eta_seconds) })));
      if (p.tokens_per_second)
        bits.push(h('span', { class: 'num faint' }, t('run.speed', { n: count(Math.round(p.tokens_per_second)) })));
    }
    if (p.stopped_early) bits.push(h('span', {}, t('run.stopped_early', { epoch: p.epoch, best: r.best?.epoch ?? NONE })));
    if (r.started_at) bits.push(h('span', { class: 'faint' }, t('run.started', { time: fullTime(r.started_at) })));
    if (r.finished_at)
      bits.push(
        h(
          'span',
          { class: 'faint' },
          t('run.took', { time: duration((Date.parse(r.finished_at) - Date.parse(r.started_at)) / 1000) }),
        ),
      );
    if (r.attempts > 1) bits.push(h('span', { class: 'faint' }, t('run.attempts', { n: r.attempts })));
    fill(state, bits);
  }

  function phaseText(p) {
    const name = hasText(`phase.${p.phase}`) ? t(`phase.${p.phase}`) : p.phase;
    return typeof p.phase_done === 'number' && p.phase_done > 0 && p.phase_done < 1
      ? `${name} ${percent(p.phase_done, 0)}`
      : name;
  }

  function showFigures(r) {
    const items = [
      [t('figure.best_f1'), score(r.best?.macro_f1), r.best?.epoch ? t('run.at_epoch', { epoch: r.best.epoch }) : ''],
      [
        t('figure.accuracy'),
        score(r.best?.accuracy),
        r.teacher?.accuracy ? `${t('figure.teacher')} ${score(r.teacher.accuracy)}` : '',
      ],
      r.spec.task === 'distill' && [
        t('figure.retention'),
        percent(r.retention?.macro_f1),
        r.teacher?.macro_f1 ? `${t('figure.teacher')} ${score(r.teacher.macro_f1)}` : '',
      ],
      [t('figure.last_f1'), score(r.last?.macro_f1), r.last?.epoch ? t('run.at_epoch', { epoch: r.last.epoch }) : ''],
      [
        t('figure.size'),
        bytes(r.model?.bytes),
        r.model?.parameters ? t('figure.parameters', { n: parameters(r.model.parameters) }) : '',
      ],
    ];
    fill(
      figures,
      items
        .filter(Boolean)
        .map(([label, value, note]) =>
          h('div', {}, h('dt', {}, label), h('dd', {}, value, note && h('small', {}, note))),
        ),
    );
  }

  // ---- actions ----
  function showActions(r) {
    const allowed = new Set(r.allowed_actions);
    const waiting = { pause: r.pause_requested, cancel: r.cancel_requested };
    const key = JSON.stringify([...allowed, waiting, Boolean(r.best?.epoch)]);
    if (actions.dataset.key === key) return;
    actions.dataset.key = key;
    const button = (action, fn, kind = '') =>
      h(
        'button',
        { type: 'button', class: kind, disabled: Boolean(waiting[action]), onclick: fn },
        t(`action.${action}`),
      );
    fill(
      actions,
      BUTTONS.filter((action) => allowed.has(action)).map((action) =>
        button(action, action === 'clone' ? clone : () => act(action)),
      ),
      r.best?.epoch &&
        h(
          'a',
          { class: 'button', href: `/api/v1/experiments/${id}/archive?epoch=best`, download: '' },
          t('action.download'),
        ),
      allowed.has('delete') && button('delete', destroy, 'danger-text'),
    );
  }

  async function act(action) {
    if (
      action === 'cancel' &&
      run(id).status === 'running' &&
      !(await confirmDialog(t('run.cancel_title'), t('run.cancel_text'), t('action.cancel'), { danger: true }))
    )
      return;
    const answer = await attempt(() => post(`experiments/${id}/${action}`));
    if (answer?.id) keep(answer);
    if (answer) notice(t(`run.did_${action}`));
  }

  async function destroy() {
    if (!(await confirmDialog(t('run.delete_title'), t('run.delete_text'), t('action.delete'), { danger: true })))
      return;
    const done = await attempt(async () => {
      await remove(`experiments/${id}`);
      return true;
    });
    if (!done) return;
    forget(id);
    go(['runs']);
  }

  function clone() {
    go(['new'], { from: id });
  }

  async function edit() {
    const r = run(id);
    const changed = await dialog(t('run.edit'), (close) => {
      const title = h('input', { type: 'text', value: r.name ?? '', maxlength: '255' });
      const tags = h('input', { type: 'text', value: (r.tags ?? r.spec.tags ?? []).join(', ') });
      const notes = h('textarea', { rows: '4', value: r.notes ?? r.spec.notes ?? '' });
      const priority = h('input', {
        type: 'number',
        value: r.priority ?? r.spec.priority ?? 0,
        min: '-1000',
        max: '1000',
        step: '1',
      });
      const words = (text) =>
        text
          .split(',')
          .map((s) => s.trim())
          .filter(Boolean);
      const submit = (event) => {
        event.preventDefault();
        close({ name: title.value, notes: notes.value, tags: words(tags.value), priority: Number(priority.value) });
      };
      return h(
        'form',
        { class: 'fields', onsubmit: submit },
        h('label', {}, t('column.name'), title),
        h('label', {}, t('column.tags'), tags),
        h('label', {}, t('column.priority'), priority),
        h('label', {}, t('run.notes'), notes),
        h('div', { class: 'dialog-foot' }, h('button', { type: 'submit', class: 'primary' }, t('action.save'))),
      );
    });
    if (changed) await attempt(async () => keep(await patch(`experiments/${id}`, changed)));
  }

  // ---- tabs ----
  function showTab(wanted) {
    const next = wanted in TABS ? wanted : 'report';
    if (next === tabName) return;
    tab?.stop();
    tabName = next;
    fill(
      tabList,
      Object.keys(TABS).map((key) =>
        h(
          'button',
          {
            type: 'button',
            role: 'tab',
            id: `tab-${key}`,
            'aria-selected': String(key === next),
            'aria-controls': 'tabpanel',
            tabindex: key === next ? '0' : '-1',
            onclick: () => setParams({ tab: key === 'report' ? null : key }),
            onkeydown: arrowKeys,
          },
          t(`tab.${key}`),
        ),
      ),
    );
    tabBody.setAttribute('aria-labelledby', `tab-${next}`);
    tab = TABS[next](id);
    fill(tabBody, tab.element);
  }

  function arrowKeys(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const names = Object.keys(TABS);
    const next = names[(names.indexOf(tabName) + by + names.length) % names.length];
    setParams({ tab: next === 'report' ? null : next });
    document.getElementById(`tab-${next}`)?.focus();
  }

  /** Moves the epoch that the report and the predictions show. */
  function moveEpoch(by) {
    const r = run(id);
    const done = r?.progress?.epoch ?? 0;
    if (!done) return;
    const now = Number(route().params.get('epoch')) || r.best?.epoch || done;
    setParams({ epoch: Math.min(done, Math.max(1, now + by)) });
  }

  async function begin() {
    try {
      await loadRun(id);
    } catch (problem) {
      fill(
        root,
        h(
          'div',
          { class: 'page' },
          h('p', { class: 'bad', role: 'alert' }, explain(problem)),
          h('a', { class: 'button', href: href(['runs']) }, t('nav.runs')),
        ),
      );
      return;
    }
    if (!root.contains(page)) return;
    known = true;
    showHead();
    graph = curves(id);
    fill(curvesHost, graph.element);
    showTab(route().params.get('tab') ?? 'report');
  }
  begin();

  offs.push(
    on(`run:${id}`, showHead),
    on('reset', () => !FINAL.has(run(id)?.status) && loadRun(id).catch(() => {})),
    on('gone', (gone) => gone === id && notice(t('run.gone'))),
  );

  return {
    title: () => setText(document.querySelector('title'), document.title) ?? run(id)?.name ?? `#${id}`,
    update({ params }) {
      if (!known) return;
      showTab(params.get('tab') ?? 'report');
      graph?.update();
      tab?.update?.();
    },
    keys: {
      l: () => setParams({ tab: 'log' }),
      s: () => graph?.cycleSmoothing(),
      '[': () => moveEpoch(-1),
      ']': () => moveEpoch(1),
      c: () => go(['compare'], { ids: String(id) }),
    },
    stop() {
      graph?.stop();
      tab?.stop();
      for (const off of offs) off();
    },
  };
}
