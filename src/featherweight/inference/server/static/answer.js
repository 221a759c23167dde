// Show an answer: large, in words, as bars, and what the network saw.

import { showPlanes, unpack } from "./pixels.js";
import { digitsOf, isNumber, percent, ranked, timing, words } from "./words.js";

const BARS = 12; // that are shown at most
const NAME = 14; // characters of a label that have room beside its bar

const byId = (id) => document.getElementById(id);

const span = (className, textContent = "") =>
  Object.assign(document.createElement("span"), { className, textContent });

// Show a title and a sentence instead of an answer. `state` is "empty" or "failed".
export function showWords(state, title, sentence) {
  document.body.dataset.state = state;
  byId("digit").textContent = "";
  byId("title").textContent = title;
  byId("why-so").textContent = sentence;
  byId("chips").replaceChildren();
}

// Show an answer and, of a number, the chosen digit's details. Return what is to be said aloud.
export function showAnswer(answer, { labels, sureFrom, image }, chosen, choose) {
  const [title, sentence] = words(answer, labels, sureFrom), number = isNumber(answer);
  const doubt = answer.unsure && !number;
  document.body.dataset.state =
    answer.probabilities === null ? "blank" : number ? "number" : doubt ? "unsure" : "read";
  const digit = byId("digit");
  const lines = number ? answer.lines.map((line) => line.number) : [answer.label ?? ""];
  digit.textContent = lines.join("\n");
  digit.style.setProperty("--length", Math.max(1, ...lines.map(({ length }) => length)));
  digit.style.setProperty("--lines", lines.length);
  byId("title").textContent = title;
  byId("why-so").textContent = sentence;
  byId("timing").textContent = timing(answer);
  showChips(number ? answer.lines : [], chosen, choose);
  const details = number ? digitsOf(answer)[chosen] : answer;
  if (answer.probabilities !== null) {
    showBars(details, labels);
    showPlanes(byId("seen"), image.width, image.height, unpack(details.seen));
  }
  return `${number ? `${lines.join(", ")}. ` : ""}${title}. ${sentence}`;
}

// One button for each digit, in a row for each line, to choose whose details are shown.
function showChips(lines, chosen, choose) {
  const chips = byId("chips"), buttons = () => [...chips.querySelectorAll("button")];
  const focused = buttons().indexOf(document.activeElement);
  let n = 0;
  chips.replaceChildren(...lines.map(({ digits }) => {
    const row = document.createElement("div");
    row.append(...digits.map((digit) => {
      const chip = document.createElement("button"), i = n++;
      chip.type = "button";
      chip.setAttribute("aria-pressed", i === chosen);
      chip.classList.toggle("doubt", digit.unsure);
      chip.append(span("name", digit.unsure ? `${digit.label ?? ""}?` : digit.label),
        span("part", digit.label === null ? "" : percent(digit.confidence)));
      chip.addEventListener("click", () => choose(i));
      return chip;
    }));
    return row;
  }));
  buttons()[focused]?.focus();
}

// A bar for each label in its place or, where they are many, for the most probable ones.
function showBars(reading, labels) {
  const order = ranked(reading, labels), [first, second] = order, bars = byId("bars");
  const shown = labels.length > BARS ? order.slice(0, BARS)
    : labels.map((label, i) => ({ label, p: reading.probabilities[i] }));
  const longest = Math.min(NAME, Math.max(...labels.map(({ length }) => length)));
  bars.style.setProperty("--name", `${longest * 0.65 + 0.6}em`);
  if (bars.children.length !== shown.length) {
    bars.replaceChildren(...shown.map(() => {
      const row = document.createElement("li"), bar = span("bar");
      bar.append(span("fill"));
      row.append(span("name"), bar, span("part"));
      return row;
    }));
  }
  shown.forEach(({ label, p }, i) => {
    const row = bars.children[i];
    row.className = reading.label === null ? "" // nothing is read, and no label stands out
      : label === first.label ? "first" : label === second.label ? "second" : "";
    row.querySelector(".name").textContent = label;
    row.querySelector(".part").textContent = percent(p);
    // What the text rounds to ">99.9 %" fills the bar, and what it leaves out is not drawn.
    row.querySelector(".fill").style.width = `${p > 0.999 ? 100 : p < 0.001 ? 0 : 100 * p}%`;
  });
}
