/** Read an image file's format, how it is to be turned and, of a TIFF, its size: by the rules that the server has. */

const ORIENTATION = 274;
const [WIDTH, HEIGHT] = [256, 257];
// Bytes of a TIFF's values, by their type: those of whole numbers alone.
const SHORT = 3;
const VALUES = { 3: 2, 4: 4, 16: 8 };
const EXIF = "Exif\0\0";
const MOST_TEXT = 1 << 20;
const MOST_PAGES = 10_000;

/**
 * Return { kind, orientation, places, pages, width, height }.
 *
 * kind: "JPEG", "PNG" or "TIFF", empty for what is no image. orientation: 1 to 8, as EXIF counts. places: starts and
 * ends of what tells browsers how to turn the file. pages, width, height: of a TIFF alone, the size upright.
 */
export async function readHeader(buffer) {
  const bytes = new Uint8Array(buffer);
  try {
    if (text(bytes, 0, 3) === "\xff\xd8\xff") return { kind: "JPEG", ...ofJpeg(bytes) };
    if (text(bytes, 1, 4) === "PNG") return { kind: "PNG", ...(await ofPng(bytes)) };
    if (/^(II[*+]\0|MM\0[*+])/.test(text(bytes, 0, 4))) return { kind: "TIFF", places: [], ...ofTiff(bytes) };
  } catch (error) {
    // A header that ends too soon. The server says what is wrong with the file.
    if (!(error instanceof RangeError)) throw error;
  }
  return { kind: "", orientation: 1, places: [] };
}

const text = (bytes, start, end) => String.fromCharCode(...bytes.subarray(start, end));

const known = (orientation) => (orientation >= 1 && orientation <= 8 ? orientation : 1);

/** The first block of EXIF counts, and XMP where that states nothing. */
function ofJpeg(bytes) {
  const places = [...segments(bytes)];
  let exif, xmp;
  for (const [start, end] of places) {
    const body = bytes.subarray(start + 4, end);
    if (text(body, 0, EXIF.length) === EXIF) exif ??= body.subarray(EXIF.length);
    else xmp ??= body;
  }
  return { places, orientation: (exif && ofExif(exif)) ?? (xmp && ofXmp(xmp)) ?? 1 };
}

/** Yield the start and the end of each APP1 segment before the pixels. */
function* segments(bytes) {
  const view = new DataView(bytes.buffer);
  let place = 2;
  for (;;) {
    place = bytes.indexOf(0xff, place);
    if (place < 0 || place + 4 > bytes.length) return;
    const marker = bytes[place + 1];
    if (marker === 0xda || marker === 0xd9) return;
    if (marker === 0xff) place += 1;
    else if (marker < 2 || (marker >= 0xd0 && marker <= 0xd8)) place += 2;
    else {
      const end = place + 2 + view.getUint16(place + 2);
      if (marker === 0xe1) yield [place, end];
      place = end;
    }
  }
}

/** EXIF before the pixels counts, then EXIF behind them, then what ImageMagick writes, then XMP. */
async function ofPng(bytes) {
  const places = [];
  let before, after, profile, xmp;
  let pixels = false;
  for (const [kind, start, end] of chunks(bytes)) {
    const body = bytes.subarray(start + 8, end - 4);
    if (kind === "eXIf") places.push([start, end]);
    if (kind === "IDAT") pixels = true;
    else if (kind === "eXIf") [before, after] = pixels ? [before, body] : [body, after];
    else if (kind.endsWith("EXt") || kind.endsWith("TXt")) {
      const [name, value] = await textOfPng(kind, body);
      if (name === "Raw profile type exif") profile = ofRawProfile(value);
      if (name === "XML:com.adobe.xmp" && kind === "iTXt") xmp = ofXmp(value);
    }
  }
  const exif = before ?? after;
  return { places, orientation: (exif && ofExif(withoutPrefix(exif))) ?? profile ?? xmp ?? 1 };
}

/** Yield the kind, the start and the end of each chunk. */
function* chunks(bytes) {
  const view = new DataView(bytes.buffer);
  for (let place = 8; place + 12 <= bytes.length; ) {
    const end = place + 12 + view.getUint32(place);
    const kind = text(bytes, place + 4, place + 8);
    if (end > bytes.length || kind === "IEND") return;
    yield [kind, place, end];
    place = end;
  }
}

const withoutPrefix = (body) => (text(body, 0, EXIF.length) === EXIF ? body.subarray(EXIF.length) : body);

/** Return the name of a PNG's text and its bytes. */
async function textOfPng(kind, body) {
  const zero = body.indexOf(0);
  const [name, rest] = [text(body, 0, Math.min(zero, 80)), body.subarray(zero + 1)];
  if (kind === "tEXt") return [name, rest];
  if (kind === "zTXt") return [name, await inflated(rest.subarray(1))];
  // Two bytes tell whether the text is compressed, then come a language and a translated name.
  const language = rest.indexOf(0, 2);
  const value = rest.subarray(rest.indexOf(0, language + 1) + 1);
  return [name, rest[0] === 1 ? await inflated(value) : value];
}

async function inflated(body) {
  const reader = new Blob([body]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const parts = [];
  let size = 0;
  try {
    for (let part = await reader.read(); !part.done && size < MOST_TEXT; part = await reader.read()) {
      parts.push(part.value);
      size += part.value.length;
    }
  } catch {
    return new Uint8Array();
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function ofXmp(body) {
  const found = /tiff:Orientation(?:="|>)([0-9])/.exec(new TextDecoder("latin1").decode(body));
  return found ? known(Number(found[1])) : undefined;
}

/** Read a name, a length and hexadecimal digits, as ImageMagick writes EXIF. */
function ofRawProfile(body) {
  const digits = new TextDecoder("latin1").decode(body).split("\n").slice(3).join("").replace(/\s/g, "");
  if (digits.length % 2 || !/^[0-9a-fA-F]+$/.test(digits)) return undefined;
  return ofExif(withoutPrefix(Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16))));
}

function ofExif(block) {
  const little = text(block, 0, 4) === "II*\0";
  if (!little && text(block, 0, 4) !== "MM\0*") return undefined;
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength);
  try {
    const value = directory(view, little, false).get(ORIENTATION);
    return value === undefined ? undefined : known(value);
  } catch {
    return undefined;
  }
}

function ofTiff(bytes) {
  const little = bytes[0] === 0x49;
  const [view, big] = [new DataView(bytes.buffer), bytes[little ? 2 : 3] === 0x2b];
  const tags = directory(view, little, big);
  const orientation = known(tags.get(ORIENTATION) ?? 1);
  const [width, height] = [tags.get(WIDTH), tags.get(HEIGHT)];
  const size = orientation >= 5 ? { width: height, height: width } : { width, height };
  return { orientation, pages: pagesOf(view, little, big), ...size };
}

/** Count the directories of a TIFF, each of which is a page, as far as it goes. */
function pagesOf(view, little, big) {
  const whole = (place) => (big ? Number(view.getBigUint64(place, little)) : view.getUint32(place, little));
  const seen = new Set();
  try {
    for (let start = whole(big ? 8 : 4); start && !seen.has(start) && seen.size < MOST_PAGES; ) {
      const after = big ? start + 8 + 20 * whole(start) : start + 2 + 12 * view.getUint16(start, little);
      const next = whole(after);
      seen.add(start);
      start = next;
    }
  } catch (error) {
    // It ends within a directory.
    if (!(error instanceof RangeError)) throw error;
  }
  return seen.size;
}

/** Read the whole numbers of the first directory of a TIFF, or of a BigTIFF, as far as it goes. */
function directory(view, little, big) {
  const whole = (place) => (big ? Number(view.getBigUint64(place, little)) : view.getUint32(place, little));
  const start = whole(big ? 8 : 4);
  const [entry, first] = big ? [20, start + 8] : [12, start + 2];
  const count = start + (big ? 8 : 2) <= view.byteLength ? (big ? whole(start) : view.getUint16(start, little)) : 0;
  const tags = new Map();
  for (let place = first; place < first + entry * count && place + entry <= view.byteLength; place += entry) {
    const [tag, type] = [view.getUint16(place, little), view.getUint16(place + 2, little)];
    const value = place + (big ? 12 : 8);
    if (!(type in VALUES) || tags.has(tag)) continue;
    tags.set(tag, type === SHORT ? view.getUint16(value, little) : type === 4 ? view.getUint32(value, little) : whole(value));
  }
  return tags;
}
