// This page's end of the event stream. One stream per browser: a shared worker holds it; browsers without shared
// workers hold one per tab.
import { openStream } from './sse.js';
import { eventWants } from './wants.js';

/* global STREAM_WORKER: the hashed path of the worker, put in by build.mjs */

/** onEvent(type, data); onState(name, sinceMs). Returns {retry, want}: want(id) asks for the steps of a run. */
export function connect(onEvent, onState) {
  if (typeof SharedWorker === 'function') {
    const worker = new SharedWorker(STREAM_WORKER, { name: 'distilld-events' });
    const { port } = worker;
    port.onmessage = ({ data }) => {
      if (data.state) onState(data.state, data.since);
      else onEvent(data.type, data.data);
    };
    const hello = (extra = {}) => port.postMessage({ hello: true, ...extra });
    hello();
    addEventListener('pagehide', () => port.postMessage({ bye: true }));
    addEventListener('pageshow', (event) => event.persisted && location.reload());
    addEventListener('online', () => hello({ retry: true }));
    return { retry: () => hello({ retry: true }), want: (id) => port.postMessage({ want: id }) };
  }
  let known = '';
  const wants = eventWants(() => stream.reopen());
  const stream = openStream({
    url: wants.url,
    onEvent,
    onState: (name) => {
      if (name !== known) onState(name, Date.now());
      known = name;
    },
  });
  addEventListener('online', () => stream.retry());
  return { retry: stream.retry, want: (id) => wants.set('page', id) };
}
