// The page: a sheet to draw on, by a pointer or by the keyboard, or a picture that is opened; and
// what the network reads there.

// Pixels of the sheet, and of an opened picture's longer side, as they are read.
const SHEET = 8 * SIDE, LARGEST = 320;
const READ = ["#fff", "#111"]; // paper and ink, as they are read
const LINE = 0.055; // width of a stroke relative to the sheet
const STEP = 1 / 28; // distance that an arrow key moves the pen
const NEAR = 0.003; // points nearer than this to the last one only show a hand's tremor
const REST = 600; // milliseconds after which a hand rests, so that an answer is said aloud
const BARS = 12; // that are shown at most
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const { sheet, answer, heading, sentence, bars, seen, time, said, undo, clear, file, stored } =
  Object.fromEntries([...document.querySelectorAll("[id]")].map((each) => [each.id, each]));
const { body } = document;
const make = (name, ...children) => {
  const element = document.createElement(name);
  element.append(...children);
  return element;
};
const on = (target, events, act) =>
  events.split(" ").forEach((event) => target.addEventListener(event, act));

const model = JSON.parse(stored.textContent), { labels } = model;
const network = makeNetwork(model);
const invitation = [heading.textContent, sentence.textContent];
const copy = make("canvas").getContext("2d", { willReadFrequently: true });

// A state is never changed once another follows it, so undoing is a matter of keeping states. A
// stroke is a list of points relative to the sheet; a picture is an ImageBitmap.
const EMPTY = { strokes: [] };
let now = EMPTY, past = [];
let pen = null; // the keyboard's: its place, and whether it is down
let pointer = null; // id of the pointer that draws

// --- painting

// Join a stroke's points by curves through the middles between them, which hides the corners that a
// pointer's samples leave.
function paintStroke(context, points, side) {
  context.beginPath();
  points.forEach(([x, y], i) => {
    const [nextX, nextY] = points[i + 1] ?? [x, y];
    if (!i) context.moveTo(x * side, y * side);
    context.quadraticCurveTo(x * side, y * side, (x + nextX) / 2 * side, (y + nextY) / 2 * side);
  });
  context.stroke();
}

// Paint the drawing on paper, a picture in the middle, its longer side that of the canvas.
function paint(context, width, height, paper, ink) {
  const { canvas } = context, { strokes, picture } = now, side = max(width, height);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  context.fillStyle = paper;
  context.fillRect(0, 0, width, height);
  if (picture) {
    const scale = side / max(picture.width, picture.height);
    const wide = picture.width * scale, high = picture.height * scale;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, (width - wide) / 2, (height - high) / 2, wide, high);
  }
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = ink;
  context.lineWidth = LINE * side;
  for (const stroke of strokes) paintStroke(context, stroke, side);
}

function show() {
  const side = Math.round(sheet.clientWidth * devicePixelRatio), context = sheet.getContext("2d");
  const colour = (name) => getComputedStyle(sheet).getPropertyValue(name);
  // Beside and on a picture the colours are those that are read.
  const [paper, ink] = now.picture ? READ : [colour("--sheet"), colour("--ink")];
  paint(context, side, side, paper, ink);
  if (!pen) return;
  context.strokeStyle = context.fillStyle = colour("--accent");
  context.lineWidth = 2 * devicePixelRatio;
  context.beginPath();
  context.arc(pen.x * side, pen.y * side, 0.035 * side, 0, 7);
  pen.down ? context.fill() : context.stroke();
}

// --- reading

// What is read, an opened picture alone or the sheet with its strokes, as the network takes it;
// nothing where there is too little ink.
function look() {
  const { strokes, picture } = now;
  let width = SHEET, height = SHEET;
  if (picture && !strokes.length) {
    const scale = min(1, LARGEST / max(picture.width, picture.height));
    width = Math.ceil(picture.width * scale);
    height = Math.ceil(picture.height * scale);
  }
  paint(copy, width, height, ...READ);
  const { data } = copy.getImageData(0, 0, width, height);
  // Grey by the weights of ITU-R 601, in 16 bits.
  const grey = new Uint8Array(width * height).map((_, i) =>
    19595 * data[4 * i] + 38470 * data[4 * i + 1] + 7471 * data[4 * i + 2] + 32768 >> 16);
  return prepare(grey, width, height);
}

// A prepared image as the training images are.
function asTrained(image) {
  const { isTransposed, isInverted } = model;
  return image.map((_, i) => {
    const pixel = image[isTransposed ? i % SIDE * SIDE + divide(i, SIDE) : i];
    return isInverted ? 255 - pixel : pixel;
  });
}

// The labels with their probabilities, the most probable first.
function rank(image) {
  const logits = network(image).map((score) => score / model.scoreUnit);
  const most = max(...logits), parts = logits.map((logit) => Math.exp(logit - most));
  const sum = parts.reduce((a, b) => a + b);
  return parts.map((part, i) => ({ label: labels[i], p: part / sum })).sort((a, b) => b.p - a.p);
}

// --- the answer

// Never "100.0 %", which no network may say; and nothing for what would be "0.0 %".
const percent = (p) => (p > 0.999 ? ">99.9\u00a0%" : p < 0.001 ? "" : (100 * p).toFixed(1) + "\u00a0%");
const one = (label) => (/\D/.test(label) ? "" : /^(8|11|18)/.test(label) ? "an " : "a ") + label;
const share = ({ label, p }) => percent(p) && percent(p) + " for " + label;

// The state of the page, a title and a sentence for a ranking.
function words([first, second]) {
  const shares = [first, second].map(share).filter(Boolean).join(", ") + ".";
  if (first.p < model.digitFrom) return ["none", "Not a digit", "No digit is likely enough."];
  if (first.p >= model.sureFrom) return ["sure", "Sure: " + one(first.label), shares];
  if (second.p >= first.p / 2) return ["unsure",
    `Not sure: ${one(first.label)}, or perhaps ${one(second.label)}`, "A close second: " + shares];
  return ["unsure", "Not sure: perhaps " + one(first.label),
    `Sure only from ${percent(model.sureFrom)}: ${shares}`];
}

function tell(state, title, text, label = "") {
  body.dataset.state = state;
  heading.textContent = title;
  sentence.textContent = text;
  answer.textContent = label;
}

function showDetails(image, order) {
  const pixels = new ImageData(SIDE, SIDE);
  image.forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i));
  seen.getContext("2d").putImageData(pixels, 0, 0);
  const shown = labels.length > BARS ? order.slice(0, BARS)
    : labels.map((label) => order.find((each) => each.label === label));
  shown.forEach(({ label, p }, i) => {
    const row = bars.children[i], [name, bar, part] = row.children;
    row.className = label === order[0].label ? "first" : "";
    name.textContent = label;
    bar.style.setProperty("--p", 100 * p + "%");
    part.textContent = percent(p);
  });
}

function read() {
  if (now === EMPTY) return tell("empty", ...invitation);
  const start = performance.now(), found = look();
  if (!found) return tell("none", "Nothing to read", "Too little ink, or too faint.");
  const image = asTrained(found), order = rank(image), took = performance.now() - start;
  const [state, title, text] = words(order);
  tell(state, title, text, state === "none" ? "" : order[0].label);
  time.textContent = `Prepared and read in ${took.toFixed(1)} ms, on this device.`;
  showDetails(image, order);
}

// --- changes

let asked = 0, timer = 0;

// A screen reader says an answer once, when the hand has rested: a 4 has two strokes or three.
function say(after = REST) {
  clearTimeout(timer);
  timer = setTimeout(() => { said.textContent = heading.textContent + ". " + sentence.textContent; }, after);
}

// A pen sends more movements than a screen can show: paint and read once before the next frame.
function change(isSettled = true) {
  clearTimeout(timer);
  cancelAnimationFrame(asked);
  asked = requestAnimationFrame(() => {
    show();
    read();
    if (isSettled) say();
  });
  undo.disabled = !past.length;
  clear.disabled = now === EMPTY;
}

function go(state, isSettled) {
  past.push(now);
  now = state;
  change(isSettled);
}

function step(state) {
  if (pen) pen.down = false;
  if (state) now = state;
  change();
}

const begin = (point) => go({ ...now, strokes: [...now.strokes, [point]] }, false);
const goBack = () => step(past.pop());
function empty() {
  if (now === EMPTY) return;
  past.push(now);
  step(EMPTY);
}

// --- a mouse, a finger or a pen

function pointOf({ clientX, clientY }) {
  const { left, top, width } = sheet.getBoundingClientRect();
  return [(clientX - left) / width, (clientY - top) / width];
}

on(sheet, "pointerdown", (event) => {
  if (pointer !== null || event.button) return;
  pointer = event.pointerId;
  sheet.setPointerCapture(pointer);
  pen = null;
  begin(pointOf(event));
});
on(sheet, "pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const points = now.strokes.at(-1), events = event.getCoalescedEvents?.() ?? [];
  for (const point of (events.length ? events : [event]).map(pointOf)) {
    const [x, y] = points.at(-1);
    if (Math.hypot(point[0] - x, point[1] - y) > NEAR) points.push(point);
  }
  change(false);
});
on(sheet, "pointerup pointercancel", (event) => {
  if (event.pointerId !== pointer) return;
  pointer = null;
  change();
});

// --- the keyboard

on(sheet, "focus", () => {
  if (!sheet.matches(":focus-visible")) return;
  pen ??= { x: 0.5, y: 0.5 };
  show();
});
on(sheet, "blur", () => {
  if (pen?.down) change();
  pen = null;
  show();
});
on(sheet, "keydown", (event) => {
  const move = ARROWS[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey || !(move || event.key === " ")) return;
  event.preventDefault();
  if (pointer !== null) return;
  pen ??= { x: 0.5, y: 0.5 };
  if (move) {
    [pen.x, pen.y] = [pen.x + move[0] * STEP, pen.y + move[1] * STEP]
      .map((each) => min(0.96, max(0.04, each)));
    if (pen.down) now.strokes.at(-1).push([pen.x, pen.y]);
  } else {
    pen.down = !pen.down;
    if (pen.down) begin([pen.x, pen.y]);
  }
  if (pen.down || !move) change(!pen.down);
  else show();
});

// Shortcuts, where a key means nothing else.
on(document, "keydown", (event) => {
  if (![body, sheet].includes(document.activeElement) || event.altKey || pointer !== null) return;
  const key = event.key.toLowerCase(), isCommand = event.ctrlKey || event.metaKey;
  const act = isCommand ? key === "z" && goBack
    : { u: goBack, delete: empty, backspace: empty, o: () => file.click() }[key];
  if (!act) return;
  event.preventDefault();
  act();
});
on(undo, "click", goBack);
on(clear, "click", empty);

// --- pictures from elsewhere: a file, a photograph, the clipboard, a file that is dropped

async function open(blob) {
  if (!blob) return;
  try {
    const picture = await createImageBitmap(blob);
    go({ strokes: [], picture });
  } catch {
    sentence.textContent = "This file is not a picture that the browser can show.";
    say(0);
  }
}

for (const input of document.querySelectorAll("input")) {
  on(input, "change", () => {
    open(input.files[0]);
    input.value = ""; // so that the same file can be opened again
  });
}
on(document, "paste", (event) => open(event.clipboardData.files[0]));
on(document, "dragover dragleave drop", (event) => {
  event.preventDefault();
  body.classList.toggle("drop", event.type === "dragover");
  if (event.type === "drop") open(event.dataTransfer.files[0]);
});

// --- the start

body.classList.toggle("named", labels.some(({ length }) => length > 2));
bars.append(...labels.slice(0, BARS).map(() => make("li", make("span"), make("i"), make("span"))));
new ResizeObserver(show).observe(sheet);
on(matchMedia("(prefers-color-scheme: dark)"), "change", show);
globalThis.featherweight = { scores: network, prepare }; // for whoever wants to check them
tell("empty", ...invitation);
// Let the browser compile what will be needed.
setTimeout(() => {
  const grey = new Uint8Array(SHEET * SHEET).map((_, i) => (i % SHEET >> 5 === 3 && i % 97 ? 0 : 255));
  for (let i = 0; i < 3; i++) network(prepare(grey, SHEET, SHEET));
});
