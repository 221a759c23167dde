// A picture to keep or to send: the drawing, the answer, and which network gave it.

import { paintDrawing } from "./paint.js";
import { token } from "./pixels.js";

const WIDTH = 1080, HEIGHT = 1350, EDGE = 70, SIDE = WIDTH - 2 * EDGE; // pixels
// The light scheme's colours: a picture does not know where it is looked at.
const PAPER = "#f6f1e9", SHEET = "#ffffff", INK = "#221e1a", SOFT = "#655d54";
const FAMILY = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

function write(context, text, x, y, size, { weight = 400, colour = INK, width }) {
  context.fillStyle = colour;
  do context.font = `${weight} ${size}px ${FAMILY}`;
  while (context.measureText(text).width > width && --size > 12);
  context.fillText(text, x, y);
  return context.measureText(text).width;
}

// Say what the two colours of the evidence stand for. They are the screen's, as the evidence's are.
function writeLegend(context, { first, second }, x, y) {
  for (const [colour, label] of [["--first", first], ["--second", second]]) {
    context.fillStyle = token(colour);
    context.fillRect(x, y - 21, 22, 22);
    x += 32 + write(context, `for ${label}`, x + 32, y, 28, { colour: SOFT }) + 36;
  }
}

export function keepsake(drawing, evidence, { digit, title, sentence, note, line }) {
  const canvas = Object.assign(document.createElement("canvas"), { width: WIDTH, height: HEIGHT });
  const context = canvas.getContext("2d"), sheet = document.createElement("canvas");
  context.fillStyle = PAPER;
  context.fillRect(0, 0, WIDTH, HEIGHT);

  sheet.width = sheet.height = SIDE;
  const drawn = sheet.getContext("2d");
  paintDrawing(drawn, drawing, SIDE, SHEET, INK);
  drawn.globalCompositeOperation = "multiply"; // the ink stays on top
  evidence.paintOn(drawn, SIDE);
  context.save();
  context.beginPath();
  context.roundRect(EDGE, EDGE, SIDE, SIDE, 28);
  context.clip();
  context.drawImage(sheet, EDGE, EDGE);
  context.restore();

  const top = EDGE + SIDE;
  const taken = write(context, digit, EDGE, top + 190, 190, { weight: 650, width: 420 });
  const left = EDGE + taken + (digit ? 40 : 0), width = WIDTH - EDGE - left;
  const why = evidence.painted;
  if (why) writeLegend(context, why, left, top + 46);
  const up = note && !why ? 25 : 0;
  write(context, title, left, top + 110 - up, 44, { weight: 600, width });
  write(context, sentence, left, top + 165 - up, 32, { colour: SOFT, width });
  write(context, note, left, top + 210 - up, 32, { width });
  write(context, line, EDGE, HEIGHT - EDGE, 28, { colour: SOFT, width: SIDE });
  return new Promise((done) => { canvas.toBlob(done, "image/png"); });
}

// Hand a picture to the system's own sheet for sharing, or save it where there is none.
export const canShare = () =>
  Boolean(navigator.canShare?.({ files: [new File([], "a.png", { type: "image/png" })] }));

export async function share(blob, name, text) {
  const file = new File([blob], name, { type: "image/png" });
  try {
    await navigator.share({ files: [file], text });
  } catch (error) {
    if (error.name !== "AbortError") save(blob, name); // refused, for instance inside an iframe
  }
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the browser reads it after the click
}
