"""Synthetic images: the same of a seed, in MNIST's size and place, and fit to validate."""

import numpy as np

from featherweight.synthetic import HELD_OUT_KINDS, NO_DIGIT, OTHER_KINDS, make_synthetic
from featherweight.synthetic import _others as others
from featherweight.synthetic._glyphs import DIGITS, LETTERS
from featherweight.synthetic._printed import _choices, _fonts, _set
from featherweight.synthetic._strokes import curve, draw, parse


def test_a_seed_gives_the_same_images_and_the_first_of_more():
    few, more = make_synthetic(30, 3), make_synthetic(60, 3)
    assert np.array_equal(few.pixels, more.pixels[:30])
    assert np.array_equal(few.labels, more.labels[:30])
    assert few.kinds.tolist() == more.kinds[:30].tolist()
    assert not np.array_equal(few.pixels, make_synthetic(30, 4).pixels)


def test_digits_have_the_size_and_the_place_of_mnists():
    made = make_synthetic(200, 0)
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


def test_letters_that_may_be_a_digit_are_not_taught_as_none_and_others_are():
    taught = {*LETTERS, *others.PRINTED_TEXT, *others.PRINTED_SYMBOLS}
    assert not taught & set("0123456789OoIlZzSsbgqy|/()")
    # They differ from 8, 0, 6 and 4 by a straight side, a tail or a gap.
    assert set("ABCDEFGHJKLMNPQRTUVWXYacdefhijkmnprtuvwx&?") <= taught


def test_every_text_is_in_the_fonts_that_it_is_printed_in():
    texts = {*others.PRINTED_TEXT, *others.PRINTED_SYMBOLS, *others.CYRILLIC, *others.WORDS}
    for held_out in (False, True):
        for text in sorted(texts):
            if held_out or text not in others.CYRILLIC:
                for number in _choices(held_out, text.isascii()):
                    assert _set(text, number, held_out).getbbox() is not None


def test_each_kind_of_no_digit_is_drawn_in_the_place_of_a_digit():
    seen = set()
    for kind, (_, draw_kind) in OTHER_KINDS.items():
        rng = np.random.default_rng(0)
        images = [draw_kind(rng, kind in HELD_OUT_KINDS) for _ in range(3)]
        assert all(image.shape == (28, 28) and image.dtype == np.uint8 for image in images)
        assert all(image.max() > 200 for image in images)
        seen |= {image.tobytes() for image in images}
    assert len(seen) == 3 * len(OTHER_KINDS)


def test_every_style_of_every_digit_is_drawn():
    rng = np.random.default_rng(0)
    for styles in DIGITS.values():
        images = [
            draw([curve(p) if curved else p for p, curved in parse(glyph)], rng) for glyph in styles
        ]
        # No two of a digit are the same, and each has a digit's share of ink.
        assert len({image.tobytes() for image in images}) == len(styles)
        assert all(0.03 < (image > 127).mean() < 0.4 for image in images)
