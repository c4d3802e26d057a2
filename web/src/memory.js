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
