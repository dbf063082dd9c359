/** Take images, send them, and show the answers. */

import { byId, percent, settings } from "./dom.js";
import { saveMask, saveOverlay, saveResults } from "./downloads.js";
import { paint, resize, usualOutline } from "./mask.js";
import { showAreas, showClasses, showLabels, showServed, showTimes } from "./panel.js";
import { open, read } from "./picture.js";
import { Problem, infer } from "./protocol.js";
import { Queue } from "./queue.js";
import { Results, lineOf } from "./results.js";
import { Viewer } from "./viewer.js";
import { untilServed, wait } from "./waiting.js";

const IN_FLIGHT = 4;
// How long the picture before stays while the next one of its series is decoded: without it, a moving slider would flicker.
const STAY_MS = 150;
const byName = new Intl.Collator(undefined, { numeric: true });
// { file, name, begin, series, state: "waiting" | "sent" | "done" | "failed" }, with what is known of each by then.
// series: the items that came with it, in the order of their names.
let items = [];
// The item on the screen, its picture, and once it is answered its mask and the layer that is drawn of it.
let current = {};
// The item whose picture is drawn, for some moments another one.
let displayed;
let blank = 0;
// The labels of what is served, without probabilities.
let unknown = {};
// An outline of 1 is as wide as in the client's overlays. On a screen twice of that is easier to see.
const look = { shown: [], opacity: settings.opacity, outline: 2 };

const viewer = new Viewer(byId("canvas"), (zoom) => (byId("zoom").textContent = percent(zoom, 0)));
const results = new Results(select);
const queue = new Queue(IN_FLIGHT, work, recover, giveUp);
let learning = learn();

/** Read what is served, and show it. Where it is another version than before, send every image to it again. */
async function learn(before) {
  const served = await untilServed();
  if (before && served.sha256 === before.sha256 && served.version === before.version) return served;
  look.shown = served.seg_classes.map((_, index) => index > 0);
  unknown = Object.fromEntries(served.labels.map((name) => [name, null]));
  byId("page").dataset.served = "true";
  showServed(served, settings.release);
  showLabels(unknown);
  showClasses(served.seg_classes, (shown) => restyle({ shown }));
  if (before) restart();
  return served;
}

function restart() {
  const [series, looked] = [new Set(items.map((item) => item.series)), current.item?.file];
  clear();
  for (const one of series) add(one.map((item) => item.file));
  select(items.find((item) => item.file === looked));
}

/** Fail an item that the server has gone away with again and again. */
function giveUp(item, problem) {
  change(item, { state: "failed", problem: `The server has not answered it in three attempts. ${problem.message}` });
  report();
}

/** Wait until the server answers again: it may be another one by then. */
async function recover(problem) {
  await wait(problem);
  const before = await learning;
  learning = learn(before);
  await learning;
}

function add(files) {
  const begin = performance.now();
  const series = [];
  for (const file of [...files].sort((one, other) => byName.compare(one.name, other.name))) {
    series.push({ file, name: file.name, begin, series, state: "waiting" });
  }
  if (!series.length) return;
  items.push(...series);
  byId("page").dataset.filled = "true";
  series.forEach((item) => results.add(item));
  select(series[0]);
  queue.add(...series);
  report();
}

function clear() {
  items = [];
  queue.clear();
  results.clear();
  select(undefined);
  delete byId("page").dataset.filled;
  report();
}

/** Send one image, and keep what comes back. */
async function work(item) {
  const served = await learning;
  change(item, { state: "sent" });
  try {
    const bytes = await readOnce(item);
    item.picture ??= open(bytes);
    const answer = await infer(item.file, served);
    // Another server may have taken its place, whose network has the same number.
    const same = answer.version === served.version && (answer.sha256 ?? served.sha256) === served.sha256;
    if (!same) throw new Problem("wait", "The server has a new version of the network.");
    await keep(item, await item.picture, answer, served);
  } catch (problem) {
    const passes = problem instanceof Problem && problem.kind !== "refused";
    change(item, passes ? { state: "waiting" } : { state: "failed", problem: problem.message });
    if (passes) throw problem;
  } finally {
    letGo(item);
    report();
  }
}

/** Read an item's file, once for whoever asks: to see that it can be read before it is sent, and to draw it. */
const readOnce = (item) => (item.bytes ??= read(item.file));

async function keep(item, picture, { probabilities, labels, ...answer }, served) {
  const begin = performance.now();
  const { width, height, note } = picture;
  const { mask, counts } = resize(probabilities, served.image_size, width, height);
  const named = Object.fromEntries(served.labels.map((name, index) => [name, labels[index]]));
  // As a Blob, which the browser may move out of memory.
  const answered = { answer: new Blob([probabilities]), labels: named, counts };
  Object.assign(item, answer, answered, { served, width, height, note, state: "done" });
  const layer = layerOf(mask, item);
  if (item === current.item) {
    Object.assign(current, { mask, layer });
    await viewer.cover(layer);
    item.drawing = performance.now() - begin;
    performance.measure("image", { start: item.begin, detail: { server: item.server, roundTrip: item.roundTrip } });
    if (item === current.item) explain(item);
  }
  // After the image that somebody waits for.
  if (items.includes(item)) results.update(item, picture, layer);
}

function layerOf(mask, { width, height }) {
  return paint(mask, width, height, { ...look, outline: Math.round(look.outline * usualOutline(width, height)) });
}

function change(item, changes) {
  Object.assign(item, changes);
  if (!items.includes(item)) return;
  results.update(item);
  if (item !== current.item) return;
  explain(item);
  if (isNothing(item)) display(item, null);
}

/** Forget the file of an item, and its picture where nobody looks at it: fifty photographs do not fit into memory. */
function letGo(item) {
  item.bytes = undefined;
  if (item === current.item || item === displayed || item.state === "sent") return;
  item.picture?.then((picture) => picture.close(), () => {});
  item.picture = undefined;
}

/** Show an item: its picture at once, its mask when there is one. */
async function select(item) {
  if (item && item === current.item) return;
  const before = current.item;
  current = { item };
  if (before) letGo(before);
  results.select(item);
  showPlace(item);
  const next = Boolean(item && item.series === before?.series);
  clearTimeout(blank);
  if (next) blank = setTimeout(() => display(item, null), STAY_MS);
  else display(item, null);
  explain(item);
  if (!item) return;
  item.picture ??= readOnce(item).then(open);
  let picture;
  try {
    picture = await item.picture;
  } catch {
    // Its own line says what is wrong with it.
    return;
  }
  if (item !== current.item) return;
  clearTimeout(blank);
  current.picture = picture;
  display(item, isNothing(item) ? null : picture, next);
  if (item.state === "done") await uncover(item, picture);
}

/** Draw an item's picture, or nothing, and let go of the one before. */
function display(item, picture, stay) {
  viewer.show(picture, stay);
  const before = displayed;
  displayed = picture ? item : undefined;
  if (before && before !== item) letGo(before);
}

/** Show where an item lies among those that came with it: the slices of a volume, most often. */
function showPlace(item) {
  const { series = [] } = item ?? {};
  const number = series.indexOf(item) + 1;
  byId("series").hidden = series.length < 2;
  Object.assign(byId("slice"), { max: series.length, value: number });
  byId("slice-of").textContent = `${number} of ${series.length}`;
  byId("slice").setAttribute("aria-valuetext", `${number} of ${series.length}, ${item?.name ?? ""}`);
}

/** Tell whether neither the server nor the browser takes it: a grey square in its place would look like an answer. */
const isNothing = (item) => item.state === "failed" && !current.picture?.source;

/** Draw the mask of an item that was answered before. */
async function uncover(item, picture) {
  const probabilities = new Float32Array(await item.answer.arrayBuffer());
  if (item !== current.item) return;
  const begin = performance.now();
  const { mask } = resize(probabilities, item.served.image_size, picture.width, picture.height);
  Object.assign(current, { mask, layer: layerOf(mask, item) });
  await viewer.cover(current.layer);
  item.drawing = performance.now() - begin;
  // Another one may have been chosen meanwhile, whose words stand there now.
  if (item === current.item) explain(item);
}

function restyle(changes) {
  Object.assign(look, changes);
  if (!current.mask) return;
  current.layer = layerOf(current.mask, current.item);
  viewer.cover(current.layer);
}

/** Write what is known of the item on the screen, for eyes and for screen readers. */
function explain(item) {
  const done = item?.state === "done";
  byId("name").textContent = item?.name ?? "";
  byId("size").textContent = done ? `${item.width} × ${item.height} px` : item ? lineOf(item) : "";
  const message = item?.problem ?? item?.note ?? "";
  byId("message").textContent = message;
  byId("message").hidden = !message;
  byId("message").classList.toggle("bad", Boolean(item?.problem));
  showAreas(done ? item.counts : []);
  showLabels(done ? item.labels : unknown);
  showTimes(done ? item : {});
  for (const name of ["save-overlay", "save-mask", "save-result"]) byId(name).disabled = !done || !current.layer;
  const summary = item ? summaryOf(item) : "";
  byId("summary").textContent = summary;
  byId("canvas").ariaLabel = summary || "No image yet";
}

function summaryOf(item) {
  if (item.state !== "done") return [item.name, item.problem ?? lineOf(item)].join(": ");
  const all = item.width * item.height;
  const areas = item.served.seg_classes.slice(1).map((name, index) => `${name} ${percent(item.counts[index + 1] / all)}`);
  return `${item.name}: ${lineOf(item)}. Share of the image: ${areas.join(", ")}.`;
}

/** Say how far things are. */
function report() {
  const number = (state) => items.filter((item) => item.state === state).length;
  const failed = number("failed") ? `, ${number("failed")} failed` : "";
  byId("count").textContent = items.length ? `${number("done")} of ${items.length} answered${failed}` : "";
  byId("save-all").disabled = !number("done");
}

const on = (id, event, action) => byId(id).addEventListener(event, action);
const choose = () => byId("files").click();
const amount = (event) => Number(event.target.value);
on("choose", "click", choose);
on("choose-too", "click", choose);
on("files", "change", (event) => {
  add(event.target.files);
  // So that the same file can be chosen again.
  event.target.value = "";
});
on("clear", "click", clear);
on("zoom-in", "click", viewer.zoomIn);
on("zoom-out", "click", viewer.zoomOut);
on("own-size", "click", viewer.ownSize);
on("fit", "click", () => viewer.fit());
on("opacity", "input", (event) => restyle({ opacity: amount(event) }));
on("outline", "input", (event) => restyle({ outline: amount(event) }));
on("slice", "input", (event) => select(current.item.series[amount(event) - 1]));
on("save-overlay", "click", () => saveOverlay(current.item, current.picture, current.layer));
on("save-mask", "click", () => saveMask(current.item, current.mask));
on("save-result", "click", () => saveResults([current.item], current.item.name));
on("save-all", "click", () => saveResults(items, "all"));
byId("opacity").value = look.opacity;
byId("outline").value = look.outline;

document.addEventListener("paste", (event) => add(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  add(event.dataTransfer.files);
});
