// The two languages. One dictionary each; tests/browser checks that their keys match and that every key used exists.
import en from './i18n/en.js';
import zh from './i18n/zh.js';
import { remember, sayLanguage, wantedLanguage } from './memory.js';

const dictionaries = { en, zh };
let current = 'en';

export const chooseLanguage = () => setLanguage(wantedLanguage());

export function setLanguage(tag) {
  current = tag;
  sayLanguage(tag);
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
