// Runs before the first paint, so that a kept theme does not flash, and so that the page's first request is under way
// while the rest is read. Kept apart and small because it blocks rendering.
import { firstPath } from './first.js';

try {
  const theme = localStorage.getItem('distilld.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // no storage: the system's preference decides
}
const path = firstPath(location.pathname, location.search);
if (path) {
  window.firstAnswer = { path, response: fetch(`/api/v1/${path}`, { headers: { Accept: 'application/json' } }) };
  window.firstAnswer.response.catch(() => {}); // said when the page asks for it
}
