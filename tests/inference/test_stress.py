"""The stress set: each category has the pictures that its name says, and the score counts them."""

import itertools

import numpy as np
import pytest
from helpers import write_network

from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.image_kind import ImageKind
from featherweight.inference.prepare import prepare
from featherweight.inference.reader import Reader
from featherweight.inference.stress import (
    CATEGORIES,
    glyph,
    make_stress,
    score_stress,
    shrink,
    skeleton,
)

pytestmark = pytest.mark.slow
EACH = 10  # pictures of a category


@pytest.fixture(scope="module")
def mnist():
    val = load_split(None, 50_000, 10_000).val
    return val.pixels[:, 0].numpy(), val.labels.numpy()


@pytest.fixture(scope="module")
def pictures(mnist):
    return list(make_stress(*mnist, seed=0, per_category=EACH))


def of(pictures, category):
    return [picture for name, picture, _ in pictures if name == category]


def ink(picture):
    """Return where a black and white picture is black."""
    return picture[..., 0] < 128


def test_every_category_has_as_many_pictures(pictures):
    assert [category for category, _, _ in pictures] == [
        each for each in CATEGORIES for _ in range(EACH)
    ]
    assert all(
        picture.dtype == np.uint8 and picture.shape[2:] == (3,) for _, picture, _ in pictures
    )


def test_a_seed_means_the_same_set(mnist):
    one, same, other = (list(make_stress(*mnist, seed, per_category=2)) for seed in (0, 0, 1))
    assert all(np.array_equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


def test_no_image_is_used_twice_in_a_category(mnist):
    images, labels = (part[:30] for part in mnist)
    made = itertools.islice(make_stress(images, labels, 0, 30), 60, 90)
    found = [label for category, _, label in made if category == "large"]
    assert sorted(found) == sorted(map(str, labels))
    with pytest.raises(ValueError, match="got 31, expected at most the 30 images"):
        next(make_stress(images, labels, 0, 31))


def test_categories_are_what_they_say(pictures):
    def share(picture):
        rows, columns = ink(picture).any(1).nonzero()[0], ink(picture).any(0).nonzero()[0]
        return max(rows[-1] - rows[0], columns[-1] - columns[0]) / max(picture.shape)

    assert all(share(picture) < 0.21 for picture in of(pictures, "small"))
    assert all(share(picture) > 0.85 for picture in of(pictures, "large"))
    thick, thin = (
        np.mean([ink(picture).mean() for picture in of(pictures, name)])
        for name in ("thick", "thin")
    )
    assert thick > 4 * thin
    assert all(np.median(picture) < 71 for picture in of(pictures, "inverted"))
    assert all(
        np.ptp(picture.astype(int), 2).max() > 60 for picture in of(pictures, "coloured_pen")
    )
    for picture in of(pictures, "touching_border"):
        edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
        assert any((edge[:, 0] < 235).any() for edge in edges)  # a soft edge of the stroke at least
    assert all(picture.reshape(-1, 3).std(0).min() > 8 for picture in of(pictures, "paper_texture"))


def test_a_skeleton_is_one_pixel_wide_and_connected():
    bar = np.zeros((40, 60), bool)
    bar[12:28, 8:52] = True
    line = skeleton(bar)
    assert (line <= bar).all()
    assert line.sum(0).max() <= 3
    assert line.any(0)[20:40].all()


def test_a_glyph_is_cropped_and_scaled(mnist):
    coverage = glyph(mnist[0][0], 150)
    assert abs(max(coverage.shape) - 150) <= 4
    assert coverage.min() >= 0
    assert coverage.max() == 1


def test_shrink_is_the_whole_picture_light_on_dark():
    sheet = np.full((280, 280, 3), 255, np.uint8)
    sheet[100:110, 50:60] = 0
    small = shrink(sheet)
    assert small.shape == (28, 28)
    assert small[10, 5] == 255
    assert np.array_equal(small, shrink(255 - sheet))


def test_the_score_counts_what_is_read_right(pictures):
    reader = Reader()
    scores = score_stress(reader, pictures)
    assert [score.category for score in scores] == list(CATEGORIES)
    found = {score.category: score for score in scores}
    nothing = ("font", "stroke", "european", "blank_paper")
    assert [name for name in CATEGORIES if not found[name].from_mnist] == list(nothing)
    assert [name for name in CATEGORIES if found[name].resized is None] == [
        "written_number",
        "blank_paper",
    ]
    for name in ("large", "boxed"):
        expected = [
            reader.read_prepared([prepare(picture)])[0].label == label
            for category, picture, label in pictures
            if category == name
        ]
        assert found[name].prepared == sum(expected)
    first = scores[:10]
    assert sum(score.prepared for score in first) >= 0.95 * 10 * EACH
    assert sum(score.resized for score in first) < 0.75 * 10 * EACH
    assert sum(score.prepared for score in scores) >= 0.93 * EACH * len(CATEGORIES)


def test_a_blank_page_has_no_label_and_a_number_has_all_its_digits(pictures):
    labels = {
        name: [label for category, _, label in pictures if category == name] for name in CATEGORIES
    }
    assert labels["blank_paper"] == [None] * EACH
    assert all(2 <= len(label) <= 10 for label in labels["written_number"])
    assert set(labels["european"]) == set("1479")
    assert all(min(picture.shape[:2]) in (8, 16) for picture in of(pictures, "low_resolution"))


def test_a_model_of_other_labels_is_refused(real_model, pictures):
    reader = Reader(real_model)
    reader.labels = list("abcdefghij")
    with pytest.raises(ValueError, match="labels: got a b c"):
        score_stress(reader, pictures)


def test_a_model_of_photographs_is_refused(tmp_path):
    kind = ImageKind(3, 32, 32, "natural", "upright", tuple("0123456789"))
    reader = Reader(write_network(tmp_path / "m.onnx", kind))
    with pytest.raises(InputError, match="reads whole pictures"):
        score_stress(reader, [])


def test_pictures_are_prepared_and_resized_as_the_network_takes_them(mnist, tmp_path):
    kind = ImageKind(1, 32, 32, "dark on light", "upright", tuple("0123456789"))
    reader = Reader(write_network(tmp_path / "m.onnx", kind))
    assert len(score_stress(reader, make_stress(*mnist, seed=0, per_category=1))) == len(CATEGORIES)
    white = np.full((90, 60, 3), 255, np.uint8)
    for picture in (white, 255 - white):
        assert (shrink(picture, reader.form) == np.full((32, 32), 255)).all()
