// The two languages. One dictionary each; tests/browser checks that their keys match and that every key used exists.
import en from './i18n/en.js';
import zh from './i18n/zh.js';
import { recall, remember } from './memory.js';

const dictionaries = { en, zh };
let current = 'en';

/** The language kept by the switch, else the browser's first that we speak. */
export function chooseLanguage() {
  const kept = recall('language');
  const wanted = [kept, ...navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase())];
  setLanguage(wanted.find((tag) => tag in dictionaries) ?? 'en');
}

export function setLanguage(tag) {
  current = tag;
  document.documentElement.lang = tag === 'zh' ? 'zh-CN' : 'en';
}

export function switchLanguage() {
  setLanguage(current === 'zh' ? 'en' : 'zh');
  remember('language', current);
}

export const language = () => (current === 'zh' ? 'zh-CN' : 'en');

/** The text of a key, with {name} replaced from vars. An unknown key shows itself, so that a gap is seen. */
export function t(key, vars = {}) {
  const text = dictionaries[current][key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in vars ? String(vars[name]) : whole));
}

export const known = (key) => key in dictionaries[current];
