// The list of classes: what each color means, how much of the frame each class covers, and which classes are drawn.

import { css, h, percent, score } from './dom.js';

export class Legend {
  /** `classes` are [number, name] pairs; `on` has flip(c), only(c), follow(c), all(), none(). */
  constructor(classes, on) {
    this.rows = new Map();
    const button = (text, hint, act) => h('button', { type: 'button', class: 'sv-link', title: hint, onclick: act }, text);
    const list = h('ul', { class: 'sv-classes' }, classes.map(([c, name]) => this.row(c, name, on)));
    this.element = h('aside', { class: 'sv-legend', aria: { label: 'Classes' } },
      h('div', { class: 'sv-legend-bar' }, h('b', {}, 'Classes'), button('all', 'Draw all classes', on.all), button('none', 'Draw no class', on.none),
        h('span', { class: 'sv-push' }), h('span', { class: 'sv-muted' }, 'share'), h('span', { class: 'sv-muted sv-iou' }, 'IoU')), list);
  }
  row(c, name, on) {
    const swatch = h('i', { class: 'sv-swatch' }), bar = h('i', { class: 'sv-bar' }), share = h('span', { class: 'sv-number' }), iou = h('span', { class: 'sv-number sv-iou' });
    const flip = h('button', { type: 'button', class: 'sv-class', title: `${name}: show or hide (shift-click: only this class)`, aria: { pressed: 'true' },
      onclick: (e) => (e.shiftKey ? on.only(c) : on.flip(c)) }, swatch, h('span', { class: 'sv-class-name' }, name), share, iou, bar);
    const small = (text, hint, act) => h('button', { type: 'button', class: 'sv-link', title: hint, aria: { label: hint }, onclick: act }, text);
    const more = h('span', { class: 'sv-more' }, small('only', `Draw only ${name}`, () => on.only(c)), small('follow', `Follow ${name} in the charts`, () => on.follow(c)));
    const item = h('li', { 'data-class': c }, flip, more);
    this.rows.set(c, { item, flip, swatch, bar, share, iou });
    return item;
  }
  /** Colors and hatching of the swatches. */
  paint(colors, hatches) {
    for (const [c, { swatch, bar }] of this.rows) {
      swatch.style.setProperty('--color', css(colors[c])); bar.style.setProperty('--color', css(colors[c]));
      swatch.dataset.hatch = String(hatches ? hatches[c] % 7 : 0);
    }
  }
  /** Which classes are drawn, and which one is pinned. */
  mark(hidden, pinned) {
    for (const [c, { item, flip }] of this.rows) {
      flip.setAttribute('aria-pressed', String(!hidden.includes(c)));
      item.classList.toggle('sv-pinned', c === pinned);
    }
  }
  /** Numbers of one frame: share and, where the truth is known, IoU of each class. */
  update(shares, ious) {
    this.element.classList.toggle('sv-with-iou', Boolean(ious));
    let n = 0;
    for (const { item, bar, share, iou } of this.rows.values()) {
      const part = shares ? shares[n] : null;
      item.classList.toggle('sv-absent', !part && !(ious && ious[n] !== null));
      share.textContent = part ? percent(part) : '–';
      bar.style.setProperty('--share', part ?? 0);
      iou.textContent = ious ? score(ious[n]).replace('0.', '.') : '';
      n++;
    }
  }
}
