// The clip viewer: frames and masks on a stage, a legend, a time line. Everything it needs came in one message;
// from then on it draws by itself and tells Python only where the user stopped.

import { chooser, clamp, complain, debounce, h, icon, iconButton, percent, score, segmented, toggle } from './dom.js';
import { Legend } from './legend.js';
import { ClipMedia } from './media.js';
import { asBytes, hidePoster, Listening } from './model.js';
import { caseTable, classAlphas, differenceCases, fillTable, flickerCases, lineTable, Surface } from './paint.js';
import { asNote, Stage } from './stage.js';
import { LINES, PixelHistory, StripChart } from './timeline.js';

const MODES = [['overlay', 'Overlay', 'One layer over the picture'], ['side', 'Side by side', 'Two layers beside each other'],
  ['swipe', 'Swipe', 'Two layers, cut by a divider'], ['difference', 'Difference', 'Where two layers disagree'],
  ['flicker', 'Flicker', 'What changed since the frame before']];
const STYLES = [['fill', 'Fill', 'Areas'], ['outline', 'Outline', 'Borders only'], ['both', 'Both', 'Areas and borders']];
const CHARTS = [['iou', 'IoU', 'Mean IoU, or that of the class being followed'], ['consistency', 'Consistency', 'Share of pixels that keep their label from the frame before'],
  ['classes', 'Per class', 'IoU of every class as a colored strip'], ['share', 'Share', 'Share of the frame that a class covers; follow a class first']];
const KEYS = 'Space plays, ← → step, shift with ← → ten frames, Home and End, 0–9 jump to tenths, w next worst frame, ' +
  'm mode, o outline, h hatching, + − z zoom, [ ] opacity, a all classes';
const drivers = new WeakMap();                         // model -> the one view that moves it while it plays

export class ClipView {
  constructor(model, root) {
    this.model = model; this.root = root; this.meta = model.get('_meta');
    this.media = new ClipMedia(this.meta, asBytes(model.get('_blob')));
    this.listening = new Listening(model);
    this.save = debounce(() => model.save_changes(), 150);
    this.surfaces = [0, 1].map(() => new Surface(this.meta.width, this.meta.height));
    this.tables = null; this.chart = this.meta.layers.some((l) => l.iou) ? 'iou' : 'consistency';
    this.swipe = 0.5; this.drawn = -1; this.painted = 0; this.idle = Promise.resolve();
    this.build();
    this.listen();
  }
  get(key) { return this.model.get(key); }
  set(key, value) { this.model.set(key, value); if (!this.get('playing')) this.save(); }
  get layers() { return this.meta.layers; }
  layerOf(key) { const n = this.layers.findIndex((l) => l.name === this.get(key)); return n < 0 ? 0 : n; }
  get truth() { return this.layers.findIndex((l) => l.truth); }
  get twoLayers() { return this.layers.length > 1 && ['side', 'swipe', 'difference'].includes(this.get('mode')); }

  // --- the page -----------------------------------------------------------------------------------------------------

  build() {
    const { meta, root } = this;
    const size = `${meta.count} frame${meta.count > 1 ? 's' : ''} · ${meta.source[0]} × ${meta.source[1]} · ${meta.fps} frames/s`;
    this.status = h('span', { class: 'sv-visually-hidden', role: 'status' });
    this.stage = new Stage([meta.width, meta.height], { onpick: (...at) => this.pick(...at), describe: (...at) => this.describe(...at),
      onswipe: (share) => { this.swipe = share; this.refresh(); }, onresize: () => this.refresh() });
    this.legend = new Legend(meta.present.map((c) => [c, meta.classes[c]]), { flip: (c) => this.flip(c), only: (c) => this.only(c), follow: (c) => this.set('pinned', this.get('pinned') === c ? -1 : c),
      all: () => this.set('hidden', []), none: () => this.set('hidden', [...meta.present]) });
    this.caption = h('p', { class: 'sv-caption', hidden: true });
    this.curves = new StripChart(meta.count, (t) => this.seek(t));
    const body = h('div', { class: 'sv-body' }, h('div', { class: 'sv-left' }, this.stage.element, this.caption), this.layers.length ? this.legend.element : null);
    root.append(h('div', { class: 'sv-head' }, h('strong', {}, meta.title), h('span', { class: 'sv-muted' }, size), h('span', { class: 'sv-push' }), this.buildModes()),
      this.layers.length ? this.buildTools() : '', body, this.buildTimeline(), this.buildFoot(), this.status);
    Object.assign(root, { tabIndex: 0, viewer: this });
    for (const [name, value] of Object.entries({ role: 'group', 'aria-label': `Clip viewer, ${meta.title}, ${size}. ${KEYS}`, 'data-lm-suppress-shortcuts': 'true' })) root.setAttribute(name, value);
    root.classList.toggle('sv-no-masks', !this.layers.length);
  }
  buildModes() {
    const fits = ([mode]) => mode === 'overlay' || this.layers.length > 1 || (mode === 'flicker' && this.layers.length);
    this.modes = segmented('What to show', MODES.filter(fits), (mode) => this.set('mode', mode));
    return this.layers.length ? this.modes.element : null;
  }
  buildTools() {
    const names = this.layers.map((l) => [l.name, l.name]);
    this.first = chooser('Layer', names, (name) => this.set('layer', name));
    this.second = chooser('against', names, (name) => this.set('other', name));
    this.styles = segmented('How to draw classes', STYLES, (style) => this.set('style', style));
    this.opacity = h('input', { type: 'range', min: 0, max: 1, step: 0.05, class: 'sv-range', aria: { label: 'Opacity of the classes' }, oninput: () => this.set('opacity', Number(this.opacity.value)) });
    this.hatch = toggle('Hatching', 'A pattern for each class, besides its color (h)', (on) => this.set('hatch', on));
    this.safe = toggle('Color-blind palette', 'Colors that color-blind people can tell apart', (on) => this.set('palette', on ? 'colorblind' : 'dataset'));
    return h('div', { class: 'sv-tools' }, this.first.element, this.second.element, this.styles.element,
      h('label', { class: 'sv-field' }, h('span', {}, 'Opacity'), this.opacity), this.hatch.element, this.safe.element);
  }
  buildTimeline() {
    const { meta } = this;
    this.playButton = iconButton('play', 'Play (space)', () => this.togglePlay());
    this.slider = h('input', { type: 'range', class: 'sv-scrub', min: 0, max: meta.count - 1, step: 1, value: 0, aria: { label: 'Frame' }, oninput: () => this.seek(Number(this.slider.value)) });
    const buttons = h('div', { class: 'sv-gutter sv-transport' }, iconButton('previous', 'One frame back (←)', () => this.step(-1)), this.playButton,
      iconButton('next', 'One frame on (→)', () => this.step(1)));
    this.rulers = [h('span', {}), h('span', {}), h('span', {})];
    this.gutter = h('div', { class: 'sv-gutter sv-axis' }, this.rulers);
    this.history = new PixelHistory(meta.count, this.layers.map((l) => l.name), () => this.history.hide());
    this.chartRow = [this.gutter, this.curves.element];
    for (const part of this.chartRow) part.hidden = !this.layers.length;
    return h('div', { class: 'sv-timeline' }, this.layers.length ? this.buildChartHead() : null, buttons, this.slider, this.chartRow, this.history.rows);
  }
  buildChartHead() {
    const scored = this.layers.some((l) => l.iou), fits = CHARTS.filter(([kind]) => scored || kind === 'consistency' || kind === 'share');
    this.charts = segmented('What to plot', fits, (kind) => { this.chart = kind; this.drawChart(); });
    this.values = h('div', { class: 'sv-values' });
    this.worst = h('div', { class: 'sv-worst' });
    return h('div', { class: 'sv-chart-head' }, this.charts.element, this.values, h('span', { class: 'sv-push' }), this.worst);
  }
  buildFoot() {
    this.where = h('output', { class: 'sv-where' });
    this.speed = chooser('Speed', [0.1, 0.25, 0.5, 1, 2, 4].map((v) => [String(v), `${v} ×`]), (v) => this.set('speed', Number(v)));
    this.loop = toggle('Loop', 'Begin again at the end', (on) => this.set('loop', on));
    this.rate = h('span', { class: 'sv-muted sv-number' });
    const help = h('details', { class: 'sv-help' }, h('summary', {}, 'Keys'), h('p', {}, KEYS, '. Click a pixel to follow its class and its label through time; control-wheel zooms, drag moves.'));
    return h('div', { class: 'sv-foot' }, this.where, this.speed.element, this.loop.element, this.rate, h('span', { class: 'sv-push' }), help);
  }

  // --- answering changes --------------------------------------------------------------------------------------------

  listen() {
    const repaint = () => { this.tables = null; this.refresh(); };
    const on = (keys, act) => this.listening.on(keys, act);
    on('frame', () => this.refresh());
    on('opacity style palette hatch hidden pinned', repaint);
    on('mode layer other', () => { this.showControls(); this.drawChart(); this.refresh(); });
    on('opacity style palette hatch speed loop', () => this.showControls());
    on('pinned', () => this.drawChart());
    on('playing', () => (this.get('playing') ? this.play() : this.pause()));
    this.root.addEventListener('keydown', (e) => this.onKey(e));
    this.root.addEventListener('pointerdown', (e) => { if (e.target === this.stage.canvas) this.root.focus({ preventScroll: true }); });
  }
  start() {
    this.showControls();
    this.drawChart();
    this.refresh();
    if (this.get('playing')) this.play();
  }
  stop() {
    this.stopped = true;
    clearTimeout(this.telling);
    this.listening.stop(); this.stage.stop(); this.curves.stop(); this.media.close();
  }
  showControls() {
    const mode = this.layers.length ? this.get('mode') : 'overlay';
    this.modes.show(mode); this.speed.show(String(this.get('speed'))); this.loop.show(this.get('loop'));
    if (!this.layers.length) return;
    this.root.classList.toggle('sv-wide', mode === 'side' && this.layers.length > 1);
    this.first.show(this.layers[this.layerOf('layer')].name); this.second.show(this.layers[this.layerOf('other')].name);
    this.second.element.hidden = !this.twoLayers; this.first.element.hidden = this.layers.length < 2;
    this.styles.show(this.get('style')); this.hatch.show(this.get('hatch')); this.safe.show(this.get('palette') === 'colorblind');
    this.opacity.value = String(this.get('opacity'));
    this.styles.element.toggleAttribute('inert', mode === 'difference' || mode === 'flicker');
  }
  flip(c) { const hidden = this.get('hidden'); this.set('hidden', hidden.includes(c) ? hidden.filter((k) => k !== c) : [...hidden, c]); }
  only(c) {
    const rest = this.meta.present.filter((k) => k !== c), hidden = this.get('hidden');
    const already = hidden.length === rest.length && !hidden.includes(c);
    this.set('hidden', already ? [] : rest);
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  get colors() { return this.get('palette') === 'colorblind' ? this.meta.safe.colors : this.meta.colors; }
  get hatches() { return this.get('hatch') ? this.meta.safe.hatches : null; }
  makeTables() {
    const alphas = classAlphas(this.meta.classes.length, { opacity: this.get('opacity'), hidden: this.get('hidden'), pinned: this.get('pinned') });
    const style = this.get('style');
    this.tables = { fill: style === 'outline' ? null : fillTable(this.colors, this.hatches, alphas), lines: style === 'fill' ? null : lineTable(this.colors, alphas) };
    this.legend.paint(this.colors, this.hatches);
    this.legend.mark(this.get('hidden'), this.get('pinned'));
  }
  /** Draw the present state. While one drawing is under way, later wishes are merged into one more round. */
  refresh() {
    this.wanted = true;
    if (!this.busy) { this.busy = true; this.idle = this.work().finally(() => { this.busy = false; }); }
    return this.idle;
  }
  async work() {
    try {
      while (this.wanted && !this.stopped) { this.wanted = false; await this.draw(); }
    } catch (problem) { complain(this.root, problem); }
  }
  async draw() {
    const t = clamp(this.get('frame'), 0, this.meta.count - 1);
    const moved = t - this.drawn, steady = moved !== 0 && Math.abs(moved) <= 4;     // playing or scrubbing, not jumping
    if (!this.layers.length) {
      this.stage.paint({ picture: await this.media.picture(t), surfaces: [], names: [], swipe: null });
    } else await this.drawMasks(t);
    this.drawn = t; this.painted++;
    this.root.dataset.frame = String(t);
    this.updateNumbers(t);
    if (this.stage.pointer) this.stage.explain();
    if (steady) this.media.prefetch(t, Math.sign(moved), this.layers.length ? this.needed() : []);
  }
  /** Numbers of the layers that the present mode draws. */
  needed() {
    const mode = this.get('mode'), a = this.layerOf('layer'), list = this.twoLayers ? [a, this.layerOf('other')] : [a];
    return (mode === 'difference' || mode === 'flicker') && this.truth >= 0 ? [...new Set([...list, this.truth])] : list;
  }
  async drawMasks(t) {
    const mode = this.get('mode'), shown = this.twoLayers ? [this.layerOf('layer'), this.layerOf('other')] : [this.layerOf('layer')];
    const masks = new Map();
    const [picture] = await Promise.all([this.media.picture(t), ...this.needed().map(async (n) => masks.set(n, await this.media.indices(n, t)))]);
    if (!this.tables) this.makeTables();
    const names = shown.map((n) => this.layers[n].name);
    if (mode === 'difference' && this.twoLayers) this.drawCases(differenceCases(masks.get(shown[0]), masks.get(shown[1]), masks.get(this.truth), this.meta.ignore, names));
    else if (mode === 'flicker') await this.drawFlicker(t, shown[0], masks);
    else {
      shown.forEach((n, i) => this.surfaces[i].classes(masks.get(n), this.tables.fill, this.tables.lines));
      this.caption.hidden = true;
    }
    const single = mode === 'difference' || mode === 'flicker';
    this.stage.paint({ picture, surfaces: single ? [this.surfaces[0]] : shown.map((_, i) => this.surfaces[i]),
      names: single ? [names.join(' against ')] : names, swipe: mode === 'swipe' && shown.length > 1 ? this.swipe : null });
  }
  async drawFlicker(t, layer, masks) {
    const before = t ? await this.media.indices(layer, t - 1) : null;
    const truthBefore = t && this.truth >= 0 && this.truth !== layer ? await this.media.indices(this.truth, t - 1) : null;
    this.drawCases(flickerCases(masks.get(layer), before, truthBefore && masks.get(this.truth), truthBefore, this.meta.ignore));
  }
  drawCases(cases) {
    const counts = this.surfaces[0].cases(cases.test, caseTable(cases)), all = this.media.pixels;
    this.caption.replaceChildren(...cases.texts.map((text, n) => text && h('span', { class: 'sv-key' },
      h('i', { class: 'sv-swatch', style: { '--color': `rgb(${cases.colors[n][0].join(' ')})` } }), `${text} ${percent(counts[n] / all)}`)).filter(Boolean));
    this.caption.hidden = false;
  }
  updateNumbers(t) {
    const { meta } = this, layer = this.layers[this.layerOf('layer')];
    this.slider.value = String(t);
    const text = `frame ${meta.numbers[t]} · ${t + 1} of ${meta.count} · ${(t / meta.fps).toFixed(2)} s`;
    this.where.textContent = text;
    this.slider.setAttribute('aria-valuetext', text);
    if (layer) { this.curves.moveTo(t); this.tell(); }
    if (!this.get('playing')) this.stage.canvas.setAttribute('aria-label', `${text}${layer ? `, ${layer.name}` : ''}`);
  }

  /** The numbers in legend and chart, at most ten times a second: nobody reads faster, and text is slow to lay out. */
  tell() {
    const wait = (this.told ?? 0) + 100 - performance.now();
    clearTimeout(this.telling);
    if (wait > 0) { this.telling = setTimeout(() => this.tell(), wait); return; }
    this.told = performance.now();
    const t = this.drawn, layer = this.layers[this.layerOf('layer')];
    this.legend.update(layer.share[t], layer.iou ? layer.iou[t] : null);
    this.updateValues(t);
  }

  // --- the strip chart ----------------------------------------------------------------------------------------------

  get pinnedRow() { return this.meta.present.indexOf(this.get('pinned')); }
  curveOf(layer) {
    const row = this.pinnedRow;
    if (this.chart === 'consistency') return layer.consistency;
    if (this.chart === 'share') return row < 0 ? null : layer.share.map((shares) => shares[row]);
    return layer.iou ? (row < 0 ? layer.miou : layer.iou.map((ious) => ious[row])) : null;
  }
  drawChart() {
    if (!this.layers.length) return;
    const { meta } = this, layer = this.layers[this.layerOf('layer')];
    if (this.chart === 'share' && this.pinnedRow < 0) this.chart = layer.iou ? 'iou' : 'consistency';
    this.charts.show(this.chart);
    this.charts.buttons.at(-1).disabled = this.pinnedRow < 0;
    const rows = this.chart === 'classes' && (layer.iou ? layer : this.layers.find((l) => l.iou));
    this.curves.setHeight(rows ? clamp(12 * meta.present.length, 60, 240) : 96);
    if (rows) this.curves.showRows(meta.present.map((_, n) => rows.iou.map((ious) => ious[n])));
    else {
      const series = this.layers.map((l, n) => ({ name: l.name, values: this.curveOf(l), color: LINES[n % LINES.length][0], dash: LINES[n % LINES.length][1] }));
      this.curves.showLines(series.filter((line) => line.values), layer.worst);
    }
    this.labelAxis(rows);
    this.showWorst(layer);
    this.updateValues(Math.max(this.drawn, 0));
  }
  labelAxis(rows) {
    const { low, high } = this.curves, digits = [1, 2, 3].find((d) => Math.abs(Number(((low + high) / 2).toFixed(d)) - (low + high) / 2) < 1e-6) ?? 4;
    this.gutter.classList.toggle('sv-axis-classes', Boolean(rows));
    this.gutter.style.height = `${this.curves.height}px`;
    if (rows) this.gutter.replaceChildren(...this.meta.present.map((c) => h('span', {}, this.meta.classes[c])));
    else this.gutter.replaceChildren(...[high, (high + low) / 2, low].map((v) => h('span', {}, v.toFixed(digits))));
  }
  updateValues(t) {
    if (!this.values) return;
    const pinned = this.pinnedRow < 0 || this.chart === 'consistency' ? '' : `, ${this.meta.classes[this.get('pinned')]}`;
    if (this.chart === 'classes') { this.values.replaceChildren(h('span', { class: 'sv-ramp' }), h('span', { class: 'sv-muted' }, 'IoU 0 to 1, empty where the class is absent')); return; }
    if (this.values.childElementCount !== this.curves.series.length || this.values.dataset.kind !== this.chart + pinned) {
      this.values.replaceChildren(...this.curves.series.map(({ name, color }) => h('span', { class: 'sv-key' }, h('i', { class: 'sv-line', style: { background: color } }), `${name}${pinned} `, h('b', { class: 'sv-number' }))));
      this.values.dataset.kind = this.chart + pinned;
    }
    this.curves.series.forEach(({ values }, n) => { this.values.children[n].lastChild.textContent = score(values[t]); });
  }
  showWorst(layer) {
    this.worst.replaceChildren(...(layer.worst.length ? [h('span', { class: 'sv-muted' }, `Lowest ${layer.worst_by}`)] : []),
      ...layer.worst.map((t) => h('button', { type: 'button', class: 'sv-chip', title: `Go to frame ${this.meta.numbers[t]}`, 'data-frame': t, onclick: () => this.seek(t) }, String(this.meta.numbers[t]))));
  }
  nextWorst() {
    const { worst } = this.layers[this.layerOf('layer')] ?? { worst: [] };
    if (worst.length) this.seek(worst[(worst.indexOf(this.get('frame')) + 1) % worst.length]);
  }

  // --- pixels under the pointer -------------------------------------------------------------------------------------

  async describe(x, y, pane) {
    const t = this.drawn, p = y * this.meta.width + x, lines = [];
    if (!this.layers.length || t < 0) return [{ name: `${x}, ${y}`, dim: true }];
    const first = this.twoLayers && this.get('mode') !== 'difference' ? [this.layerOf(pane ? 'other' : 'layer')] : this.needed();
    const order = [...new Set([...first, ...(this.truth >= 0 ? [this.truth] : [])])];
    for (const n of order) {
      const c = (await this.media.indices(n, t))[p], sure = await this.media.confidence(n, t), name = this.meta.classes[c] ?? 'not labelled';
      lines.push({ name, color: this.colors[c] ?? [128, 128, 128], note: [order.length > 1 ? this.layers[n].name : null, sure && asNote(sure[p] / 100)].filter(Boolean).join(', ') });
    }
    return [...lines, { name: `${x}, ${y}`, dim: true }];
  }
  async pick(x, y, pane) {
    if (!this.layers.length) return;
    const layer = this.layerOf(this.twoLayers && pane ? 'other' : 'layer'), p = y * this.meta.width + x;
    const c = (await this.media.indices(layer, this.drawn))[p];
    const same = this.get('pinned') === c;
    this.set('pinned', same || c === this.meta.ignore ? -1 : c);
    if (same) { this.history.hide(); return; }
    const read = async (n, t) => (await this.media.indices(n, t))[p];
    await this.history.show(x, y, this.curves, read, (k) => this.meta.classes[k] ?? 'not labelled', (k) => this.colors[k] ?? [128, 128, 128]);
  }

  // --- moving through time ------------------------------------------------------------------------------------------

  seek(t) { this.set('frame', clamp(t, 0, this.meta.count - 1)); return this.idle; }
  step(by) { if (this.get('playing')) this.set('playing', false); return this.seek(this.get('frame') + by); }
  togglePlay() { this.model.set('playing', !this.get('playing')); this.save(); }
  showPlaying(on) {
    this.playButton.replaceChildren(icon(on ? 'pause' : 'play'));
    this.playButton.title = on ? 'Pause (space)' : 'Play (space)';
    this.playButton.setAttribute('aria-label', this.playButton.title);
    this.root.classList.toggle('sv-playing', on);
  }
  play() {
    this.showPlaying(true);
    if (drivers.get(this.model)) return;
    drivers.set(this.model, this);
    const { meta } = this, last = meta.count - 1;
    if (this.get('frame') >= last) this.model.set('frame', 0);
    let start = performance.now(), from = this.get('frame'), speed = this.get('speed'), placed = from, told = start, painted = this.painted;
    const begin = (now) => { start = now; placed = from = this.get('frame'); speed = this.get('speed'); };
    const tick = (now) => {
      if (!this.get('playing') || this.stopped) { this.pause(); return; }
      if (this.get('speed') !== speed || this.get('frame') !== placed) begin(now);       // the user changed something
      const next = from + Math.floor(Math.max(now - start, 0) / 1000 * meta.fps * speed);
      if (next > last && !this.get('loop')) { this.model.set('frame', last); this.model.set('playing', false); this.save(); return; }
      if (!this.busy && next !== placed) { placed = next > last ? 0 : next; this.model.set('frame', placed); if (next > last) begin(now); }
      if (now - told > 1000) { this.rate.textContent = `${((this.painted - painted) * 1000 / (now - told)).toFixed(0)} drawn/s`; told = now; painted = this.painted; }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }
  pause() {
    this.showPlaying(false);
    this.rate.textContent = '';
    if (drivers.get(this.model) === this) drivers.delete(this.model);
    this.status.textContent = `Paused at ${this.where.textContent}`;
    this.refresh();
  }

  // --- keys ---------------------------------------------------------------------------------------------------------

  onKey(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
    const typing = e.target.matches('select, input:not(.sv-scrub), textarea');
    if (typing && e.key !== 'Escape') return;
    if (e.key === ' ' && e.target.matches('button, summary')) return;     // space presses the focused button
    const act = this.keyAction(e);
    if (act) { act(); e.preventDefault(); }
    e.stopPropagation();                               // the notebook has commands of its own on these keys
  }
  keyAction(e) {
    const cycle = (key, values) => () => this.set(key, values[(values.indexOf(this.get(key)) + 1) % values.length]);
    const far = e.shiftKey ? 10 : 1, last = this.meta.count - 1;
    if (/^[0-9]$/.test(e.key)) return () => this.seek(Math.round(Number(e.key) / 10 * last));
    return { ' ': () => this.togglePlay(), ArrowLeft: () => this.step(-far), ArrowRight: () => this.step(far), ArrowDown: () => this.step(-far), ArrowUp: () => this.step(far),
      PageDown: () => this.step(10), PageUp: () => this.step(-10), Home: () => this.seek(0), End: () => this.seek(last),
      w: () => this.nextWorst(), m: cycle('mode', this.modes.buttons.map((b) => b.dataset.value)), o: cycle('style', STYLES.map(([v]) => v)),
      h: () => this.set('hatch', !this.get('hatch')), a: () => this.set('hidden', []), '+': () => this.stage.zoomBy(1.5), '=': () => this.stage.zoomBy(1.5),
      '-': () => this.stage.zoomBy(1 / 1.5), z: () => this.stage.reset(), Escape: () => { this.set('pinned', -1); this.history.hide(); },
      '[': () => this.set('opacity', clamp(this.get('opacity') - 0.1, 0, 1)), ']': () => this.set('opacity', clamp(this.get('opacity') + 0.1, 0, 1)) }[e.key];
  }

  // --- how fast is it? ----------------------------------------------------------------------------------------------

  /** Visit frames one after another, each shown on the screen before the next; frames per second and the slowest in ms. */
  async measure(order = 'forward', present = true) {
    const { count } = this.meta, visits = Array.from({ length: count }, (_, t) => (order === 'forward' ? t : (t * 7919 + 13) % count));
    const times = [], begin = performance.now();
    for (const t of visits) {
      const from = performance.now();
      await this.seek(t);
      if (present) await new Promise(requestAnimationFrame);
      times.push(performance.now() - from);
    }
    const seconds = (performance.now() - begin) / 1000;
    times.sort((a, b) => a - b);
    return { frames: count, seconds, fps: count / seconds, median_ms: times[count >> 1], p95_ms: times[Math.floor(count * 0.95)], slowest_ms: times[count - 1] };
  }
}

export function renderClip({ model, el }) {
  const root = h('div', { class: 'segvid sv-clip' });
  el.append(root);
  const unhide = hidePoster(model.get('_poster'));
  let view = null;
  try { view = new ClipView(model, root); view.start(); } catch (problem) { complain(root, problem); }
  return () => { view?.stop(); unhide(); };
}
