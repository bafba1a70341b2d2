// How the TV3S head reads a clip: which windows its layers cut, what the shift does to the edges, and in which order the
// tokens of one window run. The cutting itself comes from Python, as (start, length, kind) of rows and of columns.

import { chooser, clamp, complain, debounce, h, icon, iconButton, segmented } from './dom.js';
import { asBytes, hidePoster, Listening } from './model.js';
import { LINES, StripChart } from './timeline.js';

// One color per kind of part: rows (whole, cut above, cut below) × columns (whole, cut left, cut right).
const KIND_COLORS = [['#8a93a3', '#0072b2', '#56b4e9'], ['#d55e00', '#009e73', '#f0e442'], ['#e69f00', '#cc79a7', '#7a5cc4']];
const EXPLORER_KEYS = 'Space plays the scan, ← → one token, shift with ← → one row of tokens, ↑ ↓ another window, Home and End, s even or odd layers, r rolled or not';

export class WindowView {
  constructor(model, root) {
    this.model = model; this.root = root; this.meta = model.get('_meta');
    this.listening = new Listening(model);
    this.save = debounce(() => model.save_changes(), 150);
    this.chosenKind = null;
    const bytes = asBytes(model.get('_blob'));
    this.pictures = Promise.all(this.meta.parts.map(([at, length]) => createImageBitmap(new Blob([bytes.subarray(at, at + length)], { type: 'image/jpeg' }))));
    this.build();
    this.listen();
  }
  get(key) { return this.model.get(key); }
  set(key, value) { this.model.set(key, value); if (!this.get('playing')) this.save(); }

  // --- the geometry -------------------------------------------------------------------------------------------------

  /** All parts of the layer on show, in the order of the head: rows of windows, then columns. */
  get parts() {
    const { rows, columns } = this.meta.cuts[this.get('shifted') ? 'shifted' : 'plain'];
    return rows.flatMap(([y, tall, rowKind]) => columns.map(([x, wide, columnKind]) => ({ y, x, tall, wide, rowKind, columnKind })));
  }
  get part() { const all = this.parts; return all[clamp(this.get('part'), 0, all.length - 1)]; }
  get tokens() { return this.part.tall * this.part.wide * this.meta.count; }
  /** Where a part lies in the picture: rolling moved everything up and left by `shift`. */
  place({ y, x, tall, wide }) {
    const [rows, columns] = this.meta.grid, shift = this.get('shifted') && !this.get('rolled') ? this.meta.shift : 0;
    return { y: (y + shift) % rows, x: (x + shift) % columns, tall, wide };
  }
  where(token) {
    const { tall, wide } = this.part, inside = token % (tall * wide);
    return { frame: Math.floor(token / (tall * wide)), row: Math.floor(inside / wide), column: inside % wide };
  }

  // --- the page -----------------------------------------------------------------------------------------------------

  build() {
    const { meta, root } = this, [rows, columns] = meta.grid;
    this.layers = segmented('Layers', [['plain', 'Even layers', 'Plain windows'], ['shifted', 'Odd layers', 'Shifted windows']], (v) => this.set('shifted', v === 'shifted'));
    this.views = segmented('View', [['picture', 'In the picture', 'Windows where they look'], ['rolled', 'As rolled', 'The grid as the layer cuts it']], (v) => this.set('rolled', v === 'rolled'));
    this.canvas = h('canvas', { class: 'sv-canvas', role: 'img', aria: { label: 'The frame with its windows' } });
    this.kinds = h('ul', { class: 'sv-classes' });
    this.story = h('p', { class: 'sv-story' });
    this.panes = Array.from({ length: meta.count }, (_, t) => h('canvas', { class: 'sv-scan', title: `frame ${t}` }));
    this.scanBox = h('div', { class: 'sv-scans' }, this.panes.map((pane, t) => h('figure', {}, pane, h('figcaption', {}, `frame ${t}`))));
    this.stage = h('div', { class: 'sv-stage' }, this.canvas);
    root.append(
      h('div', { class: 'sv-head' }, h('strong', {}, meta.title), h('span', { class: 'sv-muted' }, `grid ${rows} × ${columns} · window ${meta.window} · shift ${meta.shift} · ${meta.count} frames`),
        h('span', { class: 'sv-push' }), this.layers.element, this.views.element),
      h('div', { class: 'sv-body' }, this.stage, h('aside', { class: 'sv-legend', aria: { label: 'Kinds of windows' } },
        h('div', { class: 'sv-legend-bar' }, h('b', {}, 'Kinds of windows'), h('span', { class: 'sv-push' }), h('span', { class: 'sv-muted' }, 'tokens each')), this.kinds)),
      this.story, this.scanBox, this.buildTimeline());
    Object.assign(root, { tabIndex: 0, viewer: this });
    for (const [name, value] of Object.entries({ role: 'group', 'aria-label': `Window explorer, ${meta.title}. ${EXPLORER_KEYS}`, 'data-lm-suppress-shortcuts': 'true' })) root.setAttribute(name, value);
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.stage);
  }
  buildTimeline() {
    this.playButton = iconButton('play', 'Play the scan (space)', () => this.set('playing', !this.get('playing')));
    this.slider = h('input', { type: 'range', class: 'sv-scrub', min: 0, step: 1, aria: { label: 'Token' }, oninput: () => this.set('token', Number(this.slider.value)) });
    this.speed = chooser('Speed', [50, 200, 800, 3200].map((v) => [String(v), `${v} tokens/s`]), (v) => this.set('speed', Number(v)));
    const buttons = h('div', { class: 'sv-gutter sv-transport' }, iconButton('previous', 'One token back (←)', () => this.step(-1)), this.playButton, iconButton('next', 'One token on (→)', () => this.step(1)));
    this.norms = this.meta.norms.length ? new StripChart(this.meta.norms[0].values.length, (n) => this.set('token', Math.floor(n / this.meta.norms[0].values.length * this.tokens)), { height: 80, limits: [0, Infinity] }) : null;
    const keys = this.meta.norms.map(({ name }, n) => h('span', { class: 'sv-key' }, h('i', { class: 'sv-line', style: { background: LINES[n % LINES.length][0] } }), name));
    this.axis = h('div', { class: 'sv-gutter sv-axis', style: { height: '80px' } });
    return h('div', {}, h('div', { class: 'sv-timeline' }, buttons, this.slider,
      this.norms ? [h('div', { class: 'sv-gutter' }), h('div', {}, h('span', { class: 'sv-muted' }, `${this.meta.norms_title} `), keys), this.axis, this.norms.element] : []),
      h('div', { class: 'sv-foot' }, this.speed.element, h('span', { class: 'sv-push' }), h('details', { class: 'sv-help' }, h('summary', {}, 'Keys'), h('p', {}, EXPLORER_KEYS))));
  }

  // --- answering changes --------------------------------------------------------------------------------------------

  listen() {
    const on = (keys, act) => this.listening.on(keys, act);
    on('shifted', () => { this.set('part', clamp(this.get('part'), 0, this.parts.length - 1)); this.set('token', 0); this.draw(); });
    on('part', () => { this.set('token', 0); this.draw(); });
    on('rolled speed', () => this.draw());
    on('token', () => this.drawScan());
    on('playing', () => this.run());
    this.root.addEventListener('keydown', (e) => this.onKey(e));
    this.canvas.addEventListener('click', (e) => { const n = this.partAt(e); if (n >= 0) this.set('part', n); this.root.focus({ preventScroll: true }); });
    this.canvas.addEventListener('pointermove', (e) => { const n = this.partAt(e); if (n !== this.hovered) { this.hovered = n; this.drawStage(); } });
    this.canvas.addEventListener('pointerleave', () => { this.hovered = -1; this.drawStage(); });
  }
  start() {
    if (this.norms) {
      const series = this.meta.norms.map(({ name, values }, n) => ({ name, values, color: LINES[n % LINES.length][0], dash: LINES[n % LINES.length][1] }));
      this.norms.showLines(series);
      const { low, high } = this.norms;
      this.axis.replaceChildren(...[high, (high + low) / 2, low].map((v) => h('span', {}, Number(v.toPrecision(3)).toString())));
    }
    this.draw();
    if (this.get('playing')) this.run();
  }
  stop() { this.stopped = true; this.listening.stop(); this.watcher.disconnect(); this.norms?.stop(); }
  step(by) { this.set('token', clamp(this.get('token') + by, 0, this.tokens - 1)); }
  partAt(e) {
    const box = this.canvas.getBoundingClientRect(), [rows, columns] = this.meta.grid;
    const y = (e.clientY - box.top) / box.height * rows, x = (e.clientX - box.left) / box.width * columns;
    return this.parts.findIndex((part) => { const at = this.place(part); return y >= at.y && y < at.y + at.tall && x >= at.x && x < at.x + at.wide; });
  }
  run() {
    const on = this.get('playing');
    this.playButton.replaceChildren(icon(on ? 'pause' : 'play'));
    this.playButton.setAttribute('aria-label', on ? 'Pause (space)' : 'Play the scan (space)');
    if (!on || this.running) return;
    this.running = true;
    let last = performance.now(), owed = 0;
    const tick = (now) => {
      if (!this.get('playing') || this.stopped) { this.running = false; return; }
      owed += Math.max(now - last, 0) / 1000 * this.get('speed'); last = now;
      const next = this.get('token') + Math.floor(owed);
      owed %= 1;
      this.model.set('token', next >= this.tokens ? 0 : next);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }
  onKey(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.target.matches('select') || (e.key === ' ' && e.target.matches('button, summary'))) return;
    const far = e.shiftKey ? this.part.wide : 1, count = this.parts.length, turn = (by) => () => this.set('part', (this.get('part') + by + count) % count);
    const act = { ' ': () => this.set('playing', !this.get('playing')), ArrowLeft: () => this.step(-far), ArrowRight: () => this.step(far), ArrowUp: turn(-1), ArrowDown: turn(1),
      Home: () => this.set('token', 0), End: () => this.set('token', this.tokens - 1), s: () => this.set('shifted', !this.get('shifted')), r: () => this.set('rolled', !this.get('rolled')) }[e.key];
    if (act) { act(); e.preventDefault(); }
    e.stopPropagation();
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  async draw() {
    this.layers.show(this.get('shifted') ? 'shifted' : 'plain'); this.views.show(this.get('rolled') ? 'rolled' : 'picture');
    this.views.element.toggleAttribute('inert', !this.get('shifted'));
    this.speed.show(String(this.get('speed')));
    this.images = await this.pictures;
    this.drawKinds();
    this.drawStage();
    this.drawScan();
    this.root.dataset.parts = String(this.parts.length);
  }
  drawKinds() {
    const groups = new Map();
    for (const part of this.parts) {
      const key = `${part.rowKind},${part.columnKind}`;
      groups.set(key, { ...part, count: (groups.get(key)?.count ?? 0) + 1 });
    }
    this.kinds.replaceChildren(...[...groups].map(([key, { tall, wide, rowKind, columnKind, count }]) =>
      h('li', { 'data-kind': key }, h('button', { type: 'button', class: 'sv-class', title: 'Show these windows only', aria: { pressed: String(this.chosenKind === null || this.chosenKind === key) },
        onclick: () => { this.chosenKind = this.chosenKind === key ? null : key; this.drawKinds(); this.drawStage(); } },
      h('i', { class: 'sv-swatch', style: { '--color': KIND_COLORS[rowKind][columnKind] } }), h('span', { class: 'sv-class-name' }, `${tall} × ${wide}`),
      h('span', { class: 'sv-number' }, `${count} ×`), h('span', { class: 'sv-number sv-tokens', title: `${this.meta.count} frames · ${tall} · ${wide}` }, `${this.meta.count * tall * wide}`)))));
  }
  /** The frame, rolled if wanted, under the windows. */
  drawStage() {
    const width = this.stage.clientWidth;
    if (!width || !this.images) return;
    const [rows, columns] = this.meta.grid, image = this.images.at(-1), height = Math.min(Math.round(width * image.height / image.width), 560);
    const ratio = Math.min(window.devicePixelRatio || 1, 2), { canvas } = this, g = canvas.getContext('2d');
    canvas.width = width * ratio; canvas.height = height * ratio; canvas.style.height = `${height}px`;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    const sy = height / rows, sx = width / columns, rolled = this.get('shifted') && this.get('rolled') ? this.meta.shift : 0;
    for (const dy of [0, height]) for (const dx of [0, width]) g.drawImage(image, dx - rolled * sx, dy - rolled * sy, width, height);
    this.parts.forEach((part, n) => {
      const at = this.place(part), color = KIND_COLORS[part.rowKind][part.columnKind], faded = this.chosenKind !== null && this.chosenKind !== `${part.rowKind},${part.columnKind}`;
      const picked = n === clamp(this.get('part'), 0, this.parts.length - 1), whole = !part.rowKind && !part.columnKind;
      g.globalAlpha = faded ? 0.06 : picked || n === this.hovered ? 0.62 : whole ? 0.08 : 0.42;
      g.fillStyle = color; g.fillRect(at.x * sx + 1, at.y * sy + 1, at.wide * sx - 2, at.tall * sy - 2);
      g.globalAlpha = faded ? 0.3 : 1; g.strokeStyle = picked ? '#fff' : color; g.lineWidth = picked ? 3 : 1.5;
      g.strokeRect(at.x * sx + 1, at.y * sy + 1, at.wide * sx - 2, at.tall * sy - 2);
    });
    g.globalAlpha = 1;
    if (rolled) this.drawSeam(g, (columns - rolled) * sx, (rows - rolled) * sy, width, height);
  }
  /** Where the rolled picture was glued together. */
  drawSeam(g, x, y, width, height) {
    g.setLineDash([6, 4]); g.lineWidth = 2;
    for (const color of ['#000', '#fff']) {
      g.strokeStyle = color; g.lineDashOffset = color === '#fff' ? 5 : 0;
      g.beginPath(); g.moveTo(x, 0); g.lineTo(x, height); g.moveTo(0, y); g.lineTo(width, y); g.stroke();
    }
    g.setLineDash([]);
  }
  /** The chosen window in every frame, with the tokens that the scan has read so far. */
  drawScan() {
    if (!this.images) return;
    const token = clamp(this.get('token'), 0, this.tokens - 1), now = this.where(token), { part } = this, at = this.placeUnrolled(part), [rows, columns] = this.meta.grid;
    const cell = clamp(Math.floor(150 / Math.max(part.wide, part.tall)), 3, 24);
    this.panes.forEach((pane, t) => {
      const image = this.images[t], g = pane.getContext('2d'), w = part.wide * cell, tall = part.tall * cell;
      if (pane.width !== w || pane.height !== tall) { pane.width = w; pane.height = tall; }
      g.imageSmoothingEnabled = true;
      g.drawImage(image, at.x / columns * image.width, at.y / rows * image.height, part.wide / columns * image.width, part.tall / rows * image.height, 0, 0, w, tall);
      this.drawRead(g, part, cell, t < now.frame ? part.tall * part.wide : t > now.frame ? 0 : now.row * part.wide + now.column + 1, t === now.frame ? now : null);
    });
    this.slider.max = String(this.tokens - 1); this.slider.value = String(token);
    this.norms?.moveTo(Math.min(Math.floor(token / this.tokens * this.norms.count), this.norms.count - 1));
    const text = `Token ${token + 1} of ${this.tokens}: frame ${now.frame}, row ${now.row}, column ${now.column}`;
    this.slider.setAttribute('aria-valuetext', text);
    this.story.replaceChildren(h('b', {}, `Window ${clamp(this.get('part'), 0, this.parts.length - 1) + 1} of ${this.parts.length}`),
      ` reads ${this.meta.count} frames × ${part.tall} rows × ${part.wide} columns as one sequence. `, h('span', { class: 'sv-number' }, text, '.'));
    this.root.dataset.token = String(token);
  }
  placeUnrolled({ y, x }) {
    const [rows, columns] = this.meta.grid, shift = this.get('shifted') ? this.meta.shift : 0;
    return { y: (y + shift) % rows, x: (x + shift) % columns };
  }
  drawRead(g, part, cell, read, now) {
    const full = Math.floor(read / part.wide), rest = read % part.wide;
    g.fillStyle = 'rgb(230 159 0 / .45)';
    g.fillRect(0, 0, part.wide * cell, full * cell);
    g.fillRect(0, full * cell, rest * cell, cell);
    g.strokeStyle = 'rgb(255 255 255 / .25)'; g.lineWidth = 1; g.beginPath();
    for (let y = 1; y < part.tall; y++) { g.moveTo(0, y * cell + 0.5); g.lineTo(part.wide * cell, y * cell + 0.5); }
    g.stroke();
    if (now) { g.strokeStyle = '#fff'; g.lineWidth = 2; g.strokeRect(now.column * cell, now.row * cell, cell, cell); }
  }
}

export function renderWindows({ model, el }) {
  const root = h('div', { class: 'segvid sv-windows' });
  el.append(root);
  const unhide = hidePoster(model.get('_poster'));
  let view = null;
  try { view = new WindowView(model, root); view.start(); } catch (problem) { complain(root, problem); }
  return () => { view?.stop(); unhide(); };
}
