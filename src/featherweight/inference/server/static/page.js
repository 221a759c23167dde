// The page: what happens when the drawing, the model or an answer changes.

import { showAnswer, showWords } from "./answer.js";
import { Drawing } from "./drawing.js";
import { Evidence } from "./evidence.js";
import { takeFeedback } from "./feedback.js";
import { takeFiles } from "./files.js";
import { canShare, keepsake, save, share } from "./keepsake.js";
import { takeKeys } from "./keys.js";
import { Latest } from "./latest.js";
import { Maps } from "./maps.js";
import { Models } from "./models.js";
import { pictureOf, pictureToKeep } from "./paint.js";
import { Pen } from "./pen.js";
import { unpack } from "./pixels.js";
import { AWAY, read, ReadingError, readMaps } from "./reading.js";
import { hush, say, sayAtRest } from "./said.js";
import { Samples } from "./samples.js";
import { Sheet } from "./sheet.js";
import { digitsOf, isNumber, one } from "./words.js";

const byId = (id) => document.getElementById(id);

const drawing = new Drawing();
const sheet = new Sheet(byId("sheet"), byId("marks"), drawing);
const pen = new Pen(sheet, drawing);
const models = new Models(() => {
  fit();
  if (drawing.empty) {
    invite();
    return;
  }
  busy(true);
  latest.now();
});
const samples = new Samples(byId("samples"), byId("samples-title"), drawing);
const maps = new Maps(byId("order"), byId("stages"), byId("map"));
const evidence = new Evidence({ sheet: byId("sheet"), overlay: byId("overlay"),
  seen: byId("seen-overlay"), places: byId("places"), readout: byId("readout") }, say);
const feedback = takeFeedback(models,
  () => pictureToKeep(drawing, models.image, digits().map(({ box }) => box), chosen), say);

let answer = null; // the newest one, with the area of the sheet that it is about
let chosen = 0; // which digit of a number has its details shown
let settled = true; // whether the drawing rests, so that its answer may be said aloud
let lifted = 0; // when the drawing came to rest, in milliseconds

const busy = (yes) => byId("verdict").setAttribute("aria-busy", yes);
const digits = () => (isNumber(answer) ? digitsOf(answer) : []);

// --- what the network takes

// Fit the page to the network that is chosen: the size of its images, and whether it reads ink.
function fit() {
  const { width, height, polarity, transposed, readsInk } = models.image;
  Object.assign(document.body.dataset, { reads: readsInk ? "ink" : "pictures", polarity });
  byId("caption").textContent = `What the network saw: ${width} × ${height} pixels`
    + `${transposed ? ", rows and columns exchanged" : ""}.`;
  byId("seen").setAttribute("aria-label", `The ${width} by ${height} pixels that the network saw`);
  byId("figure").style.aspectRatio = `${width} / ${height}`;
  byId("sheet").setAttribute("aria-label", readsInk ? "Sheet to draw on" : "The opened picture");
  byId("bars").setAttribute("aria-label", `Probability of each ${models.readsDigits ? "digit" : "label"}`);
  document.body.classList.toggle("named", models.labels.some(({ length }) => length > 3));
  pen.off = !readsInk;
  samples.tell(models.name, readsInk && models.readsDigits);
  if (!readsInk) erase(false);
  if (!readsInk && drawing.strokes.length) go("clear"); // it reads no drawings
}

// --- reading

async function ask(signal) {
  const { blob, area } = pictureOf(drawing, models.image);
  return { ...await read(blob, models.name, models.image.readsInk, signal), area };
}

const latest = new Latest(ask, (found) => {
  answer = found;
  chosen = 0;
  offerAgain(false);
  show();
  start(); // what the server did not tell when the page was opened
  // For tools/page_latency.py, and for the browser's own tools.
  if (settled) {
    requestAnimationFrame(() => performance.measure("answer",
      { start: lifted, detail: { ...found.milliseconds, took: found.took } }));
  }
}, (error) => {
  const text = error.message === AWAY ? AWAY : `Not read: ${error.message}`;
  forget("failed", "That did not work", text);
  offerAgain(error.again);
  if (settled) {
    say(text);
    busy(false);
  }
});

drawing.addEventListener("change", ({ detail }) => {
  settled = detail.settled;
  byId("undo").disabled = !drawing.canUndo;
  byId("redo").disabled = !drawing.canRedo;
  byId("clear").disabled = drawing.empty;
  document.body.classList.toggle("inked", !drawing.empty);
  document.body.classList.toggle("pictured", drawing.picture !== null);
  busy(!drawing.empty);
  hush();
  if (settled) lifted = performance.now();
  else evidence.show(null); // what is there is about another drawing
  if (drawing.empty) {
    latest.stop();
    invite();
    sayAtRest("The sheet is empty.");
  } else if (settled) latest.now();
  else latest.soon();
});

// --- showing

function forget(state, title, sentence) {
  answer = null;
  showWords(state, title, sentence);
  byId("note").textContent = "";
  sheet.mark([], [], 0);
  evidence.show(null);
  maps.clear();
  feedback.offer(null);
  offerAgain(false);
}

// Offer to try again. Whoever does so by the keyboard goes on at the sheet.
function offerAgain(yes) {
  const again = byId("again");
  if (!yes && document.activeElement === again) byId("sheet").focus();
  again.hidden = !yes;
}

const invite = () => forget("empty", ...models.invitation);

const details = () => digits()[chosen] ?? answer;

function show() {
  const text = showAnswer(answer, models, chosen, choose);
  const truth = sampleNote();
  nameWhy();
  sheet.mark(digits(), answer.area, chosen);
  if (settled) {
    sayAtRest(`${text} ${truth}`);
    evidence.show(details(), models.image, answer.area);
    showMaps();
    busy(false);
  }
  feedback.offer(settled && answer.probabilities !== null ? details() : null, isNumber(answer));
}

// Say what a sample is where the network reads something else.
function sampleNote() {
  const digit = settled ? samples.chosen?.digit : undefined;
  const note = !answer || digit === undefined || digit === answer.label || isNumber(answer) ? ""
    : answer.label === null ? `It does not read this ${digit}: a real mistake.`
    : `It reads this ${digit} as ${one(answer.label)}: a real mistake.`;
  byId("note").textContent = note;
  return note;
}

// Name the question that the evidence answers.
function nameWhy() {
  const why = details().evidence;
  byId("why").hidden = !why;
  byId("no-why").hidden = Boolean(why) || details().label === null;
  byId("legend").hidden = !why || !evidence.on;
  if (!why) return;
  byId("why").textContent = `Why ${one(why.first)}, not ${one(why.second)}?`;
  byId("for-first").textContent = `for ${why.first}`;
  byId("for-second").textContent = `for ${why.second}`;
}

function choose(i) {
  chosen = i;
  show();
}

function showWhy(on) {
  evidence.on = on;
  byId("why").setAttribute("aria-pressed", on);
  byId("legend").hidden = !on || !answer || !details().evidence;
  evidence.paint();
}

// The feature maps cost more than the rest, so they are only asked for where they are seen.
async function showMaps() {
  if (!byId("inside").open || !answer || answer.probabilities === null || !settled) return;
  const about = answer, reading = details();
  try {
    const found = await readMaps(unpack(reading.seen), models.name);
    if (about === answer && reading === details()) maps.show(found.maps, found.evidence);
  } catch (error) {
    if (!(error instanceof ReadingError)) throw error;
    maps.clear(); // the next drawing will say that the server is away
  }
}

byId("inside").addEventListener("toggle", showMaps);
byId("why").addEventListener("click", () => showWhy(!evidence.on));
byId("again").addEventListener("click", () => {
  if (drawing.empty) start();
  else {
    busy(true);
    latest.now();
  }
});

// --- tools

function erase(on) {
  pen.erase = on;
  byId("eraser").setAttribute("aria-pressed", on);
}

function go(step) {
  samples.stop();
  pen.lift();
  drawing[step]();
}

for (const step of ["undo", "redo", "clear"]) byId(step).addEventListener("click", () => go(step));
byId("eraser").addEventListener("click", () => erase(!pen.erase));
// What is drawn on a sample is no longer the sample.
byId("sheet").addEventListener("pointerdown", () => samples.stop(), { capture: true });
byId("sheet").addEventListener("keydown", ({ key }) => { if (key === " ") samples.stop(); },
  { capture: true });

const undo = () => go("undo"), redo = () => go("redo");

takeKeys(byId("sheet"), { undo, redo, u: undo, r: redo, e: () => erase(!pen.erase),
  delete: () => go("clear"), w: () => showWhy(!evidence.on) });

byId("offer").addEventListener("click", () => byId("file").click());

takeFiles((picture) => {
  samples.stop();
  drawing.open(picture);
}, (message) => {
  byId("note").textContent = message;
  say(message);
});

// --- a picture to keep

const keep = () => keepsake(drawing, evidence, {
  digit: byId("digit").textContent.replaceAll("\n", " ") + (document.body.dataset.state === "unsure" ? "?" : ""),
  title: byId("title").textContent, sentence: byId("why-so").textContent,
  note: sampleNote(), line: models.line });
const name = () =>
  `featherweight-${byId("digit").textContent.replaceAll("\n", "-") || "drawing"}.png`;

byId("save").addEventListener("click", async () => save(await keep(), name()));
byId("share").addEventListener("click", async () => share(await keep(), name(), document.title));
byId("share").hidden = !canShare();

// --- the start

let starting = false;

// Load what the server tells once, or what of it is still missing.
async function start() {
  if (starting || (samples.loaded && models.loaded)) return;
  starting = true;
  try {
    const missing = [samples, models].filter(({ loaded }) => !loaded);
    // All of them, so that none is under way when the next try begins.
    const ends = await Promise.allSettled(missing.map((each) => each.load()));
    for (const { reason } of ends) if (reason) throw reason;
    fit();
    if (drawing.empty) invite();
    else if (answer) show();
  } catch (error) {
    if (!(error instanceof ReadingError)) throw error;
    byId("facts").textContent = error.message;
    if (drawing.empty) {
      forget("failed", "That did not work", error.message);
      offerAgain(true);
    }
  } finally {
    starting = false;
  }
}

showWhy(false);
invite();
start();
