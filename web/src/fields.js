// The fields of a spec as forms show them: their groups, which are seen at once and which lie under a group's fold, and
// their words. What the schema has and no group names lies under the fold of the last group, so a new field needs no
// line here to be usable, only its words in i18n/fields.*.js.
import en from './i18n/fields.en.js';
import zh from './i18n/fields.zh.js';
import { language } from './i18n.js';

/** name of the group, fields seen at once, fields under the fold. "optimizer.x" is the setting x of the optimizer. */
export const GROUPS = [
  [
    'what',
    ['preset', 'task', 'dataset', 'teacher', 'model', 'name'],
    ['teachers', 'teacher_mean', 'tags', 'notes', 'priority', 'save_as'],
  ],
  [
    'shape',
    ['layers', 'init'],
    [
      'heads',
      'hidden_size',
      'intermediate_size',
      'layer_map',
      'whole_words',
      'folds',
      'fold',
      'vocabulary',
      'vocab_size',
      'lower_case',
      'hidden_act',
      'hidden_dropout',
      'attention_dropout',
      'classifier_dropout',
    ],
  ],
  ['data', ['max_length', 'unlabelled'], ['augment', 'augment_unlabelled', 'augment_replace', 'augment_mask', 'augment_ngram', 'augment_splice']],
  [
    'training',
    ['optimizer.type', 'optimizer.lr', 'epochs', 'batch_size', 'seed'],
    [
      'optimizer.schedule',
      'optimizer.warmup',
      'optimizer.weight_decay',
      'optimizer.max_grad_norm',
      'optimizer.layer_lr_decay',
      'optimizer.momentum',
      'optimizer.nesterov',
      'optimizer.beta1',
      'optimizer.beta2',
      'optimizer.eps',
      'precision',
      'metric',
      'selection',
      'patience',
      'guard',
      'ema',
      'freeze_embeddings',
    ],
  ],
  ['loss', ['T', 'alpha'], ['hidden_weight', 'cls_weight', 'attention_weight', 'relation_weight', 'relation_heads', 'loss', 'T_end', 'alpha_end', 'label_smoothing', 'class_weights']],
];

/** GROUPS with only the paths that exist, and those that no group names under the last fold. */
export function grouped(paths) {
  const left = new Set(paths);
  const take = (list) => list.filter((path) => left.delete(path));
  const groups = GROUPS.map(([name, shown, folded]) => ({ name, shown: take(shown), folded: take(folded) }));
  groups.at(-1).folded.push(...left);
  return groups;
}

const chinese = () => language() === 'zh-CN';
const lastPart = (path) => path.slice(path.lastIndexOf('.') + 1);
export const fieldLabel = (path) => (chinese() ? zh[path]?.[0] : en[path]) ?? lastPart(path);
/** The schema's description is the English help. */
export const fieldHelp = (path, schema) => (chinese() ? zh[path]?.[1] : null) ?? schema.description ?? '';

/** Whether a field has a say, by the schema's own words ("when task is \"finetune\" without a model"). */
export function applies(schema, spec) {
  const rule = schema['x-applies'] ?? '';
  const task = /task is "(\w+)"/.exec(rule)?.[1];
  if (task && task !== (spec.task ?? 'distill')) return false;
  if (/augment is at least 1/.test(rule) && !(spec.augment >= 1)) return false;
  if (/relation_weight is above 0/.test(rule) && !(spec.relation_weight > 0)) return false;
  if (/folds is at least 2/.test(rule) && !(spec.folds >= 2)) return false;
  if (/teachers are given/.test(rule) && !spec.teachers?.length) return false;
  if (/without a model|neither model/.test(rule) && spec.model) return false;
  return !(/nor vocabulary/.test(rule) && spec.vocabulary);
}

/** {path: schema} of the body of POST /experiments, the optimizer's settings as "optimizer.x". */
export function specFields(openapi) {
  const resolve = (schema) => {
    let at = schema;
    while (at?.$ref)
      at = at.$ref
        .slice(2)
        .split('/')
        .reduce((node, key) => node[key.replaceAll('~1', '/').replaceAll('~0', '~')], openapi);
    return at;
  };
  const body = openapi.paths['/api/v1/experiments'].post.requestBody.content['application/json'].schema;
  const out = {};
  for (const [name, given] of Object.entries(resolve(body).properties)) {
    const schema = resolve(given);
    const settings = schema.oneOf?.map(resolve).find((s) => s.properties)?.properties;
    if (!settings) out[name] = schema;
    else for (const [key, inner] of Object.entries(settings)) out[`${name}.${key}`] = resolve(inner);
  }
  return out;
}

const typesOf = (schema) => new Set([schema, ...(schema.oneOf ?? schema.anyOf ?? [])].flatMap((s) => s.type ?? []));

/**
 * Text of an input as the value that the schema wants; undefined when empty. What does not fit goes as it was typed, so
 * that the daemon says what would be right.
 */
export function parseField(schema, text) {
  if (text === '') return undefined;
  const types = typesOf(schema);
  const number = Number(text);
  if ((types.has('integer') || types.has('number')) && Number.isFinite(number)) return number;
  if (types.has('boolean') && /^(true|false)$/.test(text)) return text === 'true';
  if (types.has('object') || (types.has('array') && text.startsWith('['))) {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }
  const words = [schema, ...(schema.oneOf ?? schema.anyOf ?? [])].flatMap((s) => s.enum ?? []);
  if (types.has('array') && !words.includes(text)) {
    const list = [schema, ...(schema.oneOf ?? schema.anyOf ?? [])].find((s) => s.type === 'array');
    const items = text
      .split(',')
      .map((s) => s.trim())
      .filter(Boolean);
    return /integer|number/.test(list.items?.type) ? items.map((v) => (Number.isFinite(Number(v)) ? Number(v) : v)) : items;
  }
  return text;
}

/** A value as the text of its input. */
export function printField(value) {
  if (value === undefined || value === null) return '';
  if (Array.isArray(value) && value.every((v) => typeof v !== 'object')) return value.join(', ');
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
