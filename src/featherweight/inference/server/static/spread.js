// Turn the evidence of places into a picture of 28 x 28 pixels.
//
// A place is the middle of a field, the part of the image that it depends on (22 x 22 pixels in
// feather-20k). Its number is spread over that field, the middle more than the rim, because far
// more paths through the network lead there (Luo et al. 2016, "Understanding the effective
// receptive field"). Each place's weights sum to 1, so the picture sums to the same difference.

import { diverge, token } from "./pixels.js";

export const SIDE = 28; // pixels of what the network saw
const FINE = 6; // pixels of the smooth picture for each of those
const STRONGEST = 225; // opacity of the strongest pixel, of 255
const GAMMA = 0.65; // below 1, so that weak evidence shows beside strong

// The middle of each of `n` places between `from` and `to`, in pixels.
export const middles = (n, from, to) =>
  Array.from({ length: n }, (_, i) => from + (i + 0.5) * (to - from) / n);

// For each place the weight of each of the image's rows, or columns: a Hann window.
function weights(n, from, to, field) {
  return middles(n, from, to).map((middle) => {
    const row = Array.from({ length: SIDE }, (_, pixel) => {
      const off = (pixel + 0.5 - middle) / (field / 2);
      return Math.abs(off) < 1 ? 0.5 + 0.5 * Math.cos(Math.PI * off) : 0;
    });
    const sum = row.reduce((a, b) => a + b);
    return row.map((each) => each / sum);
  });
}

// Return SIDE x SIDE numbers, row by row, that sum to the evidence's difference.
export function spread({ values, extent: [left, top, right, bottom], field }) {
  const across = weights(values[0].length, left, right, field[0]);
  const down = weights(values.length, top, bottom, field[1]);
  const pixels = new Float64Array(SIDE * SIDE);
  values.forEach((row, r) => row.forEach((value, c) => {
    for (let y = 0; y < SIDE; y++)
      for (let x = 0; x < SIDE; x++) pixels[y * SIDE + x] += value * down[r][y] * across[c][x];
  }));
  return pixels;
}

// Enlarge SIDE x SIDE numbers `fine` times, bilinearly.
function smooth(pixels, fine) {
  const side = SIDE * fine, result = new Float64Array(side * side);
  const inside = (i) => Math.min(SIDE - 1, Math.max(0, i));
  for (let i = 0; i < side; i++) {
    const y = (i + 0.5) / fine - 0.5, r = Math.floor(y), v = y - r;
    const above = inside(r) * SIDE, below = inside(r + 1) * SIDE;
    for (let j = 0; j < side; j++) {
      const x = (j + 0.5) / fine - 0.5, c = Math.floor(x), u = x - c;
      result[i * side + j] = (1 - v) * ((1 - u) * pixels[above + inside(c)]
        + u * pixels[above + inside(c + 1)])
        + v * ((1 - u) * pixels[below + inside(c)] + u * pixels[below + inside(c + 1)]);
    }
  }
  return result;
}

// Return a canvas of the evidence: orange for the first answer, blue for the second.
export function evidencePicture(evidence) {
  const canvas = document.createElement("canvas"), side = canvas.width = canvas.height = SIDE * FINE;
  const fine = smooth(spread(evidence), FINE);
  const shown = fine.map((value) => Math.sign(value) * Math.abs(value) ** GAMMA);
  const limit = shown.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  canvas.getContext("2d").putImageData(diverge(shown, side, side, limit,
    token("--first"), token("--second"), STRONGEST), 0, 0);
  return canvas;
}
