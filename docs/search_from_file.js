// A page opened from disk may not start a Worker, which the search of the theme needs.
// This one runs the same script in a hidden frame instead; pages from a server never get here.
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      document.documentElement.append(frame);
      this.inside = frame.contentWindow;
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent('message', { data }));
      this.inside.importScripts = (...urls) => { throw new Error(`not available: ${urls}`); };
      const script = frame.contentDocument.createElement('script');
      this.ready = new Promise((resolve) => { script.onload = resolve; });
      script.src = url;
      frame.contentDocument.head.append(script);
    }

    postMessage(data) { this.ready.then(() => this.inside.dispatchEvent(new MessageEvent('message', { data }))); }

    terminate() {}
  };
}
