/** Open image files for drawing: upright, at their own size. */

import { readHeader } from "./image_header.js";

// The side of what stands for an image that the browser cannot decode, and more pixels than browsers and memory take as canvases. A larger image is drawn smaller, and its mask with it.
const [UNKNOWN, MOST_PIXELS] = [512, 32e6];

/** Read a file's bytes. Throws an Error with a sentence where that is not possible. */
export async function read(file) {
  try {
    return await file.arrayBuffer();
  } catch {
    throw new Error("It cannot be read: it is a folder, or was moved or changed meanwhile.");
  }
}

/**
 * Return { source, width, height, note, close }.
 *
 * source: what a canvas can draw, or null where the browser cannot decode the file. `note` then says why, and the size
 * is the one of a TIFF's header, else a square.
 */
export async function open(bytes) {
  const header = await readHeader(bytes);
  if (header.kind === "TIFF" && header.width > 0 && header.height > 0) {
    return bare(header, `Browsers do not draw TIFF files: the mask lies on grey, at the image's own size.${pagesNote(header.pages)}`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(unturned(bytes, header.places));
  } catch {
    return bare({ width: UNKNOWN, height: UNKNOWN }, "This browser cannot draw the file: the mask lies on a grey square.");
  }
  const turned = header.orientation >= 5;
  const size = turned ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
  const scale = scaleOf(...size);
  const note = scale < 1 ? `Shown and saved at ${Math.round(100 * scale)} % of its size, which a browser can hold.` : "";
  if (header.orientation === 1 && scale === 1) return drawable(bitmap, note, () => bitmap.close());
  const upright = turn(bitmap, header.orientation, ...size.map((length) => Math.max(1, Math.round(length * scale))));
  bitmap.close();
  return drawable(upright, note, () => {});
}

const pagesNote = (pages) => (pages > 1 ? ` This one has ${pages} pages, and the answer is to the first alone.` : "");

/**
 * Leave out of a file what makes a browser turn it. That knows EXIF alone, and of several blocks perhaps another one: the
 * picture is turned here, so that it lies as the server saw it.
 */
function unturned(bytes, places) {
  const starts = [0, ...places.map(([, end]) => end)];
  const ends = [...places.map(([start]) => start), bytes.byteLength];
  const view = new Uint8Array(bytes);
  return new Blob(starts.map((start, index) => view.subarray(start, ends[index])));
}

const scaleOf = (width, height) => Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));

const drawable = (source, note, close) => ({ source, width: source.width, height: source.height, note, close });

function bare({ width, height }, note) {
  const scale = scaleOf(width, height);
  const [w, h] = [width, height].map((length) => Math.max(1, Math.round(length * scale)));
  return { source: null, width: w, height: h, note, close: () => {} };
}

/** Draw a bitmap as its orientation says, 1 to 8 as EXIF counts, on a canvas of that size. */
function turn(bitmap, orientation, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  // Where the right and the lower side of the stored picture point to, and where its first corner lies.
  const [w, h] = [width, height];
  const ways = {
    1: [1, 0, 0, 1, 0, 0],
    2: [-1, 0, 0, 1, w, 0],
    3: [-1, 0, 0, -1, w, h],
    4: [1, 0, 0, -1, 0, h],
    5: [0, 1, 1, 0, 0, 0],
    6: [0, 1, -1, 0, w, 0],
    7: [0, -1, -1, 0, w, h],
    8: [0, -1, 1, 0, 0, h],
  };
  context.setTransform(...ways[orientation]);
  context.drawImage(bitmap, 0, 0, ...(orientation >= 5 ? [h, w] : [w, h]));
  return canvas;
}

/** Draw a picture into a small canvas that shows all of it. */
export function drawThumbnail(canvas, picture, layer) {
  const context = canvas.getContext("2d");
  const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const place = [(canvas.width - width) / 2, (canvas.height - height) / 2, width, height];
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  drawSource(context, picture, ...place);
  if (layer) context.drawImage(layer, ...place);
}

/** Draw a picture into a rectangle, grey where there is nothing to draw. */
export function drawSource(context, picture, x, y, width, height) {
  context.fillStyle = "#808080";
  if (picture.source) context.drawImage(picture.source, x, y, width, height);
  else context.fillRect(x, y, width, height);
}
