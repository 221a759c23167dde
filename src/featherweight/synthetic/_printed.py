"""Draw text in the fonts that Matplotlib ships, and digits as displays show them."""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ._glyphs import DOTS, LIT, SEGMENTS
from ._strokes import BOX, SIDE, Strokes, draw, parse, transform

# Sans serif, serif, typewriter; and those that only validation sees.
FONTS = ("DejaVuSans[!D]*", "DejaVuSerif[!D]*", "cmr10*", "cmss10*", "cmtt10*", "cmb10*")
HELD_OUT_FONTS = ("STIXGeneral*", "cmti10*")
WIDE_FONTS = ("DejaVu", "STIXGeneral.")  # which have letters and symbols beyond ASCII
HEIGHT = 64  # pixels of a font, before text is reduced to MNIST's size


@cache
def _fonts(held_out: bool) -> tuple[ImageFont.FreeTypeFont, ...]:
    import matplotlib  # for its fonts alone, and only where text is drawn

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    patterns = HELD_OUT_FONTS if held_out else FONTS
    files = sorted({file for pattern in patterns for file in folder.glob(f"{pattern}.ttf")})
    basic = ImageFont.Layout.BASIC
    return tuple(ImageFont.truetype(str(file), HEIGHT, layout_engine=basic) for file in files)


@cache
def _choices(held_out: bool, ascii_only: bool) -> tuple[int, ...]:
    """Return the numbers of the fonts that have ASCII, or letters and symbols beyond it too."""
    return tuple(
        number
        for number, font in enumerate(_fonts(held_out))
        if ascii_only or Path(str(font.path)).name.startswith(WIDE_FONTS)
    )


@cache
def _set(text: str, number: int, held_out: bool) -> Image.Image:
    """Return text in a font, light on black, with a margin."""
    font = _fonts(held_out)[number]
    left, top, right, bottom = map(round, font.getbbox(text))
    image = Image.new("L", (right - left + 16, bottom - top + 16))
    ImageDraw.Draw(image).text((8 - left, 8 - top), text, 255, font)
    return image


def printed(text: str, rng: Generator, held_out: bool) -> NDArray[np.uint8]:
    """Return text in a random font, slightly stretched, slanted and thickened, (28, 28) uint8."""
    numbers = _choices(held_out, text.isascii())
    image = _set(text, numbers[int(rng.integers(len(numbers)))], held_out)
    thicker = rng.random()
    if thicker < 0.3:
        image = image.filter(ImageFilter.MaxFilter(3 if thicker < 0.2 else 5))
    wide, slant = float(np.exp(rng.normal(0, 0.12))), float(rng.normal(0, 0.08))
    width, height = round(image.width * wide + abs(slant) * image.height), image.height
    # Of a pixel of the result: its place in the text.
    place = (1 / wide, slant / wide, -max(slant, 0) * height / wide, 0, 1, 0)
    image = image.transform(
        (width, height), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR
    )
    return fit(image)


def fit(image: Image.Image) -> NDArray[np.uint8]:
    """Return ink, light on black, in the size and place of MNIST's digits, (28, 28) uint8."""
    box = image.getbbox()
    assert box is not None
    scale = max(box[2] - box[0], box[3] - box[1]) / BOX  # pixels of the image to one of the result
    ink = np.asarray(image, np.float32)
    mass = ink.sum()
    x = float((ink.sum(0) * (np.arange(ink.shape[1]) + 0.5)).sum() / mass)
    y = float((ink.sum(1) * (np.arange(ink.shape[0]) + 0.5)).sum() / mass)
    half = SIDE / 2 * scale
    # The centre of mass goes to the centre, unless that cuts off ink.
    x = float(np.clip(x, box[2] - half, box[0] + half))
    y = float(np.clip(y, box[3] - half, box[1] + half))
    margin = int(2 * half) + 1
    padded = Image.new("L", (image.width + 2 * margin, image.height + 2 * margin))
    padded.paste(image, (margin, margin))
    cut = (x - half + margin, y - half + margin, x + half + margin, y + half + margin)
    small = np.asarray(padded.resize((SIDE, SIDE), Image.Resampling.BOX, cut), np.float32)
    return np.asarray(small * (255 / small.max()) + 0.5, np.uint8)


def seven_segments(digit: int, rng: Generator) -> NDArray[np.uint8]:
    """Return a digit as a seven-segment display shows it."""
    styles = LIT[digit]
    lit = styles[int(rng.integers(len(styles)))]
    segments = [points for points, _ in parse(SEGMENTS)]
    gap = rng.uniform(0, 0.2)
    strokes = []
    for number in lit:
        start, end = segments[int(number)]
        strokes.append(np.stack([start + gap * (end - start), end - gap * (end - start)]))
    return draw(_slanted(strokes, rng), rng, float(rng.uniform(0.8, 2)), pressure=0)


def dot_matrix(digit: int, rng: Generator) -> NDArray[np.uint8]:
    """Return a digit as a display of 5x7 dots shows it."""
    styles = DOTS[digit]
    rows = styles[int(rng.integers(len(styles)))].split()
    dots: Strokes = [
        np.array([[2.2 * x, 2.9 * y]], np.float32)
        for y, row in enumerate(rows)
        for x, lit in enumerate(row)
        if lit == "1"
    ]
    return draw(_slanted(dots, rng), rng, float(rng.uniform(0.9, 1.6)), pressure=0)


def _slanted(strokes: Strokes, rng: Generator) -> Strokes:
    return transform(strokes, rng, turn=0.4, lean=0.4)
