/** Save what the page shows as files: overlay, mask, and results in the form of the client's result.json. */

import { make } from "./dom.js";
import { hexOf } from "./mask.js";
import { drawSource } from "./picture.js";
import { encodeMask } from "./png.js";

const stem = (name) => name.replace(/\.[^.]*$/, "") || "image";
const rounded = (value, digits) => Number(value.toFixed(digits));

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  // Later, because the browser still reads it.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export async function saveOverlay(item, picture, layer) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  drawSource(context, picture, 0, 0, picture.width, picture.height);
  context.drawImage(layer, 0, 0);
  save(await canvas.convertToBlob({ type: "image/png" }), `${stem(item.name)}.overlay.png`);
}

export async function saveMask(item, mask) {
  save(await encodeMask(mask, item.width, item.height, item.served.seg_classes.length), `${stem(item.name)}.mask.png`);
}

/** Save what is known of items, at least one of which was answered. */
export function saveResults(items, name) {
  const { seg_classes: names, network, execution, sha256, version } = items.find((item) => item.served).served;
  const document = {
    served: { network, execution, sha256, version },
    colours: Object.fromEntries(names.slice(1).map((one, index) => [one, hexOf(index + 1)])),
    images: items.filter((item) => item.state === "done").map((item) => record(item, names)),
    failures: items.filter((item) => item.state === "failed").map((item) => ({ file: item.name, reason: item.problem })),
  };
  save(new Blob([`${JSON.stringify(document, null, 2)}\n`], { type: "application/json" }), `${stem(name)}.result.json`);
}

function record(item, names) {
  const all = item.width * item.height;
  const area = (pixels) => ({ pixels, percent: rounded((100 * pixels) / all, 3) });
  const times = { server_ms: item.server, request_ms: item.roundTrip };
  return {
    file: item.name,
    width: item.width,
    height: item.height,
    classes: item.labels,
    areas: Object.fromEntries(names.slice(1).map((name, index) => [name, area(item.counts[index + 1])])),
    timings: Object.fromEntries(Object.entries(times).map(([name, value]) => [name, rounded(value, 2)])),
    request_id: item.id,
  };
}
