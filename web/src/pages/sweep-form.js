// The form that makes a sweep: base fields as JSON-free inputs for what every sweep needs, axes one a line, seeds. A
// range among the axes makes it a random sample. The count is shown while typing; a dry run checks every point.
import { debounce, fill, h } from '../dom.js';
import { t } from '../i18n.js';
import { explain, get, post } from '../api.js';
import { codeBlock, curlFor, notice } from '../widgets.js';
import { fieldLabel } from '../fields.js';
import { go, route } from '../router.js';
import { duration } from '../format.js';
import { countRuns, parseAxis } from './sweep-parts.js';

const CHECK_MS = 500;
const BASE = [
  ['dataset', 'text'],
  ['teacher', 'text'],
  ['layers', 'number'],
  ['epochs', 'number'],
  ['max_length', 'number'],
  ['optimizer', 'text'],
];

export function sweepForm() {
  const { params } = route();
  const inputs = Object.fromEntries(
    BASE.map(([name, type]) => [
      name,
      h('input', {
        type: 'text',
        id: `sweep-${name}`,
        inputmode: type === 'number' ? 'decimal' : null,
        list: name === 'dataset' ? 'sweep-datasets' : name === 'teacher' ? 'sweep-models' : null,
        autocomplete: 'off',
        value: params.get(name) ?? { layers: '1', epochs: '20', optimizer: 'adamw' }[name] ?? '',
        oninput: changed,
      }),
    ]),
  );
  const name = h('input', { type: 'text', id: 'sweep-name', value: 'T × alpha', oninput: changed });
  const axes = h('textarea', {
    id: 'sweep-axes',
    rows: '4',
    spellcheck: 'false',
    'aria-describedby': 'sweep-axes-help',
    value: 'T: 1, 2, 4, 8\nalpha: 0.2, 0.5, 0.9',
    oninput: changed,
  });
  const seeds = h('input', { type: 'text', id: 'sweep-seeds', value: '1, 2, 3', oninput: changed });
  const count = h('input', { type: 'text', id: 'sweep-count', inputmode: 'numeric', value: '20', oninput: changed });
  const countRow = h('div', { class: 'form-row', hidden: true }, h('label', { for: 'sweep-count' }, t('sweeps.count')), count);
  const asha = h('input', { type: 'checkbox', id: 'sweep-asha', 'aria-describedby': 'sweep-asha-help', oninput: changed });
  const minEpochs = h('input', { type: 'text', id: 'sweep-min-epochs', inputmode: 'numeric', value: '1', oninput: changed });
  const eta = h('input', { type: 'text', id: 'sweep-eta', inputmode: 'numeric', value: '3', oninput: changed });
  const preview = h('p', { role: 'status', class: 'strong' });
  const fault = h('div', { class: 'bad', role: 'alert' });
  const curl = h('div', {});
  const lists = { datasets: h('datalist', { id: 'sweep-datasets' }), models: h('datalist', { id: 'sweep-models' }) };
  const row = (id, label, input, help) =>
    h('div', { class: 'form-row' }, h('label', { for: id }, label), input, help && h('small', { class: 'faint', id: `${id}-help` }, help));
  const ashaRows = h(
    'div',
    { hidden: true },
    row('sweep-min-epochs', t('sweeps.min_epochs'), minEpochs),
    row('sweep-eta', t('sweeps.eta'), eta),
  );
  const element = h(
    'section',
    {},
    h('h2', { class: 'section' }, t('sweeps.new')),
    h(
      'div',
      { class: 'new-page' },
      h(
        'form',
        { class: 'new-form', novalidate: true, onsubmit: submit },
        h(
          'fieldset',
          {},
          h('legend', {}, t('sweeps.base')),
          row('sweep-name', fieldLabel('name'), name),
          BASE.map(([key]) => row(`sweep-${key}`, key === 'optimizer' ? t('column.optimizer') : fieldLabel(key), inputs[key])),
        ),
        h(
          'fieldset',
          {},
          h('legend', {}, t('sweeps.axes')),
          row('sweep-axes', t('sweeps.axes_lines'), axes, t('sweeps.axes_help')),
          countRow,
          row('sweep-seeds', t('sweeps.seeds'), seeds, t('sweeps.seeds_help')),
          row('sweep-asha', t('sweeps.asha'), asha, t('sweeps.asha_help')),
          ashaRows,
        ),
        h('div', { class: 'dialog-foot' }, h('button', { type: 'submit', class: 'primary' }, t('sweeps.submit'))),
      ),
      h('aside', { class: 'new-side' }, h('h2', {}, t('sweeps.preview')), preview, fault, h('h2', {}, t('new.curl')), curl),
    ),
    Object.values(lists),
  );

  function read() {
    const base = {};
    for (const [key, type] of BASE) {
      const text = inputs[key].value.trim();
      if (text) base[key] = type === 'number' && Number.isFinite(Number(text)) ? Number(text) : text;
    }
    const parsed = {};
    for (const line of axes.value.split('\n').filter((l) => l.trim())) {
      const at = line.indexOf(':');
      const values = at < 0 ? null : parseAxis(line.slice(at + 1));
      if (!values) throw new Error(t('sweeps.bad_line', { line: line.trim() }));
      parsed[line.slice(0, at).trim()] = values;
    }
    const random = Object.values(parsed).some((v) => !Array.isArray(v));
    countRow.hidden = !random;
    const list = seeds.value.split(',').map((s) => s.trim()).filter(Boolean).map(Number);
    const body = { name: name.value.trim(), base };
    if (random) Object.assign(body, { random: parsed, count: Number(count.value) });
    else body.grid = parsed;
    if (list.length) body.seeds = list;
    ashaRows.hidden = !asha.checked;
    if (asha.checked) body.asha = { min_epochs: Number(minEpochs.value), eta: Number(eta.value) };
    return body;
  }

  let asked = 0;
  const check = debounce(async () => {
    const mine = ++asked;
    let body;
    try {
      body = read();
    } catch {
      return; // said already
    }
    if (!body.base.dataset || !body.base.teacher) return;
    try {
      const answer = await post('sweeps?dry_run=1', body, { once: false });
      if (mine === asked) fill(preview, said(body), ' · ', t('sweeps.estimate', { time: duration(answer.seconds) }));
    } catch (problem) {
      if (mine === asked) showFaults(problem);
    }
  }, CHECK_MS);
  const said = (body) => t('sweeps.makes', countRuns(body));

  function changed() {
    fill(fault);
    try {
      const body = read();
      fill(preview, said(body));
      fill(curl, codeBlock(curlFor('sweeps', body), t('new.curl')));
      check();
    } catch (error) {
      fill(fault, h('p', {}, error.message));
    }
  }

  const showFaults = (problem) =>
    fill(
      fault,
      problem.errors?.length
        ? problem.errors.map((e) => h('p', {}, h('code', {}, e.pointer), ` ${e.detail}`))
        : h('p', {}, explain(problem)),
    );

  async function submit(event) {
    event.preventDefault();
    check.cancel();
    try {
      const made = await post('sweeps', read());
      notice(t('sweeps.queued', { id: made.id, n: made.progress.total }));
      go(['sweeps', String(made.id)]);
    } catch (problem) {
      showFaults(problem);
    }
  }

  for (const kind of ['datasets', 'models'])
    get(`${kind}?limit=500`)
      .then(({ items }) => fill(lists[kind], items.map((item) => h('option', { value: item.name }))))
      .catch(() => {});
  changed();
  return { element, stop: () => check.cancel() };
}
