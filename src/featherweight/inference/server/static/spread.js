// Turn the evidence of places into a picture of as many pixels as the network saw.
//
// A place is the middle of a field, the part of the image that it depends on (22 x 22 pixels in
// feather-20k). Its number is spread over that field, the middle more than the rim, because far
// more paths through the network lead there (Luo et al. 2016, "Understanding the effective
// receptive field"). Each place's weights sum to 1, so the picture sums to the same difference.

import { diverge, token } from "./pixels.js";

const FINE = 6; // pixels of the smooth picture for each that the network saw
const STRONGEST = 225; // opacity of the strongest pixel, of 255
const GAMMA = 0.65; // below 1, so that weak evidence shows beside strong

// The middle of each of `n` places between `from` and `to`, in pixels.
export const middles = (n, from, to) =>
  Array.from({ length: n }, (_, i) => from + (i + 0.5) * (to - from) / n);

// For each place the weight of each of the image's `side` rows, or columns: a Hann window.
function weights(n, from, to, field, side) {
  return middles(n, from, to).map((middle) => {
    const row = Array.from({ length: side }, (_, pixel) => {
      const off = (pixel + 0.5 - middle) / (field / 2);
      return Math.abs(off) < 1 ? 0.5 + 0.5 * Math.cos(Math.PI * off) : 0;
    });
    const sum = row.reduce((a, b) => a + b);
    return row.map((each) => each / sum);
  });
}

// Return height x width numbers, row by row, that sum to the evidence's difference.
export function spread({ values, extent: [left, top, right, bottom], field }, { width, height }) {
  const across = weights(values[0].length, left, right, field[0], width);
  const down = weights(values.length, top, bottom, field[1], height);
  const pixels = new Float64Array(height * width);
  values.forEach((row, r) => row.forEach((value, c) => {
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) pixels[y * width + x] += value * down[r][y] * across[c][x];
  }));
  return pixels;
}

// Enlarge height x width numbers `fine` times, bilinearly.
function smooth(pixels, { width, height }, fine) {
  const wide = width * fine, high = height * fine, result = new Float64Array(high * wide);
  const inside = (i, side) => Math.min(side - 1, Math.max(0, i));
  for (let i = 0; i < high; i++) {
    const y = (i + 0.5) / fine - 0.5, r = Math.floor(y), v = y - r;
    const above = inside(r, height) * width, below = inside(r + 1, height) * width;
    for (let j = 0; j < wide; j++) {
      const x = (j + 0.5) / fine - 0.5, c = Math.floor(x), u = x - c;
      const before = inside(c, width), after = inside(c + 1, width);
      result[i * wide + j] = (1 - v) * ((1 - u) * pixels[above + before] + u * pixels[above + after])
        + v * ((1 - u) * pixels[below + before] + u * pixels[below + after]);
    }
  }
  return result;
}

// Return a canvas of the evidence in an image of this size: orange for the first answer, blue for
// the second.
export function evidencePicture(evidence, size) {
  const canvas = document.createElement("canvas");
  const wide = canvas.width = size.width * FINE, high = canvas.height = size.height * FINE;
  const fine = smooth(spread(evidence, size), size, FINE);
  const shown = fine.map((value) => Math.sign(value) * Math.abs(value) ** GAMMA);
  const limit = shown.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  canvas.getContext("2d").putImageData(diverge(shown, wide, high, limit,
    token("--first"), token("--second"), STRONGEST), 0, 0);
  return canvas;
}
