// Paint a drawing: on the screen, for the network, and into the picture that is saved.

const SENT = 280; // pixels on a side of the picture that is read: 10 for each of the network's

// Where a picture lies on a square sheet, as [left, top, right, bottom] from 0 to 1.
export function areaOf(picture) {
  if (!picture) return [0, 0, 1, 1];
  const { width, height } = picture.shown, side = Math.max(width, height);
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
    context.drawImage(drawing.picture.shown, left, top, right - left, bottom - top);
  }
  // On a layer of their own, so that the eraser takes ink and leaves an opened picture.
  layer.width = layer.height = side;
  const pen = layer.getContext("2d");
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = ink;
  for (const stroke of drawing.strokes) paintStroke(pen, stroke, side);
  context.drawImage(layer, 0, 0);
}

const copy = document.createElement("canvas");

// The drawing as a PNG, black on white.
export function toPng(drawing, side = SENT) {
  copy.width = copy.height = side;
  paintDrawing(copy.getContext("2d"), drawing, side, "#ffffff", "#111111");
  // Not toBlob: Chromium waits with it for an idle moment, which may not come during drawing.
  const bytes = atob(copy.toDataURL("image/png").split(",")[1]);
  return new Blob([Uint8Array.from(bytes, (c) => c.charCodeAt(0))], { type: "image/png" });
}

// What is read, and where it lies on the sheet: an opened file as it is, unless it is drawn upon.
export function pictureOf(drawing) {
  return drawing.picture && !drawing.strokes.length
    ? { blob: drawing.picture.blob, area: areaOf(drawing.picture) }
    : { blob: toPng(drawing), area: [0, 0, 1, 1] };
}
