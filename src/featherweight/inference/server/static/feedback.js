// "That was wrong, it is a ...": keep the picture with its true label on this computer.

import { keep, ReadingError } from "./reading.js";
import { one } from "./words.js";

// The server does not tell strangers the names of its folders; whoever runs it knows them.
const WHERE = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname)
  ? "on this computer, in my-digits or the folder that --collect names"
  : "on the computer that runs this page";

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
      text = `Kept as ${one(label)} ${WHERE}: ${kept} so far.`;
    } catch (error) {
      if (!(error instanceof ReadingError)) throw error;
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
