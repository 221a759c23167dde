"""Numbers of real MNIST digits, written side by side: each digit is found, and nothing else."""

import numpy as np
import pytest

from featherweight.data import load_split
from featherweight.inference.prepare import Sheet
from featherweight.inference.reader import Reader
from featherweight.inference.reading import number
from featherweight.inference.stress import glyph


@pytest.fixture(scope="module")
def val():
    val = load_split(None, 50_000, 10_000).val
    return val.pixels[:200, 0].numpy(), val.labels[:200].numpy()


@pytest.fixture(scope="module")
def reader():
    return Reader()


def one_of(val, label, skip=0):
    """Return the first image of a digit, or one after it."""
    images, labels = val
    return images[np.flatnonzero(labels == label)[skip]]


def line(images, gap=20, side=80, rise=0.0):
    """Return digits side by side as coverage (h, w), each `rise` pixels above the last."""
    digits = [glyph(image, side) for image in images]
    width = sum(digit.shape[1] + gap for digit in digits) + 80
    height = 3 * side + 2 * round(abs(rise) * len(digits))
    canvas, left = np.zeros((height, width), np.float32), 40
    for i, digit in enumerate(digits):
        top = (height - digit.shape[0]) // 2 - round(rise * i)
        place = canvas[top : top + digit.shape[0], left : left + digit.shape[1]]
        np.maximum(place, digit, out=place)
        left += digit.shape[1] + gap
    return canvas


def drawing(coverage):
    return np.asarray(255 * (1 - coverage), np.uint8)


def read(reader, coverage):
    return number(reader.read_number(drawing(coverage)))


def boxes(coverage):
    return [each.box for each in Sheet(drawing(coverage)).number()]


def test_full_stops_and_specks_are_no_digits(val):
    digits = line([one_of(val, k) for k in (1, 9, 0)])
    dotted = digits.copy()
    dotted[150:160, -30:-20] = 1
    dotted[20:26, 50:56] = 1
    assert boxes(dotted) == boxes(digits)
    assert len(boxes(digits)) == 3


@pytest.mark.parametrize("rise", [0.0, 8.0, -8.0])
def test_an_underline_is_no_digit_though_the_line_rises_or_falls(val, rise):
    digits = line([one_of(val, k) for k in (3, 4, 6, 8)], rise=rise)
    underlined = digits.copy()
    slope = -rise / 70
    for column in range(20, digits.shape[1] - 10):
        top = round(digits.shape[0] / 2 + 58 + slope * (column - 80))
        underlined[top : top + 5, column] = 1
    assert boxes(underlined) == boxes(digits)
    assert len(boxes(digits)) == 4


def test_digits_of_a_slanted_line_are_in_order(val, reader):
    labels = (7, 2, 1, 0, 4, 1)
    for rise in (12.0, -12.0):
        assert read(reader, line([one_of(val, k) for k in labels], rise=rise)) == "721041"


def test_a_loose_bar_belongs_to_its_five(reader):
    five = np.zeros((200, 300), np.float32)
    five[60:180, 50:62] = five[100:112, 50:110] = five[100:180, 100:112] = five[168:180, 50:112] = 1
    five[48:58, 70:118] = 1  # the bar, above and to the right
    five[50:180, 200:212] = 1  # a 1
    first, second = Sheet(drawing(five)).number(reader.sureness)
    assert first.box == pytest.approx((50 / 300, 48 / 200, 118 / 300, 180 / 200), abs=0.01)
    assert second.box == pytest.approx((200 / 300, 50 / 200, 212 / 300, 180 / 200), abs=0.01)


def test_digits_that_touch_are_cut_where_the_network_is_surest(val, reader):
    right = 0
    for skip in range(4):
        for labels in ((2, 6), (2, 2), (5, 8), (0, 3), (8, 8)):
            images = [one_of(val, k, skip + i) for i, k in enumerate(labels)]
            touching = line(images, gap=-4)
            assert len(boxes(touching)) <= 2
            right += read(reader, touching) == "".join(map(str, labels))
    assert right >= 14  # of 20; without cutting it is none that touches


def test_halves_of_a_four_are_one_digit(reader):
    four = np.zeros((160, 160), np.float32)
    four[30:90, 40:48] = four[82:90, 40:84] = 1
    four[30:130, 88:96] = 1  # two pixels beside it
    assert len(Sheet(drawing(four)).number()) == 2
    assert len(Sheet(drawing(four)).number(reader.sureness)) == 1
    assert reader.read(drawing(four)).label == "4"
    assert reader.read(drawing(four)).side_by_side == 1


def test_each_line_of_writing_is_read(val, reader):
    first = line([one_of(val, k) for k in (1, 2, 3)])
    second = line([one_of(val, k) for k in (0, 7)])
    width = max(first.shape[1], second.shape[1])
    page = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in (first, second)])
    assert [number(each) for each in reader.read_lines(drawing(page))] == ["123", "07"]
    assert number(reader.read_number(drawing(page))) == "12307"
    assert reader.read_lines(np.full((90, 90), 255, np.uint8)) == []
    lower = reader.read_lines(drawing(page))[1][0].box
    assert lower[1] > 0.5


def test_boxes_of_a_form_are_read_in_order(val, reader):
    digits = line([one_of(val, k) for k in (4, 0, 6, 2)], gap=60)
    form = digits.copy()
    top, bottom = 60, 180
    form[top : top + 3] = form[bottom : bottom + 3] = 1
    columns = np.flatnonzero(digits.any(0))
    ends = [*columns[1:][np.diff(columns) > 1], digits.shape[1] - 10]
    for right in ends:
        form[top:bottom, right - 30 : right - 27] = 1
    readings = reader.read_number(drawing(form))
    assert number(readings) == "4062"
    assert not any(reading.doubts for reading in readings)


def test_a_sign_or_a_point_that_is_left_out_makes_the_value_doubtful(val, reader):
    digits = line([one_of(val, k) for k in (5, 2, 7)], gap=60)
    first, *_ = boxes(digits)
    height, width = digits.shape
    between = round(first[2] * width) + 30  # nearer to the 5, a dash may be its bar
    middle, base = height // 2, round(first[3] * height)
    places = {
        "minus": (slice(middle, middle + 6), slice(5, 30)),
        "dash": (slice(middle, middle + 6), slice(between - 10, between + 10)),
        "point": (slice(base - 10, base), slice(between - 5, between + 5)),
        "comma": (slice(base - 8, base + 14), slice(between - 4, between + 4)),
        "full stop": (slice(base - 10, base), slice(width - 40, width - 30)),
        "underline": (slice(base + 20, base + 25), slice(20, width - 20)),
    }
    for name, place in places.items():
        marked = digits.copy()
        marked[place] = 1
        readings = reader.read_number(drawing(marked))
        assert number(readings) == "527", name
        changed = name in ("minus", "dash", "point", "comma")
        assert {reading.doubts for reading in readings} == {
            ("parts dropped",) if changed else ()
        }, name
