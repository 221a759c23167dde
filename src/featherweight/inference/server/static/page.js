// The page: a drawing area whose content the server reads while it changes.
"use strict";

const byId = (id) => document.getElementById(id);
const sheet = byId("sheet"), pen = sheet.getContext("2d");
const WAIT = 60; // milliseconds from the last change to the request
const LINE = 0.055; // width of a stroke relative to the drawing area, without pressure
const STEP = 1 / 28; // distance that an arrow key moves, relative to the drawing area
const SENT = 224; // pixels on a side of the picture that is sent: 8 for each of the network's

let strokes = []; // lists of points [x, y, width], relative to the side of the drawing area
let picture = null; // an opened picture: the bitmap to show and the blob to send
let cursor = null; // the keyboard's pen: its position and whether it is down

function paint() {
  const side = sheet.width;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, side, side);
  if (picture) {
    const scale = Math.min(side / picture.shown.width, side / picture.shown.height);
    const w = picture.shown.width * scale, h = picture.shown.height * scale;
    pen.drawImage(picture.shown, (side - w) / 2, (side - h) / 2, w, h);
  }
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = pen.fillStyle = "#111";
  for (const points of strokes) {
    const [x, y, width] = points[0];
    pen.beginPath();
    pen.arc(x * side, y * side, width * side / 2, 0, 2 * Math.PI);
    pen.fill();
    for (let i = 1; i < points.length; i++) {
      pen.lineWidth = (points[i - 1][2] + points[i][2]) / 2 * side;
      pen.beginPath();
      pen.moveTo(points[i - 1][0] * side, points[i - 1][1] * side);
      pen.lineTo(points[i][0] * side, points[i][1] * side);
      pen.stroke();
    }
  }
  byId("undo").disabled = byId("clear").disabled = !strokes.length && !picture;
}

function showCursor() {
  if (!cursor) return;
  const side = sheet.width;
  pen.strokeStyle = cursor.down ? "#c0392b" : "#1f5fa8";
  pen.lineWidth = 4;
  pen.beginPath();
  pen.arc(cursor.x * side, cursor.y * side, 16, 0, 2 * Math.PI);
  pen.stroke();
}

function changed() {
  paint();
  strokes.length || picture ? read() : show(null, "Nothing drawn yet");
  showCursor();
}

// --- reading: one request at a time; the last one has the newest drawing

let timer = 0, busy = false, again = false, version = 0;

function read() {
  version++;
  clearTimeout(timer);
  timer = setTimeout(send, WAIT);
}

const copy = document.createElement("canvas");
copy.width = copy.height = SENT;

function drawn() {
  paint(); // without the keyboard's cursor
  const context = copy.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(sheet, 0, 0, SENT, SENT);
  showCursor();
  // Not toBlob: Chromium waits with it for an idle moment, which may not come during drawing.
  return new Blob([unpack(copy.toDataURL("image/png").split(",")[1])], { type: "image/png" });
}

async function send() {
  if (busy) { again = true; return; }
  busy = true;
  const asked = version;
  try {
    const blob = picture && !strokes.length ? picture.blob : drawn();
    const response = await fetch("/predict?maps=true", {
      method: "POST", body: blob, headers: { "Content-Type": blob.type } });
    const answer = await response.json();
    if (asked !== version) return;
    response.ok ? show(answer) : show(null, `Not read: ${answer.detail}`, "failed");
  } catch (error) {
    if (asked === version) show(null, "The server does not respond. Draw again to retry.", "failed");
  } finally {
    busy = false;
    if (again) { again = false; send(); }
  }
}

// --- showing

const percent = (p) => `${(100 * p).toFixed(1)} %`;

function pixels(canvas, width, height, bytes) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.fill(bytes[i], 4 * i, 4 * i + 3);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

const unpack = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

function show(answer, message = "", kind = "") {
  const section = document.querySelector(".answer");
  section.classList.remove("unsure", "failed");
  const label = answer ? answer.label : null;
  byId("digit").textContent = label ?? "–";
  if (answer && label === null) message = "No ink found";
  else if (answer && answer.unsure) {
    message = `Unsure: ${percent(answer.confidence)}`;
    kind = "unsure";
  }
  else if (answer) message = `Sure: ${percent(answer.confidence)}`;
  if (kind) section.classList.add(kind);
  byId("state").textContent = message;
  [...byId("bars").children].forEach((row, i) => {
    const p = answer && answer.probabilities ? answer.probabilities[i] : 0;
    row.querySelector("meter").value = p;
    row.lastChild.textContent = answer && answer.probabilities ? percent(p) : "";
    row.classList.toggle("best", label !== null && row.firstChild.textContent === label);
  });
  if (answer && answer.seen) pixels(byId("seen"), card.width, card.height, unpack(answer.seen));
  else pixels(byId("seen"), 28, 28, new Uint8Array(784));
  stages(answer ? answer.maps : null);
}

function stages(maps) {
  const root = byId("stages");
  if (!maps) { root.replaceChildren(); return; }
  maps.forEach((stage, i) => {
    let box = root.children[i];
    if (!box) {
      box = document.createElement("div");
      box.className = "stage";
      const title = document.createElement("h3"), size = document.createElement("span");
      title.append(`Stage ${i + 1} `, size);
      size.textContent = `${stage.channels} channels of ${stage.height} × ${stage.width}`;
      const grid = document.createElement("div");
      for (let c = 0; c < stage.channels; c++) grid.append(document.createElement("canvas"));
      box.append(title, grid);
      root.append(box);
    }
    const bytes = unpack(stage.pixels), size = stage.width * stage.height;
    [...box.lastChild.children].forEach((canvas, c) =>
      pixels(canvas, stage.width, stage.height, bytes.subarray(c * size, (c + 1) * size)));
  });
}

// --- mouse, finger, pen

function point(event) {
  const box = sheet.getBoundingClientRect();
  const pressed = event.pointerType === "pen" && event.pressure > 0;
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height,
    LINE * (pressed ? 0.4 + 1.2 * event.pressure : 1)];
}

let drawing = null; // id of the pointer that is drawing

sheet.addEventListener("pointerdown", (event) => {
  if (drawing !== null || event.button !== 0) return;
  drawing = event.pointerId;
  sheet.setPointerCapture(drawing);
  cursor = null;
  strokes.push([point(event)]);
  changed();
});
sheet.addEventListener("pointermove", (event) => {
  if (event.pointerId !== drawing) return;
  const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  strokes.at(-1).push(...(events.length ? events : [event]).map(point));
  changed();
});
for (const end of ["pointerup", "pointercancel"])
  sheet.addEventListener(end, (event) => { if (event.pointerId === drawing) drawing = null; });

// --- keyboard

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

sheet.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) {
    cursor ??= { x: 0.5, y: 0.5, down: false };
    const [dx, dy] = ARROWS[event.key];
    cursor.x = Math.min(0.96, Math.max(0.04, cursor.x + dx * STEP));
    cursor.y = Math.min(0.96, Math.max(0.04, cursor.y + dy * STEP));
    if (cursor.down && strokes.length) strokes.at(-1).push([cursor.x, cursor.y, LINE]);
  } else if (event.key === " ") {
    cursor ??= { x: 0.5, y: 0.5, down: false };
    cursor.down = !cursor.down;
    if (cursor.down) strokes.push([[cursor.x, cursor.y, LINE]]);
  } else return;
  event.preventDefault();
  changed();
});
sheet.addEventListener("blur", () => { if (cursor) { cursor = null; paint(); } });

function undo() {
  strokes.length ? strokes.pop() : picture = null;
  if (cursor) cursor.down = false;
  changed();
}

function clear() {
  strokes = [];
  picture = null;
  if (cursor) cursor.down = false;
  version++; // the response of a pending request is about the cleared drawing
  again = false;
  clearTimeout(timer);
  changed();
}

byId("undo").addEventListener("click", undo);
byId("clear").addEventListener("click", clear);
document.addEventListener("keydown", (event) => {
  const z = event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey);
  const u = event.key.toLowerCase() === "u" && !event.ctrlKey && !event.metaKey;
  if (z || u) {
    event.preventDefault();
    undo();
  } else if (event.key === "Delete") clear();
});

// --- pictures

async function take(blob) {
  if (!blob) return;
  strokes = [];
  try {
    picture = { shown: await createImageBitmap(blob), blob };
    changed();
  } catch (error) {
    picture = null;
    paint();
    show(null, "This file is not a picture that the browser can show", "failed");
  }
}

byId("open").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // so that the same file can be opened again
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (file) { event.preventDefault(); take(file); }
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("drop");
});
document.addEventListener("dragleave", () => document.body.classList.remove("drop"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("drop");
  take(event.dataTransfer.files[0]);
});

// --- the model's card, and the first paint

let card = { labels: [..."0123456789"], width: 28, height: 28, metadata: {} };

function bars() {
  byId("bars").replaceChildren(...card.labels.map((label) => {
    const row = document.createElement("li"), meter = document.createElement("meter");
    const name = document.createElement("span"), value = document.createElement("span");
    name.textContent = label;
    meter.max = 1;
    meter.setAttribute("aria-label", `Probability of ${label}`);
    row.append(name, meter, value);
    return row;
  }));
}

bars();
changed();
fetch("/model").then((response) => response.json()).then((found) => {
  card = found;
  const { recipe, parameters, validation_correct: right, validation_total: total } = card.metadata;
  const count = (text) => Number(text).toLocaleString("en");
  byId("card").textContent = `${recipe}: ${count(parameters)} parameters, ` +
    `${(100 * right / total).toFixed(2)} % of ${count(total)} validation images read correctly.`;
  bars();
}).catch(() => { byId("card").textContent = "The server does not respond."; });
