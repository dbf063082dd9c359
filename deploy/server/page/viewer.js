/** Show a picture with its mask: zoomed and moved by mouse, touch and keys. */

import { drawSource } from "./picture.js";

const [MOST_ZOOM, STEP, KEY_PIXELS] = [32, 1.25, 48];
// Around a picture in CSS pixels. The lower one leaves room for the buttons.
const [MARGIN, LOWER_MARGIN] = [16, 68];

/** Draw on a canvas that fills its parent. `changed` is called with the zoom, 1 for the image's own size. */
export class Viewer {
  #picture = null;
  #layer = null;
  #last = null;
  #place = { x: 0, y: 0, zoom: 1 };
  #fitted = true;
  #due = false;
  #drawn = [];
  #pointers = new Map();

  constructor(canvas, changed) {
    Object.assign(this, { canvas, changed });
    new ResizeObserver(() => this.#resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => this.#toggle(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.#pointers.delete(event.pointerId));
    }
  }

  /** Show a picture, or nothing. With `stay`, one of the same size as the last one lies where that was. */
  show(picture, stay = false) {
    [this.#picture, this.#layer] = [picture, null];
    if (!picture) return this.#draw();
    const last = this.#last;
    this.#last = { width: picture.width, height: picture.height };
    if (stay && last?.width === picture.width && last.height === picture.height) this.#draw();
    else this.fit();
  }

  /** Lay a canvas of the picture's size over it, and return when it is on the screen. */
  cover(layer) {
    this.#layer = layer;
    this.#draw();
    return new Promise((done) => this.#drawn.push(done));
  }

  fit() {
    this.#fitted = true;
    this.#draw();
  }

  /** Zoom by a factor around a point of the canvas in CSS pixels, by default its centre. */
  zoomBy(factor, x = this.#size[0] / 2, y = this.#size[1] / 2) {
    const zoom = Math.min(Math.max(this.#place.zoom * factor, Math.min(this.#fitZoom, 1)), MOST_ZOOM);
    const change = zoom / this.#place.zoom;
    this.#set(x - (x - this.#place.x) * change, y - (y - this.#place.y) * change, zoom);
  }

  zoomIn = () => this.zoomBy(STEP);
  zoomOut = () => this.zoomBy(1 / STEP);
  ownSize = () => this.zoomBy(1 / this.#place.zoom);

  get #size() {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  /** The zoom at which all of the picture is visible. Pixels of the screen, not of CSS, are an image's own size. */
  get #fitZoom() {
    if (!this.#picture) return 1;
    const [width, height] = this.#size;
    const across = Math.max(1, width - 2 * MARGIN) / this.#picture.width;
    const down = Math.max(1, height - MARGIN - LOWER_MARGIN) / this.#picture.height;
    return Math.min(Math.min(across, down) * devicePixelRatio, MOST_ZOOM);
  }

  #set(x, y, zoom) {
    this.#fitted = false;
    this.#place = { x, y, zoom };
    this.#draw();
  }

  #resize() {
    const [width, height] = this.#size.map((length) => Math.max(1, Math.round(length * devicePixelRatio)));
    Object.assign(this.canvas, { width, height });
    this.#render();
  }

  #draw() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#render();
    });
  }

  #render() {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.#picture) this.#renderPicture(context);
    for (const done of this.#drawn.splice(0)) done();
  }

  #renderPicture(context) {
    const { width, height } = this.#picture;
    if (this.#fitted) this.#place.zoom = this.#fitZoom;
    this.#keepInside();
    const { x, y, zoom } = this.#place;
    // On whole pixels, so that at its own size each pixel of the image is one of the screen.
    const place = [Math.round(x * devicePixelRatio), Math.round(y * devicePixelRatio), width * zoom, height * zoom];
    // Enlarged, pixels are shown as what they are.
    context.imageSmoothingEnabled = zoom < 2;
    context.imageSmoothingQuality = zoom < 0.5 ? "medium" : "low";
    drawSource(context, this.#picture, ...place);
    if (this.#layer) context.drawImage(this.#layer, ...place);
    this.canvas.classList.toggle("movable", !this.#fitted);
    this.changed(zoom);
  }

  /** Centre what fits between the margins, and keep the rest from leaving the canvas. */
  #keepInside() {
    const kept = (place, length, drawn, lower) => {
      const left = length - MARGIN - lower - drawn;
      return left >= 0 ? MARGIN + left / 2 : Math.min(Math.max(place, MARGIN + left), MARGIN);
    };
    const [width, height] = this.#size;
    const { x, y, zoom } = this.#place;
    const scale = zoom / devicePixelRatio;
    this.#place.x = kept(x, width, this.#picture.width * scale, MARGIN);
    this.#place.y = kept(y, height, this.#picture.height * scale, LOWER_MARGIN);
  }

  #wheel(event) {
    if (!this.#picture) return;
    event.preventDefault();
    // Lines count for more than pixels, and a trackpad's pinch comes as a wheel with small steps.
    const pixels = event.deltaY * (event.deltaMode ? 16 : 1) * (event.ctrlKey ? 4 : 1);
    this.zoomBy(2 ** (-pixels / 240), event.offsetX, event.offsetY);
  }

  #toggle(event) {
    if (!this.#fitted) this.fit();
    else this.zoomBy(Math.max(1, 2 * this.#fitZoom) / this.#place.zoom, event.offsetX, event.offsetY);
  }

  #key(event) {
    const { x, y, zoom } = this.#place;
    const actions = {
      "+": this.zoomIn,
      "=": this.zoomIn,
      "-": this.zoomOut,
      0: () => this.fit(),
      1: this.ownSize,
      ArrowLeft: () => this.#set(x + KEY_PIXELS, y, zoom),
      ArrowRight: () => this.#set(x - KEY_PIXELS, y, zoom),
      ArrowUp: () => this.#set(x, y + KEY_PIXELS, zoom),
      ArrowDown: () => this.#set(x, y - KEY_PIXELS, zoom),
    };
    if (!this.#picture || event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  #down(event) {
    this.#pointers.set(event.pointerId, event);
    this.canvas.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before || !this.#picture) return;
    this.#pointers.set(event.pointerId, event);
    const other = [...this.#pointers.values()].find((one) => one.pointerId !== event.pointerId);
    if (other) this.#pinch(before, event, other);
    else if (!this.#fitted) {
      const { x, y, zoom } = this.#place;
      this.#set(x + event.offsetX - before.offsetX, y + event.offsetY - before.offsetY, zoom);
    }
  }

  #pinch(before, after, other) {
    const distance = (one) => Math.hypot(one.offsetX - other.offsetX, one.offsetY - other.offsetY);
    const middle = [(after.offsetX + other.offsetX) / 2, (after.offsetY + other.offsetY) / 2];
    this.zoomBy(distance(after) / Math.max(1, distance(before)), ...middle);
  }
}
