// The integer network: what export/integer.py defines, with its scores to the bit.
//
//     const read = makeNetwork(model);    // `model` as export/html.py writes it
//     read(pixels)                        // a byte for each pixel, row by row -> a score for each class
//
// A number is exact here below 2 ** 53. Sums (1) have 32 bits; x in (2) and y in (3) come from
// products of fewer than 47. Only the product in (4) is longer, and is taken apart.

const { floor, min, max } = Math;
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Signed integers of `bits` bits; the first is in the lowest bits of the first byte.
function unpack(packed, bits) {
  const perByte = 8 / bits;
  return new Int8Array(packed.length * perByte).map((_, i) =>
    packed[floor(i / perByte)] >> bits * (i % perByte) << 32 - bits >> 32 - bits);
}

// One sum of (1): a filter's weights from `at` on, times the inputs below it, whose first is q[from].
function sumOf(q, from, rowLength, next, weights, at, kernel, run) {
  let sum = 0;
  for (let row = 0; row < kernel; row++, from += rowLength)
    for (let i = 0, place = from; i < run; i++, place += next)
      sum = sum + q[place] * weights[at++] | 0;
  return sum;
}

// An image or a layer's output is { q, side, channels } with q (side, side, channels).
function pad({ q, side, channels }, padding, value) {
  const wide = side + 2 * padding, row = side * channels;
  const all = new Uint8ClampedArray(wide * wide * channels).fill(value);
  for (let y = 0; y < side; y++)
    all.set(q.subarray(y * row, y * row + row), ((y + padding) * wide + padding) * channels);
  return { q: all, side: wide, channels };
}

function makeNetwork(model) {
  const weights = unpack(bytesOf(model.weights), model.bits);
  const multipliers = new Int16Array(bytesOf(model.multipliers).buffer);
  const biases = new Int16Array(bytesOf(model.biases).buffer);
  const head = new Int8Array(bytesOf(model.head).buffer);

  // A layer's output. A pool is a depthwise convolution with one weight of 1.
  function output(input, layer) {
    const [isDepthwise, kernel, stride, padding, padValue, pool, outputs, firstWeight, firstOutput,
      shift, fraction, outMultiplier, outShift, zeroPoint] = layer;
    const { q, side, channels } = padding ? pad(input, padding, padValue) : input;
    const outSide = floor((side - kernel - (pool - 1) * stride) / (pool * stride)) + 1;
    const run = isDepthwise ? kernel : kernel * channels, next = isDepthwise ? channels : 1;
    const divisor = 2 ** shift, three = 3 * 2 ** fraction;
    // (4) in two parts of y, the lower one of `split` bits, of which the half has none.
    const split = min(16, max(outShift - 1, 0)), low = 2 ** split;
    const outDivisor = 2 ** (outShift - split), half = outShift && outDivisor / 2;
    return { q: new Uint8ClampedArray(outSide * outSide * outputs).map((_, n) => {
      const c = n % outputs, column = floor(n / outputs) % outSide, row = floor(n / outputs / outSide);
      let y = -Infinity;
      for (let i = 0; i < pool * pool; i++) {
        const top = (row * pool + floor(i / pool)) * stride, left = (column * pool + i % pool) * stride;
        y = max(y, sumOf(q, (top * side + left) * channels + isDepthwise * c, side * channels, next,
          weights, firstWeight + c * kernel * run, kernel, run));
      }
      if (!isDepthwise) {
        y = floor(y * multipliers[firstOutput + c] / divisor) + biases[firstOutput + c];
        if (model.hardswish) y *= min(max(y + three, 0), 2 * three);
      }
      const high = floor(y / low), rest = floor((y - high * low) * outMultiplier / low);
      // Beyond 0 and 255 the array itself clamps.
      return floor((high * outMultiplier + rest + half) / outDivisor) + zeroPoint;
    }), side: outSide, channels: outputs };
  }

  return (pixels) => {
    const { side, shifts, headBiases } = model, last = side - 1;
    const features = new Array(head.length / headBiases.length).fill(0);
    const within = (i) => min(max(i, 0), last);
    for (const down of shifts) {
      for (const right of shifts) {
        // The image is moved, and its border repeated.
        const q = pixels.map((_, i) =>
          pixels[within(floor(i / side) + down) * side + within(i % side + right)]);
        model.layers.reduce(output, { q, side, channels: 1 }).q
          .forEach((value, i) => { features[i % features.length] += value; });
      }
    }
    return headBiases.map((bias, label) =>
      features.reduce((sum, each, i) => sum + each * head[label * features.length + i], bias));
  };
}
