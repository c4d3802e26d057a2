// The shared worker: one event stream for all tabs of a browser (HTTP/1.1 allows six connections to a host).
// Pages post {token} when they open; the worker posts {state, since} and {type, data} to every page.
import { openStream } from './sse.js';

const ports = new Set();
let stream = null;
let token = '';
let state = { state: 'connecting', since: Date.now() };

function tell(message) {
  for (const port of ports) port.postMessage(message);
}

function start() {
  stream = openStream({
    url: '/api/v1/events',
    headers: () => (token ? { Authorization: `Bearer ${token}` } : {}),
    onEvent: (type, data) => tell({ type, data }),
    onState: (name) => {
      if (name !== state.state) state = { state: name, since: Date.now() };
      tell(state);
    },
  });
}

self.onconnect = (event) => {
  const port = event.ports[0];
  ports.add(port);
  port.onmessage = ({ data }) => {
    if (data.bye) {
      ports.delete(port);
      return;
    }
    const changed = (data.token ?? '') !== token;
    token = data.token ?? '';
    if (!stream) start();
    else if (changed || data.retry) stream.retry();
    port.postMessage(state);
  };
};
