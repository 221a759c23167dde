// Paint a drawing: on the screen, for the network, and into the picture that is saved.

const FINE = 8; // pixels of a drawing that is read for each of the network's
const LARGEST = 1024; // pixels on the longer side of an opened picture that is read
const KEPT = 512; // the same of a picture that is kept, so that none is larger than the server takes
const MARGIN = 0.25; // around a digit that is cut out, relative to the longer side of its ink

// Where a picture lies on a square sheet, as [left, top, right, bottom] from 0 to 1.
export function areaOf(picture) {
  if (!picture) return [0, 0, 1, 1];
  const { width, height } = picture, side = Math.max(width, height);
  const x = (1 - width / side) / 2, y = (1 - height / side) / 2;
  return [x, y, 1 - x, 1 - y];
}

// Join a stroke's points by quadratic curves through the middles between them, which hides the
// corners that a pointer's samples leave. Points of one width are one path; where the pressure
// changes, each piece is a path with the width of its point.
export function paintStroke(context, { points, erase }, side) {
  context.globalCompositeOperation = erase ? "destination-out" : "source-over";
  let [x, y] = points[0], width = null;
  points.forEach((point, i) => {
    if (point[2] !== width) {
      if (width !== null) context.stroke();
      width = point[2];
      context.lineWidth = width * side;
      context.beginPath();
      context.moveTo(x * side, y * side);
    }
    const next = points[i + 1] ?? point;
    [x, y] = [(point[0] + next[0]) / 2, (point[1] + next[1]) / 2];
    context.quadraticCurveTo(point[0] * side, point[1] * side, x * side, y * side);
  });
  context.stroke();
}

const layer = document.createElement("canvas");

export function paintDrawing(context, drawing, side, paper, ink) {
  context.fillStyle = paper;
  context.fillRect(0, 0, side, side);
  if (drawing.picture) {
    const [left, top, right, bottom] = areaOf(drawing.picture).map((each) => each * side);
    context.imageSmoothingQuality = "high";
    context.drawImage(drawing.picture, left, top, right - left, bottom - top);
  }
  // On a layer of their own, so that the eraser takes ink and leaves an opened picture.
  layer.width = layer.height = side;
  const pen = layer.getContext("2d");
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = ink;
  for (const stroke of drawing.strokes) paintStroke(pen, stroke, side);
  context.drawImage(layer, 0, 0);
}

const copy = document.createElement("canvas"), part = document.createElement("canvas");

// Paint what is read, an opened picture alone or the sheet with its strokes, and return where that
// lies on the sheet. A picture is sent as the browser shows it, upright and not too large, so that
// whatever can be shown can be read.
function paintRead(drawing, image) {
  const { picture, strokes } = drawing;
  if (!picture || strokes.length) {
    const side = copy.width = copy.height = FINE * Math.max(image.height, image.width);
    paintDrawing(copy.getContext("2d"), drawing, side, "#ffffff", "#111111");
    return [0, 0, 1, 1];
  }
  const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
  [copy.width, copy.height] = [picture.width, picture.height]
    .map((each) => Math.max(1, Math.round(each * scale)));
  const context = copy.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, copy.width, copy.height);
  return areaOf(picture);
}

function toPng(canvas) {
  // Not toBlob: Chromium waits with it for an idle moment, which may not come during drawing.
  const bytes = atob(canvas.toDataURL("image/png").split(",")[1]);
  return new Blob([Uint8Array.from(bytes, (c) => c.charCodeAt(0))], { type: "image/png" });
}

// What is read, as a PNG whatever the opened file was, and where it lies on the sheet. `image` is
// the kind of image that the network takes.
export function pictureOf(drawing, image) {
  const area = paintRead(drawing, image);
  return { blob: toPng(copy), area };
}

// What was read, or of a number the digit with the index `i`, as a PNG to keep. `boxes` are the
// digits', relative to what was read.
export function pictureToKeep(drawing, image, boxes = [], i = 0) {
  paintRead(drawing, image);
  const [left, top, right, bottom] = boxes.length ? cutOf(boxes, i) : [0, 0, 1, 1];
  const width = (right - left) * copy.width, height = (bottom - top) * copy.height;
  const scale = Math.min(1, KEPT / Math.max(width, height));
  part.width = Math.max(1, Math.round(width * scale));
  part.height = Math.max(1, Math.round(height * scale));
  const context = part.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(copy, left * copy.width, top * copy.height, width, height,
    0, 0, part.width, part.height);
  return toPng(part);
}

// A digit's box with a margin, which ends half-way to the digits beside, above and below it.
function cutOf(boxes, i) {
  const [left, top, right, bottom] = boxes[i];
  const margin = MARGIN * Math.max((right - left) * copy.width, (bottom - top) * copy.height);
  const x = margin / copy.width, y = margin / copy.height;
  const others = boxes.filter((_, k) => k !== i);
  const beside = others.filter((box) => box[1] < bottom && box[3] > top);
  const apart = others.filter((box) => !beside.includes(box));
  // Boxes of slanted digits may overlap: which is before the other is told by their middles.
  const isBefore = (box) => box[0] + box[2] < left + right;
  const before = Math.max(0, ...beside.filter(isBefore).map((box) => (box[2] + left) / 2));
  const after = Math.min(1, ...beside.filter((box) => !isBefore(box)).map((box) => (box[0] + right) / 2));
  const above = Math.max(0, ...apart.filter((box) => box[3] <= top).map((box) => (box[3] + top) / 2));
  const below = Math.min(1, ...apart.filter((box) => box[1] >= bottom).map((box) => (box[1] + bottom) / 2));
  return [Math.min(left, Math.max(left - x, before)), Math.max(top - y, above),
    Math.max(right, Math.min(right + x, after)), Math.min(bottom + y, below)];
}
