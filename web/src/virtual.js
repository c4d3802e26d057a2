// A table of any length of which only the rows in view exist. Rows have one height (the custom property --row of the
// scroller, read anew when the width changes, since a phone has taller rows). Spacer rows stand for what is not built.
// Where the view is and how large is known from its events: to ask the element would have the page laid out at once,
// and once more with the rows that are put in then.

const OVERSCAN = 8;
const focusable = (row) => [...row.querySelectorAll('a, button, input')];

/**
 * scroller: the element that scrolls; body: the <tbody>; columns(): how many cells a spacer spans;
 * render(index): the <tr> of a row; onEnd(): called when the end comes near.
 * Answers {setCount, refresh, refreshRow(index), row(index), rewind, reveal(index), range(), stop}.
 */
export function virtualRows({ scroller, body, columns, render, onEnd, onRange }) {
  const top = spacer();
  const bottom = spacer();
  body.append(top, bottom);
  let count = 0;
  let from = 0;
  let to = 0;
  let rows = new Map();
  let frame = 0;
  let offset = 0; // the scroller's scrollTop
  let room = innerHeight; // and its clientHeight, or more
  let rowHeight = 0; // 0: to be read

  function spacer() {
    const row = document.createElement('tr');
    row.className = 'spacer';
    row.setAttribute('aria-hidden', 'true');
    row.append(document.createElement('td'));
    return row;
  }
  const pixels = (name) => parseFloat(getComputedStyle(scroller).getPropertyValue(name)) || 0;
  const height = () => (rowHeight ||= pixels('--row') || 30);

  function place() {
    frame = 0;
    const h = height();
    const first = Math.max(0, Math.floor(offset / h) - OVERSCAN);
    const last = Math.min(count, Math.ceil((offset + room) / h) + OVERSCAN);
    for (const [index, row] of rows)
      if (index < first || index >= last) {
        row.remove();
        rows.delete(index);
      }
    let next = bottom;
    for (let index = last - 1; index >= first; index--) {
      let row = rows.get(index);
      if (!row) {
        row = render(index);
        rows.set(index, row);
        next.before(row);
      }
      next = row;
    }
    from = first;
    to = last;
    for (const [element, size] of [
      [top, first * h],
      [bottom, (count - last) * h],
    ]) {
      element.firstChild.colSpan = columns();
      element.firstChild.style.height = `${size}px`;
      element.hidden = size === 0;
    }
    onRange?.(from, to);
    if (last >= count - 2 * OVERSCAN) onEnd?.();
  }
  const ask = () => {
    frame ||= requestAnimationFrame(place);
  };
  const scrolled = () => {
    offset = scroller.scrollTop;
    ask();
  };
  scroller.addEventListener('scroll', scrolled, { passive: true });
  const resizer = new ResizeObserver(() => {
    room = scroller.clientHeight;
    rowHeight = 0;
    ask();
  });
  resizer.observe(scroller);

  return {
    /** The list has another length; rows that exist stay. */
    setCount(n) {
      count = n;
      ask();
    },
    /** Builds all rows in view anew. */
    refresh() {
      cancelAnimationFrame(frame);
      for (const row of rows.values()) row.remove();
      rows = new Map();
      place();
    },
    /** Builds one row anew, if it is in view; the focus stays where it was in it. */
    refreshRow(index) {
      const old = rows.get(index);
      if (!old) return;
      const fresh = render(index);
      const focused = focusable(old).indexOf(document.activeElement);
      old.replaceWith(fresh);
      rows.set(index, fresh);
      if (focused >= 0) focusable(fresh)[focused]?.focus({ preventScroll: true });
    },
    row: (index) => rows.get(index) ?? null,
    /** Scrolls to the first row. */
    rewind() {
      if (rows.size) scroller.scrollTop = offset = 0; // at first it is there
    },
    reveal(index) {
      const h = height();
      const head = pixels('--head');
      if (index * h < scroller.scrollTop) scroller.scrollTop = index * h;
      else if ((index + 1) * h + head > scroller.scrollTop + scroller.clientHeight)
        scroller.scrollTop = (index + 1) * h + head - scroller.clientHeight;
      offset = scroller.scrollTop;
      place();
    },
    range: () => [from, to],
    stop() {
      cancelAnimationFrame(frame);
      resizer.disconnect();
      scroller.removeEventListener('scroll', scrolled);
    },
  };
}
