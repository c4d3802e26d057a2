// What this browser remembers between visits: language, theme, columns. Works without storage (private windows).

export function recall(key) {
  try {
    return localStorage.getItem(`distilld.${key}`);
  } catch {
    return null;
  }
}

export function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(`distilld.${key}`);
    else localStorage.setItem(`distilld.${key}`, value);
  } catch {
    // the choice then lasts as long as the page
  }
}

export const LANGUAGES = ['en', 'zh'];

/** The language kept by the switch, else the browser's first that we speak. */
export function wantedLanguage() {
  const wanted = [recall('language'), ...navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase())];
  return wanted.find((tag) => LANGUAGES.includes(tag)) ?? LANGUAGES[0];
}

/** Tells the document, so that screen readers speak it and style.css shows it. */
export function sayLanguage(tag) {
  document.documentElement.lang = tag === 'zh' ? 'zh-CN' : 'en';
}
