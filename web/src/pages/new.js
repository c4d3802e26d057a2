// New experiment: a form made from the schema that the daemon serves, so that a new field of the spec needs no change
// here. Only what was filled in is sent; what is left empty shows the value that the daemon would settle, learnt by a
// dry run after each change, together with what the run would need. The address holds what was filled in.
import { debounce, fill, h, setText } from '../dom.js';
import { known, t } from '../i18n.js';
import { explain, get, post } from '../api.js';
import { attempt, codeBlock, curlFor, notice } from '../widgets.js';
import { go, route, setParams } from '../router.js';
import { applies, fieldHelp, fieldLabel, grouped, parseField, printField, specFields } from '../fields.js';
import { bytes, duration, parameters } from '../format.js';
import { keep, loadRun } from '../store.js';

const NAMES_OF = { dataset: 'datasets', teacher: 'models', model: 'models', vocabulary: 'models', init: 'models' };

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
  let fields = {}; // path → schema
  const rows = new Map(); // path → {row, input, schema, message}
  const folds = []; // {element, count, paths}
  let asked = 0;
  let presets = []; // of GET /presets

  const valueAt = (from, path) => {
    const [first, second] = path.split('.');
    const outer = from[first];
    if (!second) return outer;
    return typeof outer === 'string' ? (second === 'type' ? outer : undefined) : outer?.[second];
  };

  // ---- the form ----
  function field(path, schema) {
    const value = printField(valueAt(spec, path));
    const name = path.split('.').at(-1);
    const kind = NAMES_OF[path];
    const id = `field-${path.replace('.', '-')}`;
    const message = h('span', { class: 'bad', id: `${id}-fault` });
    const common = {
      id,
      name: path,
      'aria-describedby': `${id}-help ${id}-fault`,
      oninput: changed,
      onchange: changed,
    };
    let input;
    if (schema.enum || schema.type === 'boolean')
      input = h(
        'select',
        { ...common, value },
        h('option', { value: '' }, t('new.default')),
        (schema.enum ?? ['true', 'false']).map((c) => h('option', { value: c }, c)),
      );
    else if (path === 'notes') input = h('textarea', { ...common, rows: '2', value });
    else
      input = h('input', {
        ...common,
        type: 'text',
        inputmode: /integer|number/.test(schema.type) ? 'decimal' : null,
        list: kind ? `names-${kind}` : null,
        autocomplete: 'off',
        value,
      });
    const label = fieldLabel(path);
    const row = h(
      'div',
      { class: 'form-row' },
      h('label', { for: id }, label, label !== name && h('code', {}, name)),
      input,
      h('small', { class: 'faint', id: `${id}-help` }, fieldHelp(path, schema)),
      path === 'preset' && presetWhy,
      message,
    );
    rows.set(path, { row, input, schema, message });
    return row;
  }

  const presetWhy = h('small', { role: 'status' });
  /** Why one would take the chosen preset, and its values where nothing is filled in, as the daemon will settle them. */
  function showPreset() {
    const preset = presets.find(({ name }) => name === spec.preset);
    setText(presetWhy, !preset ? '' : known(`preset.${preset.name}`) ? t(`preset.${preset.name}`) : preset.why);
    showSettled(preset?.fields ?? {});
  }
  function showSettled(settled) {
    for (const [path, { input }] of rows) {
      const value = valueAt(settled, path);
      if (input.tagName === 'INPUT') input.placeholder = printField(value);
      else if (input.tagName === 'SELECT')
        input.options[0].textContent = value === undefined ? t('new.default') : `${printField(value)} · ${t('new.default')}`;
    }
  }

  /** The rarer fields of a group; open when the address says so, or for a fault. */
  function fold(name, paths) {
    const count = h('span', { class: 'faint' });
    const opened = new Set((route().params.get('open') ?? '').split(','));
    const element = h(
      'details',
      { class: 'fold', open: opened.has(name) },
      h('summary', {}, t('new.fold'), ' ', count),
      h(
        'div',
        { class: 'fold-body' },
        paths.map((path) => field(path, fields[path])),
      ),
    );
    element.addEventListener('toggle', () => {
      const now = folds.filter((f) => f.element.open).map((f) => f.name);
      setParams({ open: now.join(',') || null });
    });
    folds.push({ name, element, count, paths });
    return element;
  }

  function build() {
    rows.clear();
    folds.length = 0;
    fill(
      form,
      grouped(Object.keys(fields)).map(({ name, shown, folded }) =>
        h(
          'fieldset',
          {},
          h('legend', {}, t(`new.group_${name}`)),
          shown.map((path) => field(path, fields[path])),
          folded.length > 0 && fold(name, folded),
        ),
      ),
      h('div', { class: 'dialog-foot' }, h('button', { type: 'submit', class: 'primary' }, t('new.submit'))),
    );
    showApplicable();
  }

  function showApplicable() {
    for (const { row, schema } of rows.values()) row.hidden = !applies(schema, spec);
    for (const { element, count, paths } of folds) {
      element.hidden = paths.every((path) => rows.get(path).row.hidden);
      const n = paths.filter((path) => valueAt(spec, path) !== undefined).length;
      setText(count, n ? t('new.fold_set', { n }) : '');
    }
  }

  function read() {
    const out = {};
    for (const [path, { input, schema }] of rows) {
      const value = parseField(schema, input.value.trim());
      if (value === undefined || !applies(schema, { ...out, task: out.task ?? 'distill' })) continue;
      const [first, second] = path.split('.');
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
    showPreset();
    if (!spec.dataset || ((spec.task ?? 'distill') === 'distill' && !spec.teacher)) {
      fill(estimate, h('p', { class: 'faint' }, t('new.needs')));
      return;
    }
    try {
      const answer = await post('experiments?dry_run=1', spec, { once: false });
      if (mine !== asked) return;
      showEstimate(answer.estimate);
      showSettled(answer.spec);
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

  /** The row that a JSON pointer belongs to: "/optimizer/lr" to optimizer.lr, "/layer_map/2" to layer_map. */
  function pathOf(pointer) {
    const [first, second] = pointer.slice(1).split('/');
    return rows.has(`${first}.${second}`) ? `${first}.${second}` : first === 'optimizer' ? 'optimizer.type' : first;
  }

  function showFaults(problem) {
    fill(estimate);
    const loose = [];
    for (const error of problem.errors ?? []) {
      const path = pathOf(error.pointer);
      const at = rows.get(path);
      if (!at || at.row.hidden) loose.push(`${error.pointer} ${error.detail}`);
      else {
        at.message.textContent = error.detail;
        at.input.setAttribute('aria-invalid', 'true');
        for (const { element, paths } of folds) if (paths.includes(path)) element.open = true;
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
    fields = specFields(openapi);
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
    presets = (await get('presets').catch(() => null))?.items ?? [];
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
