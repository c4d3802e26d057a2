// Which events are asked for. Status, epochs and log lines always; steps only of runs whose page is in view, often at
// first and sparingly after a while, so that a page left open for an hour does not move megabytes.
const FAST_S = 2;
const SLOW_S = 60;
const FAST_FOR_MS = 120000;

/** changed() is called when eventsUrl() has another answer. */
export function eventWants(changed) {
  const wanted = new Map(); // who → run id
  let slow = false;
  let timer = 0;
  let asked = '';
  const url = () => {
    const ids = [...new Set(wanted.values())];
    if (!ids.length) return '/api/v1/events?types=status,epoch,log';
    const of = ids.length === 1 ? `&steps_of=${ids[0]}` : '';
    return `/api/v1/events?types=status,epoch,log,step&step_every=${slow ? SLOW_S : FAST_S}${of}`;
  };
  const tell = () => {
    if (url() === asked) return;
    asked = url();
    changed();
  };
  asked = url();
  return {
    url,
    /** id null: nothing. */
    set(who, id) {
      if ((wanted.get(who) ?? null) === (id ?? null)) return;
      if (id) wanted.set(who, id);
      else wanted.delete(who);
      slow = false;
      clearTimeout(timer);
      timer = setTimeout(() => {
        slow = true;
        tell();
      }, FAST_FOR_MS);
      tell();
    },
  };
}
