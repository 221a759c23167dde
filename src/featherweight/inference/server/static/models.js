// Which network reads, and what it is.

import { describeModel, findModels, ReadingError } from "./reading.js";
import { bytes, count } from "./words.js";

const byId = (id) => document.getElementById(id);
const share = (part, digits = 2) => `${(100 * part).toFixed(digits)}\u00a0%`;

export class Models {
  all = [];
  loaded = false;
  collects = false;
  #card = {}; // what the exported file says of itself

  // `onchange` is called when another network is chosen.
  constructor(onchange) {
    byId("model").addEventListener("change", async () => {
      await this.#tell();
      onchange();
    });
    byId("card").addEventListener("click", (event) => this.#showCard(event));
    const dialog = byId("card-dialog");
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  async load() {
    const { default: first, collects, models } = await findModels();
    Object.assign(this, { all: models, collects, loaded: true });
    byId("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
    byId("model").value = first;
    byId("model").disabled = models.length < 2;
    await this.#tell();
  }

  get current() { return this.all.find(({ name }) => name === this.name); }

  get name() { return byId("model").value; }

  get labels() { return this.current?.labels ?? [..."0123456789"]; }

  // The confidence from which a reading counts as sure, if the file says it.
  get sureFrom() { return Number(this.#card.sure_from) || null; }

  // One line that says what the network is, for the page and for a saved picture.
  get line() {
    if (!this.current) return "";
    const { name, parameters, bytes: size, validation_correct: right, validation_total: total } =
      this.current;
    const accuracy = total ? `, ${share(right / total)} right on ${count(total)} images it never saw`
      : "";
    return `${name}: ${count(parameters)} parameters, ${bytes(size)}${accuracy}.`;
  }

  // What an empty sheet says.
  get invitation() {
    const { parameters, bytes: size } = this.current ?? {};
    return (parameters ? `A network of ${count(parameters)} parameters, ${bytes(size)} in all, reads it `
      + "as you draw. " : "") + "Several digits side by side make a number.";
  }

  async #tell() {
    byId("facts").textContent = this.line;
    byId("card").href = byId("card-json").href = `model?${new URLSearchParams({ name: this.name })}`;
    try {
      this.#card = (await describeModel(this.name)).metadata;
    } catch (error) {
      if (!(error instanceof ReadingError)) throw error;
      this.#card = {}; // the next drawing will say that the server is away
    }
  }

  #showCard(event) {
    if (!this.loaded) return; // the link leads to the card itself
    event.preventDefault();
    const { parameters, bytes: size, validation_correct: right, validation_total: total } =
      this.current, card = this.#card;
    const facts = { Parameters: count(parameters), File: `${count(size)} bytes`,
      Validation: `${count(right)} of ${count(total)} images right, ${share(right / total)}`,
      Contract: card.contract && `${card.contract}: ${card.verdict ?? "not judged"}`,
      "Calibration error": card.calibration_error && share(card.calibration_error),
      "Sure from": this.sureFrom && share(this.sureFrom),
      Recipe: card.recipe, Seed: card.seed, Commit: card.commit };
    byId("card-title").textContent = this.name;
    byId("card-facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value)
      .flatMap((pair) => ["dt", "dd"].map((tag, i) =>
        Object.assign(document.createElement(tag), { textContent: pair[i] }))));
    byId("card-dialog").showModal();
  }
}
