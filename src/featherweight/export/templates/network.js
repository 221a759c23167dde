// The integer network: what export/integer.py defines, with its scores to the bit.
//
//     const read = makeNetwork(model);    // `model` as export/html.py writes it
//     read(pixels)                        // a byte for each pixel, row by row -> a score for each class
//
// A number is exact here below 2 ** 53. Sums (1) have 32 bits; x in (2) and y in (3) come from
// products of fewer than 47. Only the product in (4) is longer, and is taken apart.

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Signed integers of `bits` bits; the first is in the lowest bits of the first byte.
function unpack(packed, bits) {
  const perByte = 8 / bits, integers = new Int8Array(packed.length * perByte);
  for (let i = 0; i < integers.length; i++)
    integers[i] = packed[Math.floor(i / perByte)] >> bits * (i % perByte) << 32 - bits >> 32 - bits;
  return integers;
}

// One sum of (1): a filter's weights from `at` on, times the inputs below it, whose first is q[from].
function sumOf(q, from, rowLength, next, weights, at, kernel, run) {
  let sum = 0;
  for (let ky = 0; ky < kernel; ky++, from += rowLength)
    for (let k = 0, place = from; k < run; k++, place += next)
      sum = sum + q[place] * weights[at++] | 0;
  return sum;
}

function makeNetwork(model) {
  const { height, width, hardswish, shifts, layers } = model;
  const weights = unpack(bytesOf(model.weights), model.bits);
  const multipliers = new Int16Array(bytesOf(model.multipliers).buffer);
  const biases = new Int16Array(bytesOf(model.biases).buffer);
  const head = new Int8Array(bytesOf(model.head).buffer);

  // The image moved down by `down` and right by `right` pixels, its border repeated.
  function shifted(pixels, down, right) {
    const within = (i, side) => Math.min(Math.max(i, 0), side - 1);
    return pixels.map((_, i) =>
      pixels[within(Math.floor(i / width) + down, height) * width + within(i % width + right, width)]);
  }

  function padded({ q, height, width, channels }, padding, value) {
    const all = width + 2 * padding, wide = new Uint8ClampedArray(all * (height + 2 * padding) * channels);
    wide.fill(value);
    for (let y = 0, row = width * channels; y < height; y++)
      wide.set(q.subarray(y * row, (y + 1) * row), ((y + padding) * all + padding) * channels);
    return { q: wide, height: height + 2 * padding, width: all, channels };
  }

  // q is (height, width, channels). A pool is a depthwise convolution with one weight of 1.
  function output(layer, input) {
    const [isDepthwise, kernel, stride, padding, padValue, pool, outputs, firstWeight, firstOutput,
      shift, fraction, outMultiplier, outShift, zeroPoint] = layer;
    const { q, height, width, channels } = padding ? padded(input, padding, padValue) : input;
    const [outHeight, outWidth] = [height, width].map((side) =>
      Math.floor((side - kernel - (pool - 1) * stride) / (pool * stride)) + 1);
    const run = isDepthwise ? kernel : kernel * channels, next = isDepthwise ? channels : 1;
    const divisor = 2 ** shift, three = 3 * 2 ** fraction;
    // (4) in two parts of y, the lower one of `split` bits, of which the half has none.
    const split = Math.min(16, Math.max(outShift - 1, 0)), low = 2 ** split;
    const half = outShift ? 2 ** (outShift - 1 - split) : 0, outDivisor = 2 ** (outShift - split);
    const result = new Uint8ClampedArray(outHeight * outWidth * outputs);
    let n = 0;
    for (let row = 0; row < outHeight; row++) {
      for (let column = 0; column < outWidth; column++) {
        for (let c = 0; c < outputs; c++) {
          let most = -Infinity;
          for (let i = 0; i < pool * pool; i++) {
            const top = (row * pool + Math.floor(i / pool)) * stride;
            const left = (column * pool + i % pool) * stride;
            const from = (top * width + left) * channels + (isDepthwise ? c : 0);
            most = Math.max(most, sumOf(q, from, width * channels, next, weights,
              firstWeight + c * kernel * run, kernel, run));
          }
          let y = most;
          if (!isDepthwise) {
            y = Math.floor(y * multipliers[firstOutput + c] / divisor) + biases[firstOutput + c];
            if (hardswish) y *= Math.min(Math.max(y + three, 0), 2 * three);
          }
          const high = Math.floor(y / low), rest = y - high * low;
          const product = high * outMultiplier + Math.floor(rest * outMultiplier / low);
          // Beyond 0 and 255 the array itself clamps.
          result[n++] = Math.floor((product + half) / outDivisor) + zeroPoint;
        }
      }
    }
    return { q: result, height: outHeight, width: outWidth, channels: outputs };
  }

  return (pixels) => {
    const scores = [...model.headBiases], features = new Array(head.length / scores.length).fill(0);
    for (const down of shifts) {
      for (const right of shifts) {
        const image = { q: shifted(pixels, down, right), height, width, channels: 1 };
        layers.reduce((input, layer) => output(layer, input), image).q
          .forEach((value, i) => { features[i % features.length] += value; });
      }
    }
    return scores.map((bias, label) =>
      features.reduce((sum, each, i) => sum + each * head[label * features.length + i], bias));
  };
}
