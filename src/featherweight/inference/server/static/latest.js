// Read the newest drawing, one request at a time: what changed meanwhile is read next.

import { ReadingError } from "./reading.js";

const APART = 80; // milliseconds between two requests while a stroke grows

export class Latest {
  #busy = null; // aborts the request under way
  #timer = 0;
  #last = 0;
  #again = false; // whether the drawing has changed since the request under way

  // `ask(signal)` returns a promise of an answer, `show(answer)` and `fail(error)` take the end.
  constructor(ask, show, fail) {
    Object.assign(this, { ask, show, fail });
  }

  // The drawing is complete: read it at once.
  now() {
    this.stop();
    this.#send();
  }

  // The drawing still changes: an answer for it is good to have, but not one for each movement.
  soon() {
    this.#again = this.#busy !== null;
    if (this.#again || this.#timer) return;
    const wait = Math.max(0, this.#last + APART - performance.now());
    this.#timer = setTimeout(() => { this.#timer = 0; this.#send(); }, wait);
  }

  // What is under way is about a drawing that is no longer there.
  stop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#busy?.abort();
    this.#busy = null;
    this.#again = false;
  }

  async #send() {
    const mine = this.#busy = new AbortController();
    this.#last = performance.now();
    try {
      const answer = await this.ask(mine.signal);
      if (mine === this.#busy) this.show(answer);
    } catch (error) {
      if (mine !== this.#busy && error.name === "AbortError") return;
      if (!(error instanceof ReadingError)) throw error; // a bug
      if (mine === this.#busy) this.fail(error);
    } finally {
      if (mine === this.#busy) {
        this.#busy = null;
        if (this.#again) this.soon();
      }
    }
  }
}
