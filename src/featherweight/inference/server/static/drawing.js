// What is on the sheet, as data: strokes, an opened picture (an ImageBitmap), and the way back and forth.
//
// A stroke is { points, erase }, a point [x, y, width], all relative to the side of the sheet. A
// state is never changed once another follows it, so undoing is only a matter of keeping states.

const EMPTY = { strokes: [], picture: null };

export class Drawing extends EventTarget {
  #now = EMPTY;
  #past = [];
  #future = [];

  get strokes() { return this.#now.strokes; }
  get picture() { return this.#now.picture; }
  get empty() { return !this.strokes.length && !this.picture; }
  get canUndo() { return this.#past.length > 0; }
  get canRedo() { return this.#future.length > 0; }

  // Tell that something has changed. `settled` is false while a stroke grows: then the answer is
  // shown, but not said aloud.
  changed(settled) {
    this.dispatchEvent(new CustomEvent("change", { detail: { settled } }));
  }

  #go(state, settled = true) {
    this.#past.push(this.#now);
    this.#future = [];
    this.#now = state;
    this.changed(settled);
  }

  begin(point, erase = false) {
    const stroke = { points: [point], erase };
    this.#go({ ...this.#now, strokes: [...this.strokes, stroke] }, false);
  }

  extend(points) {
    this.strokes.at(-1).points.push(...points);
    this.changed(false);
  }

  end() { this.changed(true); }

  open(picture) { this.#go({ strokes: [], picture }); }

  replace(strokes, settled = true) { this.#go({ strokes, picture: null }, settled); }

  clear() { if (!this.empty) this.#go(EMPTY); }

  undo() { this.#step(this.#past, this.#future); }

  redo() { this.#step(this.#future, this.#past); }

  #step(from, to) {
    if (!from.length) return;
    to.push(this.#now);
    this.#now = from.pop();
    this.changed(true);
  }
}
