// Calls to the daemon's REST interface. Every failure becomes a Problem, whose text is in the reader's language where
// the dictionary knows the code, and the server's own words where it does not. Where a token is needed the browser holds
// a session's cookie, which scripts cannot see; signIn gets it.
import { known, language, t } from './i18n.js';

export { query } from './first.js';

export const BASE = '/api/v1';

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `HTTP ${status}`);
    this.status = status;
    this.code = body.code ?? '';
    this.detail = body.detail ?? body.title ?? '';
    this.errors = body.errors ?? [];
    this.allowedActions = body.allowed_actions ?? [];
  }
}

/**
 * One or two sentences for a person: the code in the reader's language, then the server's detail, which names field and
 * value. The detail is English: an English reader needs no more than that.
 */
export function explain(problem) {
  const key = `problem.${problem.code}`;
  const lead = known(key) ? t(key) : '';
  const rest = problem.errors?.length
    ? problem.errors.map((e) => `${e.pointer} ${e.detail}`).join('; ')
    : (problem.detail ?? problem.message ?? '');
  return lead && rest && language() !== 'en' ? `${lead} ${rest}` : rest || lead || String(problem);
}

let unauthorized = () => {};
export const onUnauthorized = (fn) => (unauthorized = fn);

const FRESH_MS = 5000;

/** The answer that early.js has asked for already, once, and while it is new. */
function early(method, path) {
  const first = window.firstAnswer;
  if (method !== 'GET' || first?.path !== path) return null;
  window.firstAnswer = null;
  return performance.now() < FRESH_MS ? first.response : null;
}

async function request(method, path, { body, headers = {}, accept = 'application/json', signal } = {}) {
  const init = { method, headers: { Accept: accept, ...headers }, signal };
  if (body instanceof FormData) init.body = body;
  else if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers['Content-Type'] = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
  }
  let response;
  try {
    response = await (early(method, path) ?? fetch(path.startsWith('/') ? path : `${BASE}/${path}`, init));
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, { code: 'unreachable', detail: '' });
  }
  if (response.ok) return response;
  const text = await response.text();
  let parsed = {};
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = { detail: text.slice(0, 300) };
  }
  if (response.status === 401 && path !== 'session') unauthorized();
  throw new Problem(response.status, parsed);
}

const answer = async (response) => (response.status === 204 ? null : response.json());

export const get = async (path, options) => answer(await request('GET', path, options));
export const getText = async (path, options) =>
  (await request('GET', path, { accept: 'text/plain', ...options })).text();
export const patch = async (path, body) => answer(await request('PATCH', path, { body }));
export const remove = async (path) => answer(await request('DELETE', path));
/** POST with an Idempotency-Key, so that a retry after a lost answer does nothing twice; `once: false` for questions. */
export const post = async (path, body, { once = true, ...options } = {}) =>
  answer(await request('POST', path, { body, ...options, headers: once ? { 'Idempotency-Key': randomKey() } : {} }));

/** The token for a cookie; fails with a Problem when it is wrong. */
export const signIn = (token) => post('session', { token }, { once: false });
export const signOut = () => remove('session');

function randomKey() {
  const raw = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(raw, (b) => b.toString(16).padStart(2, '0')).join('');
}
