// Digits to try: stroke by stroke onto the sheet. Some are real mistakes of the default network.

import { paintStroke } from "./paint.js";
import { token } from "./pixels.js";
import { findSamples } from "./reading.js";
import { COUNTS, one } from "./words.js";

const SECONDS = 0.9; // that a digit takes to be drawn

const strokesOf = ({ strokes, width }) =>
  strokes.map((points) => ({ points: points.map(([x, y]) => [x, y, width]), erase: false }));

export class Samples {
  #playing = 0;
  loaded = false;

  constructor(root, title, drawing) {
    Object.assign(this, { root, title, drawing });
    this.chosen = null; // the sample whose strokes are on the sheet
  }

  async load() {
    const { model, samples } = await findSamples();
    Object.assign(this, { model, samples, loaded: true });
    this.root.replaceChildren(...samples.map((sample) => this.#item(sample)));
    new ResizeObserver(() => this.#paint()).observe(this.root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
  }

  // Say how many are mistakes; they are those of one network. They are digits to draw, so a network
  // that reads something else has none.
  tell(model, fits) {
    if (!this.loaded) return;
    this.root.parentElement.hidden = !fits;
    const mistakes = this.samples.filter(({ digit, reads }) => digit !== reads).length;
    this.title.textContent = "Or try one of these."
      + (model === this.model ? ` ${COUNTS[mistakes]} are real mistakes.` : "");
    this.root.classList.toggle("other", model !== this.model);
  }

  #item(sample) {
    const item = document.createElement("li"), button = document.createElement("button");
    const canvas = document.createElement("canvas"), note = document.createElement("span");
    const { digit, reads } = sample, mistake = document.createElement("i");
    note.textContent = one(digit);
    mistake.textContent = digit === reads ? "" : `, read as ${one(reads)}`;
    note.append(mistake);
    button.type = "button";
    button.append(canvas, note);
    button.addEventListener("click", () => this.play(sample));
    item.append(button);
    return item;
  }

  #paint() {
    [...this.root.children].forEach((item, i) => {
      const canvas = item.querySelector("canvas");
      const side = Math.round(canvas.clientWidth * devicePixelRatio);
      canvas.width = canvas.height = side;
      const context = canvas.getContext("2d");
      context.lineCap = context.lineJoin = "round";
      context.strokeStyle = token("--pen");
      for (const stroke of strokesOf(this.samples[i])) paintStroke(context, stroke, side);
    });
  }

  play(sample) {
    this.stop();
    const strokes = strokesOf(sample);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.drawing.replace(strokes);
      this.chosen = sample;
      return;
    }
    // One state, whose strokes grow: a single undo takes the whole sample back.
    const shown = [{ points: [strokes[0].points[0]], erase: false }];
    this.drawing.replace(shown, false);
    this.chosen = sample;
    const total = strokes.reduce((sum, stroke) => sum + stroke.points.length, 0);
    const start = performance.now();
    const step = (now) => {
      let left = Math.ceil(Math.min(1, (now - start) / 1000 / SECONDS) * total);
      const done = left >= total;
      strokes.forEach(({ points }, i) => {
        if (left > 0) {
          shown[i] ??= { points: [], erase: false };
          shown[i].points = points.slice(0, left);
        }
        left -= points.length;
      });
      this.#playing = done ? 0 : requestAnimationFrame(step);
      this.drawing.changed(done);
    };
    this.#playing = requestAnimationFrame(step);
  }

  stop() {
    cancelAnimationFrame(this.#playing);
    this.#playing = 0;
    this.chosen = null;
  }
}
