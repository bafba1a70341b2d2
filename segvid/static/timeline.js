// Everything that runs along the time axis: the slider, the strip chart, and the history of one pixel.
// All of them share one horizontal scale, so that what stands below the thumb belongs to the frame on show.

import { clamp, css, h, s } from './dom.js';
import { heat } from './paint.js';

const THUMB = 8;                                       // half the slider's thumb: where frame 0 and the last frame lie
export const LINES = ['', '6 3', '2 3', '8 3 2 3', '1 2', '10 4'].map((dash, n) => [`var(--sv-curve-${n})`, dash]);   // colors: viewer.css

export class StripChart {
  /** `count` frames; `onseek(t)` when the user points at one. */
  constructor(count, onseek, { height = 96, limits = [0, 1] } = {}) {
    Object.assign(this, { count, onseek, height, limits, series: [], rows: null, frame: 0 });
    this.lines = s('g', {}); this.grid = s('g', { class: 'sv-grid' }); this.marks = s('g', { class: 'sv-marks' }); this.dots = s('g', {});
    this.cursor = s('line', { class: 'sv-cursor', y1: 0, y2: height });
    this.svg = s('svg', { class: 'sv-plot', height, aria: { hidden: 'true' } }, this.grid, this.lines, this.marks, this.cursor, this.dots);
    this.map = h('canvas', { class: 'sv-map', hidden: true });
    this.element = h('div', { class: 'sv-chart' }, this.map, this.svg);
    const point = (e) => { const box = this.svg.getBoundingClientRect(); this.onseek(this.frameAt(e.clientX - box.left)); };
    this.svg.addEventListener('pointerdown', (e) => { this.svg.setPointerCapture(e.pointerId); this.held = true; point(e); });
    this.svg.addEventListener('pointermove', (e) => { if (this.held) point(e); });
    this.svg.addEventListener('pointerup', () => { this.held = false; });
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.element);
  }
  stop() { this.watcher.disconnect(); }

  get step() { return (this.width - 2 * THUMB) / Math.max(this.count - 1, 1); }
  x(t) { return THUMB + t * this.step; }
  y(v) { return 4 + (1 - (v - this.low) / (this.high - this.low)) * (this.height - 8); }
  frameAt(x) { return clamp(Math.round((x - THUMB) / this.step), 0, this.count - 1); }

  /** Curves: [{name, values, color, dash}]; values are numbers in 0..1 or null. */
  showLines(series, marks = []) { this.rows = null; this.series = series; this.marked = marks; this.scaleTo(series); this.draw(); }
  /** One colored strip per row: values (rows × count) in 0..1 or null. */
  showRows(rows) { this.rows = rows; this.series = []; this.marked = []; this.draw(); }

  /** Round ends of the scale around the curves, so that values between 0.9 and 1 are not a flat line at the top. */
  scaleTo(series) {
    const all = series.flatMap(({ values }) => values.filter((v) => v !== null)), [floor, ceiling] = this.limits;
    const least = all.length ? Math.min(...all) : 0, most = all.length ? Math.max(...all) : 1, range = Math.max(most - least, 0.01 * Math.abs(most), 1e-9);
    const decade = 10 ** Math.floor(Math.log10(range)), unit = [1, 0.5, 0.2].map((part) => part * decade).find((u) => u <= range) ?? decade;
    this.low = Math.max(floor, Math.floor(least / unit + 1e-6) * unit);
    this.high = Math.min(ceiling, Math.ceil(most / unit - 1e-6) * unit);
    if (this.high - this.low < unit / 2) this.low = Math.max(floor, this.high - unit);
    if (this.high - this.low < unit / 2) this.high = this.low + unit;
  }
  draw() {
    this.width = this.element.clientWidth;
    if (!this.width) return;
    this.svg.setAttribute('viewBox', `0 0 ${this.width} ${this.height}`);
    this.map.hidden = !this.rows;
    for (const group of [this.grid, this.lines, this.marks, this.dots]) group.replaceChildren();
    if (this.rows) this.drawRows(); else this.drawLines();
    this.moveTo(this.frame);
  }
  drawLines() {
    for (const share of [0, 0.5, 1]) {
      const v = this.low + share * (this.high - this.low);
      this.grid.append(s('line', { x1: 0, x2: this.width, y1: this.y(v), y2: this.y(v) }));
    }
    for (const { values, color, dash } of this.series) {
      let path = '', pen = false;
      values.forEach((v, t) => { if (v === null) { pen = false; return; } path += `${pen ? 'L' : 'M'}${this.x(t).toFixed(1)} ${this.y(v).toFixed(1)}${pen ? '' : 'l0 0'}`; pen = true; });
      this.lines.append(s('path', { d: path, fill: 'none', style: { stroke: color }, 'stroke-width': 1.8, 'stroke-dasharray': dash, 'stroke-linejoin': 'round', 'stroke-linecap': 'round' }));
      this.dots.append(s('circle', { r: 3.5, style: { fill: color }, class: 'sv-dot' }));
    }
    for (const t of this.marked ?? []) this.marks.append(s('path', { d: `M${this.x(t)} ${this.height - 7}l4 6h-8z` }));
  }
  drawRows() {
    const { map, rows, count } = this;
    map.width = count; map.height = rows.length;
    const g = map.getContext('2d'), image = g.createImageData(count, rows.length);
    rows.forEach((values, y) => values.forEach((v, t) => { if (v !== null) image.data.set([...heat(v), 255], 4 * (y * count + t)); }));
    g.putImageData(image, 0, 0);
    Object.assign(map.style, { left: `${this.x(-0.5)}px`, width: `${this.step * count}px`, height: `${this.height}px` });
  }
  moveTo(t) {
    this.frame = t;
    if (!this.width) return;
    this.cursor.setAttribute('transform', `translate(${this.x(t)} 0)`);
    [...this.dots.children].forEach((dot, n) => {
      const v = this.series[n].values[t];
      dot.setAttribute('visibility', v === null || v === undefined ? 'hidden' : 'visible');
      if (v !== null && v !== undefined) { dot.setAttribute('cx', this.x(t)); dot.setAttribute('cy', this.y(v)); }
    });
  }
  setHeight(height) {
    this.height = height;
    this.svg.setAttribute('height', height); this.cursor.setAttribute('y2', height);
  }
}

/** The labels of one pixel through the whole clip, one strip per layer: flicker becomes a bar code. */
export class PixelHistory {
  constructor(count, layers, onclose) {
    this.count = count;
    this.title = h('span', {});
    this.head = [h('div', { class: 'sv-gutter' }), h('div', { class: 'sv-pixel' }, this.title, h('button', { type: 'button', class: 'sv-link', onclick: onclose, aria: { label: 'Forget this pixel' } }, 'close'))];
    this.strips = layers.map((name) => ({ name, canvas: h('canvas', { width: count, height: 1, class: 'sv-strip', role: 'img' }), note: h('div', { class: 'sv-gutter sv-strip-name' }, name) }));
    this.rows = [...this.head, ...this.strips.flatMap(({ note, canvas }) => [note, h('div', { class: 'sv-strip-box' }, canvas)])];
    this.hide();
  }
  hide() { this.at = null; for (const row of this.rows) row.hidden = true; }

  /** Fill the strips for a pixel; `read(layer, t)` promises its class. `chart` lends its time scale. Stops when another pixel is picked. */
  async show(x, y, chart, read, nameOf, colorOf) {
    const at = (this.at = `${x},${y}`);
    for (const row of this.rows) row.hidden = false;
    this.title.textContent = `Label of pixel ${x}, ${y} through time`;
    const seen = this.strips.map(() => new Int16Array(this.count));
    for (const { canvas } of this.strips) { canvas.style.left = `${chart.x(-0.5)}px`; canvas.style.width = `${chart.step * this.count}px`; }
    for (let t = 0; t < this.count; t++) {
      for (const [n, { canvas }] of this.strips.entries()) {
        seen[n][t] = await read(n, t);
        if (this.at !== at) return;
        const g = canvas.getContext('2d'); g.fillStyle = css(colorOf(seen[n][t])); g.fillRect(t, 0, 1, 1);
      }
    }
    this.strips.forEach(({ name, note, canvas }, n) => {
      const changes = seen[n].reduce((sum, c, t) => sum + (t > 0 && c !== seen[n][t - 1] ? 1 : 0), 0);
      note.textContent = `${name} ${changes} ×`; note.title = `${name}: the label changes ${changes} times`;
      canvas.setAttribute('aria-label', `${note.title}: ${[...new Set(seen[n])].map(nameOf).join(', ')}`);
    });
  }
}
