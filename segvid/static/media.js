// Frames and masks: cut out of one block of bytes, decoded on demand, kept in a cache of limited size.

/** Undo the five row filters of PNG for one byte per pixel; `raw` has a filter byte before each row. */
export function unfilter(raw, width, height) {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const from = y * (width + 1), to = y * width, kind = raw[from];
    const row = raw.subarray(from + 1, from + 1 + width);
    if (kind === 0) { out.set(row, to); continue; }
    for (let x = 0; x < width; x++) {
      const left = x ? out[to + x - 1] : 0, up = y ? out[to + x - width] : 0, corner = x && y ? out[to + x - width - 1] : 0;
      let guess = 0;
      if (kind === 1) guess = left;
      else if (kind === 2) guess = up;
      else if (kind === 3) guess = (left + up) >> 1;
      else {                                           // Paeth: whichever neighbour is nearest to left + up - corner
        const p = left + up - corner, a = Math.abs(p - left), b = Math.abs(p - up), c = Math.abs(p - corner);
        guess = a <= b && a <= c ? left : b <= c ? up : corner;
      }
      out[to + x] = row[x] + guess;                    // a Uint8Array keeps the sum modulo 256
    }
  }
  return out;
}

/**
 * The numbers inside an 8-bit grey or palette PNG, exactly as they were written.
 * A canvas would give colors, which color management or privacy settings may change; class numbers must not change.
 */
export async function decodeIndexPng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let width = 0, height = 0, at = 8;
  const packed = [];
  while (at < bytes.length) {
    const length = view.getUint32(at), type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (type === 'IHDR') {
      [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
      const [depth, color, , , interlaced] = bytes.subarray(at + 16, at + 21);
      if (depth !== 8 || (color !== 0 && color !== 3) || interlaced) throw new Error('masks must be 8-bit grey or palette PNG, not interlaced');
    }
    if (type === 'IDAT') packed.push(bytes.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const flow = new Blob(packed).stream().pipeThrough(new DecompressionStream('deflate'));
  return unfilter(new Uint8Array(await new Response(flow).arrayBuffer()), width, height);
}

/** Promises by key, the least recently used thrown away when their sizes exceed the budget (bytes). */
export class Cache {
  constructor(budget) { this.budget = budget; this.used = 0; this.entries = new Map(); }
  get(key, size, make) {
    let entry = this.entries.get(key);
    if (entry) this.entries.delete(key);               // moved to the end: most recently used
    else {
      entry = { size, promise: make() };
      entry.promise.catch(() => { if (this.entries.get(key) === entry) { this.entries.delete(key); this.used -= size; } });
      this.used += size;
    }
    this.entries.set(key, entry);
    for (const [old, { size: freed, promise }] of this.entries) {
      if (this.used <= this.budget || old === key) break;
      this.remove(old, freed, promise);
    }
    return entry.promise;
  }
  remove(key, size, promise) {
    this.entries.delete(key); this.used -= size;
    promise.then((made) => made.close?.()).catch(() => {});
  }
  /** Throw away all entries whose key passes `test`. */
  drop(test) { for (const [key, { size, promise }] of this.entries) if (test(key)) this.remove(key, size, promise); }
}

// One cache for all viewers of a page, however often this script was loaded: ten viewers must not take ten times the memory.
const BUDGET = 500e6;
const sharedCache = () => (globalThis.segvidPictures ??= Object.assign(new Cache(BUDGET), { clips: 0 }));

/** All pictures of one clip. `meta` says where each lies in `bytes`. */
export class ClipMedia {
  constructor(meta, bytes) {
    this.meta = meta; this.bytes = bytes;
    this.pixels = meta.width * meta.height;
    this.cache = sharedCache();
    this.cache.budget = Math.max(this.cache.budget, 40 * 5 * this.pixels);      // room for what one drawing needs, however large
    this.name = `clip ${++this.cache.clips} `;
  }
  /** Forget all pictures of this clip. */
  close() { this.cache.drop((key) => key.startsWith(this.name)); }
  part(n) { const [offset, length] = this.meta.parts[n]; return this.bytes.subarray(offset, offset + length); }

  /** Frame t as an ImageBitmap. */
  picture(t) {
    return this.cache.get(`${this.name}f${t}`, 4 * this.pixels, () => createImageBitmap(new Blob([this.part(this.meta.frames + t)], { type: this.meta.mime })));
  }
  /** Class numbers of a layer at frame t, one byte per pixel. */
  indices(layer, t) {
    return this.cache.get(`${this.name}m${layer},${t}`, this.pixels, () => decodeIndexPng(this.part(this.meta.layers[layer].masks + t)));
  }
  /** Confidence of a layer at frame t in whole percent; null where none was given. */
  confidence(layer, t) {
    const start = this.meta.layers[layer].confidence;
    return start === null ? Promise.resolve(null) : this.cache.get(`${this.name}c${layer},${t}`, this.pixels, () => decodeIndexPng(this.part(start + t)));
  }
  /** Begin to decode the frames that will be asked for next. */
  prefetch(t, step, layers, ahead = 6) {
    for (let n = 1; n <= ahead; n++) {
      const next = t + n * step;
      if (next < 0 || next >= this.meta.count) return;
      this.picture(next).catch(() => {});
      for (const layer of layers) this.indices(layer, next).catch(() => {});
    }
  }
}
