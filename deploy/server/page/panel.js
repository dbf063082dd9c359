/** Show what the network says of one image, and what it is that is served. */

import { byId, make, milliseconds, percent } from "./dom.js";
import { hexOf } from "./mask.js";

const plain = (name) => name.replaceAll("_", " ");

/** Make a switch for each class of the mask. `changed` is called with the booleans by class. */
export function showClasses(names, changed) {
  const boxes = names.slice(1).map(() => make("input", { type: "checkbox", checked: true }));
  const rows = boxes.map((box, index) => {
    const swatch = make("span", { className: "swatch", ariaHidden: "true" });
    swatch.style.backgroundColor = hexOf(index + 1);
    const area = make("span", { className: "figure" });
    box.addEventListener("change", () => changed([false, ...boxes.map((one) => one.checked)]));
    return make("li", {}, make("label", {}, box, swatch, make("bdi", {}, plain(names[index + 1])), area));
  });
  byId("classes").replaceChildren(...rows);
}

/** Write how much of the image each class covers, from counts of pixels by class. */
export function showAreas(counts) {
  const all = counts.reduce((sum, one) => sum + one, 0);
  byId("classes").querySelectorAll(".figure").forEach((figure, index) => {
    figure.textContent = all ? percent(counts[index + 1] / all) : "";
  });
}

/** Draw a bar for each label, the likeliest first, or the names alone where there are no probabilities yet. */
export function showLabels(labels) {
  const entries = Object.entries(labels);
  if (entries.every(([, share]) => share !== null)) entries.sort((one, other) => other[1] - one[1]);
  const rows = entries.map(([name, share]) => {
    const fill = make("span", { className: "fill" });
    fill.style.width = `${100 * (share ?? 0)}%`;
    const bar = make("span", { className: "bar", ariaHidden: "true" }, fill);
    const figure = make("span", { className: "figure" }, share === null ? "" : percent(share));
    return make("li", {}, make("bdi", {}, plain(name)), figure, bar);
  });
  byId("labels").replaceChildren(...rows);
}

/** Write the times of one image in milliseconds, those that are known. */
export function showTimes({ server, roundTrip, drawing } = {}) {
  const rows = [
    ["Decoding and network", server],
    ["Round trip", roundTrip],
    ["Mask and drawing, in this page", drawing],
  ];
  describeIn(byId("times"), rows.map(([name, value]) => [name, Number.isFinite(value) ? milliseconds(value) : "–"]));
}

/** Write what is served. */
export function showServed(served, release) {
  describeIn(byId("served"), [
    ["Network", served.network],
    // The file of full precision alone does not name it.
    ["Precision", /\.(\w+)\.\w+$/.exec(served.network)?.[1] ?? "fp32"],
    ["Runs in", served.execution],
    ["Its input", `${served.image_size} × ${served.image_size} px`],
    ["SHA-256", (served.sha256 ?? "").slice(0, 16), served.sha256],
    ["Model version", served.version],
    ["resformer-deploy", release],
  ]);
}

function describeIn(list, rows) {
  const pairs = rows.filter(([, value]) => value).flatMap(([name, value, title = ""]) => {
    return [make("dt", {}, name), make("dd", { title }, value)];
  });
  list.replaceChildren(...pairs);
}
