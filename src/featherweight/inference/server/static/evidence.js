// Why the first answer and not the second: each place's part of the difference of their logits.
//
// The head is a mean over places and one linear layer, so the parts sum exactly to the difference.
// They are shown over the drawing and over the pixels that the network saw. Where it takes images
// with rows and columns exchanged, the picture over the drawing is turned back.

import { evidencePicture, middles } from "./spread.js";
import { fixed, signed } from "./words.js";

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export class Evidence {
  on = false;
  #shown = null; // { evidence, image, frame, picture } with the frame relative to the sheet
  #place = null; // [row, column]

  // `parts` are elements: sheet, overlay, seen (its overlay), places, readout.
  constructor(parts, say) {
    Object.assign(this, parts, { say });
    this.places.addEventListener("keydown", (event) => this.#key(event));
    this.places.addEventListener("focus", () => this.#choose(this.#place ?? this.#middle()));
    this.places.addEventListener("blur", () => this.#choose(null));
    for (const type of ["pointermove", "pointerdown"])
      this.places.addEventListener(type, (event) => this.#point(event, [0, 0, 1, 1], false));
    this.sheet.addEventListener("pointermove", (event) => {
      if (this.#shown) this.#point(event, this.#shown.frame, this.#shown.image.transposed);
    });
    for (const each of [this.sheet, this.places])
      each.addEventListener("pointerleave", () => this.#choose(null));
    new ResizeObserver(() => this.paint()).observe(this.sheet);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      if (this.#shown) this.#shown.picture = null;
      this.paint();
    });
  }

  // Show a reading's evidence, or none; `image` is the kind of image that the network takes, and the
  // area is where the picture that was read lies on the sheet.
  show(reading, image, [left, top, right, bottom] = []) {
    const { evidence, frame } = reading ?? {};
    const x = (part) => left + part * (right - left), y = (part) => top + part * (bottom - top);
    this.#shown = evidence && frame ? { evidence, image, picture: null,
      frame: [x(frame[0]), y(frame[1]), x(frame[2]), y(frame[3])] } : null;
    this.#place = null;
    this.paint();
  }

  paint() {
    const visible = this.on && this.#shown !== null;
    this.places.hidden = !visible;
    for (const canvas of [this.overlay, this.seen]) {
      canvas.hidden = !visible;
      if (!visible) continue;
      const [wide, high] = [canvas.clientWidth, canvas.clientHeight]
        .map((side) => Math.round(side * devicePixelRatio));
      Object.assign(canvas, { width: wide, height: high });
      const context = canvas.getContext("2d");
      if (canvas === this.seen) this.#paint(context, [0, 0, wide, high], false);
      else this.paintOn(context, wide);
    }
    this.#tell();
  }

  // Paint the evidence into a square picture of the sheet, `side` pixels wide.
  paintOn(context, side) {
    if (!this.on || !this.#shown) return;
    const { frame, image } = this.#shown;
    this.#paint(context, frame.map((each) => each * side), image.transposed);
  }

  // Paint the evidence and the chosen place into a frame, perhaps with rows and columns exchanged.
  #paint(context, [left, top, right, bottom], turned) {
    const { evidence, image: { width, height } } = this.#shown;
    context.save();
    context.translate(left, top);
    if (turned) context.transform(0, 1, 1, 0, 0, 0);
    const [wide, high] = turned ? [bottom - top, right - left] : [right - left, bottom - top];
    context.scale(wide / width, high / height); // its units are pixels of what the network saw
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#shown.picture ??= evidencePicture(evidence, { width, height }),
      0, 0, width, height);
    if (this.#place) this.#outline(context, width / wide);
    context.restore();
  }

  // What is painted, or null.
  get painted() { return this.on ? this.#shown?.evidence ?? null : null; }

  // The middles of the rows and of the columns of places, in pixels of what the network saw.
  #middles() {
    const { values, extent: [left, top, right, bottom] } = this.#shown.evidence;
    return [middles(values.length, top, bottom), middles(values[0].length, left, right)];
  }

  // Outline the field of the chosen place, and put a dot in its middle. `unit` is the length of a
  // pixel of the canvas.
  #outline(context, unit) {
    const { evidence: { field }, image: { width, height } } = this.#shown;
    const [y, x] = this.#middles().map((each, axis) => each[this.#place[axis]]);
    const cut = (value, side) => Math.min(side, Math.max(0, value));
    const [x0, x1] = [cut(x - field[0] / 2, width), cut(x + field[0] / 2, width)];
    const [y0, y1] = [cut(y - field[1] / 2, height), cut(y + field[1] / 2, height)];
    for (const [colour, thick] of [["#ffffff", 3.5], ["#221e1a", 1.5]]) { // seen on any ground
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = thick * devicePixelRatio * unit;
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.beginPath();
      context.arc(x, y, (2 + thick) * devicePixelRatio / 1.5 * unit, 0, 7);
      context.fill();
    }
  }

  #middle() {
    const { values } = this.#shown.evidence;
    return [values.length >> 1, values[0].length >> 1];
  }

  // Choose the place whose middle is nearest to a pointer inside the frame.
  #point(event, [left, top, right, bottom], turned) {
    if (!this.on || !this.#shown) return;
    const box = event.currentTarget.getBoundingClientRect(), { width, height } = this.#shown.image;
    const part = [((event.clientX - box.left) / box.width - left) / (right - left),
      ((event.clientY - box.top) / box.height - top) / (bottom - top)];
    if (turned) part.reverse();
    const x = part[0] * width, y = part[1] * height;
    const nearest = (all, at) => all.reduce((best, each, i) =>
      (Math.abs(each - at) < Math.abs(all[best] - at) ? i : best), 0);
    const [rows, columns] = this.#middles();
    const inside = Math.min(...part) >= 0 && Math.max(...part) <= 1;
    this.#choose(inside ? [nearest(rows, y), nearest(columns, x)] : null);
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
    const { first, second, difference, values, field } = this.#shown.evidence;
    const all = `all ${values.length * values[0].length} places sum to ${fixed(difference)}, `
      + "the difference of the logits";
    if (!this.#place) {
      this.readout.textContent =
        `${all[0].toUpperCase()}${all.slice(1)}. Each looks at ${field[1]} × ${field[0]} pixels.`;
      return;
    }
    const value = values[this.#place[0]][this.#place[1]];
    this.readout.textContent = `${signed(value)} for ${first} against ${second} here; ${all}.`;
  }
}
