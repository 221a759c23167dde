"""What is ink in a picture and what surrounds it: each kind of paper is drawn here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from featherweight.data import load_split
from featherweight.inference._components import Components, grow, label
from featherweight.inference._planes import dilation
from featherweight.inference._stress_drawn import trim
from featherweight.inference._stress_paper import blank_paper
from featherweight.inference.prepare import Sheet, prepare
from featherweight.inference.stress import glyph

SAME = 6.0  # mean difference in grey levels below which two images show the same digit


@pytest.fixture(scope="module")
def digits():
    return load_split(None, 50_000, 10_000).val.pixels[:40, 0].numpy()


def place(image, shape=(240, 300), side=100, at=(70, 110)):
    """Return the coverage (h, w) of a digit somewhere in a picture."""
    digit, canvas = glyph(image, side), np.zeros(shape, np.float32)
    canvas[at[0] : at[0] + digit.shape[0], at[1] : at[1] + digit.shape[1]] = digit
    return canvas


def written(coverage, paper=240.0, ink=0.2, noise=0.0, seed=0):
    """Return ink on paper as a picture (h, w, 3) uint8."""
    grey = paper * (1 - (1 - ink) * coverage)
    grey = grey + np.random.default_rng(seed).normal(0, noise, coverage.shape) if noise else grey
    return np.asarray(np.clip(grey, 0, 255), np.uint8)[..., None].repeat(3, 2)


def same(one, other):
    return one is not None and np.abs(one.astype(int) - other.astype(int)).mean() < SAME


def read_as_alone(picture, coverage):
    """Whether a picture is prepared as its digit alone is."""
    return same(prepare(picture), prepare(written(coverage)))


def test_a_box_is_removed_and_is_doubtful_only_where_the_digit_touches_it(digits):
    right = 0
    for image in digits:
        coverage = place(image)
        boxed = coverage.copy()
        boxed[20:24, 5:290] = boxed[210:214, 5:290] = boxed[:, 20:24] = boxed[:, 270:274] = 1
        digit = Sheet(written(boxed)).whole()
        right += same(digit.image, prepare(written(coverage)))
        assert digit.doubts == Sheet(written(coverage)).whole().doubts
    over = np.maximum(place(digits[0], at=(120, 110)), boxed - place(digits[-1]))
    assert "lines removed" in Sheet(written(over)).whole().doubts
    assert right == len(digits)


@pytest.mark.parametrize("radius", [0, 12])
def test_an_empty_box_is_no_ink_and_a_zero_drawn_as_one_is(radius):
    def box(width):
        picture = Image.new("L", (300, 240), 255)
        for left in (20, 160):
            ImageDraw.Draw(picture).rounded_rectangle(
                (left, 40, left + 100, 200), radius, outline=0, width=width
            )
        return np.asarray(picture)[..., None].repeat(3, 2)

    row, zeros = box(2), box(24)
    assert prepare(row) is None
    assert prepare(row[:, :140]) is None
    assert Sheet(zeros).count() == 2
    assert "perhaps an empty box" not in Sheet(zeros[:, :140]).whole().doubts
    assert "perhaps an empty box" in Sheet(box(9)[:, :140]).whole().doubts


@pytest.mark.parametrize("blur", [5, 6])
def test_a_photograph_out_of_focus_is_ink(digits, blur):
    for image in digits[:10]:
        coverage = gaussian_filter(place(image, (300, 300), 150, (75, 75)), blur)
        assert prepare(written(coverage, noise=4)) is not None


def test_what_is_left_out_makes_the_rest_doubtful(digits):
    """A pale stroke beside the digit, and a small line of writing under it."""
    for image in digits[:10]:
        coverage = place(image)
        assert "parts dropped" not in Sheet(written(coverage)).whole().doubts
        pale, small = coverage.copy(), coverage.copy()
        pale[80:160, 240:248] = 0.2
        for left in (120, 135, 150):
            small[200:215, left : left + 3] = 1
        for picture in (pale, small):
            assert "parts dropped" in Sheet(written(picture)).whole().doubts


def test_a_pale_digit_in_a_closed_box_is_found(digits):
    for image in digits[:10]:
        coverage = 0.5 * place(image)
        boxed = coverage.copy()
        boxed[20:24, 40:260] = boxed[216:220, 40:260] = boxed[20:220, 40:44] = 1
        boxed[20:220, 256:260] = 1
        assert read_as_alone(written(boxed), coverage)


def test_ruled_lines_are_removed_without_cutting_the_digit(digits):
    right = 0
    for image in digits:
        coverage = place(image)
        ruled = coverage.copy()
        for row in range(15, 240, 45):
            ruled[row : row + 2] = np.maximum(ruled[row : row + 2], 0.6)
        right += read_as_alone(written(ruled), coverage)
    assert right >= 0.95 * len(digits)


def test_straight_strokes_of_a_digit_are_no_lines():
    """A 1, a 7 and a square 0, as large as the picture allows."""
    one, seven, zero = (np.zeros((240, 200), np.float32) for _ in range(3))
    one[2:238, 97:103] = 1
    seven[4:10, 4:196] = 1
    rows = np.arange(10, 236)
    for row in rows:
        column = round(190 - 0.6 * (row - 10))
        seven[row, column : column + 6] = 1
    zero[4:10, 4:196] = zero[230:236, 4:196] = zero[4:236, 4:10] = zero[4:236, 190:196] = 1
    for name, picture in ((1, one), (7, seven), (0, zero)):
        digit = Sheet(written(picture)).whole()
        assert "lines removed" not in digit.doubts, name
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        box = (columns[0] / 200, rows[0] / 240, (columns[-1] + 1) / 200, (rows[-1] + 1) / 240)
        assert digit.box == pytest.approx(box, abs=0.01)


@pytest.mark.parametrize("sides", [(1,), (0, 1), (0, 2), (1, 2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("tilt", [0.0, 0.1])
def test_a_table_around_the_page_is_removed(digits, sides, tilt):
    for image in digits[:4]:
        coverage = place(image, at=(75, 110))
        picture = written(coverage, noise=2)
        y, x = np.mgrid[:240, :300]
        down, across = y + tilt * (x - 150), x - tilt * (y - 120)
        away = np.stack([down, 299 - across, 239 - down, across])
        beside = (away[list(sides)] < 30).any(0)
        picture[beside] = (30 + 10 * np.sin(y / 3 + x / 40))[beside, None]  # wood
        digit = Sheet(picture).whole()
        assert same(digit.image, prepare(written(coverage)))
        assert digit.doubts == ()


def test_a_table_that_the_digit_touches_makes_it_doubtful(digits):
    picture = written(place(digits[0], at=(24, 110)), noise=2)
    picture[:20] = 30
    assert "page edge removed" in Sheet(picture).whole().doubts


def test_a_table_beside_a_blank_page_is_no_ink():
    page = written(np.zeros((240, 300), np.float32), noise=2)
    page[:20] = 30
    assert prepare(page) is None


def test_blank_paper_is_no_ink():
    rng = np.random.default_rng(3)
    assert sum(prepare(blank_paper(rng)) is not None for _ in range(40)) <= 1


def test_a_soft_shade_is_no_ink_and_a_digit_beside_it_is(digits):
    y, x = np.mgrid[:240, :300]
    shade = 1 - 0.4 * np.exp(-(((y - 60) / 60) ** 2) - ((x - 60) / 50) ** 2)
    nothing = np.zeros((240, 300), np.float32)
    assert prepare(written(nothing, 230 * shade, noise=2)) is None
    for image in digits[:10]:
        coverage = place(image, at=(110, 170))
        assert read_as_alone(written(coverage, 230 * shade, noise=2), coverage)


def test_light_that_falls_off_at_all_borders_is_paper(digits):
    y, x = np.mgrid[:240, :300]
    light = 230 * (1 - 0.6 * (((y - 120) / 240) ** 2 + ((x - 150) / 300) ** 2) * 2)
    for image in digits[:10]:
        coverage = place(image)
        assert read_as_alone(written(coverage, light, noise=2), coverage)


def test_ink_on_rough_paper_is_found(digits):
    rng = np.random.default_rng(0)
    for image in digits[:10]:
        coverage = place(image)
        grain = np.kron(rng.normal(0, 9, (60, 75)), np.ones((4, 4)))  # grains of 4 pixels
        picture = written(coverage, 220 + grain, noise=6)
        assert read_as_alone(picture, coverage)


def test_a_tight_crop_is_no_noise(digits):
    """Ink covers about half of it, so that the median of all pixels is no measure of the paper."""
    for image in digits[:10]:
        coverage = glyph(image, 60)
        crop = written(coverage, noise=3)
        assert same(prepare(crop), prepare(written(np.pad(coverage, 30))))


def test_uneven_strokes_stay_whole():
    """The spots where the brush rested are four times as dark as the rest of the 4."""
    four = np.zeros((280, 280), np.float32)
    four[40:150, 80:90] = four[40:240, 160:170] = four[140:150, 80:200] = 0.2
    four[138:152, 158:172] = four[138:152, 78:92] = 0.8
    digit = Sheet(written(four, ink=0.0)).whole()
    assert digit.box == pytest.approx((78 / 280, 40 / 280, 200 / 280, 240 / 280), abs=0.01)


def test_a_part_at_the_border_stays_there():
    """It does not go on at the opposite border."""
    picture = np.full((60, 200, 3), 255, np.uint8)
    picture[20:50, 20:26] = picture[20:50, 100:106] = 0
    picture[0:10, 194:200] = 0
    assert len(Sheet(picture).number()) == 2
    mask = np.zeros((5, 5), bool)
    mask[2, 4] = True
    assert grow(mask)[:, 0].sum() == 0


def test_what_touches_the_border_is_doubtful_unless_the_picture_is_cut_to_it(digits):
    picture = np.zeros((100, 100), np.float32)
    picture[30:80, 94:] = 1
    assert "touches the border" in Sheet(written(picture)).whole().doubts
    for image in digits[:5]:
        coverage = trim((glyph(image, 120) > 0.5).astype(np.float32))
        if min(coverage.shape) >= 64:
            assert "touches the border" not in Sheet(written(coverage)).whole().doubts
        assert Sheet(written(np.pad(coverage, 20))).whole().doubts == ()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_picture_gives_an_image_or_none(data):
    """Noise, blocks, gradients and lines of any size and mode, and never a traceback."""
    height, width = (data.draw(st.integers(1, 90)) for _ in range(2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    y, x = np.mgrid[:height, :width]
    grey = np.full((height, width), float(data.draw(st.integers(0, 255))))
    if data.draw(st.booleans()):
        grey += rng.normal(0, data.draw(st.sampled_from([0.4, 3, 30, 300])), grey.shape)
    if data.draw(st.booleans()):
        grey += data.draw(st.integers(-9, 9)) * y + data.draw(st.integers(-9, 9)) * x
    for _ in range(data.draw(st.integers(0, 4))):
        top, left = (data.draw(st.integers(0, n - 1)) for n in (height, width))
        bottom, right = (data.draw(st.integers(1, 90)) for _ in range(2))
        grey[top : top + bottom, left : left + right] = data.draw(st.integers(0, 255))
    picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    mode = data.draw(st.sampled_from(["L", "1", "P", "RGB", "CMYK", "I", "F", "LA"]))
    sheet = Sheet(picture.convert(mode))
    digit = sheet.whole()
    assert digit is None or (digit.image.shape == (28, 28) and digit.image.max() == 255)
    assert (sheet.count() == 0) == (digit is None)
    judged = sheet.number(lambda digits: [float(each.image.mean()) for each in digits])
    assert bool(judged) == (digit is not None)
    for each in judged:
        left, top, right, bottom = each.box
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1


def test_components_know_where_they_lie():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:5] = mask[4:, 7] = True
    parts = Components.of(label(mask))
    assert parts.area[1:].tolist() == [6, 2]
    assert list(zip(parts.left, parts.top, parts.right, parts.bottom, strict=True))[1:] == [
        (2, 1, 5, 3),
        (7, 4, 8, 6),
    ]
    assert parts.at_sides[:, 1:].T.tolist() == [[0, 0, 0, 0], [0, 1, 0, 2]]
    assert np.array_equal(parts.select(np.array([False, True, False])), parts.numbers == 1)


@pytest.mark.parametrize("by", [1, 2, 3, 7, 20])
def test_components_grow_by_any_number_of_pixels(by):
    mask = np.zeros((60, 70), bool)
    mask[30, 40] = mask[20:25, 10] = True
    expected = dilation(np.pad(mask, 40).astype(np.float32)[None], 2 * by + 1)[0] > 0
    assert np.array_equal(grow(mask, by), expected[40:-40, 40:-40])


@pytest.mark.parametrize("span", [1, 3, 9, 23])
def test_a_dilation_is_the_largest_of_a_square(span):
    planes = np.random.default_rng(0).normal(size=(2, 12, 30)).astype(np.float32)
    found, half = dilation(planes, span), span // 2
    padded = np.pad(planes, ((0, 0), (half, half), (half, half)), "symmetric")
    for y, x in ((0, 0), (5, 17), (11, 29)):
        assert found[1, y, x] == padded[1, y : y + span, x : x + span].max()
