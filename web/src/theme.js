// Light and dark: by the system's preference, or by the switch, which goes system → light → dark.
import { recall, remember } from './memory.js';

const order = ['system', 'light', 'dark'];
const preference = matchMedia('(prefers-color-scheme: dark)');
const listeners = new Set();

export const themeChoice = () => (order.includes(recall('theme')) ? recall('theme') : 'system');
export const isDark = () => {
  const set = document.documentElement.dataset.theme;
  return set ? set === 'dark' : preference.matches;
};

export function nextTheme() {
  const choice = order[(order.indexOf(themeChoice()) + 1) % order.length];
  remember('theme', choice === 'system' ? null : choice);
  if (choice === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  for (const fn of listeners) fn();
}

export function onTheme(fn) {
  listeners.add(fn);
  return () => listeners.delete(fn);
}

preference.addEventListener('change', () => {
  for (const fn of listeners) fn();
});

/** Custom properties of the current theme, for what is drawn on canvas: one, or those that charts use. */
export const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function palette() {
  const names = ['ink', 'ink-2', 'ink-3', 'rule', 'rule-2', 'panel', 'bad'];
  return Object.fromEntries(names.map((name) => [name, token(`--${name}`)]));
}
