// Read a picture. The rest of the page knows nothing of where the network runs: another version of
// this file may run it in the page.

// What a user can be told: the server is away, or it refuses. `again` tells whether the same may
// work later.
export class ReadingError extends Error {
  constructor(message, again) {
    super(message);
    this.again = again;
  }
}

export const AWAY = "The server does not respond.";

async function ask(url, options) {
  let response, content;
  try {
    response = await fetch(url, options);
    content = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ReadingError(AWAY, true);
  }
  if (!response.ok) {
    throw new ReadingError(content.detail, [408, 429].includes(response.status)
      || response.status >= 500);
  }
  return content;
}

const post = (url, blob, signal) => ask(url, {
  method: "POST", body: blob, signal, headers: { "Content-Type": blob.type } });

const query = (parameters) => new URLSearchParams(
  Object.entries(parameters).filter(([, value]) => value));

// Return the answer for a picture (a Blob), as POST predict describes it, with `took`: the
// milliseconds until it was there. `lines` asks for each line of writing, digit by digit, too.
export async function read(picture, model, lines, signal) {
  const start = performance.now();
  const options = query({ lines, evidence: true, model });
  const answer = await post(`predict?${options}`, picture, signal);
  return { ...answer, took: performance.now() - start };
}

// Return every stage's feature maps of one image, given the bytes that the network saw.
export async function readMaps(seen, model) {
  const blob = new Blob([seen], { type: "application/octet-stream" });
  const options = query({ maps: true, evidence: true, model });
  return post(`predict?${options}`, blob);
}

export const findModels = () => ask("models");

export const describeModel = (name) => ask(`model?${query({ name })}`);

export const findSamples = () => ask("static/samples.json");

// Keep a picture (a PNG Blob) with its true label on this computer; return how many there are.
export async function keep(picture, label) {
  return (await post(`feedback?${query({ label })}`, picture)).pictures;
}
