// The classification report of any epoch: a slider over the epochs, the table scikit-learn prints, the confusion matrix,
// and, when asked for, each class's F1 over the epochs.
import { debounce, fill, h } from '../dom.js';
import { t } from '../i18n.js';
import { explain, get, getText } from '../api.js';
import { chartPanel } from '../chartpanel.js';
import { attempt, codeBlock, dialog } from '../widgets.js';
import { count, percent, score, shortScore } from '../format.js';
import { route, setParams } from '../router.js';
import { metricsOf, on, run } from '../store.js';
import { DASHES, oklch, SYMBOLS } from '../colour.js';
import { isDark } from '../theme.js';

const CURVE_EPOCHS = 60; // at most so many reports are read for the curves of the classes
const AT_ONCE = 4;
const AVERAGES = ['micro avg', 'macro avg', 'weighted avg'];

/** Class names in order, of a report with its matrix. */
export const classesOf = (report) => report.labels;

/** The table that scikit-learn prints, per class and averaged. `against` is another report to show differences to. */
export function reportTable(report) {
  const row = (name, cells, kind = '') =>
    h(
      'tr',
      { class: kind },
      h('th', { scope: 'row' }, name),
      cells.map((cell) => h('td', { class: 'num' }, cell)),
    );
  const classes = classesOf(report);
  const average = (name) => {
    const a = report[name];
    return row(name, [score(a.precision), score(a.recall), score(a['f1-score']), count(a.support)], 'average');
  };
  const total = report['macro avg'].support;
  return h(
    'table',
    { class: 'data report' },
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        h('th', { scope: 'col' }, t('report.class')),
        ['precision', 'recall', 'f1', 'support'].map((k) => h('th', { scope: 'col', class: 'num' }, t(`report.${k}`))),
      ),
    ),
    h(
      'tbody',
      {},
      classes.map((name) => {
        const c = report[name];
        return row(name, [
          score(c.precision),
          score(c.recall),
          h('span', { class: 'meter', vars: { '--v': c['f1-score'] ?? 0 } }, score(c['f1-score'])),
          count(c.support),
        ]);
      }),
      report.accuracy !== undefined && row('accuracy', ['', '', score(report.accuracy), count(total)], 'average first'),
      AVERAGES.filter((name) => name in report).map(average),
    ),
  );
}

/** Rows are the true classes, columns the predicted ones; shade is the share of the row. */
export function confusionTable(matrix, classes, onCell = null) {
  return h(
    'table',
    { class: 'data confusion' },
    h('caption', {}, t('report.confusion_caption')),
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        h('td', {}),
        classes.map((name) => h('th', { scope: 'col', class: 'num', title: name }, name)),
      ),
    ),
    h(
      'tbody',
      {},
      matrix.map((cells, i) => {
        const sum = cells.reduce((a, b) => a + b, 0);
        return h(
          'tr',
          {},
          h('th', { scope: 'row' }, classes[i]),
          cells.map((n, j) => {
            const share = sum ? n / sum : 0;
            const label = t('report.cell', { gold: classes[i], student: classes[j], n, share: percent(share) });
            const inside =
              onCell && n > 0 && i !== j
                ? h(
                    'button',
                    {
                      type: 'button',
                      class: 'cell',
                      title: label,
                      'aria-label': label,
                      onclick: () => onCell(classes[i], classes[j]),
                    },
                    String(n),
                  )
                : String(n);
            return h(
              'td',
              {
                class: `num ${i === j ? 'hit' : 'miss'}${share > 0.55 ? ' deep' : ''}${n ? '' : ' none'}`,
                vars: { '--v': share.toFixed(3) },
                title: label,
              },
              inside,
            );
          }),
        );
      }),
    ),
  );
}

export function reportTab(id) {
  const cache = new Map(); // epoch → report
  const body = h('div', { class: 'report-body' });
  const slider = h('input', {
    type: 'range',
    min: '1',
    step: '1',
    'aria-label': t('report.epoch'),
    oninput: debounce(() => setParams({ epoch: chosenBySlider() }), 40),
  });
  const label = h('output', { class: 'num epoch-label' });
  const curvesHost = h('div', {});
  const bestButton = h(
    'button',
    { type: 'button', class: 'small', onclick: () => setParams({ epoch: null }) },
    t('report.best'),
  );
  const element = h(
    'div',
    {},
    h(
      'div',
      { class: 'toolbar slim' },
      h('label', { class: 'check grow' }, t('report.epoch'), slider, label),
      bestButton,
      h('button', { type: 'button', class: 'small', onclick: showText }, t('report.text')),
      h('button', { type: 'button', class: 'small', onclick: showCurves }, t('report.curves')),
    ),
    body,
    curvesHost,
  );
  let panel = null;
  let showing = '';

  const chosenBySlider = () => (Number(slider.value) === run(id)?.best?.epoch ? null : slider.value);
  function epoch() {
    return Number(route().params.get('epoch')) || run(id)?.best?.epoch || 0;
  }

  async function report(n) {
    if (!cache.has(n)) cache.set(n, await get(`experiments/${id}/epochs/${n}/report`));
    return cache.get(n);
  }

  async function update() {
    const r = run(id);
    const done = metricsOf(id)?.last ?? r?.progress?.epoch ?? 0;
    const n = epoch();
    slider.max = String(Math.max(1, done));
    slider.disabled = !done;
    if (document.activeElement !== slider || Number(slider.value) > done) slider.value = String(n || 1);
    label.textContent = n ? (n === r?.best?.epoch ? t('report.is_best', { epoch: n }) : `${n} / ${done}`) : '';
    if (!n) {
      fill(body, h('p', { class: 'faint' }, t('report.none')));
      return;
    }
    if (showing === String(n)) return;
    showing = String(n);
    try {
      const answer = await report(n);
      if (showing !== String(n)) return;
      const toRows = (gold, student) => setParams({ tab: 'predictions', gold, student });
      fill(
        body,
        reportTable(answer),
        answer.confusion_matrix && confusionTable(answer.confusion_matrix, classesOf(answer), toRows),
      );
    } catch (problem) {
      showing = '';
      fill(body, h('p', { class: 'bad' }, explain(problem)));
    }
  }

  async function showText() {
    const text = await attempt(() => getText(`experiments/${id}/epochs/${epoch() || 'best'}/report`));
    if (text !== undefined) await dialog(t('report.text'), () => codeBlock(text, t('report.text')));
  }

  /** Reads the reports of (at most CURVE_EPOCHS of) the epochs and draws the F1 of each class. */
  async function showCurves() {
    const all = metricsOf(id)?.column('epoch') ?? [];
    const every = Math.max(1, Math.ceil(all.length / CURVE_EPOCHS));
    const wanted = all.filter((_, i) => i % every === 0 || i === all.length - 1);
    const queue = [...wanted];
    await attempt(() =>
      Promise.all(
        Array.from({ length: AT_ONCE }, async () => {
          while (queue.length) await report(queue.shift());
        }),
      ),
    );
    if (!wanted.every((n) => cache.has(n)) || !wanted.length) return;
    const classes = classesOf(cache.get(wanted[0]));
    const hidden = new Set();
    const model = () => ({
      x: { name: t('x.epoch'), format: (v) => String(Math.round(v)), whole: true },
      y: { name: 'F1', format: score, tick: shortScore },
      series: classes.map((name, i) => ({
        id: name,
        name,
        colour: oklch(isDark() ? 0.78 : 0.54, 0.12, (40 + i * 137.508) % 360),
        dash: DASHES[i % DASHES.length],
        symbol: SYMBOLS[i % SYMBOLS.length],
        x: wanted,
        y: wanted.map((n) => cache.get(n)[name]?.['f1-score'] ?? null),
      })),
    });
    const summary = () => {
      const last = cache.get(wanted.at(-1));
      const ordered = [...classes].sort((a, b) => last[a]['f1-score'] - last[b]['f1-score']);
      return t('summary.classes', {
        worst: ordered[0],
        low: score(last[ordered[0]]['f1-score']),
        best: ordered.at(-1),
        high: score(last[ordered.at(-1)]['f1-score']),
      });
    };
    panel?.stop();
    panel = chartPanel({
      title: t('report.curves'),
      name: `run-${id}-classes`,
      model,
      summary,
      hidden: () => hidden,
      onToggle: (name) => {
        if (!hidden.delete(name)) hidden.add(name);
        panel.now();
      },
    });
    fill(curvesHost, panel.element);
  }

  const offs = [on(`metrics:${id}`, update), on(`run:${id}`, update)];
  update();
  return {
    element,
    update,
    stop() {
      for (const off of offs) off();
      panel?.stop();
    },
  };
}
