// The picture area: one or two panes on one canvas, with zoom, pan, a divider for swiping, and a tooltip.

import { clamp, css, h, iconButton, percent } from './dom.js';

const GAP = 6;                                         // between two panes, screen pixels
const MAX_ZOOM = 24;

export class Stage {
  /** `size` is [width, height] of the clip; `onpick(x, y, pane)`, `describe(x, y, pane)`, `onswipe(share)` are called back. */
  constructor(size, { onpick, describe, onswipe, onresize }) {
    [this.W, this.H] = size;
    Object.assign(this, { onpick, describe, onswipe, onresize, zoom: 1, center: [this.W / 2, this.H / 2], count: 1, swipe: null });
    this.canvas = h('canvas', { class: 'sv-canvas', role: 'img' });
    this.context = this.canvas.getContext('2d');
    this.names = [h('span', { class: 'sv-name' }), h('span', { class: 'sv-name' })];
    this.tip = h('div', { class: 'sv-tip', hidden: true });
    this.cross = h('div', { class: 'sv-cross', hidden: true });
    this.divider = h('div', { class: 'sv-divider', tabindex: 0, role: 'slider', hidden: true,
      aria: { label: 'Divider between the two layers', orientation: 'horizontal', valuemin: 0, valuemax: 100, valuenow: 50 } }, h('span', {}));
    const tools = h('div', { class: 'sv-zoom' }, iconButton('plus', 'Zoom in (+)', () => this.zoomBy(1.5)),
      iconButton('minus', 'Zoom out (-)', () => this.zoomBy(1 / 1.5)), iconButton('fit', 'Whole picture (z)', () => this.reset()));
    this.element = h('div', { class: 'sv-stage' }, this.canvas, this.names, this.cross, this.divider, this.tip, tools);
    this.listen();
    this.watcher = new ResizeObserver(() => { if (this.measure()) onresize(); });
    this.watcher.observe(this.element);
  }
  stop() { this.watcher.disconnect(); }

  // --- where things are ---------------------------------------------------------------------------------------------

  /** Lay out the panes for the present width; true if anything changed. */
  measure() {
    const width = this.element.clientWidth;
    if (!width) return false;
    const tall = clamp(window.innerHeight * 0.7, 240, 720), { W, H, count } = this;
    const rowScale = Math.min((width - GAP * (count - 1)) / count / W, tall / H);
    const columnScale = Math.min(width / W, (tall - GAP * (count - 1)) / count / H);
    const stacked = count > 1 && width < 620 && columnScale > rowScale;        // on narrow pages one above the other
    const scale = stacked ? columnScale : rowScale;
    const paneW = stacked || count === 1 ? width : (width - GAP * (count - 1)) / count, paneH = Math.round(H * scale);
    this.panes = Array.from({ length: count }, (_, n) => ({ x: stacked ? 0 : n * (paneW + GAP), y: stacked ? n * (paneH + GAP) : 0, w: paneW, h: paneH }));
    const height = stacked ? count * paneH + GAP * (count - 1) : paneH, ratio = Math.min(window.devicePixelRatio || 1, 2);
    const key = [width, height, ratio, count, stacked].join();
    if (key === this.key) return false;
    this.key = key; this.ratio = ratio; this.base = scale;
    this.canvas.width = Math.round(width * ratio); this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    return true;
  }
  /** One or two panes. */
  setPanes(count) { if (count !== this.count) { this.count = count; this.measure(); } }

  get scale() { return this.base * this.zoom; }

  keepInside() {
    const pane = this.panes[0];
    [this.W, this.H].forEach((size, i) => {
      const half = (i ? pane.h : pane.w) / 2 / this.scale;
      this.center[i] = half >= size / 2 ? size / 2 : clamp(this.center[i], half, size - half);
    });
  }
  /** Screen position inside the canvas to [x, y, pane] of the picture; null outside. */
  locate(left, top) {
    for (const [n, pane] of this.panes.entries()) {
      if (left < pane.x || left >= pane.x + pane.w || top < pane.y || top >= pane.y + pane.h) continue;
      const x = Math.floor((left - pane.x - pane.w / 2) / this.scale + this.center[0]);
      const y = Math.floor((top - pane.y - pane.h / 2) / this.scale + this.center[1]);
      if (x < 0 || y < 0 || x >= this.W || y >= this.H) return null;
      return [x, y, this.swipe !== null && left > this.dividerAt() ? 1 : n];
    }
    return null;
  }
  /** The same backwards: the screen position of picture point (x, y) in a pane. */
  screen(x, y, n) {
    const pane = this.panes[n];
    return [pane.x + pane.w / 2 + (x - this.center[0]) * this.scale, pane.y + pane.h / 2 + (y - this.center[1]) * this.scale];
  }
  dividerAt() {
    const pane = this.panes[0], wide = Math.min(pane.w, this.W * this.scale);
    return pane.x + (pane.w - wide) / 2 + this.swipe * wide;
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  /** Draw `picture` with one surface per layer. `swipe` (0..1) cuts one pane between two layers. */
  paint({ picture, surfaces, names, swipe }) {
    this.swipe = swipe;
    this.setPanes(swipe === null ? Math.max(surfaces.length, 1) : 1);
    if (!this.panes) this.measure();
    if (!this.panes) return;                           // not on the page yet
    this.last = { picture, surfaces, names };
    this.redraw();
  }
  redraw() {
    if (!this.last || !this.panes) return;
    const { context: g, ratio, last: { picture, surfaces, names } } = this;
    if (!picture.width) { this.onresize(); return; }   // the cache has thrown it away meanwhile: fetch it again
    this.keepInside();
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const areas = this.panes.map((pane, n) => [pane, surfaces[n]]);
    if (this.swipe !== null) {
      const pane = this.panes[0], cut = this.dividerAt();
      areas[0] = [{ ...pane, clipTo: cut }, surfaces[0]]; areas.push([{ ...pane, clipFrom: cut }, surfaces[1]]);
    }
    for (const [pane, surface] of areas) this.drawPane(g, ratio, pane, picture, surface);
    this.placeNames(names);
  }
  drawPane(g, ratio, pane, picture, surface) {
    const left = pane.clipFrom ?? pane.x, right = pane.clipTo ?? pane.x + pane.w, k = this.scale * ratio;
    g.save();
    g.beginPath(); g.rect(left * ratio, pane.y * ratio, (right - left) * ratio, pane.h * ratio); g.clip();
    g.setTransform(k, 0, 0, k, (pane.x + pane.w / 2 - this.center[0] * this.scale) * ratio, (pane.y + pane.h / 2 - this.center[1] * this.scale) * ratio);
    g.imageSmoothingEnabled = k < 3; g.imageSmoothingQuality = 'low';
    g.drawImage(picture, 0, 0, this.W, this.H);
    if (surface) { g.imageSmoothingEnabled = k < surface.zoom; g.drawImage(surface.canvas, 0, 0, this.W, this.H); }
    g.restore();
  }
  placeNames(names) {
    const spots = this.swipe === null ? this.panes.map((pane) => [pane.x, pane.y, '']) : [[this.panes[0].x, this.panes[0].y, ''], [null, this.panes[0].y, '']];
    this.names.forEach((label, n) => {
      label.hidden = !names[n] || !spots[n];
      if (label.hidden) return;
      const [x, y] = spots[n];
      if (label.textContent !== names[n]) label.textContent = names[n];
      Object.assign(label.style, x === null ? { left: 'auto', right: '8px', top: `${y + 8}px` } : { left: `${x + 8}px`, right: 'auto', top: `${y + 8}px` });
    });
    this.divider.hidden = this.swipe === null;
    if (this.swipe !== null) {
      Object.assign(this.divider.style, { left: `${this.dividerAt()}px`, height: `${this.panes[0].h}px` });
      this.divider.setAttribute('aria-valuenow', String(Math.round(100 * this.swipe)));
    }
  }

  // --- zoom and pan -------------------------------------------------------------------------------------------------

  zoomBy(factor, around = null) {
    const before = this.zoom;
    this.zoom = clamp(this.zoom * factor, 1, MAX_ZOOM);
    if (around) {                                      // the point under the pointer stays where it is
      const grow = 1 - before / this.zoom;
      this.center = this.center.map((c, i) => c + (around[i] - c) * grow);
    }
    this.redraw();
    this.element.classList.toggle('sv-zoomed', this.zoom > 1);
  }
  pan(dx, dy) { this.center = [this.center[0] - dx / this.scale, this.center[1] - dy / this.scale]; this.redraw(); }
  reset() { this.zoom = 1; this.center = [this.W / 2, this.H / 2]; this.redraw(); this.element.classList.remove('sv-zoomed'); }

  // --- pointer ------------------------------------------------------------------------------------------------------

  listen() {
    const { canvas } = this;
    let grip = null;
    canvas.addEventListener('pointerdown', (e) => { grip = { x: e.clientX, y: e.clientY, moved: false }; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener('pointermove', (e) => {
      if (grip && (grip.moved || Math.hypot(e.clientX - grip.x, e.clientY - grip.y) > 4)) {
        grip.moved = true; this.pan(e.clientX - grip.x, e.clientY - grip.y); grip.x = e.clientX; grip.y = e.clientY;
      }
      this.hover(e);
    });
    canvas.addEventListener('pointerup', (e) => {
      if (grip && !grip.moved) { const at = this.locate(e.offsetX, e.offsetY); if (at) this.onpick(...at); }
      grip = null;
    });
    canvas.addEventListener('pointercancel', () => { grip = null; });
    canvas.addEventListener('pointerleave', () => { this.pointer = null; this.tip.hidden = true; this.cross.hidden = true; });
    canvas.addEventListener('wheel', (e) => {
      if (!e.ctrlKey && !e.metaKey) return;            // the plain wheel keeps scrolling the notebook
      e.preventDefault();
      this.zoomBy(Math.exp(-e.deltaY * 0.004), this.locate(e.offsetX, e.offsetY));
    }, { passive: false });
    this.listenToDivider();
  }
  listenToDivider() {
    const { divider } = this;
    const follow = (e) => {
      const box = this.canvas.getBoundingClientRect(), pane = this.panes[0], wide = Math.min(pane.w, this.W * this.scale);
      this.onswipe(clamp((e.clientX - box.left - pane.x - (pane.w - wide) / 2) / wide, 0, 1));
    };
    divider.addEventListener('pointerdown', (e) => { divider.setPointerCapture(e.pointerId); divider.onpointermove = follow; });
    divider.addEventListener('pointerup', () => { divider.onpointermove = null; });
    divider.addEventListener('keydown', (e) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[e.key];
      if (step) { this.onswipe(clamp(this.swipe + step, 0, 1)); e.preventDefault(); e.stopPropagation(); }
    });
  }
  hover(e) {
    this.pointer = [e.offsetX, e.offsetY];
    this.explain();
  }
  /** Fill the tooltip for the place under the pointer; also called when the frame changes under a resting pointer. */
  async explain() {
    const at = this.pointer && this.panes ? this.locate(...this.pointer) : null;
    if (!at) { this.tip.hidden = this.cross.hidden = true; return; }
    const lines = await this.describe(...at);
    if (!this.pointer) return;                         // the pointer left while the answer was on its way
    this.tip.replaceChildren(...lines.map(({ name, color, note, dim }) => h('div', { class: dim ? 'sv-dim' : null },
      color ? h('i', { class: 'sv-swatch', style: { '--color': css(color) } }) : null, h('b', {}, name), note ? h('span', {}, note) : null)));
    const [left, top] = this.pointer, wide = this.element.clientWidth;
    this.tip.hidden = false;
    Object.assign(this.tip.style, left > wide * 0.6 ? { left: 'auto', right: `${wide - left + 14}px` } : { left: `${left + 14}px`, right: 'auto' },
      { top: `${clamp(top - 10, 4, Math.max(this.element.clientHeight - this.tip.offsetHeight - 6, 4))}px` });
    this.cross.hidden = this.count < 2;
    if (this.count > 1) { const [x, y] = this.screen(at[0] + 0.5, at[1] + 0.5, 1 - at[2]); Object.assign(this.cross.style, { left: `${x}px`, top: `${y}px` }); }
  }
}
export const asNote = (share) => (share === null || share === undefined ? null : `${percent(share)} sure`);
