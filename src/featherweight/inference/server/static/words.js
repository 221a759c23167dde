// Numbers and answers in words.

export const COUNTS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"];

export const count = (n) => Number(n).toLocaleString("en");

// Never "100.0 %", which no network may say; and nothing for what would be "0.0 %".
export function percent(p) {
  if (p > 0.999) return ">99.9\u00a0%";
  return p < 0.001 ? "" : `${(100 * p).toFixed(1)}\u00a0%`;
}

export const bytes = (n) => (n < 1000 ? `${n} bytes` : `${count(Math.round(n / 1000))} kB`);

export const one = (label) => (/^8|^1[18]$/.test(label) ? `an ${label}` : `a ${label}`);

// With a true minus sign, which is as wide as the plus.
export const fixed = (value) => value.toFixed(2).replace("-", "−");
export const signed = (value) => (value < 0 ? fixed(value) : `+${fixed(value)}`);

const milliseconds = (value) => value.toFixed(value < 10 ? 1 : 0).replace(".0", "");

export function timing({ took, milliseconds: { network } }) {
  return `Answered in ${milliseconds(took)} ms, ${milliseconds(network)} of them the network.`;
}

// The labels of a reading, the most probable first, each with its probability.
export function ranked({ probabilities }, labels) {
  return probabilities.map((p, i) => ({ label: labels[i], p })).sort((a, b) => b.p - a.p);
}

// The answer in a title and a sentence that says why. `sureFrom` is the confidence from which the
// network's answers count as sure, null if that isn't known.
export function words(answer, labels, sureFrom = null) {
  if (answer.label === null) {
    return ["No ink found", "Nothing here is darker or lighter than the paper."];
  }
  if (isNumber(answer)) return numberInWords(answer, labels);
  const [first, second] = ranked(answer, labels);
  if (answer.side_by_side > 1) {
    return [`Not sure: perhaps ${one(first.label)}`,
      "Several digits seem to stand side by side, and they touch."];
  }
  if (!answer.unsure) {
    const rest = percent(second.p);
    return [`Sure: ${one(first.label)}`,
      `${percent(first.p)} for ${first.label}${rest ? `, ${rest} for ${second.label}` : ""}.`];
  }
  const both = `${percent(first.p)} for ${first.label}, ${percent(second.p)} for ${second.label}.`;
  return second.p > 0.1 * first.p
    ? [`Not sure: ${one(first.label)}, or perhaps ${one(second.label)}`, `A close second: ${both}`]
    : [`Not sure: perhaps ${one(first.label)}`, `${sureFrom ? `Sure only from ${percent(sureFrom)}` : "Too little to be sure"}: ${both}`];
}

export const isNumber = (answer) => answer.side_by_side > 1 && (answer.digits?.length ?? 0) > 1;

function numberInWords({ digits }, labels) {
  const title = `${COUNTS[digits.length] ?? digits.length} digits`;
  const doubts = digits.filter((digit) => digit.unsure).map((digit) => {
    const [first, second] = ranked(digit, labels);
    return `the ${first.label} (perhaps ${one(second.label)})`;
  });
  return [title, doubts.length ? `Not sure of ${doubts.join(" and ")}.` : "Sure of each."];
}
