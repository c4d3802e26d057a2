// New experiment: a form made from the schema that the daemon serves, so that a new field of the spec needs no change
// here. Only what was filled in is sent; what is left empty shows the value that the daemon would settle, learnt by a
// dry run after each change, together with what the run would need. The address holds what was filled in.
import { debounce, fill, h } from '../dom.js';
import { t, known } from '../i18n.js';
import { explain, get, post } from '../api.js';
import { attempt, codeBlock, curlFor, notice } from '../widgets.js';
import { go, route, setParams } from '../router.js';
import { bytes, duration, parameters } from '../format.js';
import { keep, loadRun } from '../store.js';

const GROUPS = [
  ['what', ['task', 'dataset', 'teacher', 'model', 'name', 'tags', 'notes', 'priority', 'save_as']],
  [
    'shape',
    [
      'layers',
      'heads',
      'hidden_size',
      'intermediate_size',
      'init',
      'layer_map',
      'vocabulary',
      'vocab_size',
      'lower_case',
      'hidden_act',
      'hidden_dropout',
      'attention_dropout',
      'classifier_dropout',
    ],
  ],
  ['training', ['optimizer', 'T', 'alpha', 'epochs', 'batch_size', 'max_length', 'seed', 'precision']],
];
const NAMES_OF = { dataset: 'datasets', teacher: 'models', model: 'models', vocabulary: 'models', init: 'models' };

/** Follows "#/components/…" references. */
function resolve(document, schema) {
  let at = schema;
  while (at?.$ref)
    at = at.$ref
      .slice(2)
      .split('/')
      .reduce((node, key) => node[key.replaceAll('~1', '/').replaceAll('~0', '~')], document);
  return at;
}

/** Whether a field has a say, by the schema's own words ("when task is \"finetune\" without a model"). */
function applies(schema, spec) {
  const rule = schema['x-applies'] ?? '';
  const task = /task is "(\w+)"/.exec(rule)?.[1];
  if (task && task !== (spec.task ?? 'distill')) return false;
  if (/without a model|neither model/.test(rule) && spec.model) return false;
  return !(/nor vocabulary/.test(rule) && spec.vocabulary);
}

/** Text of an input as the value that the schema wants; undefined when empty. */
function parse(schema, text) {
  if (text === '') return undefined;
  if (schema.type === 'integer' || schema.type === 'number') return Number.isFinite(Number(text)) ? Number(text) : text;
  if (schema.type === 'boolean') return text === 'true';
  if (schema.type === 'array') {
    const items = text
      .split(',')
      .map((s) => s.trim())
      .filter(Boolean);
    return schema.items?.type === 'integer' ? items.map(Number) : items;
  }
  return text;
}
const print = (value) =>
  Array.isArray(value) ? value.join(', ') : value === undefined || value === null ? '' : String(value);

export function mount(root) {
  const form = h('form', { class: 'new-form', onsubmit: submit, novalidate: true });
  const estimate = h('dl', { class: 'figures small' });
  const fault = h('p', { class: 'bad', role: 'alert' });
  const curl = h('div', {});
  const names = { datasets: h('datalist', { id: 'names-datasets' }), models: h('datalist', { id: 'names-models' }) };
  fill(
    root,
    h(
      'div',
      { class: 'page' },
      h('h1', { class: 'page-title' }, t('nav.new')),
      h(
        'div',
        { class: 'new-page' },
        form,
        h(
          'aside',
          { class: 'new-side' },
          h('h2', {}, t('new.estimate')),
          estimate,
          fault,
          h('h2', {}, t('new.curl')),
          curl,
        ),
      ),
      Object.values(names),
    ),
  );
  let spec = {}; // what was filled in
  let properties = null;
  let settings = {}; // of the optimizer
  const rows = new Map(); // pointer → {row, input, schema, message}
  let asked = 0;

  // ---- the form ----
  function field(pointer, schema, value) {
    const name = pointer.split('/').at(-1);
    const kind = NAMES_OF[name];
    const id = `field${pointer.replaceAll('/', '-')}`;
    const message = h('span', { class: 'bad', id: `${id}-fault` });
    const common = {
      id,
      name: pointer,
      'aria-describedby': `${id}-help ${id}-fault`,
      oninput: changed,
      onchange: changed,
    };
    let input;
    if (schema.enum || schema.type === 'boolean') {
      const choices = schema.enum ?? ['true', 'false'];
      input = h(
        'select',
        { ...common, value: print(value) },
        h('option', { value: '' }, t('new.default')),
        choices.map((c) => h('option', { value: c }, c)),
      );
    } else if (name === 'notes') input = h('textarea', { ...common, rows: '2', value: print(value) });
    else
      input = h('input', {
        ...common,
        type: 'text',
        inputmode: /integer|number/.test(schema.type) ? 'decimal' : null,
        list: kind ? `names-${kind}` : null,
        autocomplete: 'off',
        value: print(value),
      });
    const label = known(`field.${name}`) ? t(`field.${name}`) : name;
    const row = h(
      'div',
      { class: 'form-row' },
      h('label', { for: id }, label, label !== name && h('code', {}, name)),
      input,
      h('small', { class: 'faint', id: `${id}-help` }, schema.description ?? ''),
      message,
    );
    rows.set(pointer, { row, input, schema, message });
    return row;
  }

  function build() {
    rows.clear();
    const grouped = new Set(GROUPS.flatMap(([, list]) => list));
    const rest = Object.keys(properties).filter((name) => !grouped.has(name));
    fill(
      form,
      [...GROUPS, ['more', rest]]
        .filter(([, list]) => list.some((name) => properties[name]))
        .map(([group, list]) =>
          h(
            'fieldset',
            {},
            h('legend', {}, t(`new.group_${group}`)),
            list
              .filter((name) => properties[name])
              .flatMap((name) =>
                name === 'optimizer'
                  ? Object.entries(settings).map(([key, schema]) =>
                      field(
                        `/optimizer/${key}`,
                        schema,
                        typeof spec.optimizer === 'string'
                          ? key === 'type'
                            ? spec.optimizer
                            : undefined
                          : spec.optimizer?.[key],
                      ),
                    )
                  : [field(`/${name}`, properties[name], spec[name])],
              ),
          ),
        ),
      h('div', { class: 'dialog-foot' }, h('button', { type: 'submit', class: 'primary' }, t('new.submit'))),
    );
    showApplicable();
  }

  function showApplicable() {
    for (const { row, schema } of rows.values()) row.hidden = !applies(schema, spec);
  }

  function read() {
    const out = {};
    for (const [pointer, { input, schema }] of rows) {
      const value = parse(schema, input.value.trim());
      if (value === undefined || !applies(schema, { ...out, task: out.task ?? 'distill' })) continue;
      const [, first, second] = pointer.split('/');
      if (second) (out[first] ??= {})[second] = value;
      else out[first] = value;
    }
    return out;
  }

  const changed = debounce(() => {
    spec = read();
    showApplicable();
    setParams({ spec: JSON.stringify(spec), from: null, dataset: null, teacher: null });
    fill(curl, codeBlock(curlFor('experiments', spec), t('new.curl')));
    dryRun();
  }, 250);

  // ---- what the daemon says of it ----
  async function dryRun() {
    const mine = ++asked;
    for (const { message, input } of rows.values()) {
      message.textContent = '';
      input.removeAttribute('aria-invalid');
    }
    fill(fault);
    if (!spec.dataset || ((spec.task ?? 'distill') === 'distill' && !spec.teacher)) {
      fill(estimate, h('p', { class: 'faint' }, t('new.needs')));
      return;
    }
    try {
      const answer = await post('experiments?dry_run=1', spec, { once: false });
      if (mine !== asked) return;
      showEstimate(answer.estimate);
      for (const [pointer, { input }] of rows) {
        const [, first, second] = pointer.split('/');
        const settled = second ? answer.spec[first]?.[second] : answer.spec[first];
        if (input.tagName === 'INPUT') input.placeholder = print(settled);
        else if (input.tagName === 'SELECT')
          input.options[0].textContent =
            settled === undefined ? t('new.default') : `${print(settled)} · ${t('new.default')}`;
      }
    } catch (problem) {
      if (mine === asked) showFaults(problem);
    }
  }

  function showEstimate(e) {
    const items = [
      [t('new.memory'), bytes(e.memory_bytes)],
      [t('new.time'), duration(e.seconds)],
      [t('models.parameters'), parameters(e.parameters)],
      [t('column.size'), bytes(e.model_bytes)],
    ];
    fill(
      estimate,
      items.map(([k, v]) => h('div', {}, h('dt', {}, k), h('dd', {}, v))),
    );
  }

  function showFaults(problem) {
    fill(estimate);
    const loose = [];
    for (const error of problem.errors ?? []) {
      const at = rows.get(error.pointer);
      if (!at) loose.push(`${error.pointer} ${error.detail}`);
      else {
        at.message.textContent = error.detail;
        at.input.setAttribute('aria-invalid', 'true');
      }
    }
    fill(
      fault,
      loose.join('; ') || (problem.errors?.length ? t('new.faults', { n: problem.errors.length }) : explain(problem)),
    );
  }

  async function submit(event) {
    event.preventDefault();
    changed.cancel();
    spec = read();
    try {
      const made = keep(await post('experiments', spec));
      notice(t('new.queued', { id: made.id }));
      go(['runs', String(made.id)]);
    } catch (problem) {
      showFaults(problem);
      form.querySelector('[aria-invalid]')?.focus();
    }
  }

  async function begin() {
    const { params } = route();
    const openapi = await attempt(() => get('openapi.json'));
    if (!openapi) return;
    const body = openapi.paths['/api/v1/experiments'].post.requestBody.content['application/json'].schema;
    properties = Object.fromEntries(
      Object.entries(resolve(openapi, body).properties).map(([name, s]) => [name, resolve(openapi, s)]),
    );
    settings = properties.optimizer?.oneOf?.find((s) => s.properties)?.properties ?? {};
    try {
      spec = JSON.parse(params.get('spec') ?? '{}');
    } catch {
      spec = {};
    }
    for (const name of ['dataset', 'teacher']) if (params.get(name)) spec[name] = params.get(name);
    if (params.get('from')) {
      const source = await attempt(() => loadRun(Number(params.get('from'))));
      if (source) spec = { ...source.spec };
    }
    build();
    fill(curl, codeBlock(curlFor('experiments', spec), t('new.curl')));
    dryRun();
    for (const kind of ['datasets', 'models'])
      get(`${kind}?limit=500`)
        .then(({ items }) =>
          fill(
            names[kind],
            items.map((item) => h('option', { value: item.name })),
          ),
        )
        .catch(() => {});
  }
  begin();

  return { title: () => t('nav.new'), update() {}, keys: {}, stop: () => changed.cancel() };
}
