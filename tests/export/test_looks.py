"""What an exported file says of its images: their kind, their layout, their classes."""

import json

import numpy as np
import pytest
import torch

from featherweight.data import Images, Said, Split
from featherweight.export.looks import describe_images
from featherweight.image_kind import ImageKind
from featherweight.layout import Layout


def made(pixels, source="digits.npz", **said):
    """Return a split of these pixels (n, channels, height, width)."""
    labels = torch.arange(len(pixels)) % 3
    images = Images(torch.from_numpy(pixels), labels)
    return Split(source, images, images, 3, Said(**said))


@pytest.fixture
def bars():
    """Bars of 16x4 pixels in the middle of 24x24, light on dark."""
    pixels = np.zeros((12, 1, 24, 24), np.uint8)
    pixels[:, :, 4:20, 10:14] = 240
    return pixels


@pytest.mark.parametrize("dark", [False, True])
def test_ink_is_measured_in_either_polarity(bars, dark):
    entries = describe_images(made(255 - bars if dark else bars))
    kind = ImageKind.from_dict(json.loads(entries["kind"]))
    assert kind.polarity == ("dark on light" if dark else "light on dark")
    layout = Layout.from_text(entries["layout"])
    assert (layout.level, layout.longer, layout.shortest, layout.longest) == (120, 16, 16, 16)
    assert entries["labels"] == "0 1 2"
    looks = "dark ink on white" if dark else "light ink on black"
    assert entries["input"] == f"pixels (n, height, width) uint8, {looks}, as the training images"


def test_of_mnist_a_reader_knows_the_layout(bars):
    assert "layout" not in describe_images(made(bars, source=None))


def test_what_is_no_ink_has_no_layout(bars):
    assert "layout" not in describe_images(made(bars.repeat(3, 1)))
    assert "layout" not in describe_images(made(bars, polarity="natural"))


def test_names_are_printable_and_the_old_entry_holds_words_only(bars):
    entries = describe_images(made(bars, classes=("a\nb", "\u202ec", "d")))
    assert json.loads(entries["kind"])["classes"] == ["a\\nb", "\\u202ec", "d"]
    assert entries["labels"] == "a\\nb \\u202ec d"
    assert describe_images(made(bars, classes=("a b", "c", "d")))["labels"] == "0 1 2"


def test_a_transposed_set_says_so(bars):
    entries = describe_images(made(bars, orientation="transposed"))
    assert "rows and columns exchanged" in entries["input"]
