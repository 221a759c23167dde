// Numbers and answers in words.

export const COUNTS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"];

const CLOSE = 0.5; // probability of a close second, relative to the first
const NAMED = 2; // doubtful digits of a number, or doubts, that are named at most

export const count = (n) => Number(n).toLocaleString("en");

// Never "100.0 %", which no network may say; and nothing for what would be "0.0 %".
export function percent(p) {
  if (p > 0.999) return ">99.9\u00a0%";
  return p < 0.001 ? "" : `${(100 * p).toFixed(1)}\u00a0%`;
}

export const bytes = (n) => (n < 1000 ? `${n} bytes` : `${count(Math.round(n / 1000))} kB`);

// A number with its article; the name of anything else stands by itself.
export const one = (label) => (!/^\d+$/.test(label) ? label
  : /^8|^1[18]$/.test(label) ? `an ${label}` : `a ${label}`);

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

// The answer in a title and a sentence or two that say why. `sureFrom` is the confidence from which the
// network's answers count as sure, null if that isn't known.
export function words(answer, labels, sureFrom = null) {
  if (answer.probabilities === null) {
    const digits = labels.every((label) => /^\d$/.test(label));
    return digits ? ["No digit found", "Too little ink to read a digit, or too faint."]
      : ["Nothing found", "Too little ink to read, or too faint."];
  }
  if (isNumber(answer)) return numberInWords(answer, labels, sureFrom);
  const [first, second] = ranked(answer, labels);
  const doubts = named(answer.doubts), also = doubts && ` Also: ${doubts}.`;
  if (answer.reason === "several digits") {
    return ["Several digits", "They seem to stand side by side, and they touch."];
  }
  if (answer.reason === "not a digit") {
    return ["Not a digit",
      `No digit is likely enough.${doubts && ` Perhaps because of the picture: ${doubts}.`}`];
  }
  const rest = percent(second.p), most = `${percent(first.p)} for ${first.label}`;
  const least = rest && `${rest} for ${second.label}`;
  if (!answer.unsure) return [`Sure: ${one(first.label)}`, `${most}${least && `, ${least}`}.`];
  if (!isWeak(answer, sureFrom)) {
    return [`Not sure: perhaps ${one(first.label)}`,
      `Because of the picture: ${doubts}. Without that: ${most}.`];
  }
  if (second.p >= CLOSE * first.p) {
    return [`Not sure: ${one(first.label)}, or perhaps ${one(second.label)}`,
      `A close second: ${most}, ${least}.${also}`];
  }
  const why = sureFrom ? `Sure only from ${percent(sureFrom)}` : "Too little to be sure";
  return [`Not sure: perhaps ${one(first.label)}`,
    `${why}: ${most}${least && `, then ${least}`}.${also}`];
}

// The digits of all lines of writing, from top to bottom.
export const digitsOf = (answer) => (answer.lines ?? []).flatMap(({ digits }) => digits);

export const isNumber = (answer) => answer.side_by_side > 1 && digitsOf(answer).length > 1;

// Whether a reading is unsure by its confidence, and not only because of the picture.
const isWeak = ({ unsure, label, confidence, doubts }, sureFrom) =>
  unsure && (label === null || !doubts.length || (sureFrom !== null && confidence < sureFrom));

const named = (doubts) => (doubts.length ? list(doubts, doubts.length, NAMED) : "");

function numberInWords(answer, labels, sureFrom) {
  const digits = digitsOf(answer), { lines } = answer;
  const title = `${COUNTS[digits.length] ?? digits.length} digits`
    + (lines.length > 1 ? ` in ${COUNTS[lines.length]?.toLowerCase() ?? lines.length} lines` : "");
  const weak = digits.filter((digit) => isWeak(digit, sureFrom)).map((digit) => {
    if (digit.label === null) return "a part that is no digit";
    const [first, second] = ranked(digit, labels);
    return `the ${first.label} (perhaps ${one(second.label)})`;
  });
  const doubts = named([...new Set(digits.flatMap((digit) => digit.doubts))]);
  if (!weak.length) {
    return [title, doubts ? `Not sure because of the picture: ${doubts}.` : "Sure of each."];
  }
  const which = list([...new Set(weak)], weak.length, doubts ? 1 : NAMED);
  return [title, `Not sure of ${which}.${doubts && ` Also: ${doubts}.`}`];
}

// At most so many of the names of `n` things, and how many more there are.
function list(names, n, most) {
  const named = names.slice(0, most), more = n - named.length;
  const last = more ? `${more} more` : named.pop();
  return named.length ? `${named.join(", ")} and ${last}` : last;
}
