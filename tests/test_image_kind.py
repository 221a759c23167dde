"""What images are like, as data."""

import dataclasses
import json

import pytest

from featherweight.errors import InputError
from featherweight.image_kind import ImageKind

KIND = ImageKind(3, 32, 28, "natural", "upright", ("cat", "dog"))


def test_json_and_back():
    assert ImageKind.from_dict(json.loads(json.dumps(KIND.to_dict()))) == KIND
    assert KIND.shape == (3, 32, 28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "channels: got 2, expected 1 or 3"),
        ({"channels": True}, "channels"),
        ({"channels": 1.0}, "channels"),
        ({"height": 65}, "expected 1 to 64"),
        ({"width": 0}, "expected 1 to 64"),
        ({"width": "28"}, "expected 1 to 64"),
        ({"polarity": "dark"}, "polarity: got 'dark', expected light on dark or dark on light"),
        ({"orientation": None}, "orientation"),
        ({"classes": ("cat",)}, "classes"),
        ({"classes": ("cat", "cat")}, "different names"),
        ({"classes": ("cat", "")}, "classes"),
        ({"classes": ("cat", 1)}, "classes"),
        ({"classes": "cats"}, "classes"),
        ({"classes": tuple(map(str, range(257)))}, "2 to 256"),
        ({"classes": ("cat", "x" * 101)}, "100 characters"),
        ({"classes": ("cat", "\udcff")}, "different names"),
    ],
)
def test_what_means_nothing_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(KIND, **change)


@pytest.mark.parametrize("values", [{}, {"colour": 1}, {**KIND.to_dict(), "colour": 1}])
def test_other_keys_are_refused(values):
    with pytest.raises(InputError, match="expected channels, height"):
        ImageKind.from_dict(values)
