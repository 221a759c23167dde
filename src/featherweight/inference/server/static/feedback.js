// "That was wrong, it is a ...": keep the picture with its true label on this computer.

import { keep } from "./reading.js";

const byId = (id) => document.getElementById(id);

// `picture()` returns the PNG to keep, and `say(text)` speaks.
export function takeFeedback(models, picture, say) {
  const wrong = byId("wrong"), truth = byId("truth"), thanks = byId("thanks");

  const open = (yes) => {
    truth.hidden = !yes;
    wrong.setAttribute("aria-expanded", yes);
  };

  async function send(label) {
    let text;
    try {
      const kept = await keep(picture(), label);
      text = `Kept as ${label} in my-digits on this computer, ${kept} so far.`;
    } catch (error) {
      text = error.message;
    }
    open(false);
    wrong.hidden = true; // once for each drawing
    thanks.textContent = text;
    say(text);
  }

  wrong.addEventListener("click", () => {
    const question = Object.assign(document.createElement("p"), { textContent: "It is a" });
    truth.replaceChildren(question, ...models.labels.map((label) => {
      const button = Object.assign(document.createElement("button"),
        { type: "button", textContent: label });
      button.addEventListener("click", () => send(label));
      return button;
    }));
    open(truth.hidden);
  });

  // Offer it for a new answer, where the server collects.
  return {
    offer(yes) {
      wrong.hidden = !yes || !models.collects;
      thanks.textContent = "";
      open(false);
    },
  };
}
