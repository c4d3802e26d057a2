// Small pieces that several pages use: status, dialogs, notices, copying, downloads.
import { h, setText } from './dom.js';
import { t } from './i18n.js';
import { explain } from './api.js';
import { runColour } from './colour.js';

const STATUS_SIGNS = { queued: '○', running: '●', paused: '‖', finished: '✓', failed: '✕', cancelled: '⊘' };

export function statusMark(status) {
  return h(
    'span',
    { class: `status ${status}` },
    h('span', { class: 'sign', 'aria-hidden': 'true' }, STATUS_SIGNS[status] ?? '·'),
    t(`status.${status}`),
  );
}

export const chip = (id) => h('i', { class: 'chip', vars: { '--c': runColour(id) }, 'aria-hidden': 'true' });

export function progressBar(fraction, label) {
  const percent = Math.round(100 * Math.min(1, Math.max(0, fraction)));
  return h(
    'span',
    {
      class: 'bar',
      role: 'progressbar',
      'aria-valuemin': '0',
      'aria-valuemax': '100',
      'aria-valuenow': String(percent),
      'aria-label': label,
    },
    h('span', { vars: { '--w': `${percent}%` } }),
  );
}

/** Says something in the corner and to screen readers; a failure stays until dismissed. */
export function notice(text, { bad = false } = {}) {
  const host = document.getElementById('notices');
  const item = h(
    'div',
    { class: `notice${bad ? ' bad' : ''}` },
    h('span', {}, text),
    h(
      'button',
      { type: 'button', class: 'quiet', 'aria-label': t('action.dismiss'), onclick: () => item.remove() },
      '✕',
    ),
  );
  host.append(item);
  while (host.children.length > 4) host.firstChild.remove();
  if (!bad) setTimeout(() => item.remove(), 4000);
}

/** Runs an action and says what went wrong, if something did. Answers undefined then. */
export async function attempt(fn) {
  try {
    return await fn();
  } catch (problem) {
    if (problem.name !== 'AbortError') notice(explain(problem), { bad: true });
    return undefined;
  }
}

/** A modal dialog; resolves with what close(value) was given, undefined when dismissed. build(close) gives its body. */
export function dialog(title, build) {
  return new Promise((resolve) => {
    let answer;
    const element = h('dialog', { 'aria-label': title });
    const close = (value) => {
      answer = value;
      element.close();
    };
    element.append(
      h(
        'div',
        { class: 'dialog-head' },
        h('h2', {}, title),
        h('button', { type: 'button', class: 'quiet', 'aria-label': t('action.close'), onclick: () => close() }, '✕'),
      ),
      h('div', { class: 'dialog-body' }, build(close)),
    );
    element.addEventListener('close', () => {
      element.remove();
      resolve(answer);
    });
    document.body.append(element);
    element.showModal();
  });
}

export const confirmDialog = (title, text, action, { danger = false } = {}) =>
  dialog(title, (close) => [
    h('p', {}, text),
    h(
      'div',
      { class: 'dialog-foot' },
      h('button', { type: 'button', onclick: () => close(false) }, t('action.keep')),
      h('button', { type: 'button', class: danger ? 'danger' : 'primary', onclick: () => close(true) }, action),
    ),
  ]);

export async function copy(text, button) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    // over plain HTTP from another machine there is no clipboard interface: select and copy the old way
    const area = h('textarea', { class: 'sr', value: text });
    document.body.append(area);
    area.select();
    done = document.execCommand('copy');
    area.remove();
  }
  const before = button.textContent;
  setText(button, t(done ? 'action.copied' : 'action.copy_failed'));
  setTimeout(() => setText(button, before), 1500);
}

export function codeBlock(text, label) {
  const button = h('button', { type: 'button', class: 'copy', onclick: () => copy(text, button) }, t('action.copy'));
  return h('div', { class: 'code' }, h('pre', { tabindex: '0', 'aria-label': label }, text), button);
}

export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  const anchor = h('a', { href: url, download: name });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** The curl that posts a body; quoted for a POSIX shell. */
export function curlFor(path, body) {
  const json = JSON.stringify(body, null, 2).replaceAll("'", String.raw`'\''`);
  return `curl -sS ${location.origin}/api/v1/${path} \\\n  -H 'Content-Type: application/json' \\\n  -d '${json}'`;
}

/** A row of exclusive choices, as radio buttons. choices: [[value, label]] */
export function segmented(name, choices, value, onchange) {
  return h(
    'span',
    { class: 'segmented', role: 'radiogroup', 'aria-label': name },
    choices.map(([v, label]) =>
      h(
        'label',
        {},
        h('input', { type: 'radio', name: `seg-${name}`, value: v, checked: v === value, onchange: () => onchange(v) }),
        h('span', {}, label),
      ),
    ),
  );
}

/** An empty state that teaches: a sentence and the command that fills it. */
export const teach = (title, text, command) =>
  h('div', { class: 'teach' }, h('h2', {}, title), h('p', {}, text), command && codeBlock(command, title));
