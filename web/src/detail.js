// The rows that a chart of one run draws: those in the store or, of a part that is zoomed into, all that the daemon has
// of it. Zooming into a history that came whole needs no question; nor does smoothing it.

/**
 * load(tau) answers the rows in the store, with averages where they have to come from the daemon; held() those that are
 * there at once; read(first, last, tau) rows of a part; xOf(rows) where they lie on the axis; range() what is zoomed into
 * or null; tau() of the averages; changed() is called when rows() may have another answer, failed(problem) when load did.
 */
export function detail({ load, held, read, xOf, range, tau, changed, failed = () => {} }) {
  let part = null; // rows of the zoom
  let shown = '';

  async function ask() {
    const averages = tau();
    const whole = await load(averages);
    const between = range();
    const keys = between && whole.reduced && whole.length ? whole.keysBetween(xOf(whole), ...between) : null;
    const wanted = keys ? [...keys, averages].join() : '';
    if (wanted === shown) return;
    shown = wanted;
    try {
      const rows = keys ? await read(...keys, averages) : null;
      if (shown !== wanted) return; // the reader has gone on
      part = rows;
    } catch {
      shown = '?'; // asked again with the next change
    }
  }

  return {
    /** To be called when zoom or smoothing may have changed. */
    ask: () => ask().then(changed, failed),
    rows() {
      const whole = held();
      if (!part || !range()) return whole;
      if (whole?.last > part.last && xOf(whole).at(-1) <= range()[1]) part.addFrom(whole); // what came since
      return part;
    },
  };
}
