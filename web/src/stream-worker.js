// The shared worker: one event stream for all tabs of a browser (HTTP/1.1 allows six connections to a host).
// Pages post {hello} when they open and {want: id} when they show a run's steps; the worker posts {state, since} and {type, data} to every page.
import { openStream } from './sse.js';
import { eventWants } from './wants.js';

const ports = new Set();
let stream = null;
let state = { state: 'connecting', since: Date.now() };

const wants = eventWants(() => stream?.reopen());

function tell(message) {
  for (const port of ports) port.postMessage(message);
}

function start() {
  stream = openStream({
    url: wants.url,
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
      wants.set(port, null);
      return;
    }
    if ('want' in data) {
      wants.set(port, data.want);
      return;
    }
    if (!stream) start();
    else if (data.retry || state.state !== 'live') stream.retry(); // a page that opens may have just signed in
    port.postMessage(state);
  };
};
