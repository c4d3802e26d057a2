// Runs: the history as a table of any length. Rows in view exist, the rest is space; further pages are fetched by cursor
// as the end comes near. Events change rows where they stand; new runs are offered, never pushed under the reader's eye,
// unless the newest are on top anyway.
import { debounce, fill, h, setText } from '../dom.js';
import { t } from '../i18n.js';
import { explain, get, patch, query } from '../api.js';
import { attempt, curlFor, notice, teach } from '../widgets.js';
import { go, href, route, setParams } from '../router.js';
import { COLUMNS, DEFAULT_COLUMNS, sparkline } from '../runcolumns.js';
import { FINAL, hasSeries, keep, loadRun, loadRuns, loadSeries, on, run } from '../store.js';
import { virtualRows } from '../virtual.js';
import { FILTERS, LIST_PAGE, listSearch } from '../first.js';
import { recall, remember } from '../memory.js';
import { count } from '../format.js';

const PAGE = 200;
const STATUSES = ['running', 'queued', 'paused', 'finished', 'failed', 'cancelled'];
const SPARK = ['macro_f1'];
const QUEUE = 500; // of it, so many are looked at for a move

const EXAMPLE = {
  name: 'my first student',
  dataset: 'packages',
  teacher: 'packages-teacher',
  layers: 3,
  optimizer: 'adamw',
  T: 4,
  alpha: 0.2,
  epochs: 20,
};

/** The page. Answers {update(route), stop(), keys}. */
export function mount(root) {
  let ids = [];
  let index = new Map(); // id → row number
  let next = null;
  let loading = null;
  let cursor = -1; // the row of the keyboard
  let selected = new Set();
  let fresh = 0; // runs that appeared since the list was read
  let shown = { search: null, columns: '' };

  // ---- the frame ----
  const search = h('input', {
    type: 'search',
    id: 'filter',
    placeholder: t('runs.filter'),
    'aria-label': t('runs.filter'),
    oninput: debounce((e) => setParams({ q: e.target.value || null }), 200),
  });
  const statusBox = h('span', { class: 'filter-status', role: 'group', 'aria-label': t('column.status') });
  const fields = h('span', { class: 'filter-fields' });
  const summary = h('span', { class: 'count', role: 'status' });
  const freshButton = h('button', { type: 'button', class: 'primary small', hidden: true, onclick: reload });
  const compareButton = h('button', { type: 'button', class: 'primary', hidden: true, onclick: compareSelected });
  const clearButton = h(
    'button',
    { type: 'button', class: 'quiet', hidden: true, onclick: () => select([]) },
    t('runs.clear_selection'),
  );
  const columnMenu = h(
    'details',
    { class: 'menu' },
    h('summary', {}, t('runs.columns')),
    h('div', { class: 'menu-body' }),
  );
  const headRow = h('tr', { role: 'row' });
  const body = h('tbody', { role: 'rowgroup' });
  const table = h(
    'table',
    { class: 'runs', role: 'table', 'aria-label': t('nav.runs') },
    h('thead', { role: 'rowgroup' }, headRow),
    body,
  );
  const scroller = h(
    'div',
    { class: 'runs-scroll', tabindex: '0', role: 'region', 'aria-label': t('nav.runs') },
    table,
  );
  const empty = h('div', { hidden: true });
  fill(
    root,
    h(
      'div',
      { class: 'page runs-page' },
      h('h1', { class: 'sr' }, t('nav.runs')),
      h(
        'div',
        { class: 'toolbar' },
        search,
        statusBox,
        fields,
        summary,
        freshButton,
        h('span', { class: 'spring' }),
        compareButton,
        clearButton,
        columnMenu,
        h('a', { class: 'button', href: href(['new']) }, t('nav.new')),
      ),
      empty,
      scroller,
    ),
  );

  const rows = virtualRows({
    scroller,
    body,
    columns: () => columns().length + 1,
    render: renderRow,
    onEnd: () => next && !loading && more(),
    onRange: () => sparkSoon(),
  });

  // ---- what the address says ----
  function columns() {
    const wanted = (route().params.get('cols') ?? recall('columns') ?? '').split(',').filter((key) => key in COLUMNS);
    return wanted.length ? wanted : DEFAULT_COLUMNS;
  }
  const sortKey = () => route().params.get('sort') ?? '-id';

  // ---- loading ----
  async function reload() {
    loading?.abort();
    ids = [];
    index = new Map();
    next = null;
    fresh = 0;
    seenBefore.clear();
    freshButton.hidden = true;
    await more(true);
  }

  async function more(first = false) {
    const controller = (loading = new AbortController());
    try {
      const page = await loadRuns(
        query({ ...listSearch(route().params), limit: first ? LIST_PAGE : PAGE, cursor: next }),
        controller.signal,
      );
      if (controller.signal.aborted) return;
      for (const id of page.ids)
        if (!index.has(id)) {
          index.set(id, ids.length);
          ids.push(id);
        }
      next = page.next;
      showEmpty(null);
    } catch (problem) {
      if (problem.name !== 'AbortError') showEmpty(problem);
      return;
    } finally {
      if (loading === controller) loading = null;
    }
    if (first) {
      rows.rewind();
      rows.setCount(ids.length);
      rows.refresh();
    } else rows.setCount(ids.length);
    table.setAttribute('aria-rowcount', String(next ? -1 : ids.length + 1));
    setText(summary, t(next ? 'runs.count_more' : 'runs.count', { n: count(ids.length) }));
  }

  function showEmpty(problem) {
    const filtered = FILTERS.some((name) => route().params.get(name));
    empty.hidden = ids.length > 0;
    scroller.hidden = ids.length === 0;
    if (problem) fill(empty, h('p', { class: 'bad', role: 'alert' }, explain(problem)));
    else if (filtered)
      fill(
        empty,
        h('p', { class: 'faint' }, t('runs.none_match')),
        h('a', { class: 'button', href: href(['runs']) }, t('runs.clear_filters')),
      );
    else fill(empty, teach(t('runs.empty_title'), t('runs.empty_text'), curlFor('experiments', EXAMPLE)));
  }

  // ---- rows ----
  function renderRow(i) {
    const id = ids[i];
    const r = run(id);
    const box = h('input', {
      type: 'checkbox',
      'aria-label': t('runs.select', { name: r?.name || `#${id}` }),
      checked: selected.has(id),
      onchange: () => toggle(id),
    });
    return h(
      'tr',
      {
        role: 'row',
        'aria-rowindex': String(i + 2),
        'aria-selected': String(selected.has(id)),
        class: `${i === cursor ? 'cursor' : ''} ${r?.status ?? ''}`,
        dataset: { id },
        ondblclick: () => go(['runs', String(id)]),
      },
      h('td', { role: 'cell', class: 'select' }, box),
      columns().map((key) =>
        h(
          'td',
          {
            role: 'cell',
            class: `c-${key}${COLUMNS[key].num ? ' num' : ''}${COLUMNS[key].phone ? ' phone' : ''}`,
            title: r && COLUMNS[key].title?.(r),
          },
          r ? cell(key, r) : '',
        ),
      ),
    );
  }

  function cell(key, r) {
    if (key === 'eta' && r.status === 'queued') return queueCell(r);
    return COLUMNS[key].cell(r);
  }

  /** The order of the queue: larger priority goes first, then the older. */
  function queueCell(r) {
    const button = (by, sign, label) =>
      h(
        'button',
        {
          type: 'button',
          class: 'quiet',
          dataset: { by: String(by) },
          'aria-label': `${label}: ${r.name || `#${r.id}`}`,
          title: label,
          onclick: () => moveInQueue(r.id, by),
        },
        sign,
      );
    return h('span', { class: 'queue-order' }, button(-1, '▲', t('runs.sooner')), button(1, '▼', t('runs.later')));
  }

  /** A priority beyond that of the run next to it. */
  async function moveInQueue(id, by) {
    const moved = await attempt(async () => {
      const { items } = await get(`experiments${query({ status: 'queued', sort: 'queue', limit: QUEUE })}`);
      const at = items.findIndex((r) => r.id === id);
      if (at < 0) return false; // it has begun meanwhile
      const next = items[at + by];
      if (next) keep(await patch(`experiments/${id}`, { priority: (next.priority ?? 0) - by }));
      else notice(t(by < 0 ? 'runs.is_first' : 'runs.is_last'));
      return Boolean(next);
    });
    if (!moved || sortKey() !== 'queue') return;
    await reload();
    const row = rows.row(index.get(id));
    row?.querySelector(`[data-by="${by}"]`)?.focus({ preventScroll: true });
  }

  function renderHead() {
    const sort = sortKey();
    const all = h('input', {
      type: 'checkbox',
      'aria-label': t('runs.select_all'),
      checked: ids.length > 0 && selected.size === ids.length,
      onchange: (e) => select(e.target.checked ? ids.slice(0, 100) : []),
    });
    fill(
      headRow,
      h('th', { role: 'columnheader', scope: 'col', class: 'select' }, all),
      columns().map((key) => {
        const { sort: field, num, rising } = COLUMNS[key];
        const up = sort === field;
        const down = sort === `-${field}`;
        const label = t(`column.${key}`);
        return h(
          'th',
          {
            role: 'columnheader',
            scope: 'col',
            class: `c-${key}${num ? ' num' : ''}`,
            'aria-sort': field ? (up ? 'ascending' : down ? 'descending' : 'none') : null,
          },
          field
            ? h(
                'button',
                { type: 'button', class: 'sort', onclick: () => setParams({ sort: down || (rising && !up) ? field : `-${field}` }) },
                label,
                h('span', { 'aria-hidden': 'true' }, up ? ' ↑' : down ? ' ↓' : ''),
              )
            : label,
        );
      }),
    );
  }

  function renderFilters(params) {
    if (document.activeElement !== search) search.value = params.get('q') ?? '';
    const chosen = new Set((params.get('status') ?? '').split(',').filter(Boolean));
    fill(
      statusBox,
      STATUSES.map((name) =>
        h(
          'button',
          {
            type: 'button',
            class: `status-filter ${name}`,
            'aria-pressed': String(chosen.has(name)),
            onclick: () => {
              if (!chosen.delete(name)) chosen.add(name);
              setParams({ status: [...chosen].join(',') || null });
            },
          },
          t(`status.${name}`),
        ),
      ),
    );
    fill(
      fields,
      FILTERS.filter((name) => name !== 'q' && name !== 'status' && params.get(name)).map((name) =>
        h(
          'button',
          {
            type: 'button',
            class: 'tag',
            'aria-label': t('runs.remove_filter', { name: `${t(`column.${name}`)} ${params.get(name)}` }),
            onclick: () => setParams({ [name]: null }),
          },
          `${t(`column.${name}`)}: ${params.get(name)} ✕`,
        ),
      ),
      fieldMenu(),
    );
    fill(
      columnMenu.lastChild,
      Object.keys(COLUMNS).map((key) =>
        h(
          'label',
          {},
          h('input', {
            type: 'checkbox',
            checked: columns().includes(key),
            onchange: (e) => {
              const wanted = Object.keys(COLUMNS).filter((k) => (k === key ? e.target.checked : columns().includes(k)));
              remember('columns', wanted.join(','));
              setParams({ cols: wanted.join(',') === DEFAULT_COLUMNS.join(',') ? null : wanted.join(',') });
            },
          }),
          t(`column.${key}`),
        ),
      ),
    );
  }

  /** Values seen in the loaded rows, offered as filters. */
  function fieldMenu() {
    const form = h('div', { class: 'menu-body' });
    const menu = h(
      'details',
      { class: 'menu', ontoggle: () => menu.open && build() },
      h('summary', {}, t('runs.by_field')),
      form,
    );
    function build() {
      const values = { dataset: new Set(), teacher: new Set(), tag: new Set() };
      for (const id of ids) {
        const spec = run(id)?.spec;
        if (spec?.dataset) values.dataset.add(spec.dataset);
        if (spec?.teacher) values.teacher.add(spec.teacher);
        for (const tag of spec?.tags ?? []) values.tag.add(tag);
      }
      values.task = new Set(['distill', 'finetune']);
      values.optimizer = new Set(['adamw', 'sgd']);
      fill(
        form,
        Object.entries(values).map(([name, set]) =>
          h(
            'label',
            {},
            t(`column.${name}`),
            h(
              'select',
              { onchange: (e) => setParams({ [name]: e.target.value || null }), value: route().params.get(name) ?? '' },
              h('option', { value: '' }, t('runs.any')),
              [...set].sort().map((value) => h('option', { value }, value)),
            ),
          ),
        ),
      );
    }
    return menu;
  }

  // ---- selection ----
  function toggle(id) {
    if (!selected.delete(id)) selected.add(id);
    select([...selected]);
  }
  function select(list) {
    selected = new Set(list);
    setParams({ sel: list.length ? list.join(',') : null });
    for (let [i, to] = rows.range(); i < to; i++) rows.refreshRow(i);
    showSelection();
  }
  function showSelection() {
    compareButton.hidden = selected.size < 2;
    clearButton.hidden = selected.size === 0;
    setText(compareButton, t('runs.compare', { n: selected.size }));
  }
  function compareSelected() {
    if (selected.size >= 2) go(['compare'], { ids: [...selected].sort((a, b) => a - b).join(',') });
    else notice(t('runs.select_two'));
  }

  // ---- sparklines: only for rows in view, all of them in one request ----
  let sparking = false;
  const sparkSoon = debounce(sparkNext, 120);
  async function sparkNext() {
    if (sparking || !columns().includes('best_f1')) return;
    const wanted = [];
    for (let [i, to] = rows.range(); i < to; i++)
      if (run(ids[i])?.progress?.epoch && !hasSeries(ids[i], SPARK)) wanted.push(ids[i]);
    if (!wanted.length) return;
    sparking = true;
    await loadSeries(wanted, SPARK).catch(() => {});
    sparking = false;
    if (!root.isConnected) return;
    for (const id of wanted) rows.row(index.get(id))?.querySelector('.spark')?.replaceWith(sparkline(id));
    if (wanted.every((id) => hasSeries(id, SPARK))) sparkNext(); // the reader may have gone on meanwhile
  }

  // ---- live ----
  const refreshAll = debounce(() => {
    for (let [i, to] = rows.range(); i < to; i++)
      if (!FINAL.has(run(ids[i])?.status) || dirty.has(ids[i])) rows.refreshRow(i);
    dirty.clear();
  }, 250);
  const dirty = new Set();
  function onRun(id) {
    if (loading) return; // the answer under way will have it
    if (index.has(id)) {
      dirty.add(id);
      refreshAll();
      return;
    }
    if (seenBefore.has(id)) return;
    seenBefore.add(id);
    const filtered = FILTERS.some((name) => route().params.get(name));
    if (sortKey() === '-id' && !filtered && id > (ids[0] ?? 0)) prepend(id);
    else {
      fresh++;
      freshButton.hidden = false;
      setText(freshButton, t('runs.fresh', { n: fresh }));
    }
  }
  const seenBefore = new Set();
  function prepend(id) {
    ids.unshift(id);
    index = new Map(ids.map((known, i) => [known, i]));
    if (cursor >= 0) cursor++;
    showEmpty(null);
    rows.setCount(ids.length);
    rows.refresh();
    setText(summary, t(next ? 'runs.count_more' : 'runs.count', { n: count(ids.length) }));
  }
  function onGone(id) {
    if (!index.has(id)) return;
    ids.splice(index.get(id), 1);
    index = new Map(ids.map((known, i) => [known, i]));
    rows.setCount(ids.length);
    rows.refresh();
    showEmpty(null);
  }
  /** Events were missed: what is new, and what moved among the rows in view. */
  function onReset() {
    loadRuns(query({ sort: '-id', limit: 50 })).catch(() => {});
    for (let [i, to] = rows.range(); i < to; i++) if (!FINAL.has(run(ids[i])?.status)) loadRun(ids[i]).catch(() => {});
  }
  const offs = [on('runs', onRun), on('gone', onGone), on('reset', onReset)];

  // ---- keyboard ----
  function move(by) {
    if (!ids.length) return;
    const before = cursor;
    cursor = Math.min(ids.length - 1, Math.max(0, cursor + by));
    rows.refreshRow(before);
    rows.reveal(cursor);
    rows.refreshRow(cursor);
    rows.row(cursor)?.querySelector('a')?.focus({ preventScroll: true });
  }

  return {
    title: () => t('nav.runs'),
    update({ params }) {
      selected = new Set((params.get('sel') ?? '').split(',').filter(Boolean).map(Number));
      showSelection();
      const now = { search: query(listSearch(params)), columns: columns().join() };
      if (now.search !== shown.search || now.columns !== shown.columns) renderFilters(params);
      renderHead();
      if (now.search !== shown.search) reload();
      else if (now.columns !== shown.columns) rows.refresh();
      shown = now;
    },
    keys: {
      '/': () => search.focus(),
      j: () => move(1),
      k: () => move(-1),
      x: () => cursor >= 0 && toggle(ids[cursor]),
      c: compareSelected,
      Enter: () => cursor >= 0 && go(['runs', String(ids[cursor])]),
    },
    stop() {
      loading?.abort();
      rows.stop();
      for (const off of offs) off();
    },
  };
}
