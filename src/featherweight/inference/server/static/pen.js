// Draw on the sheet with a mouse, a finger, a pen, or the keyboard alone.

const LINE = 0.055; // width of a stroke relative to the sheet, without pressure
const RUBBER = 0.12; // width of the eraser
const STEP = 1 / 28; // distance that an arrow key moves the pen
const NEAR = 0.003; // points nearer than this to the last one only show a hand's tremor
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pen {
  erase = false;
  off = false; // whether the network reads pictures, so that nothing is drawn
  #pointer = null; // id of the pointer that draws

  constructor(sheet, drawing) {
    Object.assign(this, { sheet, drawing });
    const { canvas } = sheet;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"])
      canvas.addEventListener(end, (event) => this.#up(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => {
      if (!this.off && canvas.matches(":focus-visible")) this.#takeUp();
    });
    canvas.addEventListener("blur", () => this.#put(null));
  }

  #point(event) {
    const box = this.sheet.canvas.getBoundingClientRect();
    const pressed = event.pointerType === "pen" && event.pressure > 0;
    const width = LINE * (pressed ? 0.4 + 1.2 * event.pressure : 1);
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height,
      this.erase ? RUBBER : width];
  }

  #down(event) {
    if (this.off || this.#pointer !== null || event.button !== 0) return;
    this.#pointer = event.pointerId;
    this.sheet.canvas.setPointerCapture(event.pointerId);
    this.#put(null);
    this.drawing.begin(this.#point(event), this.erase);
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    let [x, y] = this.drawing.strokes.at(-1).points.at(-1);
    const points = (events.length ? events : [event]).map((each) => this.#point(each))
      .filter((point) => {
        const far = Math.hypot(point[0] - x, point[1] - y) > NEAR;
        if (far) [x, y] = point;
        return far;
      });
    if (points.length) this.drawing.extend(points);
  }

  #up(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#pointer = null;
    this.drawing.end();
  }

  // --- the keyboard's pen

  #put(cursor) {
    if (this.sheet.cursor?.down) this.drawing.end();
    this.sheet.cursor = cursor;
    this.sheet.paint();
  }

  #takeUp() { if (!this.sheet.cursor) this.#put({ x: 0.5, y: 0.5, down: false }); }

  // Lift the keyboard's pen, because the stroke that it draws has gone.
  lift() { if (this.sheet.cursor) this.sheet.cursor.down = false; }

  #key(event) {
    if (this.off || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!(event.key in ARROWS) && event.key !== " ") return;
    event.preventDefault();
    this.#takeUp();
    const { cursor } = this.sheet, width = this.erase ? RUBBER : LINE;
    if (event.key === " ") {
      cursor.down = !cursor.down;
      if (cursor.down) this.drawing.begin([cursor.x, cursor.y, width], this.erase);
      else this.drawing.end();
      return;
    }
    const [dx, dy] = ARROWS[event.key];
    cursor.x = Math.min(0.96, Math.max(0.04, cursor.x + dx * STEP));
    cursor.y = Math.min(0.96, Math.max(0.04, cursor.y + dy * STEP));
    if (cursor.down) this.drawing.extend([[cursor.x, cursor.y, width]]);
    else this.sheet.paint();
  }
}
