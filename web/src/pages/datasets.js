// Data sets: the list, one in detail (classes, lengths, duplicates, rows), and the form that uploads one.
import { debounce, fill, h } from '../dom.js';
import { t } from '../i18n.js';
import { explain, get, post, query, remove } from '../api.js';
import { attempt, confirmDialog, dialog, notice, teach } from '../widgets.js';
import { go, href, route, setParams } from '../router.js';
import { count, number, percent, shortTime } from '../format.js';

const PAGE = 50;
const SPLITS = ['train', 'dev', 'test', 'unlabelled'];
const UPLOAD = () =>
  `curl -sS ${location.origin}/api/v1/datasets \\\n  -F name=milk -F train=@train.tsv -F dev=@dev.tsv`;

export function mount(root, { parts }) {
  const page = parts[1] ? detail(root, parts[1]) : list(root);
  return {
    title: () => parts[1] ?? t('nav.datasets'),
    update: page.update ?? (() => {}),
    keys: {},
    stop: page.stop ?? (() => {}),
  };
}

function list(root) {
  const body = h('tbody', {});
  const note = h('div', {});
  const more = h('button', { type: 'button', hidden: true, onclick: () => read() }, t('action.more'));
  let next = null;
  const table = h(
    'table',
    { class: 'data wide' },
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        h('th', { scope: 'col' }, t('column.name')),
        h('th', { scope: 'col', class: 'num' }, t('datasets.classes')),
        SPLITS.map((s) => h('th', { scope: 'col', class: 'num' }, t(`split.${s}`))),
        h('th', { scope: 'col', class: 'num' }, t('datasets.created')),
      ),
    ),
    body,
  );
  fill(
    root,
    h(
      'div',
      { class: 'page' },
      h(
        'div',
        { class: 'toolbar' },
        h('h1', {}, t('nav.datasets')),
        h('span', { class: 'spring' }),
        h('button', { type: 'button', onclick: upload }, t('datasets.upload')),
      ),
      note,
      h('div', { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': t('nav.datasets') }, table),
      more,
    ),
  );
  async function read() {
    try {
      const page = await get(`datasets${query({ limit: PAGE, cursor: next })}`);
      next = page.next_cursor;
      more.hidden = !next;
      body.append(
        ...page.items.map((d) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row' }, h('a', { href: href(['datasets', d.name]) }, d.name)),
            h('td', { class: 'num' }, count(d.classes.length)),
            SPLITS.map((s) => h('td', { class: 'num' }, count(d.rows[s]))),
            h('td', { class: 'num' }, shortTime(d.created_at)),
          ),
        ),
      );
      table.hidden = !body.children.length;
      if (!body.children.length) fill(note, teach(t('datasets.empty_title'), t('datasets.empty_text'), UPLOAD()));
    } catch (problem) {
      fill(note, h('p', { class: 'bad', role: 'alert' }, explain(problem)));
    }
  }
  read();
  return {};
}

async function upload() {
  const made = await dialog(t('datasets.upload'), (close) => {
    const fault = h('p', { class: 'bad', role: 'alert' });
    const button = h('button', { type: 'submit', class: 'primary' }, t('datasets.upload'));
    const field = (name, label, props) => h('label', {}, label, h('input', { name, ...props }));
    const submit = async (event) => {
      event.preventDefault();
      const form = new FormData(event.target);
      for (const [key, value] of [...form])
        if (value === '' || (value instanceof File && !value.name)) form.delete(key);
      button.disabled = true;
      try {
        close(await post('datasets', form));
      } catch (problem) {
        fill(fault, explain(problem));
      }
      button.disabled = false;
    };
    return h(
      'form',
      { class: 'fields', onsubmit: submit },
      h('p', { class: 'faint' }, t('datasets.upload_text')),
      field('name', t('column.name'), { type: 'text', required: true, pattern: '[a-z0-9][a-z0-9._\\-]{0,63}' }),
      SPLITS.map((s) => field(s, t(`split.${s}`), { type: 'file', required: s === 'train' })),
      field('text_column', t('datasets.text_column'), { type: 'text' }),
      field('label_column', t('datasets.label_column'), { type: 'text' }),
      h(
        'label',
        {},
        t('datasets.on_error'),
        h(
          'select',
          { name: 'on_error' },
          h('option', { value: '' }, t('datasets.on_error_fail')),
          h('option', { value: 'skip' }, t('datasets.on_error_skip')),
        ),
      ),
      fault,
      h('div', { class: 'dialog-foot' }, button),
    );
  });
  if (made) go(['datasets', made.name]);
}

function detail(root, name) {
  const head = h('div', {});
  const body = h('tbody', {});
  const note = h('p', { class: 'faint', role: 'status' });
  const more = h('button', { type: 'button', hidden: true, onclick: () => readRows() }, t('action.more'));
  const filters = h('div', { class: 'toolbar slim' });
  let dataset = null;
  let next = null;
  let shown = null;
  fill(
    root,
    h(
      'div',
      { class: 'page' },
      head,
      h('h2', { class: 'section' }, t('datasets.rows')),
      filters,
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
            h('th', { scope: 'col' }, t('predictions.text')),
            h('th', { scope: 'col' }, t('report.class')),
          ),
        ),
        body,
      ),
      more,
      note,
    ),
  );
  const param = (key) => route().params.get(key);

  async function read() {
    try {
      dataset = await get(`datasets/${name}`);
    } catch (problem) {
      fill(
        root,
        h(
          'div',
          { class: 'page' },
          h('p', { class: 'bad', role: 'alert' }, explain(problem)),
          h('a', { class: 'button', href: href(['datasets']) }, t('nav.datasets')),
        ),
      );
      return;
    }
    fill(
      head,
      h(
        'div',
        { class: 'toolbar' },
        h('h1', {}, name),
        h('span', { class: 'spring' }),
        h('a', { class: 'button', href: href(['runs'], { dataset: name }) }, t('datasets.runs')),
        h('a', { class: 'button', href: href(['new'], { dataset: name }) }, t('nav.new')),
        h('button', { type: 'button', class: 'danger-text', onclick: destroy }, t('action.delete')),
      ),
      dataset.dev_split &&
        h(
          'p',
          { class: 'faint' },
          t('datasets.dev_split', { share: percent(dataset.dev_split.fraction, 0), seed: dataset.dev_split.seed }),
        ),
      h('div', { class: 'columns' }, classTable(dataset), lengthTable(dataset)),
    );
    drawFilters();
    update();
  }

  function drawFilters() {
    const choose = (key, values, any) =>
      h(
        'select',
        {
          'aria-label': t(`datasets.${key}`),
          value: param(key) ?? '',
          onchange: (e) => setParams({ [key]: e.target.value || null }),
        },
        any && h('option', { value: '' }, any),
        values.map((v) => h('option', { value: v === 'train' ? '' : v }, key === 'split' ? t(`split.${v}`) : v)),
      );
    fill(
      filters,
      choose('split', Object.keys(dataset.rows), null),
      choose(
        'label',
        dataset.classes.map((c) => c.name),
        t('datasets.any_label'),
      ),
      h('input', {
        type: 'search',
        placeholder: t('datasets.search'),
        'aria-label': t('datasets.search'),
        value: param('q') ?? '',
        oninput: debounce((e) => setParams({ q: e.target.value || null }), 250),
      }),
    );
  }

  async function readRows() {
    try {
      const wanted = { split: param('split'), label: param('label'), q: param('q'), limit: PAGE, cursor: next };
      const key = shown;
      const page = await get(`datasets/${name}/rows${query(wanted)}`);
      if (key !== shown) return;
      next = page.next_cursor;
      more.hidden = !next;
      body.append(
        ...page.items.map((row) =>
          h(
            'tr',
            {},
            h('td', { class: 'num faint' }, String(row.index)),
            h('td', { class: 'text' }, row.text, row.pair && h('span', { class: 'pair' }, row.pair)),
            h('td', {}, row.label ?? '–'),
          ),
        ),
      );
      fill(note, body.children.length ? '' : t('predictions.none'));
    } catch (problem) {
      fill(note, h('span', { class: 'bad' }, explain(problem)));
    }
  }

  function update() {
    if (!dataset) return;
    const key = ['split', 'label', 'q'].map(param).join('|');
    if (key === shown) return;
    shown = key;
    next = null;
    body.replaceChildren();
    readRows();
  }

  async function destroy() {
    if (
      !(await confirmDialog(t('datasets.delete_title'), t('datasets.delete_text', { name }), t('action.delete'), {
        danger: true,
      }))
    )
      return;
    const done = await attempt(async () => {
      await remove(`datasets/${name}`);
      return true;
    });
    if (!done) return;
    notice(t('datasets.deleted', { name }));
    go(['datasets']);
  }

  read();
  return { update };
}

/** Rows of each class in each split, with its share of the split as a bar. */
function classTable(dataset) {
  const splits = Object.keys(dataset.rows).filter((s) => s !== 'unlabelled');
  return h(
    'section',
    {},
    h('h2', {}, t('datasets.classes')),
    h(
      'table',
      { class: 'data report' },
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          h('th', { scope: 'col' }, t('report.class')),
          splits.map((s) => h('th', { scope: 'col', class: 'num' }, t(`split.${s}`))),
        ),
      ),
      h(
        'tbody',
        {},
        dataset.classes.map((c) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row' }, c.name),
            splits.map((s) =>
              h(
                'td',
                { class: 'num' },
                h(
                  'span',
                  { class: 'meter', vars: { '--v': ((c.rows[s] ?? 0) / (dataset.rows[s] || 1)).toFixed(3) } },
                  count(c.rows[s] ?? 0),
                ),
              ),
            ),
          ),
        ),
        h(
          'tr',
          { class: 'average first' },
          h('th', { scope: 'row' }, t('datasets.all')),
          splits.map((s) => h('td', { class: 'num' }, count(dataset.rows[s]))),
        ),
      ),
    ),
  );
}

function lengthTable(dataset) {
  const kinds = ['min', 'p50', 'mean', 'p95', 'max'];
  const line = (split, unit, stats) =>
    stats &&
    h(
      'tr',
      {},
      h('th', { scope: 'row' }, `${t(`split.${split}`)}, ${t(`datasets.${unit}`)}`),
      kinds.map((k) => h('td', { class: 'num' }, number(stats[k]))),
    );
  const splits = Object.entries(dataset.splits);
  return h(
    'section',
    {},
    h('h2', {}, t('datasets.lengths')),
    h(
      'table',
      { class: 'data' },
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          h('td', {}),
          kinds.map((k) => h('th', { scope: 'col', class: 'num' }, t(`datasets.${k}`))),
        ),
      ),
      h(
        'tbody',
        {},
        splits.flatMap(([s, info]) => [line(s, 'characters', info.characters), line(s, 'tokens', info.tokens)]),
      ),
    ),
    splits.map(([s, info]) => {
      const others = Object.entries(info.duplicates_of ?? {}).filter(([, n]) => n > 0);
      const parts = [
        info.duplicates > 0 && t('datasets.duplicates', { n: count(info.duplicates) }),
        ...others.map(([o, n]) => t('datasets.duplicates_of', { n: count(n), split: t(`split.${o}`) })),
      ].filter(Boolean);
      return parts.length ? h('p', { class: 'faint' }, `${t(`split.${s}`)}: ${parts.join(', ')}`) : null;
    }),
    dataset.skipped > 0 && h('p', { class: 'faint' }, t('datasets.skipped', { n: count(dataset.skipped) })),
  );
}
