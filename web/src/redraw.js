// When charts are drawn: at most once a second, only while the page is visible and the element on screen. A redraw that
// was asked for while hidden happens when the element is seen again.

const INTERVAL_MS = 1000;

/**
 * Returns {ask, now, stop}: ask() draws within a second if seen; now() draws at once if seen. `seen`: what stands at
 * the top of a page is drawn with its first frame, and not only when the browser has said that it is in view.
 */
export function redrawer(element, draw, seen = false) {
  let wanted = true;
  let last = 0;
  let timer = 0;
  let frame = 0;

  function attempt() {
    timer = 0;
    if (!wanted || !seen || document.hidden) return;
    const wait = last + INTERVAL_MS - performance.now();
    if (wait > 0) {
      timer = setTimeout(attempt, wait);
      return;
    }
    flush();
  }
  function flush() {
    if (!seen || document.hidden) return;
    wanted = false;
    last = performance.now();
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(draw);
  }
  const observer = new IntersectionObserver(
    (entries) => {
      seen = entries[entries.length - 1].isIntersecting;
      if (seen && wanted) flush();
    },
    { rootMargin: '100px' },
  );
  observer.observe(element);
  const onVisible = () => !document.hidden && wanted && flush();
  document.addEventListener('visibilitychange', onVisible);

  return {
    ask() {
      wanted = true;
      if (!timer) attempt();
    },
    now() {
      wanted = true;
      flush();
    },
    stop() {
      clearTimeout(timer);
      cancelAnimationFrame(frame);
      observer.disconnect();
      document.removeEventListener('visibilitychange', onVisible);
    },
  };
}
