// Which network reads, and what it is.

import { describeModel, findModels, ReadingError } from "./reading.js";
import { bytes, count } from "./words.js";

const byId = (id) => document.getElementById(id);
const NAMED = 10; // classes that an empty sheet names
const share = (part, digits = 2) => `${(100 * part).toFixed(digits)}\u00a0%`;

export class Models {
  all = [];
  loaded = false;
  collects = false;
  #first = ""; // the name of the network that the server was started with
  #card = {}; // what the server says of the network: its images, and its file's own metadata

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
    this.#first = first;
    byId("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
    byId("model").value = first;
    byId("model").disabled = models.length < 2;
    await this.#tell();
  }

  get current() { return this.all.find(({ name }) => name === this.name); }

  get name() { return byId("model").value; }

  get labels() { return this.current?.labels ?? [..."0123456789"]; }

  // The kind of image that the network takes; MNIST's where it isn't known.
  get image() {
    const { height = 28, width = 28, polarity = "light on dark", orientation = "upright",
      reads_ink: readsInk = true } = this.#card;
    return { height, width, polarity, transposed: orientation === "transposed", readsInk };
  }

  get readsDigits() { return this.labels.every((label) => /^\d$/.test(label)); }

  // Whether a picture can be kept with one of the network's labels: the server knows those of the
  // network that it was started with.
  get keeps() {
    const first = this.all.find(({ name }) => name === this.#first);
    return this.collects && String(first?.labels) === String(this.labels);
  }

  // The confidence from which a reading counts as sure, if the file says it.
  get sureFrom() { return Number(this.#card.metadata?.sure_from) || null; }

  // One line that says what the network is, for the page and for a saved picture.
  get line() {
    if (!this.current) return "";
    const { name, parameters, bytes: size, validation_correct: right, validation_total: total } =
      this.current;
    const accuracy = total ? `, ${share(right / total)} right on ${count(total)} images it never saw`
      : "";
    return `${name}: ${count(parameters)} parameters, ${bytes(size)}${accuracy}.`;
  }

  // What an empty sheet says: a title and a sentence.
  get invitation() {
    const { parameters, bytes: size } = this.current ?? {}, { readsInk } = this.image;
    const who = parameters ? `A network of ${count(parameters)} parameters, ${bytes(size)} in all, ` : "";
    if (readsInk && this.readsDigits) return ["Draw a digit",
      `${who && `${who}reads it as you draw. `}Several digits side by side make a number.`];
    const named = this.labels.slice(0, NAMED).join(", ");
    const all = `${named}${this.labels.length > NAMED ? ` and ${this.labels.length - NAMED} more` : ""}`;
    return [readsInk ? "Draw something" : "Open a picture", `${who}${who ? "tells" : "It tells"} apart ${all}.`];
  }

  async #tell() {
    byId("facts").textContent = this.line;
    byId("card").href = byId("card-json").href = `model?${new URLSearchParams({ name: this.name })}`;
    try {
      this.#card = await describeModel(this.name);
    } catch (error) {
      if (!(error instanceof ReadingError)) throw error;
      this.#card = {}; // the next drawing will say that the server is away
    }
  }

  #showCard(event) {
    if (!this.loaded) return; // the link leads to the card itself
    event.preventDefault();
    const { parameters, bytes: size, validation_correct: right, validation_total: total } =
      this.current, card = this.#card.metadata ?? {};
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
