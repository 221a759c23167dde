"""Where the ink of a data set lies: of MNIST, of images padded or enlarged, and as text."""

import numpy as np
import pytest

from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.layout import MNIST_LAYOUT, Layout, default_layout, measure_layout


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000).val.pixels[:1000, 0].numpy()


def test_the_layout_of_mnist_is_what_it_was_made_with(mnist):
    layout = measure_layout(mnist)
    assert layout.level == 127
    assert 200 <= layout.full <= 255
    # Measured at half of full ink, which is up to a pixel within the last trace of it.
    assert 18 <= layout.longer <= 20
    assert 16 <= layout.shortest <= layout.longer <= layout.longest <= 20
    assert layout.off_centre < 1


def test_padding_moves_no_ink_and_enlarging_scales_it(mnist):
    plain = measure_layout(mnist)
    padded = measure_layout(np.pad(mnist, ((0, 0), (2, 2), (2, 2))))
    assert (padded.longer, padded.longest) == (plain.longer, plain.longest)
    assert padded.off_centre == pytest.approx(plain.off_centre, abs=0.1)
    doubled = measure_layout(mnist.repeat(2, 1).repeat(2, 2))
    assert doubled.longer == 2 * plain.longer
    assert doubled.off_centre == pytest.approx(2 * plain.off_centre, abs=0.01)


def test_blank_images_say_nothing(mnist):
    some = np.concatenate([mnist[:10], np.zeros((3, 28, 28), np.uint8)])
    assert measure_layout(some) == measure_layout(mnist[:10])


def test_the_layout_survives_as_text(mnist):
    for layout in (measure_layout(mnist), MNIST_LAYOUT, default_layout(64, 32)):
        again = Layout.from_text(layout.to_text())
        assert again.longer == pytest.approx(layout.longer, abs=1e-4)
        assert Layout.from_text(again.to_text()) == again


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 2 3",
        "1 2 3 4 5 6 7",
        "a b c d e f",
        "255 200 20 18 20 0.5",
        "127 200 0 18 20 0.5",
        "127 200 65 18 20 0.5",
        "-1 200 20 18 20 0.5",
        "nan 200 20 18 20 0.5",
        "9999 1 1 1 1 1",
    ],
)
def test_what_is_no_layout_is_refused(text):
    with pytest.raises(InputError, match="expected six numbers"):
        Layout.from_text(text)
