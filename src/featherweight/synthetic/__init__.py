"""Images that MNIST lacks, made from a seed: digits in other styles, and what is no digit.

    made = make_synthetic(1000, seed=0)
    made.pixels[made.labels == NO_DIGIT]        # (n, 28, 28) uint8, light on black

Digits are pen strokes in the styles of several countries, printed, and shown by displays. What is
no digit are letters, symbols, faces, scribbles, several digits at once, digits beside other ink,
specks, lines, and textures. Letters that look like a digit, such as O and l, are neither.

Images with `held_out` validate: they have other seeds, other fonts, and kinds of non-digits that
training never sees.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ._glyphs import DIGITS, FACES, LETTERS, LOOKALIKES, SYMBOLS
from ._printed import dot_matrix, fit, printed, seven_segments
from ._strokes import SIDE as SIDE
from ._strokes import Floats, Strokes, curve, distort, draw

Pixels = NDArray[np.uint8]

SEED = 0  # of the images that recipes train on
NO_DIGIT = -1  # label of an image that shows no digit, or several
DIGIT_SHARE = 0.6
TEXT = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#%@?=+*<>$~"
PRINTED_TEXT = "".join(letter for letter in TEXT if letter not in LOOKALIKES)
WORDS = ("on", "at", "mm", "No", "the", "kg", "EUR", "an", "me", "Re", "ml")


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


def _one_of(glyphs: tuple[str, ...], rng: Generator) -> str:
    return glyphs[int(rng.integers(len(glyphs)))]


def _hand(digit: int, rng: Generator) -> Strokes:
    # A 1 whose flag is turned too far is a 7.
    return distort(_one_of(DIGITS[digit], rng), rng, turn=0.5 if digit in (1, 7) else 1.0)


def _pen(digit: int, rng: Generator, held_out: bool) -> Pixels:
    return draw(_hand(digit, rng), rng)


def _font(digit: int, rng: Generator, held_out: bool) -> Pixels:
    return printed(str(digit), rng, held_out)


def _letter(rng: Generator, held_out: bool) -> Pixels:
    letters = list(LETTERS)
    return draw(distort(_one_of(LETTERS[letters[int(rng.integers(len(letters)))]], rng), rng), rng)


def _printed_letter(rng: Generator, held_out: bool) -> Pixels:
    return printed(PRINTED_TEXT[int(rng.integers(len(PRINTED_TEXT)))], rng, held_out)


def _word(rng: Generator, held_out: bool) -> Pixels:
    return printed(_one_of(WORDS, rng), rng, held_out)


def _symbol(rng: Generator, held_out: bool) -> Pixels:
    return draw(distort(_one_of(SYMBOLS, rng), rng, turn=0.5), rng)


def _face(rng: Generator, held_out: bool) -> Pixels:
    return draw(distort(_one_of(FACES, rng), rng, turn=0.5), rng, float(rng.uniform(0.6, 1.4)))


def _walk(n: int, rng: Generator) -> Floats:
    """Return a smooth random curve of n turns."""
    steps = rng.normal(0, 1, (n, 2)).cumsum(0) * 0.4 + rng.normal(0, 1, (n, 2))
    return curve(steps.astype(np.float32))


def _scribble(rng: Generator, held_out: bool) -> Pixels:
    return draw([_walk(int(rng.integers(9, 22)), rng)], rng, float(rng.uniform(0.6, 1.4)))


def _zigzag(rng: Generator, held_out: bool) -> Pixels:
    n = int(rng.integers(6, 14))
    x, y = np.linspace(0, rng.uniform(6, 20), n), 20.0 * (np.arange(n) % 2)
    points = np.stack([x, y + rng.normal(0, 2, n)], 1).astype(np.float32)
    points = points[:, ::-1] if rng.random() < 0.3 else points
    return draw(
        [points if rng.random() < 0.5 else curve(points)], rng, float(rng.uniform(0.6, 1.3))
    )


def _spiral(rng: Generator, held_out: bool) -> Pixels:
    angle = np.linspace(0, rng.uniform(2.5, 5) * 2 * np.pi, 60) * rng.choice([-1, 1])
    reach = np.linspace(0.1, 1, 60)
    points = np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)
    return draw([points.astype(np.float32)], rng, float(rng.uniform(0.6, 1.1)))


def _tangle(rng: Generator, held_out: bool) -> Pixels:
    """Return several strokes that have nothing to do with one another."""
    strokes = [
        _walk(int(rng.integers(2, 5)), rng) + rng.normal(0, 2, 2).astype(np.float32)
        for _ in range(int(rng.integers(3, 7)))
    ]
    return draw(strokes, rng, float(rng.uniform(0.6, 1.5)))


def _side_by_side(parts: list[Strokes], rng: Generator) -> Strokes:
    """Return strokes from left to right, with gaps or touching."""
    placed: Strokes = []
    right = 0.0
    for strokes in parts:
        points = np.concatenate(strokes)
        by = np.array([right - points[:, 0].min(), rng.normal(0, 1)], np.float32)
        placed += [stroke + by for stroke in strokes]
        right += float(np.ptp(points[:, 0])) + rng.uniform(-1, 5)
    return placed


def _several(rng: Generator, held_out: bool) -> Pixels:
    n = int(rng.choice([2, 2, 2, 3, 4]))
    digits = rng.integers(0, 10, n).tolist()
    if rng.random() < 0.35:
        return printed("".join(map(str, digits)), rng, held_out)
    parts = [_hand(digit, rng) for digit in digits]
    return draw(_side_by_side(parts, rng), rng, float(rng.uniform(0.6, 1.6)))


def _digit_and_letter(rng: Generator, held_out: bool) -> Pixels:
    letters = list(LETTERS)
    letter = _one_of(LETTERS[letters[int(rng.integers(len(letters)))]], rng)
    parts = [_hand(int(rng.integers(10)), rng), distort(letter, rng)]
    if rng.random() < 0.5:
        parts.reverse()
    return draw(_side_by_side(parts, rng), rng, float(rng.uniform(0.6, 1.6)))


def _cluttered(rng: Generator, held_out: bool) -> Pixels:
    """Return a digit in a box, over a line, or beside one, as preparation may leave it."""
    strokes = _hand(int(rng.integers(10)), rng)
    points = np.concatenate(strokes)
    (left, top), (right, bottom) = points.min(0), points.max(0)
    left, top, right, bottom = (
        side + away * rng.uniform(1, 7)
        for side, away in ((left, -1), (top, -1), (right, 1), (bottom, 1))
    )
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    kept = int(rng.integers(1, 5))
    first = int(rng.integers(4))
    for side in range(first, first + kept):
        ends = np.array([corners[side % 4], corners[(side + 1) % 4]], np.float32)
        strokes.append(ends + rng.normal(0, 0.3, (2, 2)).astype(np.float32))
    return draw(strokes, rng, float(rng.uniform(0.6, 1.5)))


def _blob(rng: Generator, held_out: bool) -> Pixels:
    """Return a speck or a stain, that is not as slim and upright as a 1."""
    angle = np.linspace(0, 2 * np.pi, 9)[:-1]
    reach = rng.uniform(0.6, 1, 8)
    wide = rng.uniform(0.7, 2)
    rim = np.stack([wide * reach * np.cos(angle), reach * np.sin(angle)], 1).astype(np.float32)
    filled = [curve(np.concatenate([rim, rim[:1]])) * scale for scale in (1, 0.7, 0.4, 0.1)]
    return draw(filled, rng, float(rng.uniform(2.5, 4)))


def _edge(rng: Generator, held_out: bool) -> Pixels:
    """Return the corner or the edge of a page or a table: thick, straight and far apart."""
    side = rng.uniform(8, 20)
    strokes = [np.array([(0, 0), (20, rng.normal(0, 1))], np.float32)]
    where = rng.uniform(0, 20)
    strokes.append(np.array([(where, 0), (where + rng.normal(0, 1), side)], np.float32))
    if rng.random() < 0.5:
        strokes.append(np.array([(0, side), (20, side)], np.float32))
    angle = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    return draw([stroke @ turn for stroke in strokes], rng, float(rng.uniform(0.6, 3)), 0.5)


def _texture(rng: Generator, held_out: bool) -> Pixels:
    """Return paper, cloth or noise, in the whole image or where ink would be."""
    cells = int(rng.integers(3, 29))
    noise = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    image = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    image = (image - image.min()) / max(float(np.ptp(image)), 1e-6)
    form = rng.random()
    if form < 0.35:
        image = (image > rng.uniform(0.35, 0.75)).astype(np.float32)
    elif form < 0.6:
        image = np.clip((image - rng.uniform(0.2, 0.6)) * 4, 0, 1)
    if rng.random() < 0.7:
        grey = Image.fromarray((255 * image).astype(np.uint8))
        if grey.getbbox() is not None:
            return fit(grey)
    return np.asarray(255 * image, np.uint8)


def _stripes(rng: Generator, held_out: bool) -> Pixels:
    """Return ruled or squared paper, or a shade."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle = rng.normal(0, 0.2) + rng.integers(2) * np.pi / 2
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    waves = rng.uniform(0.2, 7)
    image = 0.5 + 0.5 * np.cos(2 * np.pi * (waves * along + rng.random()))
    if rng.random() < 0.4:
        image = np.maximum(image, 0.5 + 0.5 * np.cos(2 * np.pi * (waves * across + rng.random())))
    image = np.clip((image - rng.uniform(0, 0.8)) * rng.uniform(1, 6), 0, 1)
    return np.asarray(255 * image / max(float(image.max()), 1e-6), np.uint8)


# How often each kind is drawn, and how.
DIGIT_KINDS: dict[str, tuple[float, Callable[[int, Generator, bool], Pixels]]] = {
    "strokes": (6, _pen),
    "font": (2, _font),
    "seven segments": (1, lambda digit, rng, held_out: seven_segments(digit, rng)),
    "dot matrix": (1, lambda digit, rng, held_out: dot_matrix(digit, rng)),
}
OTHER_KINDS: dict[str, tuple[float, Callable[[Generator, bool], Pixels]]] = {
    "letter": (5, _letter),
    "printed letter": (5, _printed_letter),
    "word": (1, _word),
    "symbol": (3, _symbol),
    "face": (1, _face),
    "scribble": (3, _scribble),
    "zigzag": (1, _zigzag),
    "spiral": (1, _spiral),
    "tangle": (2, _tangle),
    "several digits": (5, _several),
    "digit and letter": (1, _digit_and_letter),
    "cluttered": (2, _cluttered),
    "speck": (1, _blob),
    "edge": (1, _edge),
    "texture": (2, _texture),
    "stripes": (1, _stripes),
}
HELD_OUT_KINDS = ("word", "spiral", "digit and letter")
