// The other tabs of a run: predictions with the teacher's opinion, the spec with the curl that repeats it, the log.
import { debounce, fill, h } from '../dom.js';
import { t } from '../i18n.js';
import { explain, get, query } from '../api.js';
import { codeBlock, curlFor } from '../widgets.js';
import { fullTime, percent } from '../format.js';
import { route, setParams } from '../router.js';
import { loadLog, logOf, on, run } from '../store.js';

const PAGE = 100;

/** Dev rows, wrong ones first of all: what the student said, what the teacher says. */
export function predictionsTab(id) {
  let next = null;
  let shown = '';
  let controller = null;
  const body = h('tbody', {});
  const note = h('p', { class: 'faint', role: 'status' });
  const moreButton = h('button', { type: 'button', hidden: true, onclick: () => more() }, t('action.more'));
  const wrongOnly = h('input', {
    type: 'checkbox',
    onchange: (e) => setParams({ all: e.target.checked ? null : '1' }),
  });
  const filterNote = h('span', {});
  const element = h(
    'div',
    {},
    h(
      'div',
      { class: 'toolbar slim' },
      h('label', { class: 'check' }, wrongOnly, t('predictions.wrong_only')),
      filterNote,
      note,
    ),
    h(
      'table',
      { class: 'data predictions' },
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          h('th', { scope: 'col', class: 'num' }, t('predictions.row')),
          ['text', 'gold', 'student', 'teacher'].map((k) => h('th', { scope: 'col' }, t(`predictions.${k}`))),
        ),
      ),
      body,
    ),
    moreButton,
  );

  const param = (name) => route().params.get(name);
  const epoch = () => Number(param('epoch')) || run(id)?.best?.epoch || 0;

  function opinion(label, score, gold) {
    if (label === null || label === undefined) return h('td', { class: 'faint' }, '–');
    const right = label === gold;
    return h(
      'td',
      {},
      h(
        'span',
        { class: right ? 'right' : 'wrong' },
        h('span', { 'aria-label': t(right ? 'predictions.right' : 'predictions.wrong') }, right ? '✓ ' : '✕ '),
        label,
      ),
      ' ',
      h('span', { class: 'num faint' }, percent(score)),
    );
  }

  function rowOf(p) {
    return h(
      'tr',
      {},
      h('td', { class: 'num faint' }, String(p.index)),
      h(
        'td',
        { class: 'text' },
        Array.isArray(p.text) ? p.text.join(' ⟂ ') : p.text,
        p.pair && h('span', { class: 'pair' }, p.pair),
      ),
      h('td', {}, p.gold),
      opinion(p.student, p.student_score, p.gold),
      opinion(p.teacher, p.teacher_score, p.gold),
    );
  }

  async function more() {
    controller?.abort();
    controller = new AbortController();
    const { signal } = controller;
    const gold = param('gold');
    const student = param('student');
    try {
      const wanted = { epoch: epoch(), wrong: param('all') === '1' ? null : 1, limit: PAGE, cursor: next };
      const page = await get(`experiments/${id}/predictions${query(wanted)}`, { signal });
      const rows = page.items.filter((p) => (!gold || p.gold === gold) && (!student || p.student === student));
      body.append(...rows.map(rowOf));
      next = page.next_cursor;
      moreButton.hidden = !next;
      // a filter by cell may leave a page empty: go on until there is something to read
      if (next && body.children.length < 20 && (gold || student)) await more();
      fill(
        note,
        body.children.length
          ? t(next ? 'predictions.count_more' : 'predictions.count', { n: body.children.length })
          : t('predictions.none'),
      );
    } catch (problem) {
      if (problem.name !== 'AbortError') fill(note, h('span', { class: 'bad' }, explain(problem)));
    }
  }

  function update() {
    const key = [epoch(), param('all'), param('gold'), param('student')].join('|');
    if (key === shown) return;
    shown = key;
    wrongOnly.checked = param('all') !== '1';
    fill(
      filterNote,
      param('gold') &&
        h(
          'button',
          { type: 'button', class: 'tag', onclick: () => setParams({ gold: null, student: null }) },
          t('predictions.filter', { gold: param('gold'), student: param('student') }),
          ' ✕',
        ),
    );
    next = null;
    body.replaceChildren();
    moreButton.hidden = true;
    if (epoch()) more();
    else fill(note, t('report.none'));
  }
  const off = on(`run:${id}`, update);
  update();
  return {
    element,
    update,
    stop() {
      off();
      controller?.abort();
    },
  };
}

/** The resolved spec, field by field, and the curl that would submit it again. */
export function specTab(id) {
  const element = h('div', { class: 'spec-tab' });
  let shown = '';
  function update() {
    const r = run(id);
    if (!r) return;
    const text = JSON.stringify(r.spec);
    if (text === shown) return;
    shown = text;
    const rows = [];
    const walk = (value, path) => {
      if (value && typeof value === 'object' && !Array.isArray(value))
        for (const [key, v] of Object.entries(value)) walk(v, path ? `${path}.${key}` : key);
      else rows.push([path, value]);
    };
    walk(r.spec, '');
    const printed = (value) => (typeof value === 'string' ? value || '–' : JSON.stringify(value));
    fill(
      element,
      h(
        'div',
        {},
        h('h3', {}, t('spec.fields')),
        h(
          'table',
          { class: 'data spec' },
          h(
            'tbody',
            {},
            rows.map(([path, value]) => h('tr', {}, h('th', { scope: 'row' }, path), h('td', {}, printed(value)))),
          ),
        ),
      ),
      h(
        'div',
        {},
        h('h3', {}, t('spec.repeat')),
        h('p', { class: 'faint' }, t('spec.repeat_text')),
        codeBlock(curlFor('experiments', r.spec), t('spec.repeat')),
      ),
    );
  }
  const off = on(`run:${id}`, update);
  update();
  return { element, update, stop: off };
}

/** The log, newest at the bottom; stays at the end while the reader is there. */
export function logTab(id) {
  const list = h('div', { class: 'log', role: 'log', tabindex: '0', 'aria-label': t('tab.log') });
  const note = h('p', { class: 'faint' });
  let built = 0;
  let lastSeq = null;
  function draw() {
    const lines = logOf(id);
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    if (lines.length && lastSeq !== null && lines[built - 1]?.seq !== lastSeq) {
      list.replaceChildren(); // older lines arrived or were dropped: the list is built anew
      built = 0;
    }
    for (; built < lines.length; built++) {
      const line = lines[built];
      list.append(
        h(
          'div',
          { class: `log-line ${line.level ?? ''}` },
          h('time', { datetime: line.time, title: fullTime(line.time) }, line.time.slice(11, 23)),
          h('span', { class: 'level' }, line.level ?? ''),
          h('span', {}, line.message),
        ),
      );
      lastSeq = line.seq;
    }
    note.textContent = lines.length ? '' : t('log.none');
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
  const off = on(`log:${id}`, debounce(draw, 100));
  loadLog(id)
    .then(draw)
    .catch((problem) => fill(note, h('span', { class: 'bad' }, explain(problem))));
  draw();
  return { element: h('div', {}, note, list), stop: off };
}
