// Small pictures from bytes and numbers.

export const unpack = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Show planes of height x width bytes, one grey one or a red, a green and a blue one. CSS enlarges
// the canvas without smoothing.
export function showPlanes(canvas, width, height, bytes) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  const size = width * height, step = bytes.length > size ? size : 0;
  for (let i = 0; i < size; i++)
    image.data.set([bytes[i], bytes[i + step], bytes[i + 2 * step], 255], 4 * i);
  context.putImageData(image, 0, 0);
}

// The value of a custom property, such as "#d9651a". Canvases don't take part in CSS.
export const token = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const channels = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

// Write numbers between -limit and limit into an image: `first` above zero, `second` below, and
// the further from zero the less transparent.
export function diverge(values, width, height, limit, first, second, strongest = 255) {
  const image = new ImageData(width, height), colours = [channels(second), channels(first)];
  values.forEach((value, i) => {
    image.data.set(colours[Number(value > 0)], 4 * i);
    image.data[4 * i + 3] = strongest * Math.min(1, Math.abs(value) / (limit || 1));
  });
  return image;
}
