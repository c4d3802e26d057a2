// Starts the dashboard: header, routing, keyboard, the line's badge. Pages are in pages/, one file each (a run has some
// more); only the chart library is fetched later.
import { debounce, fill, h, setText } from './dom.js';
import { chooseLanguage, switchLanguage, t } from './i18n.js';
import { nextTheme, onTheme, themeChoice } from './theme.js';
import { go, onRoute, href, route } from './router.js';
import { explain, get, onUnauthorized, signIn, signOut } from './api.js';
import { on, retryStream, start, streamState } from './store.js';
import { remember } from './memory.js';
import { dialog } from './widgets.js';
import { duration } from './format.js';
import { NAV } from './first.js';
import * as runsPage from './pages/runs.js';
import * as runPage from './pages/run.js';
import * as comparePage from './pages/compare.js';
import * as sweepsPage from './pages/sweeps.js';
import * as datasetsPage from './pages/datasets.js';
import * as modelsPage from './pages/models.js';
import * as newPage from './pages/new.js';
import * as systemPage from './pages/system.js';

const pages = {
  runs: runsPage,
  compare: comparePage,
  sweeps: sweepsPage,
  datasets: datasetsPage,
  models: modelsPage,
  new: newPage,
  system: systemPage,
};
const LOST_GRACE_MS = 1500; // a reconnect shorter than this is not worth a badge

const root = document.getElementById('page');
const header = document.getElementById('top');
let current = null; // {key, page}

// ---- header ----
const badge = h('button', { type: 'button', class: 'line-state', onclick: retryStream });
const badgeText = h('span', { role: 'status' });
// Hidden until it says something: a link without text is one that a screen reader cannot name.
const queueText = h('a', { class: 'queue num', hidden: true, href: href(['runs'], { status: 'running,queued', sort: 'queue' }) });

function drawHeader() {
  const { parts } = route();
  fill(
    header,
    h('a', { class: 'brand', href: '/runs' }, 'distilld'),
    h(
      'nav',
      { 'aria-label': t('nav.main') },
      NAV.map((key) => h('a', { href: `/${key}`, 'aria-current': parts[0] === key ? 'page' : null }, t(`nav.${key}`))),
    ),
    h('span', { class: 'spring' }),
    queueText,
    badge,
    h(
      'button',
      { type: 'button', class: 'quiet', lang: t('language.other_tag'), onclick: changeLanguage },
      t('language.other'),
    ),
    h(
      'button',
      {
        type: 'button',
        class: 'quiet theme',
        title: t('theme.label', { theme: t(`theme.${themeChoice()}`) }),
        'aria-label': t('theme.label', { theme: t(`theme.${themeChoice()}`) }),
        onclick: changeTheme,
      },
      { system: '◐', light: '○', dark: '●' }[themeChoice()],
    ),
    session?.expires_at &&
      h(
        'button',
        { type: 'button', class: 'quiet sign-out', title: t(session.scope === 'full' ? 'token.full' : 'token.read', session), onclick: leave },
        t('action.sign_out'),
      ),
    h(
      'button',
      { type: 'button', class: 'quiet', 'aria-label': t('help.title'), title: t('help.title'), onclick: showHelp },
      '?',
    ),
  );
  drawBadge();
}

function changeTheme() {
  nextTheme();
  drawHeader();
  header.querySelector('.theme').focus();
}

function changeLanguage() {
  switchLanguage();
  current?.page.stop();
  current = null;
  drawHeader();
  navigate();
}

function drawBadge() {
  const { state, since } = streamState();
  const away = Date.now() - since;
  const lost = state === 'lost' && away > LOST_GRACE_MS;
  badge.className = `line-state ${lost || state === 'refused' ? 'lost' : state === 'live' ? 'live' : 'connecting'}`;
  const text =
    state === 'refused'
      ? t('line.refused')
      : lost
        ? t('line.lost', { time: duration(Math.round(away / 1000)) })
        : state === 'live'
          ? t('line.live')
          : t('line.connecting');
  fill(badge, h('span', { class: 'dot', 'aria-hidden': 'true' }), h('span', { class: 'line-text' }, text));
  badge.title = t('line.retry');
  setText(badgeText, lost ? t('line.lost_short') : '');
}
setInterval(() => streamState().state === 'lost' && drawBadge(), 1000);

const drawQueue = debounce(async () => {
  try {
    const { queue } = await get('system');
    if (!queue) return;
    setText(queueText, t('header.queue', { running: queue.running ?? 0, queued: queue.queued ?? 0 }));
    queueText.hidden = false;
  } catch {
    // the badge says that the daemon is away
  }
}, 300);

// ---- keyboard ----
const HELP = ['/', 'j', 'k', 'x', 'c', 'Enter', 'l', 's', '[', ']', 'g', '?'];
function showHelp() {
  dialog(t('help.title'), () => [
    h(
      'table',
      { class: 'data keys' },
      h(
        'tbody',
        {},
        HELP.map((key) => h('tr', {}, h('th', { scope: 'row' }, h('kbd', {}, key)), h('td', {}, t(`key.${key}`)))),
      ),
    ),
    h('p', { class: 'faint' }, t('help.charts')),
  ]);
}

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const { target } = event;
  if (target.closest('dialog')) return;
  const typing = target.matches('textarea, select, input:not([type=checkbox]):not([type=radio]):not([type=range])');
  if (typing) {
    if (event.key === 'Escape') target.blur();
    return;
  }
  if (event.key === 'Enter' && target.closest('a, button, summary')) return;
  const action = { ...current?.page.keys, '?': showHelp, g: () => go(['runs']) }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// ---- routing ----
function navigate() {
  const now = route();
  const key = now.parts.slice(0, 2).join('/');
  for (const link of header.querySelectorAll('nav a')) {
    if (link.getAttribute('href') === `/${now.parts[0]}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (current?.key !== key) {
    current?.page.stop();
    current = null;
    const module = now.parts[0] === 'runs' && now.parts[1] ? runPage : pages[now.parts[0]];
    if (!module) {
      fill(
        root,
        h(
          'div',
          { class: 'page' },
          h('h1', {}, t('page.unknown')),
          h('a', { class: 'button', href: '/runs' }, t('nav.runs')),
        ),
      );
      return;
    }
    scrollTo(0, 0);
    current = { key, page: module.mount(root, now) };
    document.title = `${current.page.title?.() ?? t(`nav.${now.parts[0]}`)} · distilld`;
  }
  current.page.update(route());
}

// ---- who we are ----
let session = null; // what the daemon says of us, where a token is needed

async function askToken() {
  if (document.querySelector('dialog')) return;
  const signedIn = await dialog(t('token.title'), (close) => {
    const input = h('input', { type: 'password', autocomplete: 'current-password', 'aria-label': t('token.title') });
    const fault = h('p', { class: 'bad', role: 'alert' });
    const submit = async (event) => {
      event.preventDefault();
      try {
        await signIn(input.value.trim());
        close(true);
      } catch (problem) {
        setText(fault, explain(problem));
        input.select();
      }
    };
    return h(
      'form',
      { class: 'fields', onsubmit: submit },
      h('p', {}, t('token.text')),
      input,
      fault,
      h('div', { class: 'dialog-foot' }, h('button', { type: 'submit', class: 'primary' }, t('action.sign_in'))),
    );
  });
  if (signedIn) location.reload();
}

async function leave() {
  try {
    await signOut();
  } catch {
    // then there is no session either
  }
  location.reload();
}

async function lookWhoWeAre() {
  remember('token', null); // earlier versions kept the token itself
  try {
    session = await get('session');
  } catch {
    return; // askToken has been called, or the badge says that the daemon is away
  }
  drawHeader();
}

chooseLanguage();
drawHeader();
document.body.append(h('div', { class: 'sr' }, badgeText));
onUnauthorized(askToken);
onTheme(drawHeader);
on('stream', drawBadge);
on('state', drawQueue);
on('gone', drawQueue);
onRoute(navigate);
start();
navigate();
drawQueue();
lookWhoWeAre();
