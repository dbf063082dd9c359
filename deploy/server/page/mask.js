/** Turn the probabilities of the network's square view into a mask of the image's own size, and the mask into colours. */

import { settings } from "./dom.js";

/** Return the colour of a class, [red, green, blue]. The palette repeats after its last one. */
export const colourOf = (index) => settings.palette[(index - 1) % settings.palette.length];

export const hexOf = (index) => `#${colourOf(index).map((part) => part.toString(16).padStart(2, "0")).join("")}`;

/**
 * Resize probabilities as the client does. Return the class of each pixel of the image, and how many have each class.
 *
 * They are interpolated between the centres of the network's pixels. Where a side of the image is shorter than the
 * network's, its pixels get the mean of what they cover.
 *
 * probabilities: Float32Array, one square of side * side for each channel. One channel is the second class against the
 * first, cut at 0.5. Of several, the largest decides.
 */
export function resize(probabilities, side, width, height) {
  const channels = probabilities.length / side ** 2;
  const [across, down] = [Math.min(side, width), Math.min(side, height)];
  const shrunk = shrink(shrink(probabilities, side, across, 1), side, down, across);
  return enlarge(shrunk, channels, [across, down], [width, height]);
}

/** Shorten an axis, whose neighbours lie `step` apart, by the mean of what each new place covers, weighted by a triangle. */
function shrink(values, length, wanted, step) {
  if (wanted === length) return values;
  const scale = length / wanted;
  const result = new Float32Array((values.length / length) * wanted);
  for (let place = 0; place < wanted; place++) {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - scale + 0.5));
    const end = Math.min(length, Math.floor(centre + scale + 0.5));
    const weights = [];
    for (let one = first; one < end; one++) weights.push(Math.max(0, 1 - Math.abs(one + 0.5 - centre) / scale));
    const total = weights.reduce((sum, one) => sum + one, 0);
    for (let line = 0; line < values.length / length; line++) {
      const [block, offset] = [Math.floor(line / step), line % step];
      let sum = 0;
      for (let one = first; one < end; one++) sum += weights[one - first] * values[(block * length + one) * step + offset];
      result[(block * wanted + place) * step + offset] = sum / total;
    }
  }
  return result;
}

function enlarge(probabilities, channels, [across, down], [width, height]) {
  const plane = across * down;
  const classes = classesOf(probabilities, channels, plane);
  const [columns, rows] = [axis(width, across), axis(height, down)];
  const mask = new Uint8Array(width * height);
  const counts = new Array(Math.max(2, channels)).fill(0);
  const values = new Float64Array(channels);
  for (let y = 0; y < height; y++) {
    const top = rows.before[y] * across;
    const bottom = rows.after[y] * across;
    for (let start = 0, end; start < width; start = end) {
      const left = columns.before[start];
      const right = columns.after[start];
      for (end = start + 1; end < width && columns.before[end] === left; end++);
      const decided = classes[top + left];
      const alike = classes[top + right] === decided && classes[bottom + left] === decided;
      // Between four corners of one class nothing else can win: most of an image needs no interpolation.
      if (alike && classes[bottom + right] === decided) {
        if (decided) mask.fill(decided, y * width + start, y * width + end);
        counts[decided] += end - start;
        continue;
      }
      for (let x = start; x < end; x++) {
        for (let channel = 0, at = 0; channel < channels; channel++, at += plane) {
          const upper = mix(probabilities[at + top + left], probabilities[at + top + right], columns.share[x]);
          const lower = mix(probabilities[at + bottom + left], probabilities[at + bottom + right], columns.share[x]);
          values[channel] = mix(upper, lower, rows.share[y]);
        }
        const own = decide(values);
        mask[y * width + x] = own;
        counts[own]++;
      }
    }
  }
  return { mask, counts };
}

const mix = (first, second, share) => first + (second - first) * share;

function decide(values) {
  if (values.length === 1) return values[0] > 0.5 ? 1 : 0;
  let best = 0;
  for (let index = 1; index < values.length; index++) if (values[index] > values[best]) best = index;
  return best;
}

/** Return the class of each place, of so many in a plane. */
function classesOf(probabilities, channels, plane) {
  const classes = new Uint8Array(plane);
  const values = new Float32Array(channels);
  for (let place = 0; place < plane; place++) {
    for (let channel = 0; channel < channels; channel++) values[channel] = probabilities[channel * plane + place];
    classes[place] = decide(values);
  }
  return classes;
}

/** Return, for each pixel along one axis, the two of `side` places that it lies between, and its share of the second. */
function axis(length, side) {
  const [before, after, share] = [new Int32Array(length), new Int32Array(length), new Float64Array(length)];
  for (let pixel = 0; pixel < length; pixel++) {
    const place = Math.min(Math.max(((pixel + 0.5) * side) / length - 0.5, 0), side - 1);
    before[pixel] = Math.floor(place);
    after[pixel] = Math.min(before[pixel] + 1, side - 1);
    share[pixel] = place - before[pixel];
  }
  return { before, after, share };
}

/** Return how wide an outline is by default: wider in larger images, as in the overlays of the client. */
export const usualOutline = (width, height) => Math.max(1, Math.floor(Math.min(width, height) / settings.pixelsPerOutline));

/**
 * Paint a mask as one layer, to be drawn over the image.
 *
 * Each class that is `shown` (booleans by class) is tinted with `opacity`, and its border pixels are opaque: those
 * inside the class with another value `outline` pixels up, down, left or right of them. 0 draws no outline.
 */
export function paint(mask, width, height, { shown, opacity, outline }) {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const [tints, edges] = [colours(shown, Math.round(255 * opacity)), colours(shown, 255)];
  const step = outline * width;
  for (let y = 0, place = 0; y < height; y++) {
    // Beyond the image nothing differs: a pixel stands for what it has no neighbour for.
    const above = y >= outline ? step : 0;
    const below = y + outline < height ? step : 0;
    for (let x = 0; x < width; x++, place++) {
      const own = mask[place];
      if (own === 0) continue;
      const left = x >= outline ? outline : 0;
      const right = x + outline < width ? outline : 0;
      const inside =
        mask[place - above] === own &&
        mask[place + below] === own &&
        mask[place - left] === own &&
        mask[place + right] === own;
      pixels[place] = (inside ? tints : edges)[own];
    }
  }
  const layer = new OffscreenCanvas(width, height);
  layer.getContext("2d").putImageData(image, 0, 0);
  return layer;
}

/** Return the colour of each class as the bytes of one pixel, nothing for a class that is not shown. */
function colours(shown, alpha) {
  const table = new Uint32Array(256);
  const bytes = new Uint8Array(table.buffer);
  for (let index = 1; index < 256; index++) {
    if (shown[index]) bytes.set([...colourOf(index), alpha], 4 * index);
  }
  return table;
}
