// The sheet of draw.py: strokes on a canvas, sent as a PNG when they end; the reading beside it.

const SIDE = 280; // CSS pixels
const PEN = 18; // likewise, the width of a stroke

function render({ model, el }) {
  el.innerHTML = `<div style="display: flex; flex-wrap: wrap; gap: 20px; align-items: center">
    <div><canvas tabindex="0" role="img" aria-label="A sheet to draw a digit on"
      style="width: ${SIDE}px; height: ${SIDE}px; border: 1px solid #8888; border-radius: 8px;
      touch-action: none; cursor: crosshair; display: block"></canvas>
    <button type="button" style="margin-top: 8px">Clear</button></div>
    <div aria-live="polite"></div></div>`;
  const canvas = el.querySelector("canvas"), shown = el.querySelector("[aria-live]");
  const context = canvas.getContext("2d"), fine = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(SIDE * fine);

  function clear() {
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }

  function send(picture) {
    model.set("picture", picture);
    model.save_changes();
  }

  const at = (event) => {
    const { left, top, width } = canvas.getBoundingClientRect();
    const scale = canvas.width / width;
    return [(event.clientX - left) * scale, (event.clientY - top) * scale];
  };
  let last = null; // the pen's last place, while it is down
  const draw = (event) => {
    const next = at(event);
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...next);
    context.stroke();
    last = next;
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    Object.assign(context, { lineWidth: PEN * fine, lineCap: "round", lineJoin: "round" });
    last = at(event);
    draw(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    // Between two frames a pen reports more places than one.
    if (last) (event.getCoalescedEvents?.() ?? [event]).forEach(draw);
  });
  const end = () => {
    if (last) send(canvas.toDataURL("image/png"));
    last = null;
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  el.querySelector("button").addEventListener("click", () => { clear(); send(""); });

  const show = () => { shown.innerHTML = model.get("shown"); }; // escaped in Python
  model.on("change:shown", show);
  show();
  clear();
  if (model.get("picture")) { // the widget is shown a second time
    const image = new Image();
    image.onload = () => context.drawImage(image, 0, 0, canvas.width, canvas.height);
    image.src = model.get("picture");
  }
}

export default { render };
