/** List what was given to the page, one button for each image. */

import { byId, icon, make, percent } from "./dom.js";
import { drawThumbnail } from "./picture.js";

const THUMBNAIL = 56;

/** Show items in order. `chosen` is called with the one that the user picks. */
export class Results {
  #buttons = new Map();

  constructor(chosen) {
    this.chosen = chosen;
    this.list = byId("items");
    this.list.addEventListener("keydown", (event) => this.#key(event));
  }

  add(item) {
    const canvas = make("canvas", { width: 2 * THUMBNAIL, height: 2 * THUMBNAIL, ariaHidden: "true" });
    const line = make("span", { className: "line" });
    const texts = make("span", { className: "texts" }, make("bdi", { className: "name" }, item.name), line);
    const button = make("button", { type: "button", title: item.name }, canvas, texts);
    button.addEventListener("click", () => this.chosen(item));
    this.#buttons.set(item, { button, canvas, line });
    this.list.append(make("li", {}, button));
    this.update(item);
  }

  /** Show the state of an item, and its picture where one is given. */
  update(item, picture, layer) {
    const { button, canvas, line } = this.#buttons.get(item);
    button.dataset.state = item.state;
    line.replaceChildren(...(item.state === "failed" ? [icon("warning")] : []), lineOf(item));
    if (picture) drawThumbnail(canvas, picture, layer);
  }

  select(item) {
    for (const [one, { button }] of this.#buttons) button.ariaCurrent = String(one === item);
    this.#buttons.get(item)?.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  clear() {
    this.#buttons.clear();
    this.list.replaceChildren();
  }

  #key(event) {
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const items = [...this.#buttons.keys()];
    const next = items[items.findIndex((item) => this.#buttons.get(item).button === document.activeElement) + steps[event.key]];
    if (!next) return;
    this.#buttons.get(next).button.focus();
    this.chosen(next);
  }
}

const STATES = { waiting: "waits for its turn", sent: "is with the server", failed: "no answer" };

/** Say in a few words where an item stands: its likeliest label, once there is one. */
export function lineOf(item) {
  if (item.state !== "done") return STATES[item.state];
  const [name, share] = Object.entries(item.labels).reduce((best, one) => (one[1] > best[1] ? one : best));
  return `${name.replaceAll("_", " ")} ${percent(share, 0)}`;
}
