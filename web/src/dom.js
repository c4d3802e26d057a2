// Building DOM without markup strings: nothing the server says is ever parsed as HTML, and no style attribute is
// written (the page's Content-Security-Policy forbids both inline style and inline script).

const SVG = 'http://www.w3.org/2000/svg';

function apply(element, props) {
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'vars') for (const [name, v] of Object.entries(value)) element.style.setProperty(name, v);
    else if (key === 'dataset') Object.assign(element.dataset, value);
    else if (key === 'value' || key === 'checked' || key === 'indeterminate' || key === 'hidden') element[key] = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === '') continue;
    element.append(child);
  }
}

/** h('td', {class: 'num', onclick: f, vars: {'--w': '3px'}}, 'text', child, [children]) */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  append(element, children);
  apply(element, props); // after the children, so that `value` of a select finds its options
  return element;
}

export function svg(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  apply(element, props);
  append(element, children);
  return element;
}

/** Replaces the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** Sets text only when it differs, so that live regions and selections are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Calls fn at most once in `ms`, with the last arguments; .cancel() drops a pending call. */
export function debounce(fn, ms) {
  let timer = 0;
  const run = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => fn(...args), ms);
  };
  run.cancel = () => clearTimeout(timer);
  return run;
}
