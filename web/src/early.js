// Runs before the first paint, so that a kept theme does not flash, and so that the page's first request, and the chart
// library where it will be needed, are under way while the rest is read. Kept apart and small because it blocks rendering.
import { drawsCharts, firstPath } from './first.js';

try {
  const theme = localStorage.getItem('distilld.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // no storage: the system's preference decides
}
if (drawsCharts(location.pathname, location.search)) {
  const link = document.createElement('link');
  link.rel = 'modulepreload';
  link.href = document.documentElement.dataset.charts;
  document.head.append(link);
}
const path = firstPath(location.pathname, location.search);
if (path) {
  window.firstAnswer = { path, response: fetch(`/api/v1/${path}`, { headers: { Accept: 'application/json' } }) };
  window.firstAnswer.response.catch(() => {}); // said when the page asks for it
}
