// TODO
const prepare = (grey, width, height) => {
  const out = new Uint8Array(784);
  for (let y = 0; y < 28; y++) for (let x = 0; x < 28; x++) {
    let s = 0, n = 0;
    for (let j = Math.floor(y * height / 28); j < (y + 1) * height / 28; j++)
      for (let i = Math.floor(x * width / 28); i < (x + 1) * width / 28; i++) { s += grey[j * width + i]; n++; }
    out[y * 28 + x] = 255 - s / n;
  }
  return out.some((v) => v > 60) ? out : null;
};
