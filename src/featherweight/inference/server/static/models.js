// Which network reads, and what it is.

import { describeModel, findModels } from "./reading.js";
import { bytes, count } from "./words.js";

export class Models {
  all = [];
  collects = false;

  constructor(select, facts, card) {
    Object.assign(this, { select, facts, card });
    select.addEventListener("change", () => {
      this.#tell();
      this.onchange?.();
    });
  }

  async load() {
    const { default: first, collects, models } = await findModels();
    Object.assign(this, { all: models, collects, first });
    this.select.replaceChildren(...models.map(({ name }) => new Option(name, name)));
    this.select.value = first;
    this.select.disabled = models.length < 2;
    this.#tell();
  }

  get current() { return this.all.find(({ name }) => name === this.select.value); }

  get name() { return this.select.value; }

  get labels() { return this.current?.labels ?? [..."0123456789"]; }

  // One line that says what the network is, for the page and for a saved picture.
  get line() {
    if (!this.current) return "";
    const { name, parameters, bytes: size, validation_correct: right, validation_total: total } =
      this.current;
    const accuracy = total
      ? `, ${(100 * right / total).toFixed(2)}\u00a0% right on ${count(total)} images it never saw` : "";
    return `${name}: ${count(parameters)} parameters, ${bytes(size)}${accuracy}.`;
  }

  #tell() {
    this.facts.textContent = this.line;
    this.card.href = `model?${new URLSearchParams({ name: this.name })}`;
  }
}
