// The feature maps of every stage, and one of them enlarged with its filter.

import { diverge, showPlanes, token, unpack } from "./pixels.js";
import { count, fixed, signed } from "./words.js";

const FEW = 10; // maps of a stage that are shown before the rest is asked for

const make = (tag, parts = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), parts);
  element.append(...children);
  return element;
};

export class Maps {
  // `order` says what comes first; `root` holds the stages; `dialog` shows one map.
  constructor(order, root, dialog) {
    Object.assign(this, { order, root, dialog });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  clear() { this.root.replaceChildren(); }

  #tellOrder(stages) {
    if (!stages.length) {
      this.order.textContent = "This network has no feature maps: none of its layers is a convolution.";
      return;
    }
    const varying = "those that vary most over the image", last = stages.at(-1);
    this.order.textContent = "Every stage’s feature maps for this image: "
      + (last.contributions ? `in the last stage the channels that contributed most first, in the `
        + `others ${varying}. ` : `${varying} first. `)
      + "Black is a stage’s lowest value, white its highest. "
      + `Click one to ${last.filters ? "see its filter" : "enlarge it"}.`;
  }

  // Show stages as POST predict returns them, and what `evidence` they are for.
  show(stages, evidence) {
    this.#tellOrder(stages);
    this.root.replaceChildren(...stages.map((stage, i) => this.#stage(stage, i, evidence)));
  }

  #stage(stage, i, evidence) {
    const size = stage.width * stage.height, bytes = unpack(stage.pixels);
    const title = make("h3", {}, `Stage ${i + 1} `, make("span", {
      textContent: `${stage.channels} channels of ${stage.height} × ${stage.width}` }));
    const grid = make("div", { className: "grid" }, ...stage.order.map((channel, place) => {
      const map = { stage, i, channel, evidence,
        bytes: bytes.subarray(channel * size, (channel + 1) * size) };
      const canvas = make("canvas");
      showPlanes(canvas, stage.width, stage.height, map.bytes);
      const part = stage.contributions?.[channel];
      const button = make("button", { type: "button", hidden: place >= FEW,
        ariaLabel: `Stage ${i + 1}, channel ${channel + 1}`
          + (part === undefined ? "" : `, ${signed(part)} for ${evidence?.first}`) }, canvas);
      if (part !== undefined) button.append(make("span", { textContent: signed(part) }));
      button.addEventListener("click", () => this.#enlarge(map, part));
      return button;
    }));
    const box = make("div", { className: "stage" }, title, grid);
    if (stage.channels > FEW) {
      const more = make("button", { type: "button", className: "more",
        textContent: `All ${stage.channels} channels` });
      more.addEventListener("click", () => {
        for (const each of grid.children) each.hidden = false;
        grid.children[FEW].focus(); // the button with the focus goes
        more.remove();
      });
      box.append(more);
    }
    return box;
  }

  #enlarge({ stage, i, channel, bytes, evidence }, part) {
    const find = (id) => this.dialog.querySelector(`#${id}`);
    const value = (byte) => fixed(stage.low + byte / 255 * (stage.high - stage.low));
    const name = `Stage ${i + 1}, channel ${channel + 1}`;
    find("map-title").textContent = name;
    showPlanes(find("map-large"), stage.width, stage.height, bytes);
    find("map-large").setAttribute("aria-label", `Feature map of ${name}`);
    const range = bytes.reduce(([low, high], b) => [Math.min(low, b), Math.max(high, b)], [255, 0]);
    find("map-numbers").textContent =
      `${count(bytes.length)} activations from ${value(range[0])} to ${value(range[1])}; black is `
      + `${value(0)} and white ${value(255)} in the whole stage.`
      + (part === undefined || !evidence ? "" : ` This channel’s part of the answer: ${signed(part)}`
        + ` for ${evidence.first} against ${evidence.second}.`);
    this.#filters(find("filters"), stage.filters, channel);
    this.dialog.showModal();
  }

  #filters(root, filters, channel) {
    if (!filters) {
      root.replaceChildren();
      return;
    }
    const { inputs, height, width } = filters, size = height * width;
    // Typed arrays have the processor's byte order, which is little-endian wherever browsers run.
    const all = new Float32Array(unpack(filters.values).buffer);
    const weights = all.subarray(channel * inputs * size, (channel + 1) * inputs * size);
    const limit = weights.reduce((most, each) => Math.max(most, Math.abs(each)), 0);
    const tiles = Array.from({ length: inputs }, (_, input) => {
      const canvas = make("canvas", { width, height });
      canvas.getContext("2d").putImageData(diverge(
        [...weights.subarray(input * size, (input + 1) * size)], width, height, limit,
        token("--first"), token("--second")), 0, 0);
      return canvas;
    });
    const what = inputs === 1 ? `Its filter of ${height} × ${width}`
      : `Its filter: ${height} × ${width} for each of ${inputs} channels`;
    root.replaceChildren(
      make("p", { textContent: `${what}; weights from −${limit.toFixed(2)} (blue) `
        + `to ${limit.toFixed(2)} (orange).` }),
      make("div", { className: inputs === 1 ? "tiles single" : "tiles", ariaHidden: "true" },
        ...tiles));
  }
}
