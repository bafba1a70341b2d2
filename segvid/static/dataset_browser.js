// What a data set holds: recordings, gaps, labels, and which frames a clip is made of for the dilation of your choice.

import { chooser, clamp, complain, debounce, h, s } from './dom.js';
import { asBytes, hidePoster, Listening } from './model.js';

const WAYS = { complete: 'complete', mirror: 'mirrored', repeat: 'repeated', drop: 'shortened', error: 'impossible' };
const WAY_COLORS = { complete: 'var(--sv-curve-2)', mirror: 'var(--sv-curve-0)', repeat: 'var(--sv-curve-4)', drop: 'var(--sv-curve-3)', error: 'var(--sv-curve-1)' };
const MISSING = [['mirror', 'mirror'], ['repeat', 'repeat nearest'], ['drop', 'drop'], ['error', 'error']];
const MOST_ROWS = 200;
const BROWSER_KEYS = '↑ ↓ recording, ← → labelled frame, Home and End';

/** [start, stop, step] runs as numbers; stop is the last number. */
export function unroll(runs) {
  return runs.flatMap(([start, stop, step]) => Array.from({ length: Math.floor((stop - start) / step) + 1 }, (_, n) => start + n * step));
}

/** The frames of the clip that ends at `current`, and how they were found; the rules of `choose_frames` in Python. */
export function clipFrames(snippet, current, dilation, missing) {
  const there = snippet instanceof Set ? snippet : new Set(snippet);
  const wanted = dilation.map((d) => current + d);
  if (wanted.every((n) => there.has(n))) return { how: 'complete', wanted, frames: [...wanted, current] };
  const mirrored = dilation.map((d) => current - d);
  if (missing === 'mirror' && mirrored.every((n) => there.has(n))) return { how: 'mirror', wanted, frames: [...mirrored, current] };
  if (missing === 'error') return { how: 'error', wanted, frames: [current] };
  if (missing === 'drop') return { how: 'drop', wanted, frames: [...wanted.filter((n) => there.has(n)), current] };
  const key = (m, n) => [Math.abs(m - n), Math.abs(m - current), m];                      // nearest; then nearest to the current one; then the earlier
  const before = (a, b) => { const i = a.findIndex((v, k) => v !== b[k]); return i >= 0 && a[i] < b[i]; };
  const near = (n) => [...there].reduce((best, m) => (before(key(m, n), key(best, n)) ? m : best));
  return { how: 'repeat', wanted, frames: [...wanted.map(near), current] };
}

export class BrowserView {
  static rule = clipFrames;                            // for tests

  constructor(model, root) {
    this.model = model; this.root = root; this.meta = model.get('_meta');
    this.bytes = asBytes(model.get('_blob'));
    this.listening = new Listening(model);
    this.save = debounce(() => model.save_changes(), 150);
    this.pictures = new Map(Object.entries(this.meta.thumbs).map(([key, [at, length]]) => [key, URL.createObjectURL(new Blob([this.bytes.subarray(at, at + length)], { type: 'image/jpeg' }))]));
    this.unrolled = new Map();
    this.build();
    this.listen();
  }
  get(key) { return this.model.get(key); }
  set(key, value) { this.model.set(key, value); this.save(); }
  /** A recording with its frames as numbers and sets, made when first needed. */
  recording(n) {
    if (!this.unrolled.has(n)) {
      const { snippets, labelled, ...rest } = this.meta.sequences[n], lists = snippets.map((run) => unroll(run));
      this.unrolled.set(n, { ...rest, snippets: lists, sets: lists.map((list) => new Set(list)), labelled: unroll(labelled) });
    }
    return this.unrolled.get(n);
  }
  clipAt(recording, current) {
    const snippet = recording.sets.find((set) => set.has(current)) ?? new Set([current]);
    return clipFrames(snippet, current, this.get('dilation'), this.get('missing'));
  }

  // --- the page -----------------------------------------------------------------------------------------------------

  build() {
    const { meta, root } = this, splits = [...new Set(meta.sequences.map((r) => r.split))];
    this.search = h('input', { type: 'search', class: 'sv-input', placeholder: 'filter recordings', aria: { label: 'Filter recordings by name' }, oninput: () => this.drawList() });
    this.split = chooser('Split', [['', 'all'], ...splits.map((v) => [v, v || 'none'])], () => this.drawList());
    this.dilation = h('input', { type: 'text', class: 'sv-input sv-short', aria: { label: 'Dilation: frame offsets of the clip, separated by commas' }, onchange: () => this.readDilation() });
    this.missing = chooser('missing', MISSING, (way) => this.set('missing', way));
    this.list = h('ul', { class: 'sv-recordings', aria: { label: 'Recordings' } });
    this.more = h('p', { class: 'sv-muted sv-more-rows' });
    this.coverage = h('div', { class: 'sv-coverage' });
    this.title = h('h4', {}); this.story = h('p', { class: 'sv-story' }); this.strip = h('div', { class: 'sv-track' }); this.film = h('div', { class: 'sv-film' });
    root.append(
      h('div', { class: 'sv-head' }, h('strong', {}, meta.title), h('span', { class: 'sv-muted' }, meta.summary)),
      h('div', { class: 'sv-tools' }, this.search, this.split.element, h('label', { class: 'sv-field' }, h('span', {}, 'Dilation'), this.dilation), this.missing.element, this.coverage),
      h('div', { class: 'sv-browse' }, h('div', {}, this.list, this.more), h('div', { class: 'sv-detail' }, this.title, this.strip, this.story, this.film)));
    Object.assign(root, { tabIndex: 0, viewer: this });
    for (const [name, value] of Object.entries({ role: 'group', 'aria-label': `Dataset browser, ${meta.title}, ${meta.summary}. ${BROWSER_KEYS}`, 'data-lm-suppress-shortcuts': 'true' })) root.setAttribute(name, value);
    this.watcher = new ResizeObserver(() => this.drawDetail());
    this.watcher.observe(this.strip);
  }
  listen() {
    const on = (keys, act) => this.listening.on(keys, act);
    on('sequence', () => { this.mark(); this.goToLabel(); });
    on('current', () => this.drawDetail());
    on('dilation missing', () => { this.showControls(); this.count(); this.drawDetail(); });
    this.listening.on('msg:custom', (message, buffers) => this.receive(message, buffers));
    this.root.addEventListener('keydown', (e) => this.onKey(e));
  }
  start() { this.showControls(); this.drawList(); this.count(); this.drawDetail(); }
  stop() { this.listening.stop(); this.watcher.disconnect(); for (const url of this.pictures.values()) URL.revokeObjectURL(url); }
  showControls() {
    this.dilation.value = this.get('dilation').join(', ');
    this.missing.show(this.get('missing'));
  }
  readDilation() {
    const numbers = (this.dilation.value.match(/[-−+]?\d+/g) ?? []).map((text) => Number(text.replace('−', '-')));
    if (numbers.length) this.set('dilation', numbers); else this.showControls();
  }
  onKey(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (!e.target.matches('input, select')) {
      const labels = this.recording(this.get('sequence')).labelled, at = labels.indexOf(this.get('current'));
      const go = (n) => () => { if (labels.length) this.set('current', labels[clamp(n, 0, labels.length - 1)]); };
      const act = { ArrowUp: () => this.turn(-1), ArrowDown: () => this.turn(1), ArrowLeft: go(at - 1), ArrowRight: go(at + 1), Home: go(0), End: go(labels.length - 1) }[e.key];
      if (act) { act(); e.preventDefault(); }
    }
    e.stopPropagation();
  }
  turn(by) {
    const next = this.listed[clamp(this.listed.indexOf(this.get('sequence')) + by, 0, this.listed.length - 1)];
    if (next !== undefined) this.set('sequence', next);
    this.list.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest' });
  }
  goToLabel() {
    const { labelled, snippets } = this.recording(this.get('sequence'));
    const first = labelled.length ? labelled[Math.min(Math.floor(labelled.length / 2), labelled.length - 1)] : snippets[0][snippets[0].length - 1];
    if (first === this.get('current')) this.drawDetail(); else this.set('current', first);
  }

  // --- the list -----------------------------------------------------------------------------------------------------

  drawList() {
    const words = this.search.value.toLowerCase(), split = this.split.list.value;
    const fits = ({ name, split: side }) => name.toLowerCase().includes(words) && (!split || side === split);
    this.listed = this.meta.sequences.map((_, n) => n).filter((n) => fits(this.meta.sequences[n]));
    this.list.replaceChildren(...this.listed.slice(0, MOST_ROWS).map((n) => this.row(n)));
    this.more.textContent = this.listed.length > MOST_ROWS ? `and ${this.listed.length - MOST_ROWS} more: type a part of the name` : this.listed.length ? '' : 'no recording has this name';
    this.mark();
  }
  row(n) {
    const { name, split, frames, labels, snippets } = this.meta.sequences[n], gaps = snippets.length - 1;
    return h('li', { 'data-sequence': n }, h('button', { type: 'button', class: 'sv-recording', onclick: () => this.set('sequence', n) },
      h('b', {}, name), h('span', { class: 'sv-muted' }, split), h('span', { class: 'sv-muted sv-number' }, `${frames} frames · ${labels} labelled${gaps ? ` · ${gaps} gap${gaps > 1 ? 's' : ''}` : ''}`), this.bars(n)));
  }
  /** A small picture of one recording: frames grey, labels in color, gaps empty. */
  bars(n) {
    const { snippets, labelled } = this.meta.sequences[n], all = snippets.flat(), first = all[0][0], last = Math.max(all.at(-1)[1], first + 1);
    const x = (v) => (v - first) / (last - first) * 100, line = (runs, kind) => s('path', { class: kind, d: runs.map(([a, b]) => `M${x(a)} 3H${x(b) + 0.01}`).join('') });
    const ticks = labelled.length > 60 ? line(labelled, 'sv-labels') : s('path', { class: 'sv-labels', d: unroll(labelled.slice(0, 60)).slice(0, 400).map((v) => `M${x(v)} 3h.01`).join('') });
    return s('svg', { viewBox: '-1 0 102 6', preserveAspectRatio: 'none', class: 'sv-bars', aria: { hidden: 'true' } }, line(all, 'sv-frames'), ticks);
  }
  mark() {
    for (const item of this.list.children) {
      const on = Number(item.dataset.sequence) === this.get('sequence');
      if (on) item.firstChild.setAttribute('aria-current', 'true'); else item.firstChild.removeAttribute('aria-current');
    }
  }
  /** How the clips of all labelled frames come about. */
  count() {
    const found = {};
    this.meta.sequences.forEach((_, n) => {
      const recording = this.recording(n);
      for (const current of recording.labelled) { const { how } = this.clipAt(recording, current); found[how] = (found[how] ?? 0) + 1; }
    });
    this.coverage.replaceChildren(...Object.keys(WAYS).filter((how) => found[how]).map((how) =>
      h('span', { class: 'sv-key', 'data-how': how }, h('i', { class: 'sv-swatch', style: { '--color': WAY_COLORS[how] } }), h('b', { class: 'sv-number' }, found[how].toLocaleString('en')), `clips ${WAYS[how]}`)));
  }

  // --- one recording ------------------------------------------------------------------------------------------------

  drawDetail() {
    const n = this.get('sequence'), recording = this.recording(n), current = this.get('current'), clip = this.clipAt(recording, current);
    this.title.textContent = recording.name;
    this.drawTrack(recording, current, clip);
    const offsets = this.get('dilation').map((d) => (d > 0 ? `+${d}` : `${d}`).replace('-', '−'));
    const gone = clip.wanted.filter((v) => !recording.sets.some((set) => set.has(v)) || !recording.sets.find((set) => set.has(current))?.has(v));
    const tale = { complete: 'All neighbours exist.', mirror: `Missing: ${gone.join(', ')}. The whole clip is mirrored to later frames.`, repeat: `Missing: ${gone.join(', ')}. The nearest frame of the snippet stands in.`,
      drop: `Missing: ${gone.join(', ')}. They are left out.`, error: `Missing: ${gone.join(', ')}. Reading this clip raises an error.` }[clip.how];
    this.story.replaceChildren(h('span', { class: 'sv-key' }, h('i', { class: 'sv-swatch', style: { '--color': WAY_COLORS[clip.how] } }), h('b', {}, `Frame ${current}, ${WAYS[clip.how]}`)), tale);
    this.drawFilm(n, clip, offsets, current);
    this.root.dataset.clip = clip.frames.join(); this.root.dataset.how = clip.how;
  }
  drawTrack(recording, current, clip) {
    const width = this.strip.clientWidth, { snippets, labelled } = recording, first = Math.min(snippets[0][0], ...clip.wanted), last = Math.max(snippets.at(-1).at(-1), first + 1, ...clip.frames);
    if (!width) return;
    const unit = (width - 8) / (last - first + 1), x = (v) => 4 + (v - first + 0.5) * unit, bar = Math.max(Math.min(unit * 0.72, 16), 1), base = 62;
    const marks = (numbers, kind) => s('path', { class: kind, 'stroke-width': bar, d: numbers.map((v) => `M${x(v).toFixed(1)} ${base}v14`).join('') });
    const arcs = clip.frames.slice(0, -1).map((v) => s('path', { class: 'sv-arc', style: { stroke: WAY_COLORS[clip.how] }, d: `M${x(v)} ${base - 4}Q${(x(v) + x(current)) / 2} ${base - 12 - Math.min(Math.abs(x(v) - x(current)) * 0.35, 60)} ${x(current)} ${base - 4}` }));
    const dots = clip.frames.map((v) => s('circle', { cx: x(v), cy: base - 4, r: v === current ? 5 : 4, style: { fill: WAY_COLORS[clip.how] }, class: 'sv-dot' }));
    const holes = clip.wanted.filter((v) => !clip.frames.includes(v)).map((v) => s('circle', { cx: x(v), cy: base - 4, r: 4, class: 'sv-hole' }));
    const texts = [...new Set([first, last, current])].map((v) => s('text', { x: clamp(x(v), 12, width - 12), y: base + 30, 'text-anchor': 'middle', class: v === current ? 'sv-now' : null }, String(v)));
    const plot = s('svg', { viewBox: `0 0 ${width} 98`, height: 98, class: 'sv-plot', role: 'img', aria: { label: `Frames ${first} to ${last}; the clip is made of ${clip.frames.join(', ')}` },
      onclick: (e) => this.pick(first + Math.floor((e.clientX - plot.getBoundingClientRect().left - 4) / unit), recording) },
    snippets.map((list) => s('path', { class: 'sv-brace', d: `M${x(list[0]) - bar / 2} ${base + 18}H${x(list.at(-1)) + bar / 2}` })), marks(snippets.flat(), 'sv-frames'), marks(labelled, 'sv-labels'), arcs, holes, dots, texts);
    this.strip.replaceChildren(plot);
  }
  pick(number, { labelled, snippets }) {
    const from = labelled.length ? labelled : snippets.flat();
    this.set('current', from.reduce((best, v) => (Math.abs(v - number) < Math.abs(best - number) ? v : best)));
  }
  drawFilm(n, clip, offsets, current) {
    const wanted = clip.frames.filter((v) => !this.pictures.has(`${n}:${v}`));
    this.film.replaceChildren(...clip.frames.map((v, i) => {
      const url = this.pictures.get(`${n}:${v}`), title = v === current ? 'current' : clip.how === 'complete' || clip.how === 'mirror' ? offsets[i].replace(/[−+]/, (sign) => (clip.how === 'mirror' ? (sign === '−' ? '+' : '−') : sign)) : '';
      return h('figure', {}, url ? h('img', { src: url, alt: `frame ${v}` }) : h('div', { class: 'sv-blank' }, this.model.isStatic ? 'shown in a running notebook' : ''), h('figcaption', {}, h('b', {}, `${v}`), ` ${title}`));
    }));
    if (wanted.length) this.model.send({ type: 'thumbs', sequence: n, frames: [...new Set(wanted)] });
  }
  receive({ type, sequence, frames }, buffers) {
    if (type !== 'thumbs') return;
    frames.forEach((v, i) => this.pictures.set(`${sequence}:${v}`, URL.createObjectURL(new Blob([buffers[i]], { type: 'image/jpeg' }))));
    if (sequence === this.get('sequence')) this.drawDetail();
  }
}

export function renderBrowser({ model, el }) {
  const root = h('div', { class: 'segvid sv-dataset' });
  el.append(root);
  const unhide = hidePoster(model.get('_poster'));
  let view = null;
  try { view = new BrowserView(model, root); view.start(); } catch (problem) { complain(root, problem); }
  return () => { view?.stop(); unhide(); };
}
