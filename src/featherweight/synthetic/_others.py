"""Draw what is no digit: letters, words, symbols, figures, several digits, digits with other ink.

The kinds of HELD_OUT_KINDS and the fonts that validate are never trained on: they measure how well
a network rejects.
"""

import numpy as np
from numpy.random import Generator

from ._digits import Pixels, hand, one_of
from ._figures import FIGURES
from ._glyphs import FACES, LETTERS, LOOKALIKES, SYMBOLS
from ._printed import printed
from ._strokes import Floats, Strokes, curve, distort, draw

TEXT = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#%@?=+*<>$~&!"
PRINTED_TEXT = "".join(letter for letter in TEXT if letter not in LOOKALIKES)
WORDS = ("on", "at", "mm", "No", "the", "kg", "EUR", "an", "me", "Re", "ml")
PRINTED_SYMBOLS = "ΓΔΛΞΠΣΦΨΩαελμπφψω∞√∈∩≠≤≥±÷∇∀♪♫♥→"
CYRILLIC = "ДЖИЛФЦШЩЭЮЯджилфцшщэюя"


def _letter(rng: Generator, held_out: bool) -> Pixels:
    letters = list(LETTERS)
    return draw(distort(one_of(LETTERS[letters[int(rng.integers(len(letters)))]], rng), rng), rng)


def _printed_letter(rng: Generator, held_out: bool) -> Pixels:
    return printed(PRINTED_TEXT[int(rng.integers(len(PRINTED_TEXT)))], rng, held_out)


def _printed_symbol(rng: Generator, held_out: bool) -> Pixels:
    return printed(one_of(tuple(PRINTED_SYMBOLS), rng), rng, held_out)


def _cyrillic(rng: Generator, held_out: bool) -> Pixels:
    return printed(one_of(tuple(CYRILLIC), rng), rng, held_out)


def _word(rng: Generator, held_out: bool) -> Pixels:
    return printed(one_of(WORDS, rng), rng, held_out)


def _symbol(rng: Generator, held_out: bool) -> Pixels:
    return draw(distort(one_of(SYMBOLS, rng), rng, turn=0.5), rng)


def _face(rng: Generator, held_out: bool) -> Pixels:
    return draw(distort(one_of(FACES, rng), rng, turn=0.5), rng, float(rng.uniform(0.6, 1.4)))


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
    parts = [hand(digit, rng) for digit in digits]
    return draw(_side_by_side(parts, rng), rng, float(rng.uniform(0.6, 1.6)))


def _digit_and_letter(rng: Generator, held_out: bool) -> Pixels:
    letters = list(LETTERS)
    letter = one_of(LETTERS[letters[int(rng.integers(len(letters)))]], rng)
    parts = [hand(int(rng.integers(10)), rng), distort(letter, rng)]
    if rng.random() < 0.5:
        parts.reverse()
    return draw(_side_by_side(parts, rng), rng, float(rng.uniform(0.6, 1.6)))


def _cluttered(rng: Generator, held_out: bool) -> Pixels:
    """Return a digit in a box, over a line, or beside one, as preparation may leave it."""
    strokes = hand(int(rng.integers(10)), rng)
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


def _crossed_out(rng: Generator, held_out: bool) -> Pixels:
    """Return a digit under a long line, a cross, or a line that goes to and fro."""
    form = rng.random()
    # A slashed 0 is a 0, and a crossed 7 is a 7.
    digit = int(rng.choice([2, 3, 5, 6, 8, 9])) if form < 0.4 else int(rng.integers(10))
    strokes = hand(digit, rng)
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)

    def place(x: float, y: float) -> Floats:
        """Return a point: (0, 0) and (1, 1) are corners of the digit."""
        moved = low + (high - low) * (x, y) + rng.normal(0, 1, 2)
        return np.asarray(moved, np.float32)

    if form < 0.4:
        turned = rng.uniform(-0.7, 0.7)
        strokes.append(np.stack([place(-0.4, 0.5 + turned), place(1.4, 0.5 - turned)]))
    elif form < 0.7:
        strokes.append(np.stack([place(-0.2, -0.1), place(1.2, 1.1)]))
        strokes.append(np.stack([place(-0.2, 1.1), place(1.2, -0.1)]))
    else:
        n = int(rng.integers(4, 9))
        to_and_fro = [place(1.2 if i % 2 else -0.2, 0.1 + 0.8 * i / (n - 1)) for i in range(n)]
        strokes.append(curve(np.stack(to_and_fro)))
    return draw(strokes, rng, float(rng.uniform(0.6, 1.5)))


def _mirrored(rng: Generator, held_out: bool) -> Pixels:
    """Return a mirrored digit. A mirrored 2 may be a 5, and a mirrored 5 a 2."""
    return draw(hand(int(rng.choice([3, 4, 6, 7, 9])), rng), rng)[:, ::-1]


def _turned(rng: Generator, held_out: bool) -> Pixels:
    """Return a digit that lies on its side, of those that are not another one then."""
    image = draw(hand(int(rng.choice([3, 4, 5])), rng), rng)
    return np.rot90(image, int(rng.choice([1, 3])))


# How often each kind is drawn, and how.
OTHER_KINDS = {
    "letter": (6, _letter),
    "printed letter": (7, _printed_letter),
    "printed symbol": (3, _printed_symbol),
    "Cyrillic letter": (3, _cyrillic),
    "word": (1, _word),
    "symbol": (3, _symbol),
    "face": (1, _face),
    "several digits": (5, _several),
    "digit and letter": (1, _digit_and_letter),
    "cluttered": (2, _cluttered),
    "crossed out": (2, _crossed_out),
    "mirrored": (1, _mirrored),
    "turned": (1, _turned),
    **FIGURES,
}
HELD_OUT_KINDS = ("Cyrillic letter", "word", "digit and letter", "turned", "wave", "spiral", "star")
