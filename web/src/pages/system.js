// System: what the daemon says of itself, with the queue as links into the history.
import { fill, h } from '../dom.js';
import { known, t } from '../i18n.js';
import { explain, get } from '../api.js';
import { href } from '../router.js';
import { bytes, count, duration, fullTime, number } from '../format.js';
import { on } from '../store.js';

const EVERY_MS = 5000;
const STATES = ['running', 'queued', 'paused', 'finished', 'failed', 'cancelled'];

/** A value by its name: names carry their unit. */
function printed(name, value) {
  if (value === null || value === '') return '–';
  if (typeof value === 'boolean') return value ? '✓' : '–';
  if (/_at$/.test(name)) return fullTime(value);
  if (typeof value === 'string') return value;
  if (/bytes|_free$|_total$/.test(name)) return bytes(value);
  if (/seconds$/.test(name)) return duration(value);
  return Number.isInteger(value) ? count(value) : number(value);
}

/** What a field is called; one that the dictionary does not know shows its own name. */
const labelOf = (path) => (known(`system.${path}`) ? t(`system.${path}`) : path.replaceAll('_', ' '));

function rows(object, prefix = '') {
  return Object.entries(object).flatMap(([name, value]) => {
    if (value && typeof value === 'object' && !Array.isArray(value)) return rows(value, `${prefix}${name}.`);
    const text = Array.isArray(value)
      ? value.map((v) => (typeof v === 'object' ? JSON.stringify(v) : printed(name, v))).join(', ') || '–'
      : printed(name, value);
    return [h('tr', {}, h('th', { scope: 'row' }, labelOf(`${prefix}${name}`)), h('td', {}, text))];
  });
}

export function mount(root) {
  const queue = h('div', { class: 'figures' });
  const facts = h('div', { class: 'columns' });
  const note = h('p', { role: 'status' });
  fill(root, h('div', { class: 'page' }, h('h1', { class: 'page-title' }, t('nav.system')), note, queue, facts));
  let timer = 0;

  async function read() {
    clearTimeout(timer);
    try {
      const system = await get('system');
      const { queue: states = {}, ...rest } = system;
      fill(note);
      fill(
        queue,
        STATES.filter((s) => s in states).map((s) =>
          h(
            'a',
            { class: 'figure', href: href(['runs'], { status: s }) },
            h('span', {}, t(`status.${s}`)),
            h('strong', {}, count(states[s])),
          ),
        ),
      );
      const plain = Object.entries(rest).filter(([, v]) => v === null || typeof v !== 'object' || Array.isArray(v));
      const groups = Object.entries(rest).filter(([, v]) => v && typeof v === 'object' && !Array.isArray(v));
      fill(
        facts,
        [['daemon', '', Object.fromEntries(plain)], ...groups.map(([name, value]) => [name, `${name}.`, value])].map(([name, prefix, value]) =>
          h(
            'section',
            {},
            h('h2', {}, labelOf(name)),
            h('table', { class: 'data spec' }, h('tbody', {}, rows(value, prefix))),
          ),
        ),
        h(
          'section',
          {},
          h('h2', {}, t('system.interfaces')),
          h('p', {}, h('a', { href: '/api/v1/openapi.json', target: '_blank' }, 'openapi.json')),
          h('p', {}, h('a', { href: '/metrics', target: '_blank' }, '/metrics')),
        ),
      );
    } catch (problem) {
      fill(note, h('span', { class: 'bad' }, explain(problem)));
    }
    timer = setTimeout(read, EVERY_MS);
  }
  read();
  const off = on('reset', read);
  return {
    title: () => t('nav.system'),
    update() {},
    keys: {},
    stop() {
      clearTimeout(timer);
      off();
    },
  };
}
