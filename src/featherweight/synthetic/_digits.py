"""Draw digits in the styles that MNIST lacks: by hand, printed, and as displays show them."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ._glyphs import DIGITS
from ._printed import dot_matrix, printed, seven_segments
from ._strokes import Strokes, distort, draw

Pixels = NDArray[np.uint8]


def one_of(glyphs: tuple[str, ...], rng: Generator) -> str:
    """Return a random one."""
    return glyphs[int(rng.integers(len(glyphs)))]


def hand(digit: int, rng: Generator) -> Strokes:
    """Return the strokes of a digit in a random style, as a hand writes them."""
    # A 1 whose flag is turned too far is a 7.
    return distort(one_of(DIGITS[digit], rng), rng, turn=0.5 if digit in (1, 7) else 1.0)


def _pen(digit: int, rng: Generator, held_out: bool) -> Pixels:
    return draw(hand(digit, rng), rng)


def _font(digit: int, rng: Generator, held_out: bool) -> Pixels:
    return printed(str(digit), rng, held_out)


# How often each kind is drawn, and how.
DIGIT_KINDS: dict[str, tuple[float, Callable[[int, Generator, bool], Pixels]]] = {
    "strokes": (6, _pen),
    "font": (2, _font),
    "seven segments": (1, lambda digit, rng, held_out: seven_segments(digit, rng)),
    "dot matrix": (1, lambda digit, rng, held_out: dot_matrix(digit, rng)),
}
