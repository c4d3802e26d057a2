// The address holds the whole view: /page/part?params. Pages read route().params and write them with setParams, so that
// a copied link shows what its sender saw. (The daemon answers any page's path with index.html.)

const listeners = new Set();

function tell() {
  const now = route();
  for (const fn of [...listeners]) fn(now);
}

/** {parts: ['runs', '12'], params: URLSearchParams} of the current address. */
export function route() {
  const parts = location.pathname.split('/').filter(Boolean).map(decode);
  return { parts: parts.length ? parts : ['runs'], params: new URLSearchParams(location.search) };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function href(parts, params = {}) {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(params))
    if (value !== null && value !== undefined && value !== '') search.set(key, value);
  const text = search.toString().replaceAll('%2C', ',').replaceAll('%7E', '~');
  return `/${parts.map(encodeURIComponent).join('/')}${text ? `?${text}` : ''}`;
}

function open(address) {
  history.pushState(null, '', address);
  tell();
}

export const go = (parts, params) => open(href(parts, params));

/** Changes parameters of the current view; null removes one. Does not add to the browser's history. */
export function setParams(changes) {
  const { parts, params } = route();
  const next = href(parts, { ...Object.fromEntries(params), ...changes });
  if (next === location.pathname + location.search) return;
  history.replaceState(history.state, '', next);
  tell();
}

export function onRoute(fn) {
  listeners.add(fn);
  return () => listeners.delete(fn);
}

addEventListener('popstate', tell);
document.addEventListener('click', (event) => {
  if (event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)
    return;
  const anchor = event.target.closest('a[href]');
  if (!anchor || anchor.target || anchor.hasAttribute('download') || anchor.origin !== location.origin) return;
  event.preventDefault();
  open(anchor.pathname + anchor.search);
});
