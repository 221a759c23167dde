"""Place the ink of one digit in an image as a data set has it: its size, thickness and centre.

Example:
    image, (left, top, right, bottom) = fit(ink, MNIST)     # ink (height, width) from 0 to 1
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..layout import FIT, centre
from ._form import Bytes, Form
from ._planes import Floats, box_blur, pad

FINE = 8  # subpixels of an MNIST pixel while a digit is placed, so that rounding does not show
# MNIST pixels; thinner strokes are thickened to it. MNIST's strokes have a median of 2.3, and 98 %
# are between 1.5 and 4.1.
STROKE = 2.0

Box = tuple[float, float, float, float]
"Left, top, right and bottom side."


def fit(ink: Floats, form: Form) -> tuple[Bytes, Box]:
    """Scale, thicken and centre the ink (h, w) of one digit into an image as the form has it.

    Returns the image, upright and light on dark, and its sides in pixels of the ink.
    """
    ink, place = _crop(ink, FIT * FINE, margin=3 * FINE)
    gy, gx = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    width = 2 * ink.sum() / np.hypot(gy, gx).sum() / FINE  # area divided by half the outline
    if width < STROKE:
        blurred = box_blur(ink, round(STROKE * FINE))
        thick = np.minimum(1, blurred * STROKE / width)
        ink = ink + (thick - ink) * min(1.0, 2 * (STROKE - width))  # without a jump at STROKE
        ink, inside = _crop(ink, FIT * FINE, margin=3 * FINE)
        place = _within(place, inside, thick.shape)
    y, x = (np.arange(n) + 0.5 for n in ink.shape)
    cy, cx = (ink * y[:, None]).sum() / ink.sum(), (ink * x).sum() / ink.sum()
    rows, columns = extent(ink)
    # Subpixels of a pixel: as many as give the ink its side, or more where it would be cut off.
    lengths = [int(np.ptp(each)) + 1 for each in (rows, columns)]
    fine = max(
        FIT * FINE / form.layout.longer,
        *(length / side for length, side in zip(lengths, form.upright, strict=True)),
    )
    high, wide = (round(side * fine) for side in form.upright)
    # The centre of mass goes to (14, 14) of 28, whose middle is at 14.5, unless that cuts off ink.
    top, left = (
        min(max(c - centre(side), span[-1] + 1 - side), span[0])
        for c, side, span in ((cy, high, rows), (cx, wide, columns))
    )
    # The image may stick out of the ink, on the right and below by a few pixels only.
    below, right = (
        max(0, math.ceil(first + side - n))
        for first, side, n in zip((top, left), (high, wide), ink.shape, strict=True)
    )
    large = Image.fromarray(pad(ink, (high, below), (wide, right)))
    cut = left + wide, top + high, left + 2 * wide, top + 2 * high
    small = large.resize(form.upright[::-1], Image.Resampling.BOX, cut)
    image = np.asarray(small)
    image = np.asarray(np.clip(image * (255 / image.max()) + 0.5, 0, 255), np.uint8)
    return image, _within(place, (left, top, left + wide, top + high), ink.shape)


def _within(outer: Box, inner: Box, shape: tuple[int, ...]) -> Box:
    """Return a box, given in pixels of an image (h, w), in the units of that image's own sides."""
    (left, top, right, bottom), (height, width) = outer, shape
    x, y = (right - left) / width, (bottom - top) / height
    return left + inner[0] * x, top + inner[1] * y, left + inner[2] * x, top + inner[3] * y


def extent(ink: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and the columns that have ink.

    Ink is at least half of full ink, or half of the strongest pixel if thickening has made a speck
    paler than that.
    """
    inked = ink > min(0.5, 0.5 * float(ink.max()))
    return np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))


def _crop(ink: Floats, side: int, margin: int) -> tuple[Floats, Box]:
    """Crop to the ink, scale its longer side to `side` pixels, and add a margin on all sides.

    Returns the result, and its sides in pixels of `ink` before.
    """
    rows, columns = extent(ink)
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    scale = side / max(height, width)
    around = int(np.ceil(margin / scale))
    size = (round((width + 2 * around) * scale), round((height + 2 * around) * scale))
    large = Image.fromarray(pad(ink, (around, around), (around, around)))
    box = (columns[0], rows[0], columns[-1] + 1 + 2 * around, rows[-1] + 1 + 2 * around)
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    scaled = np.clip(np.asarray(large.resize(size, how, box)), 0, 1)
    left, top, right, bottom = box
    place = left - around, top - around, right - around, bottom - around
    return np.asarray(scaled, np.float32), place
