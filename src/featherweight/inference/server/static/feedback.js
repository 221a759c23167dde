// "That was wrong, it is a ...": keep the picture with its true label on this computer.

import { keep, ReadingError } from "./reading.js";
import { one } from "./words.js";

// The server does not tell strangers the names of its folders; whoever runs it knows them.
const WHERE = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)
  ? "on this computer, in my-digits or the folder that --collect names"
  : "on the computer that runs this page";

const NO_DIGIT = "not-a-digit"; // as the server names it

const byId = (id) => document.getElementById(id);

const inWords = (label) => (label === NO_DIGIT ? "not a digit" : one(label));

// `picture()` returns the PNG to keep, and `say(text)` speaks.
export function takeFeedback(models, picture, say) {
  const wrong = byId("wrong"), truth = byId("truth"), thanks = byId("thanks");
  const kept = new WeakSet(); // readings, each of which is kept once
  let reading = null; // what is offered to be corrected
  let sending = false;

  const open = (yes) => {
    truth.hidden = !yes;
    wrong.setAttribute("aria-expanded", yes);
  };

  async function send(label, button) {
    if (sending) return;
    sending = true;
    for (const each of truth.querySelectorAll("button"))
      each.setAttribute("aria-pressed", each === button);
    thanks.textContent = "";
    const about = reading;
    try {
      const count = await keep(picture(), label);
      kept.add(about);
      thanks.textContent = `Kept as ${inWords(label)} ${WHERE}: ${count} so far.`;
      if (about === reading) finish();
    } catch (error) {
      if (!(error instanceof ReadingError)) throw error;
      // The buttons stay, with the choice, unless another drawing has been read meanwhile.
      thanks.textContent = `Not kept: ${error.message.replace(/\.?$/, ".")}`
        + (about === reading ? " Choose again to retry." : "");
      say(thanks.textContent);
    } finally {
      sending = false;
    }
  }

  // Put the focus on the thanks, because the buttons that had it go; that is spoken too.
  function finish() {
    open(false);
    wrong.hidden = true;
    thanks.focus();
  }

  wrong.addEventListener("click", () => {
    const question = Object.assign(document.createElement("p"), { textContent: models.readsDigits ? "It is a" : "It is" });
    truth.classList.toggle("named", !models.readsDigits);
    const choice = (label, textContent, disabled) => {
      const button = Object.assign(document.createElement("button"),
        { type: "button", textContent, disabled });
      button.addEventListener("click", () => send(label, button));
      return button;
    };
    truth.replaceChildren(question,
      ...models.labels.map((label) => choice(label, label, label === reading.label)));
    if (models.readsDigits) {
      const none = choice(NO_DIGIT, "Not a digit", reading.reason === "not a digit");
      none.className = "none";
      truth.append(none);
    }
    open(truth.hidden);
  });

  // Offer it for a new reading, if there is one, where the server collects.
  return {
    offer(next, ofNumber = false) {
      reading = next;
      wrong.textContent = ofNumber && next?.label ? `This ${next.label} was wrong` : "That was wrong";
      wrong.hidden = !next || !models.keeps || kept.has(next);
      thanks.textContent = "";
      open(false);
    },
  };
}
