"""Draw what the network saw, and why it read that, for a notebook.

reading = Reader().read("photo.jpg")
evidence_picture(reading.seen, reading.evidence)        # a Pillow image
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from .reading import Evidence

FIRST, SECOND = "#e07a1f", "#2a74b8"  # colours of the two most probable classes
ENLARGED_SIDE = 112  # screen pixels, about: 4 for each of MNIST's
STRONGEST = 0.88  # opacity of the strongest evidence
OVER_COLOUR = 0.6  # the same over a photograph, which must show through
GAMMA = 0.65  # below 1, so that weak evidence shows beside strong


def large(seen: NDArray[np.uint8]) -> Image.Image:
    """Return the image that the network saw, enlarged without smoothing.

    `seen` is (height, width) or (3, height, width).
    """
    image = Image.fromarray(np.moveaxis(seen, 0, 2).copy() if seen.ndim == 3 else seen)
    scale = max(1, round(ENLARGED_SIDE / max(image.size)))
    size = scale * image.width, scale * image.height
    return image.resize(size, Image.Resampling.NEAREST)


def _weights(n: int, low: float, high: float, field: float, side: int) -> NDArray[np.float64]:
    """Return how much of each of `n` places belongs to each row, or column, of the image.

    The shape is (n, side), and each row sums to 1. The middle of a place's field counts more than
    its rim, because more paths through the network lead there (Luo et al. 2016).
    """
    middles = low + (np.arange(n) + 0.5) * (high - low) / n
    off = (np.arange(side) + 0.5 - middles[:, None]) / (max(field, 2) / 2)
    hann = np.where(abs(off) < 1, 0.5 + 0.5 * np.cos(np.pi * off), 0)
    return np.asarray(hann / hann.sum(1, keepdims=True))


def spread(evidence: "Evidence", height: int, width: int) -> NDArray[np.float64]:
    """Return the evidence of each pixel (height, width), each place's spread over its field.

    It sums to the difference of the logits, as the evidence of the places does.
    """
    rows, columns = evidence.values.shape
    left, top, right, bottom = evidence.extent
    down = _weights(rows, top, bottom, evidence.field[1], height)
    across = _weights(columns, left, right, evidence.field[0], width)
    return np.asarray(down.T @ evidence.values @ across)


def evidence_picture(seen: NDArray[np.uint8], evidence: "Evidence") -> Image.Image:
    """Return the image that the network saw with the evidence behind the ink.

    The first class's colour is where the image speaks for it, the second's where for that. On dark
    paper the colours are light, on light paper they tint it, and a coloured image becomes grey
    with the colours over it.
    """
    shown = spread(evidence, *seen.shape[-2:])
    shown = np.sign(shown) * abs(shown) ** GAMMA
    ink = large(seen)
    fine = Image.fromarray(shown.astype(np.float32)).resize(ink.size, Image.Resampling.BILINEAR)
    strength = np.asarray(fine) / max(float(abs(shown).max()), 1e-9)
    first, second = (np.array(list(bytes.fromhex(colour[1:]))) for colour in (FIRST, SECOND))
    colour = np.where(strength[..., None] > 0, first, second)
    white = np.asarray(ink.convert("L"), np.float64)[..., None]  # 0 to 255
    opacity = abs(strength[..., None])
    if seen.ndim == 3:
        picture = white + (colour - white) * OVER_COLOUR * opacity
    elif np.median(seen) > 127:
        picture = (255 + (colour - 255) * STRONGEST * opacity) * (white / 255)
    else:
        picture = colour * STRONGEST * opacity * (1 - white / 255) + white
    return Image.fromarray(picture.astype(np.uint8))
