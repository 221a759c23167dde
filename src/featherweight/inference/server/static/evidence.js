// Why the first answer and not the second: each place's part of the difference of their logits.
//
// The head is a mean over places and one linear layer, so the parts sum exactly to the difference.
// They are shown over the drawing and over the 28 x 28 pixels that the network saw.

import { signed } from "./words.js";
import { diverge, token } from "./pixels.js";

const FINE = 12; // pixels of the smooth picture for each place
const STRONGEST = 235; // opacity of the strongest place, of 255
const SIDE = 28; // pixels of what the network saw
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// Interpolate bilinearly: a place is no square with an edge, but the middle of a receptive field.
export function smooth(values, fine = FINE) {
  const rows = values.length, columns = values[0].length, result = [];
  const at = (r, c) =>
    values[Math.min(rows - 1, Math.max(0, r))][Math.min(columns - 1, Math.max(0, c))];
  for (let i = 0; i < rows * fine; i++) {
    const y = (i + 0.5) / fine - 0.5, r = Math.floor(y), v = y - r;
    for (let j = 0; j < columns * fine; j++) {
      const x = (j + 0.5) / fine - 0.5, c = Math.floor(x), u = x - c;
      result.push((1 - v) * ((1 - u) * at(r, c) + u * at(r, c + 1))
        + v * ((1 - u) * at(r + 1, c) + u * at(r + 1, c + 1)));
    }
  }
  return result;
}

// Paint evidence into the square `frame` ([left, top, right, bottom] in pixels) of a context.
export function paintEvidence(context, { values, extent }, frame) {
  const rows = values.length, columns = values[0].length, small = document.createElement("canvas");
  const limit = Math.max(...values.flat().map(Math.abs));
  small.width = columns * FINE;
  small.height = rows * FINE;
  small.getContext("2d").putImageData(diverge(smooth(values), small.width, small.height, limit,
    token("--first"), token("--second"), STRONGEST), 0, 0);
  const [left, top, right, bottom] = frame;
  const x = (px) => left + px / SIDE * (right - left), y = (px) => top + px / SIDE * (bottom - top);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, x(extent[0]), y(extent[1]),
    x(extent[2]) - x(extent[0]), y(extent[3]) - y(extent[1]));
}

export class Evidence {
  on = false;
  #shown = null; // { evidence, frame } with the frame relative to the sheet
  #place = null; // [row, column]

  // `parts` are elements: sheet, overlay, seen (its overlay), places, readout, legend.
  constructor(parts, say) {
    Object.assign(this, parts, { say });
    this.places.addEventListener("keydown", (event) => this.#key(event));
    this.places.addEventListener("focus", () => this.#choose(this.#place ?? this.#middle()));
    for (const type of ["pointermove", "pointerdown"])
      this.places.addEventListener(type, (event) => this.#point(event, [0, 0, 1, 1]));
    this.sheet.addEventListener("pointermove", (event) => {
      if (this.#shown) this.#point(event, this.#shown.frame);
    });
    for (const each of [this.sheet, this.places])
      each.addEventListener("pointerleave", () => this.#choose(null));
    new ResizeObserver(() => this.paint()).observe(this.sheet);
  }

  // Show a reading's evidence; `area` is where the picture that was read lies on the sheet.
  show(reading, [left, top, right, bottom] = []) {
    const { evidence, frame } = reading ?? {};
    const x = (part) => left + part * (right - left), y = (part) => top + part * (bottom - top);
    this.#shown = evidence && frame
      ? { evidence, frame: [x(frame[0]), y(frame[1]), x(frame[2]), y(frame[3])] } : null;
    this.#place = null;
    this.paint();
  }

  paint() {
    const visible = this.on && this.#shown !== null;
    this.places.hidden = !visible;
    for (const canvas of [this.overlay, this.seen]) {
      canvas.hidden = !visible;
      if (!visible) continue;
      const side = canvas.width = canvas.height = Math.round(canvas.clientWidth * devicePixelRatio);
      const frame = canvas === this.seen ? [0, 0, 1, 1] : this.#shown.frame;
      const context = canvas.getContext("2d"), square = frame.map((each) => each * side);
      paintEvidence(context, this.#shown.evidence, square);
      if (this.#place) this.#outline(context, square);
    }
    this.#tell();
  }

  // Paint the evidence into a picture of the sheet, `side` pixels wide.
  paintOn(context, side) {
    if (!this.on || !this.#shown) return;
    paintEvidence(context, this.#shown.evidence, this.#shown.frame.map((each) => each * side));
  }

  #outline(context, [left, top, right, bottom]) {
    const { extent, values } = this.#shown.evidence, [row, column] = this.#place;
    const scale = (right - left) / SIDE;
    const width = (extent[2] - extent[0]) / values[0].length * scale;
    const height = (extent[3] - extent[1]) / values.length * scale;
    const x = left + extent[0] * scale + column * width, y = top + extent[1] * scale + row * height;
    for (const [colour, line] of [["#ffffff", 4], ["#111111", 2]]) { // seen on any ground
      context.strokeStyle = colour;
      context.lineWidth = line * devicePixelRatio / 1.4;
      context.strokeRect(x, y, width, height);
    }
  }

  #middle() {
    const { values } = this.#shown.evidence;
    return [values.length >> 1, values[0].length >> 1];
  }

  #point(event, [left, top, right, bottom]) {
    if (!this.on || !this.#shown) return;
    const box = event.currentTarget.getBoundingClientRect();
    const { extent, values } = this.#shown.evidence;
    const part = (at, from, to, a, b) => ((at - from) / (to - from) * SIDE - a) / (b - a);
    const column = Math.floor(values[0].length
      * part((event.clientX - box.left) / box.width, left, right, extent[0], extent[2]));
    const row = Math.floor(values.length
      * part((event.clientY - box.top) / box.height, top, bottom, extent[1], extent[3]));
    this.#choose(values[row]?.[column] === undefined ? null : [row, column]);
  }

  #key(event) {
    if (!(event.key in ARROWS) || !this.#shown) return;
    event.preventDefault();
    const { values } = this.#shown.evidence, [dr, dc] = ARROWS[event.key];
    const [row, column] = this.#place ?? this.#middle();
    this.#choose([Math.min(values.length - 1, Math.max(0, row + dr)),
      Math.min(values[0].length - 1, Math.max(0, column + dc))]);
    this.say(this.readout.textContent);
  }

  #choose(place) {
    if (String(place) === String(this.#place)) return;
    this.#place = place;
    this.paint();
  }

  #tell() {
    if (!this.on || !this.#shown) {
      this.readout.textContent = "";
      return;
    }
    const { first, second, difference, values } = this.#shown.evidence;
    const sum = `all places sum to ${difference.toFixed(2)}, the difference of the logits`;
    if (!this.#place) {
      this.readout.textContent = `${sum[0].toUpperCase()}${sum.slice(1)}.`;
      return;
    }
    const value = values[this.#place[0]][this.#place[1]];
    this.readout.textContent = `${signed(value)} for ${first} against ${second} here; ${sum}.`;
  }
}
