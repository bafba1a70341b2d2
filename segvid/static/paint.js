// Masks to pixels. A table of 64 × 256 ready-made pixels turns (position in an 8 × 8 tile, class) into a color, so that
// plain color, hatching, hidden and pinned classes all cost one look-up per pixel.

import { clamp } from './dom.js';

// Hatch patterns as 8 × 8 tests of (x, y); number 0 is plain.
const PATTERNS = [
  () => false,
  (x, y) => (x + y) % 8 < 2,                                  // rising lines
  (x, y) => x % 8 < 2,                                        // upright lines
  (x, y) => (x % 4 < 2) && (y % 4 < 2),                       // dots
  (x, y) => y % 8 < 2,                                        // level lines
  (x, y) => (x - y + 8) % 8 < 2,                              // falling lines
  (x, y) => (x + y) % 8 < 1 || (x - y + 8) % 8 < 1,           // both
];

const pixel = ([r, g, b], alpha) => ((Math.round(255 * alpha) << 24) | (b << 16) | (g << 8) | r) >>> 0;
const bright = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b > 128;

/** Alpha of every class: the opacity, less for those that are not pinned, none for hidden ones. */
export function classAlphas(count, { opacity, hidden, pinned }) {
  const alphas = new Float32Array(256);
  for (let c = 0; c < count; c++) alphas[c] = opacity * (pinned >= 0 && pinned !== c ? 0.3 : 1);
  for (const c of hidden) alphas[c] = 0;
  return alphas;
}

/** Pixels for (position in tile, class): Uint32Array(64 · 256). `hatches` is null or a pattern number per class. */
export function fillTable(colors, hatches, alphas) {
  const table = new Uint32Array(64 * 256);
  colors.forEach((color, c) => {
    if (!alphas[c]) return;
    const plain = pixel(color, alphas[c]), line = pixel(bright(color) ? [0, 0, 0] : [255, 255, 255], Math.min(1, alphas[c] * 1.15));
    const on = PATTERNS[hatches ? hatches[c] % PATTERNS.length : 0];
    for (let p = 0; p < 64; p++) table[(p << 8) | c] = on(p & 7, p >> 3) ? line : plain;
  });
  return table;
}

/** Pixels for outlines: the class's color, nearly opaque; Uint32Array(256). */
export function lineTable(colors, alphas) {
  const table = new Uint32Array(256);
  colors.forEach((color, c) => { if (alphas[c]) table[c] = pixel(color, Math.min(1, 0.35 + alphas[c])); });
  return table;
}

/** A drawing surface for masks: `zoom` screen pixels for each mask pixel, so that hatching stays fine on small clips. */
export class Surface {
  constructor(width, height) {
    this.width = width; this.height = height;
    this.zoom = clamp(Math.round(800 / width), 1, 8);
    this.canvas = document.createElement('canvas');
    this.canvas.width = width * this.zoom; this.canvas.height = height * this.zoom;
    this.context = this.canvas.getContext('2d');
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.out = new Uint32Array(this.image.data.buffer);
    this.column = Int32Array.from({ length: this.canvas.width }, (_, x) => Math.floor(x / this.zoom));
  }
  show() { this.context.putImageData(this.image, 0, 0); }

  /** Class colors; `lines` (or null) draws outlines, `fill` (or null) areas. */
  classes(mask, fill, lines) {
    if (fill) this.areas(mask, fill); else this.out.fill(0);
    if (lines) this.outlines(mask, lines);
    this.show();
  }
  areas(mask, table) {
    const { out, width, zoom, column } = this, across = width * zoom, down = this.height * zoom;
    for (let y = 0, p = 0; y < down; y++) {
      const row = Math.floor(y / zoom) * width, tile = (y & 7) << 11;
      if (zoom === 1) for (let x = 0; x < across; x++) out[p++] = table[tile | ((x & 7) << 8) | mask[row + x]];
      else for (let x = 0; x < across; x++) out[p++] = table[tile | ((x & 7) << 8) | mask[row + column[x]]];
    }
  }
  /** Both sides of every border get a line of their own class's color, one or two pixels wide. */
  outlines(mask, table) {
    const { out, width, height, zoom, column } = this, across = width * zoom, down = height * zoom;
    const wide = across > 700 ? 2 : 1;
    if (zoom === 1) { this.plainOutlines(mask, table, wide); return; }
    for (let y = 0, p = 0; y < down; y++) {
      const row = Math.floor(y / zoom) * width;
      const above = Math.floor(Math.max(y - wide, 0) / zoom) * width, below = Math.floor(Math.min(y + wide, down - 1) / zoom) * width;
      for (let x = 0; x < across; x++, p++) {
        const here = column[x], c = mask[row + here];
        if (mask[above + here] !== c || mask[below + here] !== c ||
            mask[row + column[Math.max(x - wide, 0)]] !== c || mask[row + column[Math.min(x + wide, across - 1)]] !== c) {
          if (table[c]) out[p] = table[c];
        }
      }
    }
  }
  /** The same for one screen pixel per mask pixel, without look-ups and bounds in the inner loop. */
  plainOutlines(mask, table, wide) {
    const { out, width, height } = this;
    for (let y = 0; y < height; y++) {
      const up = y < wide ? 0 : wide * width, down = y >= height - wide ? 0 : wide * width;
      for (let p = y * width + wide, end = (y + 1) * width - wide; p < end; p++) {
        const c = mask[p];
        if ((mask[p - wide] !== c || mask[p + wide] !== c || mask[p - up] !== c || mask[p + down] !== c) && table[c]) out[p] = table[c];
      }
    }
  }
  /** One of a few cases per pixel: `table[test(p)]`; returns how many pixels fall under each case. */
  cases(test, table) {
    const { out, width, height, zoom } = this, counts = new Float64Array(table.length), across = width * zoom;
    for (let y = 0, p = 0; y < height; y++) {
      for (let x = 0; x < width; x++, p++) {
        const n = test(p), color = table[n];
        counts[n]++;
        for (let v = 0; v < zoom; v++) {
          const start = (y * zoom + v) * across + x * zoom;
          for (let u = 0; u < zoom; u++) out[start + u] = color;
        }
      }
    }
    this.show();
    return counts;
  }
}

// The cases of the difference and flicker pictures: text, color and opacity. Colors from Okabe and Ito's palette.
const SHADE = [[20, 20, 24], 0.45], RED = [[213, 94, 0], 0.95], BLUE = [[0, 114, 178], 0.95], AMBER = [[240, 190, 40], 0.95], DARK = [[204, 121, 167], 0.95];

/** Where do two layers differ? Against a known truth the picture also says which of the two is right. */
export function differenceCases(a, b, truth, ignore, names) {
  if (!truth || truth === a || truth === b) {
    return {
      texts: [null, 'different', 'not labelled'], colors: [SHADE, RED, [[0, 0, 0], 0.7]],
      test: (p) => (a[p] === ignore || b[p] === ignore ? 2 : a[p] === b[p] ? 0 : 1),
    };
  }
  return {
    texts: [null, `only ${names[0]} right`, `only ${names[1]} right`, 'both wrong', 'not labelled'],
    colors: [SHADE, BLUE, AMBER, DARK, [[0, 0, 0], 0.7]],
    test: (p) => {
      const t = truth[p], right = a[p] === t, other = b[p] === t;
      if (t === ignore) return 4;
      return right ? (other ? 0 : 1) : other ? 2 : 3;
    },
  };
}

/** Where did the label change since the frame before? Where the truth changed too, something moved; elsewhere it flickers. */
export function flickerCases(now, before, truthNow, truthBefore, ignore) {
  const moved = truthNow && truthBefore ? (p) => truthNow[p] !== truthBefore[p] || truthNow[p] === ignore : () => false;
  return {
    texts: truthNow ? [null, 'flickers', 'moved'] : [null, 'changed'],
    colors: [SHADE, RED, BLUE],
    test: before ? (p) => (now[p] === before[p] ? 0 : moved(p) ? 2 : 1) : () => 0,
  };
}

export const caseTable = (cases) => Uint32Array.from(cases.colors, ([color, alpha]) => pixel(color, alpha));

/** A color between dark blue and yellow (after the cividis map, which reads the same to everyone); x in 0..1. */
export function heat(x) {
  const stops = [[0, 34, 78], [67, 78, 108], [125, 124, 120], [188, 174, 108], [254, 232, 56]];
  const at = clamp(x, 0, 1) * (stops.length - 1), n = Math.min(Math.floor(at), stops.length - 2);
  return stops[n].map((low, i) => Math.round(low + (at - n) * (stops[n + 1][i] - low)));
}
