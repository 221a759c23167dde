// The sheet: paint the drawing at the resolution of the screen, and mark digits on it.

import { paintDrawing } from "./paint.js";
import { token } from "./pixels.js";

const MARGIN = 0.015; // around the ink of a digit, relative to the side of the sheet

const HEAD = 30; // pixels that a label above or below a box needs

export class Sheet {
  cursor = null; // the keyboard's pen: its position, and whether it is down
  #asked = 0;

  constructor(canvas, marks, drawing) {
    Object.assign(this, { canvas, marks, drawing });
    drawing.addEventListener("change", () => this.paint());
    // A change of the window, of the zoom or of the screen changes the number of device pixels.
    new ResizeObserver(() => this.#paint()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  // Paint before the next frame: a pen sends more movements than the screen can show.
  paint() {
    this.#asked ||= requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    cancelAnimationFrame(this.#asked);
    this.#asked = 0;
    const side = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
    const context = this.canvas.getContext("2d");
    paintDrawing(context, this.drawing, side, token("--sheet"), token("--pen"));
    if (this.cursor) this.#paintCursor(context, side);
  }

  #paintCursor(context, side) {
    const { x, y, down } = this.cursor;
    context.strokeStyle = context.fillStyle = token("--accent");
    context.lineWidth = 2 * devicePixelRatio;
    context.beginPath();
    context.arc(x * side, y * side, 0.035 * side, 0, 2 * Math.PI);
    down ? context.fill() : context.stroke();
  }

  // Put a box with its label around each digit of a number. `area` is where the picture that was
  // read lies on the sheet.
  mark(digits, area, chosen) {
    const [left, top, right, bottom] = area;
    this.marks.replaceChildren(...digits.map(({ box, label, unsure }, i) => {
      const mark = document.createElement("div"), name = document.createElement("span");
      const place = (from, to, start, length) => {
        const a = Math.max(0, from + start * (to - from) - MARGIN);
        return [a, Math.min(1, from + (start + length) * (to - from) + MARGIN) - a]
          .map((each) => `${100 * each}%`);
      };
      const { style } = mark;
      [style.left, style.width] = place(left, right, box[0], box[2] - box[0]);
      [style.top, style.height] = place(top, bottom, box[1], box[3] - box[1]);
      name.textContent = unsure ? `${label ?? ""}?` : label;
      mark.classList.toggle("chosen", i === chosen);
      const above = parseFloat(style.top) / 100, under = above + parseFloat(style.height) / 100;
      const head = HEAD / this.canvas.clientHeight;
      // The ink of another line may be there.
      const isFree = (from, to) => from >= 0 && to <= 1 && !digits.some(({ box: other }, k) => k !== i
        && top + other[1] * (bottom - top) < to && top + other[3] * (bottom - top) > from
        && other[0] < box[2] && other[2] > box[0]);
      if (!isFree(above - head, above)) mark.classList.add(isFree(under, under + head) ? "low" : "full");
      mark.append(name);
      return mark;
    }));
  }
}
