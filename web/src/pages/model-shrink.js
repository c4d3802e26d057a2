// Smaller models made from this one: a pruned vocabulary, int8 weights; and the download in fp16.
import { fill, h } from '../dom.js';
import { t } from '../i18n.js';
import { get, post } from '../api.js';
import { attempt } from '../widgets.js';
import { go, href } from '../router.js';
import { bytes, count, percent } from '../format.js';

const ROWS = [
  ['tokens', 'models.vocabulary', count],
  ['parameters', 'models.parameters', count],
  ['bytes', 'column.size', bytes],
  ['accuracy', 'metric.accuracy', (v) => percent(v, 2)],
  ['macro_f1', 'metric.macro_f1', (v) => percent(v, 2)],
];

/** What a smaller model was made from and what it lost; nothing for other models. */
export function madeFrom(source) {
  if (!source?.before || !source.after) return null;
  return h(
    'section',
    {},
    h('h2', {}, t(`models.${source.type}`), ' ', h('a', { href: href(['models', source.model]) }, source.model)),
    h(
      'table',
      { class: 'data' },
      h(
        'thead',
        {},
        h('tr', {}, h('td', {}), ['models.before', 'models.after'].map((k) => h('th', { scope: 'col', class: 'num' }, t(k)))),
      ),
      h(
        'tbody',
        {},
        ROWS.filter(([key]) => source.before[key] !== undefined).map(([key, title, show]) =>
          h(
            'tr',
            {},
            h('th', { scope: 'row' }, t(title)),
            h('td', { class: 'num' }, show(source.before[key])),
            h('td', { class: 'num' }, show(source.after[key])),
          ),
        ),
      ),
    ),
  );
}

/** The form; not for models that are int8 already. */
export function shrinkBox(model) {
  const dataset = h('select', { 'aria-label': t('column.dataset') });
  const name = h('input', {
    type: 'text',
    required: true,
    pattern: '[a-z0-9][a-z0-9._\\-]{0,63}',
    'aria-label': t('models.save_as'),
  });
  const kind = h(
    'select',
    { 'aria-label': t('models.shrink'), onchange: suggest },
    ['prune', 'quantize'].map((value) => h('option', { value }, t(`models.${value}`))),
  );
  const characters = h('input', { type: 'checkbox' });
  const keep = h('label', { class: 'check' }, characters, t('models.keep_characters'));
  const help = h('p', { class: 'faint' });
  const button = h('button', { type: 'submit' }, t('models.make'));
  function suggest() {
    const prune = kind.value === 'prune';
    name.value = `${model.name}-${prune ? 'pruned' : 'int8'}`.slice(-64).replace(/^[^a-z0-9]+/, '');
    keep.hidden = !prune;
    fill(help, t(prune ? 'models.prune_help' : 'models.quantize_help'));
  }
  get('datasets?limit=500')
    .then(({ items }) =>
      fill(
        dataset,
        items.map((d) => h('option', { value: d.name }, d.name)),
      ),
    )
    .catch(() => {});
  suggest();
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    const body = { save_as: name.value };
    if (dataset.value) body.dataset = dataset.value;
    if (kind.value === 'prune') body.keep_characters = characters.checked;
    const made = await attempt(() => post(`models/${model.name}/${kind.value}`, body));
    button.disabled = false;
    if (made) go(['models', made.name]);
  };
  return h(
    'section',
    {},
    h('h2', {}, t('models.shrink')),
    h(
      'form',
      { class: 'fields', onsubmit: submit },
      h('label', {}, t('models.how'), kind),
      help,
      h('label', {}, t('column.dataset'), dataset),
      h('label', {}, t('models.save_as'), name),
      keep,
      h('div', {}, button),
    ),
  );
}
