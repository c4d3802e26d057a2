// Models: the list, and one in detail: shape, lineage, download, a box to try a sentence, a report on a data set.
import { fill, h } from '../dom.js';
import { t } from '../i18n.js';
import { explain, get, post, query, remove } from '../api.js';
import { attempt, confirmDialog, dialog, notice, teach } from '../widgets.js';
import { go, href } from '../router.js';
import { bytes, count, fullTime, number, parameters, percent, shortTime } from '../format.js';
import { madeFrom, shrinkBox } from './model-shrink.js';
import { confusionTable, reportTable } from './run-report.js';

const PAGE = 50;
const UPLOAD = () =>
  `curl -sS ${location.origin}/api/v1/models \\\n  -F name=my-teacher -F files=@config.json -F files=@vocab.txt -F files=@model.safetensors`;
const shapeText = (shape) => `${shape.layers} × ${shape.hidden_size}, ${t('models.heads', { n: shape.heads })}`;

export function mount(root, { parts }) {
  if (parts[1]) detail(root, parts[1]);
  else list(root);
  return { title: () => parts[1] ?? t('nav.models'), update() {}, keys: {}, stop() {} };
}

function origin(model) {
  const s = model.source ?? {};
  const id = s.experiment_id ?? s.experiment;
  if (id)
    return h(
      'a',
      { href: href(['runs', String(id)]) },
      t('models.from_run', { id }),
      s.epoch ? `, ${t('run.at_epoch', { epoch: s.epoch })}` : '',
    );
  if (s.before && s.model) return h('a', { href: href(['models', s.model]) }, s.model);
  return h('span', {}, s.path ?? s.type ?? s.kind ?? '–');
}

function list(root) {
  const body = h('tbody', {});
  const note = h('div', {});
  const more = h('button', { type: 'button', hidden: true, onclick: () => read() }, t('action.more'));
  let next = null;
  const heads = [
    'column.name',
    'models.kind',
    'models.shape',
    'models.labels',
    'models.parameters',
    'column.size',
    'models.origin',
    'datasets.created',
  ];
  const numeric = new Set(['models.labels', 'models.parameters', 'column.size', 'datasets.created']);
  const table = h(
    'table',
    { class: 'data wide' },
    h(
      'thead',
      {},
      h(
        'tr',
        {},
        heads.map((k) => h('th', { scope: 'col', class: numeric.has(k) ? 'num' : '' }, t(k))),
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
        h('h1', {}, t('nav.models')),
        h('span', { class: 'spring' }),
        h('button', { type: 'button', onclick: add }, t('models.add')),
      ),
      note,
      h('div', { class: 'scroll-x', tabindex: '0', role: 'region', 'aria-label': t('nav.models') }, table),
      more,
    ),
  );
  async function read() {
    try {
      const page = await get(`models${query({ limit: PAGE, cursor: next })}`);
      next = page.next_cursor;
      more.hidden = !next;
      body.append(
        ...page.items.map((m) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row' }, h('a', { href: href(['models', m.name]) }, m.name)),
            h('td', { class: 'nowrap' }, t(`models.${m.kind}`)),
            h('td', { class: 'nowrap' }, shapeText(m.shape)),
            h('td', { class: 'num' }, count(m.labels.length)),
            h('td', { class: 'num' }, parameters(m.parameters)),
            h('td', { class: 'num' }, bytes(m.bytes)),
            h('td', {}, origin(m)),
            h('td', { class: 'num' }, shortTime(m.created_at)),
          ),
        ),
      );
      table.hidden = !body.children.length;
      if (!body.children.length) fill(note, teach(t('models.empty_title'), t('models.empty_text'), UPLOAD()));
    } catch (problem) {
      fill(note, h('p', { class: 'bad', role: 'alert' }, explain(problem)));
    }
  }
  read();
}

/** Upload of files, or registration of a directory on the server. */
async function add() {
  const made = await dialog(t('models.add'), (close) => {
    const fault = h('p', { class: 'bad', role: 'alert' });
    const name = h('input', { type: 'text', required: true, pattern: '[a-z0-9][a-z0-9._\\-]{0,63}' });
    const files = h('input', { type: 'file', multiple: true });
    const path = h('input', { type: 'text', placeholder: '/srv/models/bert-base-chinese' });
    const button = h('button', { type: 'submit', class: 'primary' }, t('models.add'));
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        let body = { name: name.value, path: path.value };
        if (files.files.length) {
          body = new FormData();
          body.set('name', name.value);
          const archive = files.files.length === 1 && /\.(tar\.gz|tgz|tar|zip)$/.test(files.files[0].name);
          for (const file of files.files) body.append(archive ? 'archive' : 'files', file);
        }
        close(await post('models', body));
      } catch (problem) {
        fill(fault, explain(problem));
      }
      button.disabled = false;
    };
    return h(
      'form',
      { class: 'fields', onsubmit: submit },
      h('label', {}, t('column.name'), name),
      h('label', {}, t('models.files'), files),
      h('label', {}, t('models.path'), path),
      fault,
      h('div', { class: 'dialog-foot' }, button),
    );
  });
  if (made) go(['models', made.name]);
}

async function detail(root, name) {
  let model;
  try {
    model = await get(`models/${name}`);
  } catch (problem) {
    fill(
      root,
      h(
        'div',
        { class: 'page' },
        h('p', { class: 'bad', role: 'alert' }, explain(problem)),
        h('a', { class: 'button', href: href(['models']) }, t('nav.models')),
      ),
    );
    return;
  }
  const facts = [
    [t('models.kind'), t(`models.${model.kind}`)],
    [t('models.origin'), origin(model)],
    ...Object.entries(model.shape).map(([key, value]) => [
      key,
      typeof value !== 'number' ? (value ?? '–') : Number.isInteger(value) ? count(value) : number(value),
    ]),
    [t('models.parameters'), count(model.parameters)],
    [t('column.size'), bytes(model.bytes)],
    [t('models.labels'), model.labels.join(', ') || '–'],
    ['sha256', h('code', { class: 'break' }, model.sha256)],
    [t('datasets.created'), fullTime(model.created_at)],
  ];
  const classifier = model.kind === 'classifier';
  const int8 = model.weights_format === 'safetensors_int8';
  fill(
    root,
    h(
      'div',
      { class: 'page' },
      h(
        'div',
        { class: 'toolbar' },
        h('h1', {}, name),
        h('span', { class: 'spring' }),
        classifier && !int8 && h('a', { class: 'button', href: href(['new'], { teacher: name }) }, t('models.distil')),
        h('a', { class: 'button', href: `/api/v1/models/${name}/archive`, download: '' }, t('action.download_model')),
        !int8 &&
          h(
            'a',
            { class: 'button', href: `/api/v1/models/${name}/archive?weights=fp16`, download: '' },
            t('models.download_fp16'),
          ),
        h('button', { type: 'button', class: 'danger-text', onclick: destroy }, t('action.delete')),
      ),
      h(
        'div',
        { class: 'columns' },
        h(
          'section',
          {},
          h('h2', {}, t('models.facts')),
          h(
            'table',
            { class: 'data spec' },
            h(
              'tbody',
              {},
              facts.map(([k, v]) => h('tr', {}, h('th', { scope: 'row' }, k), h('td', {}, v))),
            ),
          ),
        ),
        classifier &&
          h(
            'div',
            { class: 'stack' },
            madeFrom(model.source),
            tryBox(name),
            evaluateBox(name),
            !int8 && shrinkBox(model),
          ),
      ),
    ),
  );

  async function destroy() {
    if (
      !(await confirmDialog(t('models.delete_title'), t('models.delete_text', { name }), t('action.delete'), {
        danger: true,
      }))
    )
      return;
    const done = await attempt(async () => {
      await remove(`models/${name}`);
      return true;
    });
    if (!done) return;
    notice(t('datasets.deleted', { name }));
    go(['models']);
  }
}

function tryBox(name) {
  const text = h('textarea', { rows: '3', required: true, 'aria-label': t('models.try') });
  const pair = h('input', { type: 'text', 'aria-label': t('models.pair'), placeholder: t('models.pair') });
  const answer = h('div', { role: 'status' });
  const submit = async (event) => {
    event.preventDefault();
    const body = pair.value ? { pairs: [[text.value, pair.value]] } : { texts: [text.value] };
    const result = await attempt(() => post(`models/${name}/predict`, body, { once: false }));
    if (!result) return;
    const [p] = result.predictions;
    const ranked = Object.entries(p.scores).sort((a, b) => b[1] - a[1]);
    fill(
      answer,
      h(
        'table',
        { class: 'data report' },
        h(
          'tbody',
          {},
          ranked.map(([label, s], i) =>
            h(
              'tr',
              {},
              h('th', { scope: 'row', class: i ? '' : 'strong' }, label),
              h('td', { class: 'num' }, h('span', { class: 'meter', vars: { '--v': s.toFixed(4) } }, percent(s, 2))),
            ),
          ),
        ),
      ),
    );
  };
  return h(
    'section',
    {},
    h('h2', {}, t('models.try')),
    h(
      'form',
      { class: 'fields', onsubmit: submit },
      text,
      pair,
      h('div', {}, h('button', { type: 'submit', class: 'primary' }, t('models.ask'))),
    ),
    answer,
  );
}

function evaluateBox(name) {
  const dataset = h('select', { 'aria-label': t('column.dataset') });
  const split = h(
    'select',
    { 'aria-label': t('datasets.split') },
    ['dev', 'test', 'train'].map((s) => h('option', { value: s }, t(`split.${s}`))),
  );
  const button = h('button', { type: 'submit' }, t('models.evaluate'));
  const answer = h('div', { role: 'status' });
  get('datasets?limit=500')
    .then(({ items }) =>
      fill(
        dataset,
        items.map((d) => h('option', { value: d.name }, d.name)),
      ),
    )
    .catch(() => {});
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    fill(answer, h('p', { class: 'faint' }, t('models.evaluating')));
    const report = await attempt(() =>
      post(`models/${name}/evaluate`, { dataset: dataset.value, split: split.value }, { once: false }),
    );
    button.disabled = false;
    fill(
      answer,
      report && [
        h('div', { class: 'report-body' }, reportTable(report), confusionTable(report.confusion_matrix, report.labels)),
      ],
    );
  };
  return h(
    'section',
    {},
    h('h2', {}, t('models.evaluate')),
    h('form', { class: 'toolbar slim', onsubmit: submit }, dataset, split, button),
    answer,
  );
}
