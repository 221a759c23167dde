"""Images that MNIST lacks, made from a seed: digits in other styles, and what is no digit.

    made = make_synthetic(1000, seed=0)
    made.pixels[made.labels == NO_DIGIT]        # (n, 28, 28) uint8, light on black

Digits are pen strokes in the styles of several countries, printed, and shown by displays. What is
no digit are letters, symbols, faces, figures, scribbles, several digits at once, digits that are
mirrored, crossed out, or beside other ink, specks, lines, and textures. Letters that look like a
digit, such as O and l, are neither.

Images with `held_out` validate: they have other seeds, other fonts, and kinds of non-digits that
training never sees. Whoever changes what is drawn counts up `recipe.SYNTHETIC_EDITION`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ._digits import DIGIT_KINDS, Pixels
from ._others import HELD_OUT_KINDS as HELD_OUT_KINDS
from ._others import OTHER_KINDS
from ._strokes import SIDE as SIDE

SEED = 0  # of the images that recipes train on
NO_DIGIT = -1  # label of an image that shows no digit, or several
DIGIT_SHARE = 0.7


@dataclass(frozen=True)
class Synthetic:
    """Synthetic images."""

    pixels: Pixels
    "Shape (n, 28, 28), light ink on black."
    labels: NDArray[np.int64]
    "Shape (n,): the digit, or NO_DIGIT."
    kinds: NDArray[np.str_]
    "Shape (n,): what was drawn, such as `strokes` or `letter`."


def make_synthetic(n: int, seed: int, held_out: bool = False) -> Synthetic:
    """Return n synthetic images of digits and of what is no digit.

    The same seed always gives the same images, and more of them begin with the same ones.

    Args:
        n: Number of images, about DIGIT_SHARE of which are digits.
        seed: Seed of all random numbers.
        held_out: Whether to take the fonts and kinds that only validate, and never train.
    """
    rng = np.random.default_rng([seed, int(held_out)])
    pixels = np.zeros((n, SIDE, SIDE), np.uint8)
    labels, kinds = np.full(n, NO_DIGIT, np.int64), []
    digits = list(DIGIT_KINDS)
    digit_odds = np.array([DIGIT_KINDS[name][0] for name in digits])
    others = [name for name in OTHER_KINDS if held_out or name not in HELD_OUT_KINDS]
    other_odds = np.array([OTHER_KINDS[name][0] for name in others])
    for i in range(n):
        if rng.random() < DIGIT_SHARE:
            labels[i] = label = int(rng.integers(10))
            kind = digits[int(rng.choice(len(digits), p=digit_odds / digit_odds.sum()))]
            image = DIGIT_KINDS[kind][1](label, rng, held_out)
        else:
            kind = others[int(rng.choice(len(others), p=other_odds / other_odds.sum()))]
            image = OTHER_KINDS[kind][1](rng, held_out)
        pixels[i] = _worn(image, rng)
        kinds.append(kind)
    return Synthetic(pixels, labels, np.array(kinds))


def _worn(image: Pixels, rng: Generator) -> Pixels:
    """Return an image with uneven ink, as a tenth of all have it."""
    if rng.random() > 0.1:
        return image
    field = Image.fromarray(rng.uniform(0.3, 1, (4, 4)).astype(np.float32))
    large = np.asarray(field.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    worn = image * np.clip(large, 0, 1)
    return np.asarray(worn * (255 / max(worn.max(), 1)), np.uint8)
