"""Synthetic images: the same of a seed, in MNIST's size and place, and fit to validate."""

import numpy as np

from featherweight.synthetic import (
    HELD_OUT_KINDS,
    LOOKALIKES,
    NO_DIGIT,
    OTHER_KINDS,
    PRINTED_TEXT,
    make_synthetic,
)
from featherweight.synthetic._glyphs import DIGITS, LETTERS
from featherweight.synthetic._printed import _fonts
from featherweight.synthetic._strokes import curve, draw, parse


def test_a_seed_gives_the_same_images_and_the_first_of_more():
    few, more = make_synthetic(30, 3), make_synthetic(60, 3)
    assert np.array_equal(few.pixels, more.pixels[:30])
    assert np.array_equal(few.labels, more.labels[:30])
    assert few.kinds.tolist() == more.kinds[:30].tolist()
    assert not np.array_equal(few.pixels, make_synthetic(30, 4).pixels)


def test_digits_have_the_size_and_the_place_of_mnists():
    made = make_synthetic(150, 0)
    digits = made.pixels[made.labels != NO_DIGIT].astype(float)
    assert set(made.labels.tolist()) == {NO_DIGIT, *range(10)}
    assert (digits.max((1, 2)) >= 254).all()
    y, x = np.mgrid[:28, :28] + 0.5
    for image in digits:
        rows, columns = np.flatnonzero(image.max(1) > 40), np.flatnonzero(image.max(0) > 40)
        assert 17 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 22
        # An L-shaped 7 can't be in the centre without leaving the image.
        assert abs((image * x).sum() / image.sum() - 14) < 2.5
        assert abs((image * y).sum() / image.sum() - 14) < 2.5


def test_validation_has_fonts_and_kinds_of_its_own():
    assert set(HELD_OUT_KINDS) < set(OTHER_KINDS)
    paths = [{font.path for font in _fonts(held_out)} for held_out in (False, True)]
    assert all(paths)
    assert not paths[0] & paths[1]
    seen = set(make_synthetic(400, 0).kinds.tolist())
    assert not seen & set(HELD_OUT_KINDS)
    assert set(make_synthetic(400, 0, held_out=True).kinds.tolist()) & set(HELD_OUT_KINDS)


def test_no_letter_that_looks_like_a_digit_is_taught_as_none():
    assert not set(LOOKALIKES) & {*PRINTED_TEXT, *LETTERS}


def test_every_style_of_every_digit_is_drawn():
    rng = np.random.default_rng(0)
    for styles in DIGITS.values():
        images = [
            draw([curve(p) if curved else p for p, curved in parse(glyph)], rng) for glyph in styles
        ]
        # No two of a digit are the same, and each has a digit's share of ink.
        assert len({image.tobytes() for image in images}) == len(styles)
        assert all(0.03 < (image > 127).mean() < 0.4 for image in images)
