"""Pictures made from real MNIST images: whatever is done to the picture, the same digit comes out."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featherweight.data import load_split
from featherweight.image import MAX_PIXELS, open_picture, prepare, split_number

SAME = 6.0  # grey levels of 255, the mean difference of two images of one digit; of two digits it is over 30
CENTRE = np.arange(28)


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000).val.pixels[:, 0].numpy()


def drawing(image, side=200, canvas=(320, 320), at=(60, 60), ink=(0, 0, 0), paper=(255, 255, 255)):
    """An MNIST image as a large smooth drawing, (h, w, 3) uint8."""
    large = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), np.float32)
    cover = np.zeros(canvas, np.float32)
    cover[at[0]:at[0] + side, at[1]:at[1] + side] = np.clip((large - 96) / 64, 0, 1)
    return (np.array(paper) + (np.array(ink) - np.array(paper)) * cover[..., None] + 0.5).astype(np.uint8)


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
@given(index=st.integers(0, 999), y=st.integers(20, 150), x=st.integers(20, 150), side=st.integers(80, 240))
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
        assert difference(prepare(drawing(image, ink=ink, paper=(252, 250, 240))), prepare(drawing(image))) < SAME


def test_a_shadow_is_no_ink(mnist):
    light = np.linspace(1, 0.5, 320)[None, :, None]
    for image in mnist[:20]:
        assert difference(prepare((drawing(image) * light).astype(np.uint8)), prepare(drawing(image))) < SAME


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


@pytest.mark.parametrize("picture", [
    np.full((300, 300), 255, np.uint8), np.zeros((28, 28), np.uint8), np.full((50, 70, 3), 93, np.uint8),
    np.full((1, 1), 7, np.uint8), np.full((1, 900), 7, np.uint8), np.full((900, 1), 7, np.uint8),
    np.random.default_rng(0).normal(200, 5, (300, 300)).astype(np.uint8),
    np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8),
    np.broadcast_to(np.linspace(90, 250, 300).astype(np.uint8), (300, 300)),
    np.zeros((40, 40, 4), np.uint8)])
def test_where_there_is_no_ink_there_is_no_digit(picture):
    assert prepare(picture) is None
    assert split_number(picture) == []


@pytest.mark.parametrize("array", [
    np.zeros((28, 28), np.float32), np.zeros((28,), np.uint8), np.zeros((28, 28, 2), np.uint8),
    np.zeros((0, 5), np.uint8), np.zeros((2, 28, 28, 3), np.uint8)])
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match="expected uint8"):
        prepare(array)


def bomb(side=20_000):
    """A PNG of `side` x `side` whose file is small."""
    def chunk(kind, content):
        return (struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000)))


@pytest.mark.parametrize("content", [
    b"", b"not a picture", b"\x89PNG\r\n\x1a\n", bomb(), bomb(5_000), b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(ValueError, match="expected"):
        open_picture(content)
    assert MAX_PIXELS < 5_000**2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
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
        picture = np.concatenate([drawing(mnist[i], 100, (140, 120), (20, 10))
                                  for i in random.integers(0, 10_000, n)], 1)
        right += len(split_number(picture)) == n
    assert right >= 57
