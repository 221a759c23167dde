// Prepare a grey picture: what export/prepare.py defines, to the bit. The functions are those there.
//
//     prepare(grey, width, height)    // bytes, row by row -> 784 of them, or null without ink

const BLOCKS = 32, SAMPLES = 4, SMALL = 24, TRIES = [0, 1, 2, 3, 0], MIN_STRENGTH = 10, NOISE = 6;
const MAX_PARTS = 31, SPECK = 12, PAGE = 2, MIN_SIDE = 5, STROKE = 36, SIDE = 28, FIT = 20;

const divide = (a, b) => floor(a / b);
const sumUp = (values) => values.reduce((a, b) => a + b, 0);
const range = (n) => [...new Array(n).keys()];

// The maximum (sign 1) or minimum (-1) of blocks at most `reach` away along a row, or a column.
const filter = (levels, reach, step, sign) => levels.map((_, i) => {
  const at = divide(i, step) % BLOCKS, first = max(at - reach, 0), last = min(at + reach, BLOCKS - 1);
  return sign * max(...range(last - first + 1).map((j) => sign * levels[i + (first + j - at) * step]));
});

function estimatePaper(q, width, height) {
  const levels = range(BLOCKS ** 2).map((i) => divide(sumUp(range(SAMPLES ** 2).map((j) => {
    const place = (n, side) => divide(n * side, SAMPLES * BLOCKS);
    const y = place(divide(i, BLOCKS) * SAMPLES + divide(j, SAMPLES), height);
    return q[y * width + place(i % BLOCKS * SAMPLES + j % SAMPLES, width)];
  })), SAMPLES ** 2));
  let paper = levels;
  for (const sign of [1, -1])
    for (const [step, side] of [[1, width], [BLOCKS, height]])
      paper = filter(paper, divide(max(width, height) * 5, side), step, sign);
  return { paper, q, cost: sumUp(paper.map((level, i) =>
    4 * Math.abs(level - paper[max(i - 1, 0)]) + (i < BLOCKS && level - levels[i]))) };
}

// The strength of each pixel: its distance from the paper.
function findStrength({ paper, q }, width, height) {
  const block = (i, side) => divide(i * BLOCKS, side);
  return q.map((grey, i) => {
    const level = paper[block(divide(i, width), height) * BLOCKS + block(i % width, width)];
    return divide(max(level - grey, 0) * 255, max(level, 255 - level));
  });
}

// Keep pixels that are a corner of a square, `side` pixels apart, of which all four are ink.
function openBySquare(strength, width, height, side) {
  const wide = width + 2 * side, all = new Uint8Array(wide * (height + 2 * side));
  for (let y = 0; y < height; y++)
    all.set(strength.subarray(y * width, y * width + width), (y + side) * wide + side);
  const down = side * wide;
  const square = (i) => min(all[i], all[i + side], all[i + down], all[i + down + side]);
  return strength.map((_, i) => {
    const at = divide(i, width) * wide + i % width; // the upper left one of nine
    return max(square(at), square(at + side), square(at + down), square(at + down + side));
  });
}

function quantile(counts, rank) {
  let level = 0;
  while (rank >= counts[level]) rank -= counts[level++];
  return level;
}

// The paper's rest, where a soft edge begins beyond that, and full ink.
function measureLevels(strength, isPlain) {
  const counts = new Array(256).fill(0), n = strength.length;
  for (const each of strength) counts[each]++;
  let rest = 0, least = MIN_STRENGTH, mass = 0, square = 0;
  if (!isPlain) {
    const weak = sumUp(counts.slice(0, (quantile(counts, n - (n >> 14) - 1) >> 1) + 1));
    rest = quantile(counts, weak >> 1);
    least = max(NOISE * (quantile(counts, weak * 3 >> 2) - rest), least);
  }
  for (let level = least + 1; level < 256 - rest; level++) {
    const product = counts[level + rest] * level >> 3;
    mass += product;
    square += product * level;
  }
  const peak = divide(square, mass + 1), low = max(peak >> 3, least);
  return peak > 2 * low && { rest, low, full: peak - 2 * low };
}

const unite = (a, b) => ({ area: a.area + b.area, x: a.x + b.x, y: a.y + b.y, edges: a.edges + b.edges,
  left: min(a.left, b.left), right: max(a.right, b.right), top: min(a.top, b.top), bottom: max(a.bottom, b.bottom) });

function findParts(isInk, width, height) {
  const parts = range(MAX_PARTS + 1).map(() => ({ area: 0 }));
  let above = new Uint8Array(width + 2);
  for (let y = 0; y < height; y++) {
    const now = new Uint8Array(width + 2);
    for (let x = 0; x < width; x++) {
      if (!isInk(y * width + x)) continue;
      let label = 0;
      for (const other of [now[x], above[x], above[x + 1], above[x + 2]]) {
        label ||= other;
        if (!other || other === label || !parts[other].area) continue;
        parts[label] = unite(parts[label], parts[other]);
        parts[other] = { area: 0 };
        for (const line of [above, now]) line.forEach((each, i) => { if (each === other) line[i] = label; });
      }
      const pixel = { area: 1, x, y, edges: !now[x] + !above[x + 1], left: x, right: x, top: y, bottom: y };
      if (label) parts[label] = unite(parts[label], pixel);
      else {
        label = MAX_PARTS;
        while (label && parts[label].area && (parts[label].area >= SPECK || parts[label].bottom >= y - 1)) label--;
        if (label) parts[label] = pixel;
      }
      now[x + 1] = label;
    }
    above = now;
  }
  return parts.filter(({ area }) => area);
}

// The digit's components as one, and whether they are inside of the picture.
function choose(parts, width, height) {
  const size = (part) => [part.right - part.left + 1, part.bottom - part.top + 1];
  const isInside = (part) => {
    const [wide, high] = size(part);
    return min(part.left, part.top, width - 1 - part.right, height - 1 - part.bottom) > 0
      && (5 * high < 4 * height || 5 * wide < 4 * width);
  };
  const isDigit = (part) => {
    const [wide, high] = size(part);
    return 5 * high >= height && 8 * part.area >= high * wide && isInside(part);
  };
  const kept = parts.some(isDigit) ? parts.filter(isInside) : parts;
  const heaviest = max(...kept.map(({ area }) => area));
  const digit = kept.filter(({ area }) => area > heaviest >> 5).reduce(unite);
  return [digit, isInside(digit)];
}

// `ink` is a function of a pixel.
function place(ink, width, { area, x, y, edges, left, right, top, bottom }) {
  const side = max(right - left, bottom - top) + 1;
  if (side < MIN_SIDE) return null;
  const wider = (STROKE - min(divide(area * 410, edges * side), STROKE)) >> 1, spread = side * (16 + wider) >> 3;
  const start = 160 - 224 * side - (spread * 7 >> 1);
  const lines = (total) => range(8 * SIDE).map((i) =>
    Math.trunc((divide(total * FIT, area) * 16 + start + (i >> 3) * 16 * side + i % 8 * spread) / 320));
  const columns = lines(x), image = new Array(SIDE ** 2).fill(0);
  lines(y).forEach((row, i) => columns.forEach((column, j) => {
    if (row >= top && row <= bottom && column >= left && column <= right)
      image[(i >> 3) * SIDE + (j >> 3)] += ink(row * width + column);
  }));
  const strongest = max(...image) >> 6, full = strongest * (32 - wider) >> 5;
  return strongest < 3 ? null : Uint8Array.from(image, (each) => min((each >> 6) * 255 / full, 255));
}

function prepare(grey, width, height) {
  const longer = max(width, height);
  const papers = [grey, grey.map((each) => 255 - each)].map((q) => estimatePaper(q, width, height));
  const isLight = papers[1].cost < papers[0].cost;
  for (let turn = 0; turn < 3; turn++) { // the other polarity is the second to be tried
    const raw = findStrength(papers[isLight ^ turn === 1], width, height);
    const isPlain = longer < SMALL || 5 * raw.filter(Boolean).length < 2 * raw.length;
    for (let i = 0; i < TRIES.length; i++) {
      const strength = openBySquare(raw, width, height, divide(longer * TRIES[i], 80));
      const levels = measureLevels(strength, isPlain);
      if (!levels) continue;
      const { rest, low, full } = levels, least = low + (full >> 2);
      const parts = findParts((at) => strength[at] - rest > least, width, height);
      const [digit, isInside] = choose(parts, width, height);
      // A page on a table is inside too, and much of the picture.
      const isPage = isInside && 5 * digit.area >= PAGE * width * height;
      if (turn === 2 || (!isPage && (isInside || isPlain || i === TRIES.length - 1)))
        return place((at) => min(divide(max(strength[at] - rest - low, 0) * 255, full), 255), width, digit);
    }
  }
  return null;
}
