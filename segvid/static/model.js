// Where a view keeps its state. In a notebook this is the widget's model, shared with Python; in a page written by
// `to_html` it is a StaticModel with the same methods, so that one set of views serves both.

export class StaticModel {
  constructor(state) { this.state = { ...state }; this.listeners = new Map(); this.isStatic = true; }
  get(key) { return this.state[key]; }
  set(key, value) {
    if (this.state[key] === value) return;
    this.state[key] = value;
    for (const listener of [...(this.listeners.get(`change:${key}`) ?? [])]) listener();
  }
  on(event, listener) { this.listeners.set(event, [...(this.listeners.get(event) ?? []), listener]); }
  off(event, listener) { this.listeners.set(event, (this.listeners.get(event) ?? []).filter((l) => l !== listener)); }
  save_changes() {}
  send() {}
}

/** Listens to several keys of a model and forgets them all at once. */
export class Listening {
  constructor(model) { this.model = model; this.pairs = []; }
  on(keys, listener) {
    for (const key of keys.split(' ')) {
      const event = key.startsWith('msg:') ? key : `change:${key}`;
      this.model.on(event, listener); this.pairs.push([event, listener]);
    }
  }
  stop() { for (const [event, listener] of this.pairs) this.model.off(event, listener); this.pairs = []; }
}

/** Bytes of a model's binary value: a DataView from the kernel, base64 text in a static page. */
export function asBytes(value) {
  if (typeof value === 'string') return Uint8Array.from(atob(value), (c) => c.charCodeAt(0));
  if (value instanceof DataView) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return value instanceof Uint8Array ? value : new Uint8Array(value ?? 0);
}

/** A saved notebook keeps a picture beside the widget. Where the widget runs, hide that picture; give it back on leaving. */
export function hidePoster(start) {
  if (!start) return () => {};
  const hidden = [];
  for (const image of document.querySelectorAll('img[src^="data:image/png"]')) {
    if (!image.src.startsWith(`data:image/png;base64,${start}`)) continue;
    const box = image.closest('.jp-OutputArea-child, .output_area') ?? image;
    hidden.push([box, box.style.display]); box.style.display = 'none';
  }
  return () => { for (const [box, display] of hidden) box.style.display = display; };
}

/** Start a view on a page without a kernel; its state waits as JSON in the element `${name}-state`. */
export function mountPage(name, render) {
  const el = document.getElementById(name), state = JSON.parse(document.getElementById(`${name}-state`).textContent);
  el.replaceChildren();                                // the picture for readers without JavaScript
  return render({ model: new StaticModel(state), el });
}
