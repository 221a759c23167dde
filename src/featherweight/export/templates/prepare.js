// Prepare a grey picture: what export/prepare.py defines, to the bit. The functions are those there.
//
//     prepare(grey, width, height)    // bytes, row by row -> 784 of them, or null without ink

const BLOCKS = 32, SMALL = 24, TABLE = 128, TRIES = [0, 4, 8, 12], MIN_CONTRAST = 10, NOISE = 6;
const MAX_PARTS = 64, SPECK = 12, MIN_SIDE = 5, STROKE = 32, SIDE = 28, FIT = 20;

const divide = (a, b) => floor(a / b);
const sumUp = (values) => values.reduce((a, b) => a + b, 0);
const range = (n) => [...new Array(n).keys()];

function countLevels(bytes) {
  const counts = new Array(256).fill(0);
  for (const each of bytes) counts[each]++;
  return counts;
}

// `most` is Math.max or Math.min.
function filter(levels, reach, most) {
  for (let i = 0; i < 2; i++) {
    const lines = levels.map((_, y) => levels.slice(max(y - reach, 0), y + reach + 1)
      .reduce((found, line) => found.map((each, x) => most(each, line[x]))));
    levels = lines[0].map((_, x) => lines.map((line) => line[x]));
  }
  return levels;
}

function estimatePaper(q, width, height, size, isPlain) {
  const columns = Math.ceil(width / size), rows = Math.ceil(height / size);
  const levels = range(rows).map((i) => range(columns).map((j) => {
    const left = j * size, top = i * size, right = min(left + size, width), bottom = min(top + size, height);
    const block = new Uint8Array((right - left) * (bottom - top));
    for (let y = top; y < bottom; y++)
      block.set(q.subarray(y * width + left, y * width + right), (y - top) * (right - left));
    return block.sort()[block.length - 1 - (block.length >> 2)];
  }));
  const reach = divide(max(rows, columns) * 11, 64), most = max(...levels.flat());
  // In a plain drawing the filters reach from everywhere to everywhere.
  const paper = isPlain ? levels.map((line) => line.map(() => most))
    : filter(filter(levels, reach, max), reach, min);
  const a = rows >> 2, b = columns >> 2;
  const middle = paper.slice(a, rows - a).flatMap((line) => line.slice(b, columns - b));
  const mean = divide(sumUp(middle), middle.length);
  const edge = paper.flatMap((line, i) => line.map((each, j) => each - levels[i][j])
    .filter((_, j) => !(i * j) || i > rows - 2 || j > columns - 2));
  return { paper, cost: divide(sumUp(middle.map((each) => Math.abs(each - mean))) * 100, middle.length)
    + divide(sumUp(edge) * 5, edge.length) };
}

// The strength of each pixel: its distance from the paper, whose level is interpolated.
function findStrength(q, width, height, paper, size) {
  const whole = 2 * size, strength = new Uint8Array(q.length), across = new Float64Array(width);
  const at = (i) => max(2 * i + 1 - size, 0);
  // The line of levels at one place of a list of them, times `whole`.
  const between = (levels, i) => {
    const first = divide(at(i), whole), fraction = at(i) % whole;
    return [levels[first], levels[min(first + 1, levels.length - 1)], fraction];
  };
  for (let y = 0, i = 0; y < height; y++) {
    const [above, below, fy] = between(paper, y);
    const line = above.map((each, x) => each * (whole - fy) + below[x] * fy);
    for (let x = 0; x < width; x++, i++) {
      const place = at(x), first = divide(place, whole), fx = place % whole;
      const level = divide(line[first] * (whole - fx) + line[min(first + 1, line.length - 1)] * fx, whole * whole);
      strength[i] = divide(max(level - q[i], 0) * 255, max(level, 255 - level));
    }
  }
  return strength;
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

// The paper's rest, full ink beyond that, and the noise.
function measureLevels(strength, isPlain) {
  const counts = countLevels(strength), few = divide(strength.length, 16384) + 1;
  let top = 255, n = counts[255], rest = 0, noise = 0;
  while (n < few) n += counts[--top];
  if (!isPlain) {
    const weak = sumUp(counts.slice(0, divide(top, 2) + 1));
    n = counts[0];
    while (2 * n < weak) n += counts[++rest];
    while (4 * n < 3 * weak) n += counts[rest + ++noise];
  }
  const least = rest + max(NOISE * noise, MIN_CONTRAST);
  if (top <= least) return null;
  const masses = counts.map((each, level) => each * (level - rest));
  const strong = max(divide(top, 2), least);
  const peak = divide(sumUp(masses.slice(strong)), sumUp(counts.slice(strong)));
  let typical = max(rest + divide(peak * 5, 32), least), mass = masses[typical];
  const total = sumUp(masses.slice(typical));
  while (2 * mass < total) mass += masses[++typical];
  return [rest, min(peak, divide((typical - rest) * 3, 2)), noise];
}

const unite = (a, b) => ({ area: a.area + b.area, left: min(a.left, b.left), right: max(a.right, b.right),
  top: min(a.top, b.top), bottom: max(a.bottom, b.bottom) });

function findParts(isInk, width, height) {
  const parts = range(MAX_PARTS).map(() => ({ area: 0 }));
  let above = new Uint8Array(width + 2);
  for (let y = 0; y < height; y++) {
    const now = new Uint8Array(width + 2);
    for (let end, first = 0; first < width; first = end + 1) {
      for (end = first; end < width && isInk[y * width + end];) end++;
      if (end === first) continue;
      let label = 0;
      for (let x = first; x < end + 2; x++) {
        const other = above[x];
        if (!label) label = other;
        else if (other && other !== label) {
          parts[label - 1] = unite(parts[label - 1], parts[other - 1]);
          parts[other - 1] = { area: 0 };
          for (const line of [above, now]) line.forEach((each, i) => { if (each === other) line[i] = label; });
        }
      }
      const run = { area: end - first, left: first, right: end - 1, top: y, bottom: y };
      if (label) parts[label - 1] = unite(parts[label - 1], run);
      else {
        label = 1 + parts.findIndex(({ area, bottom }) => !area || (area < SPECK && bottom < y - 1));
        if (label) parts[label - 1] = run;
      }
      now.fill(label, first + 1, end + 1);
    }
    above = now;
  }
  return parts.filter(({ area }) => area);
}

function choose(parts, width, height) {
  const size = (part) => [part.right - part.left + 1, part.bottom - part.top + 1];
  const fills = ([wide, high]) => 5 * high >= 4 * height && 5 * wide >= 4 * width;
  const touched = ({ left, right, top, bottom }) =>
    !left + !top + (right === width - 1) + (bottom === height - 1);
  const sides = (part) => {
    const [wide, high] = size(part);
    return fills([wide, high]) && 5 * part.area < high * wide ? 2 : touched(part);
  };
  let most = 4;
  for (const part of parts) {
    const [wide, high] = size(part);
    if (8 * part.area < high * wide) continue;
    if (!sides(part) && 5 * high >= height) most = 0;
    else if (sides(part) < 2 && 8 * high >= height) most = min(most, 1);
  }
  const kept = parts.filter((part) => sides(part) <= most);
  if (!kept.length) return null;
  const heaviest = max(...kept.map(({ area }) => area));
  const box = kept.filter(({ area }) => 32 * area >= heaviest).reduce(unite);
  const [wide, high] = size(box), isInside = !touched(box);
  return { box,
    isClean: isInside && !fills([wide, high]) && 6 * max(high, wide) >= max(height, width),
    isPage: isInside && min(height, width) >= TABLE && 5 * box.area >= 2 * height * width };
}

// `ink` is a list of rows.
function place(ink) {
  const solid = ink.map((line) => line.map((each) => each > 127));
  const turned = solid[0].map((_, x) => solid.map((line) => line[x]));
  const extent = (lines) => {
    const found = lines.map((line) => line.includes(true));
    return found.lastIndexOf(true) - found.indexOf(true) + 1;
  };
  const area = sumUp(solid.flat());
  let side = max(extent(solid), extent(turned));
  if (!area || side < MIN_SIDE) return null;
  const starts = (lines) => sumUp(lines.flatMap((line) => line.map((each, i) => each && !line[i - 1])));
  const stroke = divide(area * 410, (starts(solid) + starts(turned)) * side);
  let span = side, gain = 16;
  if (stroke < STROKE) {
    const wider = min(STROKE - stroke, 16);
    side += divide(side * wider, 320);
    span = side + divide(side * wider, 16);
    gain = max(16, divide(16 * (16 + wider), max(stroke, 4)));
  }
  span = max(span, FIT);
  const weights = ink.map((line) => line.map((each) => each >> 3));
  const rows = weights.map(sumUp), total = sumUp(rows);
  const cover = (sums) => {
    const moment = sumUp(sums.map((each, i) => each * (2 * i + 1)));
    const middle = divide(moment, total) * FIT + divide(moment % total * FIT, total);
    return range(SIDE).map((i) => {
      const start = middle + (2 * i - SIDE) * side - span;
      return sums.map((_, at) => max(min(start + 2 * span, 2 * FIT * (at + 1)) - max(start, 2 * FIT * at), 0));
    });
  };
  const down = cover(rows), across = cover(ink[0].map((_, x) => sumUp(weights.map((line) => line[x]))));
  const image = down.flatMap((covered) => {
    const line = ink[0].map((_, x) => sumUp(covered.map((each, y) => each * ink[y][x])));
    return across.map((part) => min(255,
      divide(divide(sumUp(part.map((each, x) => each * line[x])), 4 * span * span) * gain, 16)));
  });
  const most = max(...image);
  return most ? Uint8Array.from(image, (each) => each * 255 / most) : null;
}

function prepare(grey, width, height) {
  const longer = max(width, height), size = Math.ceil(longer / BLOCKS);
  const isPlain = longer < SMALL || 5 * max(...countLevels(grey)) >= 2 * grey.length;
  const levels = [grey, grey.map((each) => 255 - each)];
  const papers = levels.map((q) => estimatePaper(q, width, height, size, isPlain));
  const isLight = papers[1].cost < papers[0].cost;
  let best = null;
  for (let turn = 0, again = true; again; turn++) {
    const raw = findStrength(levels[isLight ^ turn], width, height, papers[isLight ^ turn].paper, size);
    again = false;
    for (const step of TRIES) {
      const opening = divide(longer * step, 320), opened = openBySquare(raw, width, height, opening);
      const found = measureLevels(opened, isPlain);
      if (!found) continue;
      const [rest, peak, noise] = found, low = max(divide(peak, 10), 4 * noise);
      if (2 * low >= peak) continue;
      const strength = opened.map((each) => max(each - rest, 0));
      const least = max(divide(peak * (opening ? 7 : 5), 16), low);
      const choice = choose(findParts(strength.map((each) => each > least), width, height), width, height);
      if (!choice) continue;
      if (choice.isPage && !isPlain && !turn) {
        again = true;
        best = null;
        break;
      }
      if (!best || choice.isClean) best = { choice, ink: strength.map((each) =>
        min(divide(max(each - low, 0) * 255, peak - 2 * low), 255)) };
      if (choice.isClean || isPlain) break;
    }
  }
  if (!best) return null;
  const { left, right, top, bottom } = best.choice.box, first = max(left - 1, 0);
  return place(range(min(bottom + 2, height)).slice(max(top - 1, 0)).map((y) =>
    [...best.ink.subarray(y * width + first, y * width + min(right + 2, width))]));
}
