// Small helpers for building pages by hand: elements, icons, numbers as text. No library, no build step.

/** An HTML element: h('div', {class: 'a', onclick: f, aria: {label: 'x'}}, 'text', child). */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG elements. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children);
}

function fill(node, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key === 'aria') for (const [k, v] of Object.entries(value)) node.setAttribute(`aria-${k}`, v);
    else if (key === 'style' && typeof value === 'object') for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Every icon is one path in a box of 24 × 24.
const ICONS = {
  play: 'M7 4.5v15l12-7.5z', pause: 'M6.5 4.5h4v15h-4zM13.5 4.5h4v15h-4z',
  previous: 'M15.5 5v14L6 12zM18 5h1.5v14H18z', next: 'M8.5 5v14L18 12zM4.5 5H6v14H4.5z',
  first: 'M5 5h2v14H5zM19 5v14l-10-7z', last: 'M17 5h2v14h-2zM5 5v14l10-7z',
  loop: 'M7 7h9V4l5 4.5-5 4.5v-3H9v4H7zM17 17H8v3l-5-4.5L8 11v3h7v-4h2z',
  plus: 'M11 5h2v6h6v2h-6v6h-2v-6H5v-2h6z', minus: 'M5 11h14v2H5z',
  fit: 'M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z',
  close: 'M6.4 5 12 10.6 17.6 5 19 6.4 13.4 12l5.6 5.6-1.4 1.4-5.6-5.6L6.4 19 5 17.6l5.6-5.6L5 6.4z',
};

/** An icon that screen readers skip. */
export function icon(name) {
  return s('svg', { viewBox: '0 0 24 24', width: 16, height: 16, fill: 'currentColor', aria: { hidden: 'true' } }, s('path', { d: ICONS[name] }));
}

/** A round button with an icon; `label` is its tooltip and its name for screen readers. */
export function iconButton(name, label, onclick) {
  return h('button', { type: 'button', class: 'sv-icon', title: label, aria: { label }, onclick }, icon(name));
}

/** A row of buttons of which one is pressed; `choices` are [value, text, hint] triples. Has .show(value) and .element. */
export function segmented(label, choices, onpick) {
  const buttons = choices.map(([value, text, hint]) =>
    h('button', { type: 'button', 'data-value': value, title: hint, aria: { pressed: 'false' }, onclick: () => onpick(value) }, text));
  const element = h('div', { class: 'sv-segmented', role: 'group', aria: { label } }, buttons);
  const show = (picked) => buttons.forEach((b) => b.setAttribute('aria-pressed', String(b.dataset.value === picked)));
  return { element, show, buttons };
}

/** A drop-down list with a small caption. */
export function chooser(label, choices, onpick) {
  const list = h('select', { class: 'sv-select', aria: { label }, onchange: () => onpick(list.value) },
    choices.map(([value, text]) => h('option', { value }, text)));
  const element = h('label', { class: 'sv-field' }, h('span', {}, label), list);
  return { element, list, show: (value) => { list.value = value; } };
}

/** A switch that is on or off. */
export function toggle(text, hint, onflip) {
  const element = h('button', { type: 'button', class: 'sv-toggle', role: 'switch', title: hint, aria: { checked: 'false' },
    onclick: () => onflip(element.getAttribute('aria-checked') !== 'true') }, text);
  return { element, show: (on) => element.setAttribute('aria-checked', String(Boolean(on))) };
}

export const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
export const percent = (x) => (x === null || x === undefined || Number.isNaN(x) ? '–' : x === 0 ? '0 %' : x < 0.001 ? '<0.1 %' : `${(100 * x).toFixed(x < 0.0995 ? 1 : 0)} %`);
export const score = (x) => (x === null || x === undefined ? '–' : x.toFixed(3));
export const css = ([r, g, b], alpha = 1) => (alpha === 1 ? `rgb(${r} ${g} ${b})` : `rgb(${r} ${g} ${b} / ${alpha})`);

/** Call `act` at most once per `wait` milliseconds of silence. */
export function debounce(act, wait) {
  let timer = 0;
  return () => { clearTimeout(timer); timer = setTimeout(act, wait); };
}

/** Show a problem inside the widget instead of an empty box. */
export function complain(root, problem) {
  console.error(problem);
  root.append(h('p', { class: 'sv-problem', role: 'alert' }, `The viewer stopped: ${problem.message ?? problem}`));
}
