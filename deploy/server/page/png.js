/** Write a mask as a PNG file whose values are the classes' indices and whose palette is their colours. */

import { colourOf } from "./mask.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const [DEPTH, PALETTE] = [8, 3];

const CHECKSUMS = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/** Return the file of a mask with so many classes, as a Blob. */
export async function encodeMask(mask, width, height, classes) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([DEPTH, PALETTE], 8);
  const colours = Array.from({ length: classes }, (_, index) => (index ? colourOf(index) : [0, 0, 0]));
  const parts = [chunk("IHDR", header), chunk("PLTE", colours.flat()), chunk("IDAT", await rows(mask, width, height))];
  return new Blob([new Uint8Array(SIGNATURE), ...parts, chunk("IEND", [])], { type: "image/png" });
}

/** Compress the rows, each behind a byte that says that it is stored as it is. */
async function rows(mask, width, height) {
  const raw = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) raw.set(mask.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = new Blob([raw]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(packed).arrayBuffer());
}

function chunk(kind, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(content, 8);
  let sum = 0xffffffff;
  for (const byte of bytes.subarray(4, -4)) sum = CHECKSUMS[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  view.setUint32(8 + content.length, ~sum >>> 0);
  return bytes;
}
