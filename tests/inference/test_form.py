"""Pictures for networks whose images are unlike MNIST's: other sizes, polarities, colour."""

import io
import json

import numpy as np
import onnx
import pytest
from helpers import write_network
from PIL import Image

from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.image_kind import ImageKind
from featherweight.inference._picture import evidence_picture
from featherweight.inference.prepare import Sheet, prepare
from featherweight.inference.reader import Reader
from featherweight.inference.reading import Evidence
from featherweight.layout import Layout, centre, measure_layout

DIGITS = tuple(map(str, range(10)))
NAMES = ("airplane", "a cat", "dog")
COLOUR = ImageKind(3, 32, 32, "natural", "upright", NAMES)


def ink(side=28, polarity="light on dark", orientation="upright", classes=DIGITS):
    return ImageKind(1, side, side, polarity, orientation, classes)


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000).val.pixels[:300, 0].numpy()


@pytest.fixture
def read(tmp_path):
    """Make a reader of images of a kind."""

    def read(kind, layout=None, weight=None):
        return Reader(write_network(tmp_path / "m.onnx", kind, layout, weight))

    return read


def drawing(image):
    """Return an MNIST image as a drawing of 320x260 pixels, black on white, off the middle."""
    large = np.asarray(Image.fromarray(image).resize((200, 200), Image.Resampling.BICUBIC))
    sheet = np.full((320, 260, 3), 255, np.uint8)
    sheet[90:290, 20:220] = 255 - np.clip((large.astype(float) - 96) * 4, 0, 255)[..., None]
    return sheet


SETS = {
    "28x28": (ink(), lambda x: x),
    "padded to 32x32": (ink(32), lambda x: np.pad(x, ((0, 0), (2, 2), (2, 2)))),
    "56x56": (ink(56), lambda x: x.repeat(2, 1).repeat(2, 2)),
    "64x64": (ink(64), lambda x: np.pad(x.repeat(2, 1).repeat(2, 2), ((0, 0), (4, 4), (4, 4)))),
    "16x16": (
        ink(16),
        lambda x: np.stack([np.asarray(Image.fromarray(each).resize((16, 16))) for each in x]),
    ),
    "dark on light": (ink(polarity="dark on light"), lambda x: 255 - x),
    "32x32, dark on light": (
        ink(32, "dark on light"),
        lambda x: 255 - np.pad(x, ((0, 0), (2, 2), (2, 2))),
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_images_of_the_set_itself_pass_unchanged(mnist, read, name):
    kind, make = SETS[name]
    images = make(mnist)
    light = 255 - images if kind.polarity == "dark on light" else images
    reader = read(kind, measure_layout(light))
    expected = reader.probabilities(images)
    for image, row in zip(images[:100], expected, strict=False):
        for picture in (image, 255 - image, np.repeat(image[..., None], 3, 2)):
            reading = reader.read(picture)
            assert np.array_equal(reading.seen, image)
            np.testing.assert_allclose(reading.probabilities, row, atol=1e-6)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_a_drawing_becomes_an_image_as_the_set_has_it(mnist, read, name, measured):
    kind, make = SETS[name]
    images = make(mnist)
    light = 255 - images if kind.polarity == "dark on light" else images
    layout = measure_layout(light)
    form = read(kind, layout if measured else None).form
    for image in mnist[:20]:
        found = prepare(drawing(image), form)
        assert found.shape == images.shape[1:]
        assert found.dtype == np.uint8
        if kind.polarity == "dark on light":
            found = 255 - found
        assert (found.max(), np.median(found)) == (255, 0)
        lines = [np.flatnonzero((found > 127).any(axis)) for axis in (0, 1)]
        longer = max(map(np.ptp, lines)) + 1
        assert longer == pytest.approx(layout.longer if measured else form.layout.longer, abs=1.6)
        middle = [found.sum(axis) @ (np.arange(len(found)) + 0.5) / found.sum() for axis in (0, 1)]
        assert middle == pytest.approx([centre(len(found))] * 2, abs=0.04 * len(found))


def test_the_same_drawing_is_the_same_digit_at_every_size(mnist, read):
    """Enlarged images of MNIST and a drawing prepared for them agree pixel by pixel."""
    _, make = SETS["56x56"]
    form = read(ink(56), measure_layout(make(mnist))).form
    plain = prepare(drawing(mnist[0])).astype(int)
    large = prepare(drawing(mnist[0]), form).astype(int)
    halved = large.reshape(28, 2, 28, 2).mean((1, 3))
    assert abs(halved - plain).mean() < 6


def test_a_transposed_set_gets_pictures_transposed(mnist, read):
    form = read(ink(orientation="transposed")).form
    for image in mnist[:10]:
        assert np.array_equal(prepare(drawing(image), form), prepare(drawing(image)).T)
    sheet = Sheet(drawing(mnist[0]), form)
    assert sheet.whole().box == Sheet(drawing(mnist[0])).whole().box


def test_an_image_of_a_transposed_sets_size_is_read_as_the_network_knows_it(mnist, read):
    """It may come from the set, or be upright as every other picture: the surer reading counts."""
    weight = np.zeros((784, 10), np.float32)
    weight[:, 7] = mnist[0].T.flatten() / 1e6
    weight[:, 3] = -weight[:, 7]
    reader = read(ink(orientation="transposed"), weight=weight)
    for picture in (mnist[0], mnist[0].T):
        reading = reader.read(np.ascontiguousarray(picture))
        assert reading.label == "7"
        assert np.array_equal(reading.seen, mnist[0].T)


def test_a_set_that_is_not_square(read):
    upright = read(ImageKind(1, 32, 20, "light on dark", "upright", DIGITS)).form
    turned = read(ImageKind(1, 20, 32, "light on dark", "transposed", DIGITS)).form
    wide = np.full((100, 300), 255, np.uint8)
    wide[40:60, 20:280] = 0
    for picture in (wide, np.ascontiguousarray(wide.T)):
        found = prepare(picture, upright)
        assert found.shape == (32, 20)
        assert np.array_equal(prepare(picture, turned), found.T)
        assert not np.concatenate([found[0], found[-1]]).any()  # nothing is cut off
    bar = np.zeros((32, 20), np.uint8)
    bar[6:26, 8:12] = 255
    assert np.array_equal(prepare(bar, turned), bar.T)
    assert np.array_equal(prepare(np.ascontiguousarray(bar.T), turned), bar.T)


def test_a_blank_picture_of_the_sets_size_has_no_ink(read):
    for kind in (ink(32), ink(32, "dark on light")):
        reader = read(kind)
        for grey in (0, 128, 255):
            assert reader.read(np.full((32, 32), grey, np.uint8)).label is None


# --- colour


def photograph(width=300, height=200):
    """Return a picture that is red in its left third, green in the middle, and blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    for k in range(3):
        picture[:, k * width // 3 : (k + 1) * width // 3, k] = 200
    return picture


def test_a_photograph_is_cropped_and_resized(read):
    reader = read(COLOUR)
    reading = reader.read(photograph())
    assert reading.seen.shape == (3, 32, 32)
    assert reading.label in NAMES
    assert (reading.side_by_side, reading.box) == (1, None)
    assert reading.frame == pytest.approx((1 / 6, 0, 5 / 6, 1))
    red, green, blue = reading.seen
    assert (green[:, 12:20] > 190).all()
    assert (red[:, :6] > 190).all()
    assert (blue[:, -6:] > 190).all()
    assert reading.probabilities == pytest.approx(reader.probabilities(reading.seen[None])[0])


def test_an_image_of_a_colour_set_passes_unchanged(read):
    reader, random = read(COLOUR), np.random.default_rng(0)
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).convert("RGBA").save(file, "PNG")
    for picture in (image, file.getvalue()):
        assert np.array_equal(reader.read(picture).seen, image.transpose(2, 0, 1))


def test_transparent_pixels_become_white_and_a_large_picture_is_reduced(read):
    form = read(COLOUR).form
    clear = np.zeros((40, 40, 4), np.uint8)
    assert (prepare(clear, form) == 255).all()
    large = np.full((3000, 2000, 3), (10, 200, 90), np.uint8)
    assert (prepare(large, form) == np.reshape([10, 200, 90], (3, 1, 1))).all()


def test_exif_turns_a_photograph(read):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be shown turned right
    Image.fromarray(photograph(60, 60)).save(file, "PNG", exif=exif)
    seen = prepare(file.getvalue(), read(COLOUR).form)
    assert (seen[0, :8] > 190).all()  # red, which was on the left, is above


def test_grey_photographs_are_resized_too(read):
    reader = read(ImageKind(1, 24, 24, "natural", "upright", NAMES))
    seen = reader.read(photograph(90, 90)).seen
    assert seen.shape == (24, 24)
    assert np.array_equal(seen, prepare(photograph(90, 90), reader.form))
    assert reader.read(np.zeros((24, 24), np.uint8)).label is not None  # black is no blank paper


def test_a_photograph_is_no_number(read):
    with pytest.raises(InputError, match="reads whole pictures"):
        read(COLOUR).read_number(photograph())


def test_a_notebook_shows_colour_and_names(read):
    shown = read(COLOUR).read(photograph())._repr_html_()
    assert all(name in shown for name in NAMES)
    assert 'width="128" height="128"' in shown  # four screen pixels for each of 32


@pytest.mark.parametrize("shape", [(56, 56), (64, 64), (16, 16), (3, 32, 32), (3, 64, 48)])
@pytest.mark.parametrize("grey", [0, 255])
def test_evidence_shows_on_every_ground_and_at_every_size(shape, grey):
    height, width = shape[-2:]
    left = Evidence("a", "b", 1.0, np.array([[1.0, -1.0]]), (0, 0, width, height), (width / 2,) * 2)
    seen = np.full(shape, grey, np.uint8)
    found = np.asarray(evidence_picture(seen, left), int)
    scale = len(found) // height
    assert found.shape == (scale * height, scale * width, 3)
    assert 100 <= max(found.shape) <= 130
    red_less_blue = (found[..., 0] - found[..., 2])[len(found) // 2]
    assert red_less_blue[len(red_less_blue) // 4] > 60  # orange: for the first class
    assert red_less_blue[3 * len(red_less_blue) // 4] < -30  # blue: for the second


# --- what a file says


def with_entry(path, key, value):
    graph = onnx.load(path)
    (entry,) = (each for each in graph.metadata_props if each.key == key)
    entry.value = value
    onnx.save(graph, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "kind: no JSON"),
        ("[" * 100_000, "kind: no JSON"),
        ("[]", "kind"),
        ({"channels": 2}, "channels: got 2"),
        ({"height": 10**9}, "expected 1 to 64"),
        ({"height": 24}, r"kind: got images \(24, 28\), the network takes \(28, 28\)"),
        ({"channels": 3}, "the network takes"),
        ({"polarity": "x"}, "polarity: got 'x'"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"classes": [*"abcdefghi", "\x1b[2J"]}, "no printable line"),
        ({"classes": [*"abc"]}, "a column for each label"),
    ],
)
def test_a_damaged_kind_is_refused_in_a_line(tmp_path, change, message):
    path = write_network(tmp_path / "m.onnx", ink())
    text = change if isinstance(change, str) else json.dumps(ink().to_dict() | change)
    with_entry(path, "kind", text)
    with pytest.raises(InputError, match=message) as caught:
        Reader(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_layout_is_refused_in_a_line(tmp_path):
    path = write_network(tmp_path / "m.onnx", ink(), Layout(127, 200, 20, 18, 20, 1))
    with_entry(path, "layout", "1 2 3")
    with pytest.raises(InputError, match=r"layout: got '1 2 3', expected six numbers"):
        Reader(path)


def test_a_colour_network_that_says_nothing_of_its_images_is_refused(tmp_path):
    path = write_network(tmp_path / "m.onnx", COLOUR)
    graph = onnx.load(path)
    kept = [entry for entry in graph.metadata_props if entry.key != "kind"]
    del graph.metadata_props[:]
    graph.metadata_props.extend(kept)
    onnx.save(graph, path)
    with pytest.raises(InputError, match="no kind in the metadata"):
        Reader(path)


def test_names_with_spaces_are_labels(read):
    assert read(COLOUR).labels == list(NAMES)
