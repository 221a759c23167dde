// The page's one live region: what a screen reader says.

const region = document.getElementById("said");
const REST = 600; // milliseconds after which a hand rests
let timer = 0;

export function hush() { clearTimeout(timer); }

export function say(text) {
  hush();
  // A moment later, or a reader may not notice that the same text has come again.
  timer = setTimeout(() => { region.textContent = text; });
}

// Say an answer once, when the hand has rested for a moment: a 4 has two or three strokes, and
// after each there is an answer to show, but none to say.
export function sayAtRest(text) {
  hush();
  timer = setTimeout(() => { region.textContent = text; }, REST);
}
