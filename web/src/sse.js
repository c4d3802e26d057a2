// Reads the daemon's Server-Sent Events with fetch, which, unlike EventSource, tells why it was refused and when
// exactly the line was lost. Reconnects with growing pauses and Last-Event-ID. Used by the shared worker, and by the
// page itself where a browser has no shared workers.

const SILENCE_MS = 40000; // the server says something at least every 15 s
const PAUSES_MS = [250, 500, 1000, 2000, 4000, 8000];

/** Splits a chunked text into events; returns a function to feed. Exported for its test. */
export function parser(onEvent) {
  let buffer = '';
  let event = { type: 'message', data: [], id: '' };
  return (chunk) => {
    buffer += chunk;
    const lines = buffer.split(/\r\n|\n/);
    buffer = lines.pop();
    for (const line of lines) {
      if (line === '') {
        if (event.data.length || event.type === 'reset') onEvent(event.type, event.data.join('\n'), event.id);
        event = { type: 'message', data: [], id: event.id };
        continue;
      }
      if (line.startsWith(':')) continue;
      const colon = line.indexOf(':');
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'event') event.type = value;
      else if (field === 'data') event.data.push(value);
      else if (field === 'id') event.id = value;
    }
  };
}

/**
 * Keeps one stream open until stop() is called.
 * url may be a function, asked at each connection; reopen() connects again at once where the last event was.
 * onEvent(type, data) gets parsed JSON; onState(state) gets 'live', 'lost' or 'refused'.
 */
export function openStream({ url, onEvent, onState }) {
  let stopped = false;
  let lastId = '';
  let failures = 0;
  let controller = null;
  let wake = () => {};
  let reopening = false;
  let live = false;

  async function readOnce() {
    controller = new AbortController();
    const sent = { Accept: 'text/event-stream' };
    if (lastId) sent['Last-Event-ID'] = lastId;
    const response = await fetch(typeof url === 'function' ? url() : url, { headers: sent, cache: 'no-store', signal: controller.signal });
    if (!response.ok) {
      if (response.status === 401 || response.status === 403) onState('refused');
      throw new Error(`HTTP ${response.status}`);
    }
    failures = 0;
    live = true;
    onState('live');
    const feed = parser((type, text, id) => {
      if (id) lastId = id;
      let data = null;
      try {
        data = text ? JSON.parse(text) : null;
      } catch {
        return; // a damaged event is dropped; the next GET repairs what it would have said
      }
      onEvent(type, data);
    });
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const silence = setTimeout(() => controller.abort(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(silence));
      if (done) return;
      feed(decoder.decode(value, { stream: true }));
    }
  }

  async function loop() {
    while (!stopped) {
      try {
        await readOnce();
      } catch {
        // said through onState below
      }
      live = false;
      if (stopped) return;
      if (reopening) {
        reopening = false;
        continue;
      }
      onState('lost');
      const pause = PAUSES_MS[Math.min(failures++, PAUSES_MS.length - 1)];
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, pause);
      });
    }
  }
  loop();

  return {
    reopen() {
      if (!live) return; // the next connection asks anew anyway
      reopening = true;
      controller.abort();
    },
    retry() {
      failures = 0;
      wake();
    },
    stop() {
      stopped = true;
      controller?.abort();
      wake();
    },
  };
}
