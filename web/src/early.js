// Runs before the first paint, so that a kept theme or language does not flash, and so that the page's first
// request and, where charts will be drawn, their library are under way while the rest is read. Kept apart and small
// because it blocks rendering. What makes the page is compiled after the header that index.html holds has been painted.
import { drawsCharts, firstPath } from './first.js';
import { recall, sayLanguage, wantedLanguage } from './memory.js';

const PATIENCE_MS = 250; // where nothing is painted, as behind another window
const { dataset } = document.documentElement;
const { pathname, search } = location;

const theme = recall('theme');
if (theme === 'light' || theme === 'dark') dataset.theme = theme;
sayLanguage(wantedLanguage());

/** The answer with its body read, so that the page has it in its first frame. */
async function read(response) {
  if (response.ok) {
    const body = await response.json();
    response.json = async () => body;
  }
  return response;
}

const path = firstPath(pathname, search);
if (path) {
  const response = fetch(`/api/v1/${path}`, { headers: { Accept: 'application/json' } }).then(read);
  window.firstAnswer = { path, response };
  response.catch(() => {}); // said when the page asks for it
}

const add = (tag, props) => document.head.append(Object.assign(document.createElement(tag), props));
if (drawsCharts(pathname, search)) add('link', { rel: 'preload', as: 'script', crossOrigin: '', href: dataset.charts });

let begun = false;
function begin() {
  if (begun) return;
  begun = true;
  add('script', { type: 'module', src: dataset.main });
}
setTimeout(begin, PATIENCE_MS);
requestAnimationFrame(() => setTimeout(begin));
