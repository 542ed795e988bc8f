// A film on a canvas at its full resolution: window, pan, zoom, invert; and its overlay.

import { h, s } from "./dom.js";
import { overlay } from "./overlay.js";

const MOST = 16; // screen pixels a film pixel
const SMOOTH_TO = 4; // from here on pixels are shown as squares

/** A film's picture at its full size and halved, again and again: a large film is drawn small without flicker. */
export async function pictures(blob) {
  const whole = await createImageBitmap(blob);
  const levels = [whole];
  while (Math.min(levels.at(-1).width, levels.at(-1).height) > 600) {
    const { width, height } = levels.at(-1);
    const size = { resizeWidth: Math.round(width / 2), resizeHeight: Math.round(height / 2), resizeQuality: "high" };
    levels.push(await createImageBitmap(levels.at(-1), size));
  }
  return levels;
}

export class Viewer extends EventTarget {
  constructor(name) {
    super();
    this.canvas = h("canvas", { role: "img", "aria-label": "No film" });
    this.svg = s("svg", { "aria-hidden": "true" });
    this.wait = h("div", { class: "wait", hidden: true });
    this.stage = h("div", { class: "stage", tabindex: "0", role: "group", "aria-label": name }, this.canvas, this.svg, this.wait);
    this.title = h("span", { class: "name" });
    this.readout = h("span", { class: "readout" });
    this.bar = h("div", { class: "bar" }, this.title, this.readout);
    this.element = h("div", { class: "pane" }, this.bar, this.stage);
    this.context = this.canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    this.film = null;
    this.levels = null;
    this.chosen = null;
    this.view = { zoom: 1, x: 0, y: 0, fitted: true };
    this.gray = { width: 255, level: 127.5, inverted: false };
    this.shown = { devices: new Set(), colours: {}, carina: true };
    this.tool = null; // takes part in pointer events and adds to the overlay while films are corrected
    this._listen();
    new ResizeObserver(() => this._resized()).observe(this.stage);
    this._watchRatio();
  }

  /** Show a film: {name, words, findings, ...} with its pictures; null: none. The view is fitted. */
  show(film, levels) {
    this.film = film;
    this.levels = levels;
    this.chosen = null;
    this.title.textContent = film ? film.name : "";
    this.title.title = film ? film.name : "";
    this.gray = { width: 255, level: 127.5, inverted: false };
    this.fit();
  }

  /** Say that a film is on its way, or why it does not come; null: nothing to say. */
  say(text) {
    this.wait.hidden = text === null;
    this.wait.textContent = text ?? "";
  }

  describe(text) {
    this.canvas.setAttribute("aria-label", text);
  }

  get size() {
    return this.levels ? [this.levels[0].width, this.levels[0].height] : [1, 1];
  }

  /** Pixel centres of a film lie at whole numbers. */
  at = ([x, y]) => [(x + 0.5) * this.view.zoom + this.view.x, (y + 0.5) * this.view.zoom + this.view.y];

  from = ([x, y]) => [(x - this.view.x) / this.view.zoom - 0.5, (y - this.view.y) / this.view.zoom - 0.5];

  get room() {
    return [this.stage.clientWidth, this.stage.clientHeight];
  }

  get least() {
    const [w, h] = this.size;
    return Math.min(this.room[0] / w, this.room[1] / h);
  }

  fit() {
    const [w, h] = this.size;
    const zoom = this.least;
    this.view = { zoom, x: (this.room[0] - w * zoom) / 2, y: (this.room[1] - h * zoom) / 2, fitted: true };
    this.changed();
  }

  /** Zoom so that a point of the screen stays where it is. */
  zoomTo(zoom, at = [this.room[0] / 2, this.room[1] / 2]) {
    const bounded = Math.min(MOST, Math.max(Math.min(this.least, 1) / 2, zoom));
    const ratio = bounded / this.view.zoom;
    const moved = (p, origin) => p + (origin - p) * ratio;
    this.view = { zoom: bounded, x: moved(at[0], this.view.x), y: moved(at[1], this.view.y), fitted: false };
    this.changed();
  }

  actual(at) {
    this.zoomTo(1 / devicePixelRatio, at);
  }

  pan(dx, dy) {
    this.view = { ...this.view, x: this.view.x + dx, y: this.view.y + dy, fitted: false };
    this.changed();
  }

  /** The point of the film that is nearest to one that may lie beside it. */
  inside([x, y]) {
    const [w, h] = this.size;
    return [Math.max(0, Math.min(w - 1, x)), Math.max(0, Math.min(h - 1, y))];
  }

  /** The point of the film in the middle of what is seen of it. */
  get middle() {
    return this.inside(this.from(this.room.map((side) => side / 2)));
  }

  /** Pan as far as a point of the film needs to be seen. */
  reveal(point) {
    const margin = 20;
    const [dx, dy] = this.at(point).map((p, k) => Math.max(margin - p, 0) - Math.max(p - (this.room[k] - margin), 0));
    if (dx || dy) this.pan(dx, dy);
    else this.changed();
  }

  /** Bring points of the film into view, with some of what lies around them. */
  zoomOn(points) {
    const [w, h] = this.size;
    const xs = points.map((p) => p[0]);
    const ys = points.map((p) => p[1]);
    const margin = 0.12 * Math.max(w, h);
    const wide = Math.max(...xs) - Math.min(...xs) + 2 * margin;
    const tall = Math.max(...ys) - Math.min(...ys) + 2 * margin;
    const zoom = Math.min(4, this.room[0] / wide, this.room[1] / tall);
    const centre = [(Math.max(...xs) + Math.min(...xs)) / 2, (Math.max(...ys) + Math.min(...ys)) / 2];
    this.view = {
      zoom,
      x: this.room[0] / 2 - (centre[0] + 0.5) * zoom,
      y: this.room[1] / 2 - (centre[1] + 0.5) * zoom,
      fitted: false,
    };
    this.changed();
  }

  invert() {
    this.gray.inverted = !this.gray.inverted;
    this.changed();
  }

  /** The gray window wider and darker than it is, or than another one. */
  window(wider, darker, { width, level } = this.gray) {
    this.gray.width = Math.min(510, Math.max(2, width + wider));
    this.gray.level = Math.min(255, Math.max(0, level + darker));
    this.changed();
  }

  resetWindow() {
    this.gray = { width: 255, level: 127.5, inverted: false };
    this.changed();
  }

  /** Draw again, with the next frame. */
  changed() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = null;
      this._draw();
      this.dispatchEvent(new Event("view"));
    });
  }

  _resized() {
    if (this.view.fitted) this.fit();
    else this.changed();
  }

  /** Draw again once the window is on a monitor with other pixels: its size in CSS px stays. */
  _watchRatio() {
    const same = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    same.addEventListener("change", () => { this._watchRatio(); this.changed(); }, { once: true });
  }

  /** The canvas has as many pixels as the screen there; to set its size clears it, also to the one it has. */
  _fill() {
    const { canvas } = this;
    const [w, h] = this.room.map((side) => Math.max(1, Math.round(side * devicePixelRatio)));
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  }

  _draw() {
    this._fill();
    const { context, canvas, view } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.levels) {
      this.svg.replaceChildren();
      this.readout.textContent = "";
      return;
    }
    const scale = view.zoom * devicePixelRatio;
    const level = Math.max(0, Math.min(this.levels.length - 1, Math.floor(Math.log2(1 / scale) + 0.01)));
    context.imageSmoothingEnabled = scale < SMOOTH_TO;
    context.imageSmoothingQuality = "medium";
    const [w, h] = this.size;
    // On whole pixels of the screen 1:1 shows every pixel as it is.
    const left = Math.round(view.x * devicePixelRatio);
    const top = Math.round(view.y * devicePixelRatio);
    context.drawImage(this.levels[level], left, top, w * scale, h * scale);
    this._window(left, top, w * scale, h * scale);
    this._overlay();
    this.readout.textContent =
      `${Math.round(100 * scale)} %   W ${Math.round(this.gray.width)}  L ${Math.round(this.gray.level)}`;
    this.readout.title = `${w} × ${h} px`;
  }

  /** Gray values through the window, where the film is on the screen. */
  _window(left, top, wide, tall) {
    const { width, level, inverted } = this.gray;
    if (width === 255 && level === 127.5 && !inverted) return;
    const x = Math.max(0, Math.floor(left));
    const y = Math.max(0, Math.floor(top));
    const w = Math.min(this.canvas.width, Math.ceil(left + wide)) - x;
    const t = Math.min(this.canvas.height, Math.ceil(top + tall)) - y;
    if (w <= 0 || t <= 0) return;
    const table = new Uint8ClampedArray(256);
    for (let value = 0; value < 256; value += 1) {
      const shown = 255 * ((value - level) / width + 0.5);
      table[value] = inverted ? 255 - Math.min(255, Math.max(0, shown)) : shown;
    }
    const image = this.context.getImageData(x, y, w, t);
    const words = new Uint32Array(image.data.buffer);
    const gray = new Uint32Array(256);
    for (let value = 0; value < 256; value += 1) gray[value] = 0xff000000 | (table[value] * 0x010101);
    for (let k = 0; k < words.length; k += 1) words[k] = gray[words[k] & 0xff];
    this.context.putImageData(image, x, y);
  }

  _overlay() {
    const drawn = this.film?.drawn;
    const [width, height] = this.room;
    const show = { ...this.shown, at: this.at, width, height, chosen: this.chosen };
    const parts = drawn ? overlay(drawn, show) : [];
    this.svg.replaceChildren(...parts.flat(), ...(this.tool ? this.tool.overlay(this) : []));
  }

  _listen() {
    const { stage } = this;
    let drag = null;
    const place = (event) => {
      const box = stage.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    stage.addEventListener("focusin", () => this.dispatchEvent(new Event("touched")));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("pointerdown", (event) => {
      if (!this.levels) return;
      stage.focus({ preventScroll: true });
      this.dispatchEvent(new Event("touched"));
      const panning = event.button !== 0 || event.shiftKey || this.space;
      if (!panning && this.tool?.down(this, this.from(place(event)), event)) {
        drag = { tool: true };
      } else {
        drag = { panning, x: event.clientX, y: event.clientY, gray: { ...this.gray } };
        stage.classList.toggle("panning", panning);
      }
      stage.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    stage.addEventListener("pointermove", (event) => {
      if (!drag) return;
      if (drag.tool) return this.tool?.move(this, this.from(place(event)));
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      if (drag.panning) {
        this.pan(dx, dy);
        [drag.x, drag.y] = [event.clientX, event.clientY];
      } else if (Math.hypot(dx, dy) > 3) {
        this.window(0.7 * dx, 0.5 * dy, drag.gray);
      }
    });
    const end = () => {
      if (drag?.tool) this.tool?.up(this);
      drag = null;
      stage.classList.remove("panning");
    };
    stage.addEventListener("pointerup", end);
    stage.addEventListener("pointercancel", end);
    stage.addEventListener("dblclick", (event) => {
      if (this.tool?.double(this)) return;
      if (this.view.fitted) this.actual(place(event));
      else this.fit();
    });
    stage.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const lines = event.deltaMode === 1 ? 30 : 1;
        if (this.levels) this.zoomTo(this.view.zoom * Math.exp(-0.0016 * lines * event.deltaY), place(event));
      },
      { passive: false },
    );
  }
}
