"""Pictures made from real MNIST images: the same digit comes out of every kind of picture."""

import hashlib
import io
import itertools

import numpy as np
import pytest
from helpers import bomb, split_number
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featherweight._pictures import FORMATS
from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.inference.prepare import (
    MAX_PIXELS,
    Sheet,
    open_picture,
    prepare,
)
from featherweight.inference.stress import FROM_MNIST, FROM_NOTHING, make_stress

# Mean difference in grey levels below which two images show the same digit. Between two digits it
# is over 30.
SAME = 6.0
CENTRE = np.arange(28)


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000).val.pixels[:, 0].numpy()


def old_categories(images, labels, seed, n):
    """Return pictures of the categories in which a program draws one digit each."""
    names = {make.__name__ for make in (*FROM_MNIST, *FROM_NOTHING)}
    pictures = itertools.takewhile(
        lambda each: each[0] in names, make_stress(images, labels, seed, n)
    )
    return list(pictures)


def prepare_and_count(picture):
    """What `prepare` returns, and the number of digits side by side."""
    sheet = Sheet(picture)
    digit = sheet.whole()
    return (None if digit is None else digit.image), sheet.count()


def drawing(image, side=200, canvas=(320, 320), at=(60, 60), ink=(0, 0, 0), paper=(255, 255, 255)):
    """Return an MNIST image as a large smooth drawing, (h, w, 3) uint8."""
    large = np.asarray(
        Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), np.float32
    )
    cover = np.zeros(canvas, np.float32)
    cover[at[0] : at[0] + side, at[1] : at[1] + side] = np.clip((large - 96) / 64, 0, 1)
    return (np.array(paper) + (np.array(ink) - np.array(paper)) * cover[..., None] + 0.5).astype(
        np.uint8
    )


def difference(one, other):
    assert one is not None
    assert other is not None
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_mnist_itself_passes_unchanged(mnist):
    for image in mnist:
        assert np.array_equal(prepare(image), image)
    assert np.array_equal(prepare(255 - mnist[0]), mnist[0])


@settings(max_examples=25, deadline=None)
@given(
    index=st.integers(0, 999),
    y=st.integers(20, 150),
    x=st.integers(20, 150),
    side=st.integers(80, 240),
)
def test_place_and_size_do_not_matter(mnist, index, y, x, side):
    plain = prepare(drawing(mnist[index]))
    assert difference(prepare(drawing(mnist[index], side, (420, 420), (y, x))), plain) < SAME


@settings(max_examples=25, deadline=None)
@given(index=st.integers(0, 999), top=st.integers(0, 200), left=st.integers(0, 200))
def test_polarity_and_padding_do_not_matter(mnist, index, top, left):
    picture = drawing(mnist[index])
    plain = prepare(picture)
    assert difference(prepare(255 - picture), plain) < 1
    padded = np.pad(picture, ((top, 3), (left, 5), (0, 0)), constant_values=255)
    assert difference(prepare(padded), plain) < SAME


def test_what_comes_out_is_as_mnist_means_it(mnist):
    for image in mnist[:100]:
        out = prepare(drawing(image))
        assert out.shape == (28, 28)
        assert out.dtype == np.uint8
        assert out.max() == 255
        rows, columns = np.flatnonzero((out > 127).any(1)), np.flatnonzero((out > 127).any(0))
        assert 17 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21
        assert abs(out.sum(1) @ CENTRE / out.sum() - 14) < 1
        assert abs(out.sum(0) @ CENTRE / out.sum() - 14) < 1


@pytest.mark.parametrize("ink", [(200, 30, 30), (30, 60, 200), (20, 130, 60), (230, 200, 20)])
def test_a_coloured_pen_is_ink(mnist, ink):
    for image in mnist[:10]:
        assert (
            difference(
                prepare(drawing(image, ink=ink, paper=(252, 250, 240))), prepare(drawing(image))
            )
            < SAME
        )


def test_a_shadow_is_no_ink(mnist):
    light = np.linspace(1, 0.5, 320)[None, :, None]
    for image in mnist[:20]:
        assert (
            difference(prepare((drawing(image) * light).astype(np.uint8)), prepare(drawing(image)))
            < SAME
        )


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read_alike_and_known(mnist, kind, tmp_path):
    Image.init()  # Pillow knows its formats from then on
    picture = Image.fromarray(drawing(mnist[3]))
    media_type, suffixes = FORMATS[kind]
    assert Image.MIME[kind] == media_type
    assert {Image.registered_extensions()[suffix] for suffix in suffixes} == {kind}
    content = encoded(picture, kind)
    assert difference(prepare(open_picture(content)), prepare(picture)) < SAME


def test_only_the_first_of_several_frames_is_read(mnist):
    first, second = (Image.fromarray(drawing(mnist[i])) for i in (0, 3))
    for kind in ("GIF", "TIFF", "WEBP"):
        content = encoded(first, kind, save_all=True, append_images=[second])
        assert difference(prepare(open_picture(content)), prepare(first)) < SAME


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "group4", "jpeg"])
def test_a_scanners_files_are_read(mnist, compression):
    picture = Image.fromarray(drawing(mnist[3])).convert("1" if compression == "group4" else "RGB")
    content = encoded(picture, "TIFF", compression=compression)
    assert difference(prepare(open_picture(content)), prepare(picture)) < SAME


@pytest.mark.parametrize("bits", [10, 12, 16, 31])
def test_grey_integers_are_read_whatever_white_is(mnist, bits):
    grey = drawing(mnist[3])[..., 0] / 255 * (2**bits - 1)
    picture = open_picture(
        encoded(Image.fromarray(grey.astype(np.uint16 if bits <= 16 else np.int32)), "TIFF")
    )
    assert difference(prepare(picture), prepare(drawing(mnist[3]))) < SAME


@pytest.mark.parametrize("white", [1.0, 255.0, 1023.0, 65535.0, 1e7])
def test_grey_floats_are_read_whatever_white_is(mnist, white):
    grey = drawing(mnist[3])[..., 0].astype(np.float32) * np.float32(white / 255)
    grey[0, 0] = np.nan
    picture = open_picture(encoded(Image.fromarray(grey), "TIFF"))
    assert difference(prepare(picture), prepare(drawing(mnist[3]))) < SAME


@pytest.mark.parametrize("mode", ["L", "1", "P", "I;16", "LA", "CMYK", "RGBA"])
def test_every_mode_is_read_alike(mnist, mode):
    picture = Image.fromarray(drawing(mnist[3]))
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257)
    else:
        converted = picture.convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert difference(prepare(open_picture(encoded(converted, kind))), prepare(picture)) < SAME


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255)])
def test_a_clear_ground_is_paper(mnist, ink):
    cover = 255 - drawing(mnist[3])[..., :1]
    rgba = np.concatenate([np.broadcast_to(np.uint8(ink), (*cover.shape[:2], 3)), cover], 2)
    assert difference(prepare(rgba), prepare(drawing(mnist[3]))) < SAME


def test_a_turned_photo_is_put_upright(mnist):
    picture = Image.fromarray(drawing(mnist[3]))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter to the right
    turned = encoded(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    assert difference(prepare(open_picture(turned)), prepare(picture)) < SAME


@pytest.mark.parametrize(
    "picture",
    [
        np.full((300, 300), 255, np.uint8),
        np.zeros((28, 28), np.uint8),
        np.full((50, 70, 3), 93, np.uint8),
        np.full((1, 1), 7, np.uint8),
        np.full((1, 900), 7, np.uint8),
        np.full((900, 1), 7, np.uint8),
        np.random.default_rng(0).normal(200, 5, (300, 300)).astype(np.uint8),
        np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8),
        np.broadcast_to(np.linspace(90, 250, 300).astype(np.uint8), (300, 300)),
        np.zeros((40, 40, 4), np.uint8),
    ],
)
def test_where_there_is_no_ink_there_is_no_digit(picture):
    assert prepare(picture) is None
    assert split_number(picture) == []


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((28, 28), np.float32),
        np.zeros((28,), np.uint8),
        np.zeros((28, 28, 2), np.uint8),
        np.zeros((0, 5), np.uint8),
        np.zeros((2, 28, 28, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match="expected uint8"):
        prepare(array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a picture",
        b"\x89PNG\r\n\x1a\n",
        bomb(),
        bomb(5_000),
        b"GIF89a",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"II*\0\x08\0\0\0",
        b"MM\0*\xff\xff\xff\xff",
    ],
)
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(ValueError, match="expected") as caught:
        open_picture(content)
    assert "0x" not in str(caught.value)  # an object of ours means nothing to others
    assert MAX_PIXELS < 5_000**2


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_refused_unless_all_pixels_are_there(mnist, kind, tmp_path):
    content = encoded(Image.fromarray(drawing(mnist[3])), kind)
    (tmp_path / "whole").write_bytes(content)
    whole, refused = np.asarray(open_picture(tmp_path / "whole")), 0
    lengths = range(0, len(content), max(1, len(content) // 40))
    for n in lengths:
        try:
            assert np.array_equal(np.asarray(open_picture(content[:n])), whole)
        except ValueError:
            refused += 1
    assert refused >= len(lengths) - 3  # a PNG may lack its last marks


def test_a_number_is_read_from_left_to_right(mnist):
    picture = np.concatenate([drawing(mnist[i], 100, (140, 120), (20, 10)) for i in range(4)], 1)
    digits = split_number(picture)
    assert len(digits) == 4
    for digit, image in zip(digits, mnist, strict=False):
        assert difference(digit, prepare(drawing(image, 100, (140, 120), (20, 10)))) < SAME


def test_well_separated_digits_are_counted_right(mnist):
    random = np.random.default_rng(5)
    right = 0
    for _ in range(60):
        n = int(random.integers(1, 7))
        picture = np.concatenate(
            [drawing(mnist[i], 100, (140, 120), (20, 10)) for i in random.integers(0, 10_000, n)], 1
        )
        right += len(split_number(picture)) == n
    assert right >= 57


def test_digits_side_by_side_are_counted_and_loose_strokes_are_none(mnist):
    wide = np.concatenate([drawing(mnist[i], 100, (140, 120), (20, 10)) for i in range(4)], 1)
    image, count = prepare_and_count(wide)
    assert count == 4
    assert np.array_equal(image, prepare(wide))
    assert prepare_and_count(mnist[0])[1] == 1
    assert prepare_and_count(np.full((50, 50), 255, np.uint8)) == (None, 0)
    five = np.full((200, 200), 255, np.uint8)
    five[60:180, 50:66] = five[100:116, 50:110] = five[100:180, 100:116] = five[164:180, 50:116] = 0
    five[40:52, 120:170] = 0  # its bar, to the right of it
    assert prepare_and_count(five)[1] == 1
    dots = np.full((300, 300), 255, np.uint8)
    dots[::40, ::40] = 0
    assert prepare_and_count(dots)[1] <= 1


@pytest.mark.slow
def test_pictures_of_one_digit_are_hardly_ever_taken_for_numbers(mnist):
    labels = load_split(None, 50_000, 10_000).val.labels.numpy()
    counts = [
        prepare_and_count(picture)[1] for _, picture, _ in old_categories(mnist, labels, 3, 20)
    ]
    assert sum(count > 1 for count in counts) <= 2
    assert sum(count == 1 for count in counts) >= len(counts) - 4


@pytest.mark.parametrize("seed", range(20))
def test_specks_are_no_crash(seed):
    random = np.random.default_rng(seed)
    sheet = np.full((200, 300), 240, np.uint8)
    for y, x, side in zip(
        random.integers(1, 195, 30),
        random.integers(1, 295, 30),
        random.integers(1, 4, 30),
        strict=True,
    ):
        sheet[y : y + side, x : x + side] = 60
    image = prepare(sheet)
    assert image is None or (image.shape == (28, 28) and image.max() == 255)


BLOCK = (30, 50, 90, 150)  # left, top, right, bottom of a rectangle of ink


def block(width=200, height=240, side=1):
    """Return a sheet (height, width) with BLOCK on it, enlarged `side` times."""
    sheet = np.full((height, width), 255, np.uint8)
    left, top, right, bottom = BLOCK
    sheet[top:bottom, left:right] = 0
    return sheet.repeat(side, 0).repeat(side, 1)


def fractions(width=200, height=240):
    left, top, right, bottom = BLOCK
    return left / width, top / height, right / width, bottom / height


def seen_at(image, frame, shape):
    """Return where the ink of an MNIST image lies in a picture (h, w) by its frame, in pixels."""
    rows, columns = np.flatnonzero((image > 127).any(1)), np.flatnonzero((image > 127).any(0))
    (left, top, right, bottom), (height, width) = frame, shape
    x, y = (right - left) * width / 28, (bottom - top) * height / 28
    return (
        left * width + columns[0] * x,
        top * height + rows[0] * y,
        left * width + (columns[-1] + 1) * x,
        top * height + (rows[-1] + 1) * y,
    )


def test_the_box_is_that_of_the_ink_and_the_frame_that_of_the_image():
    digit = Sheet(block()).whole()
    assert digit.box == pytest.approx(fractions(), abs=1e-9)
    # 100 pixels are 20 of the 28; the centre of mass is at (14, 14), whose middle is at 14.5.
    left, top, right, bottom = digit.frame
    assert (right - left) * 200 == pytest.approx(140, abs=0.5)
    assert (bottom - top) * 240 == pytest.approx(140, abs=0.5)
    assert left * 200 + 14.5 * 5 == pytest.approx(60, abs=0.7)
    assert top * 240 + 14.5 * 5 == pytest.approx(100, abs=0.7)


def test_a_frame_may_stick_out_of_the_picture():
    sheet = block()[50:150, 30:90]
    digit = Sheet(np.pad(sheet, 2, constant_values=255)).whole()
    left, top, right, bottom = digit.frame
    assert min(left, top) < 0
    assert max(right, bottom) > 1


def test_a_thin_stroke_that_is_thickened_has_its_own_box():
    sheet = np.full((300, 300), 255, np.uint8)
    sheet[60:240, 140:144] = 0
    digit = Sheet(sheet).whole()
    assert digit.box == pytest.approx((140 / 300, 0.2, 144 / 300, 0.8), abs=1e-9)
    left, top, right, bottom = seen_at(digit.image, digit.frame, sheet.shape)
    assert (left + right) / 2 == pytest.approx(142, abs=9)  # a pixel of the image is 9 of these
    assert (top, bottom) == pytest.approx((60, 240), abs=9)
    assert digit.frame[2] - digit.frame[0] == pytest.approx(28 / 20 * 0.6, rel=0.05)


@pytest.mark.parametrize("side", [3, 7])
def test_boxes_of_large_pictures_that_are_reduced(side):
    """1,400 x 1,680 pixels are reduced 4 times, and the last of them alone."""
    digit, small = Sheet(block(side=side)).whole(), Sheet(block()).whole()
    assert digit.box == pytest.approx(fractions(), abs=4 / (200 * side))
    assert digit.frame == pytest.approx(small.frame, abs=0.02)


def test_the_last_pixels_of_a_reduced_picture_may_be_fewer():
    sheet = np.full((1025, 1025), 255, np.uint8)  # reduced 3 times, to 342: two thirds are missing
    sheet[500:1025, 800:1025] = 0
    left, top, right, bottom = Sheet(sheet).whole().box
    assert (right, bottom) == (1, 1)
    assert (left, top) == pytest.approx((800 / 1025, 500 / 1025), abs=3 / 1025)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_those_of_the_picture_put_upright(orientation):
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    picture, exif = Image.fromarray(block()), Image.Exif()
    exif[0x0112] = orientation
    if orientation > 1:
        picture = picture.transpose(turns[orientation])
    digit = Sheet(encoded(picture, "PNG", exif=exif)).whole()
    assert digit.box == pytest.approx(fractions(), abs=1e-9)


def test_an_image_in_mnists_form_is_its_own_frame(mnist):
    for image in mnist[:50]:
        digit = Sheet(image).whole()
        assert digit.frame == (0, 0, 1, 1)
        rows, columns = np.flatnonzero((image > 127).any(1)), np.flatnonzero((image > 127).any(0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert digit.box == pytest.approx(np.array(box) / 28, abs=1e-6)


def test_each_digit_of_a_number_has_a_box_and_a_frame(mnist):
    pictures = [drawing(mnist[i], 100, (140, 120), (20, 10)) for i in range(4)]
    whole = np.concatenate(pictures, 1)
    sheet = Sheet(whole)
    digits = sheet.number()
    assert sheet.count() == len(digits) == 4
    for i, (digit, picture) in enumerate(zip(digits, pictures, strict=True)):
        ink = (picture < 128).any(2)
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0)) + 120 * i
        box = columns[0] / 480, rows[0] / 140, (columns[-1] + 1) / 480, (rows[-1] + 1) / 140
        assert digit.box == pytest.approx(box, abs=1e-6)
        # What the network saw, put back by its frame, lies on the ink.
        found = seen_at(digit.image, digit.frame, (140, 480))
        expected = np.array(box) * (480, 140, 480, 140)
        assert found == pytest.approx(expected, abs=5)  # a pixel of the image is 4 to 5 of these
    image, count = prepare_and_count(whole)
    assert np.array_equal(image, sheet.whole().image)
    assert count == 4
    assert all(map(np.array_equal, split_number(whole), (digit.image for digit in digits)))


def test_a_loose_stroke_makes_no_number():
    five = np.full((200, 200), 255, np.uint8)
    five[60:180, 50:66] = five[100:116, 50:110] = five[100:180, 100:116] = five[164:180, 50:116] = 0
    five[40:52, 120:170] = 0  # its bar, to the right of it
    sheet = Sheet(five)
    assert sheet.count() == 1
    (digit,) = sheet.number()
    assert digit.box == pytest.approx((0.25, 0.2, 0.85, 0.9), abs=1e-9)
    assert Sheet(np.full((50, 50), 255, np.uint8)).number() == []


def test_ink_is_at_least_one_digit():
    """Neither is as tall as the tallest and as heavy as the heaviest: a stroke, and a blot."""
    sheet = np.full((300, 300), 255, np.uint8)
    sheet[50:250, 60:63] = 0
    sheet[100:210, 120:220] = 0
    assert Sheet(sheet).count() == 1


# Of `prepare_and_count` and `split_number` for pictures of the categories that a program draws.
HASHES = (
    "a5391a53b9f1ad0bd0b130d5e68a3ff01dce2c4b92e18bf8796fc5ff0a00747bacbe4e7e8950989bd5ef2770"
    "81aebbc5f4c1809dba2aba249f2e4e7ef9135315df1136c6e14648cd59b58116bfa7f0cf08116c446ee0c21f"
    "d779230226476dad"
)


def test_images_stay_the_same_to_the_bit(mnist):
    labels = load_split(None, 50_000, 10_000).val.labels.numpy()
    pictures = [picture for _, picture, _ in old_categories(mnist, labels, 11, 4)]
    found = ""
    for picture in pictures:
        image, count = prepare_and_count(picture)
        parts = [image, *split_number(picture)]
        content = b"".join(b"-" if each is None else each.tobytes() for each in parts)
        found += hashlib.sha256(content + bytes([count])).hexdigest()[:4]
    assert found == HASHES


def test_a_large_photograph_is_decoded_at_a_fraction_of_its_size(tmp_path):
    sheet = np.full((4300, 5700), 235, np.uint8)  # 24 million pixels, as phones take them
    sheet[800:3500, 2600:3000] = 30
    Image.fromarray(sheet).save(tmp_path / "phone.jpg")
    assert open_picture(tmp_path / "phone.jpg").size == (2850, 2150)
    assert (
        np.corrcoef(prepare(tmp_path / "phone.jpg").ravel(), prepare(sheet[::2, ::2]).ravel())[0, 1]
        > 0.99
    )
    Image.fromarray(sheet).save(tmp_path / "phone.png")
    with pytest.raises(InputError, match="got 5,700 x 4,300 pixels, expected at most 16,000,000"):
        open_picture(tmp_path / "phone.png")


def test_a_file_that_does_not_end_is_refused():
    with pytest.raises(InputError, match="/dev/zero: got over 67,108,864 bytes"):
        open_picture("/dev/zero")
    with pytest.raises(InputError, match="picture: got over 67,108,864 bytes"):
        open_picture(bytes(67_108_865))
