"""Data sets in one .npz file, as MedMNIST and Keras ship them."""

from pathlib import Path
from typing import Any

from .._arrays import NUMBERS, TEXTS, list_npz, read_npz
from ..errors import InputError
from ._source import MAX_SAID_BYTES, SAID_KEYS, Part, PartName, Source, listed, make_said

# Names of the arrays of a part, of images and of labels: MedMNIST's, then Keras's.
NAMES = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))


def open_npz_set(path: Path) -> Source:
    """Return the data set of an .npz file. Raises InputError if it is damaged."""
    arrays = list_npz(path)

    def names(part: PartName) -> tuple[str, str]:
        """Return the names of a part's arrays: those of which the file has one, else the first."""
        pairs = [(images.format(part), labels.format(part)) for images, labels in NAMES]
        return next((pair for pair in pairs if set(pair) & set(arrays)), pairs[0])

    def read(part: PartName) -> Part:
        images, labels = names(part)
        for name in (images, labels):
            if name not in arrays:
                raise InputError(
                    f"{path}: got no array {name}, expected {images} and {labels}; "
                    f"it has {listed(arrays) or 'none'}"
                )
        return Part(read_npz(path, images), read_npz(path, labels), f"{path} ({part})")

    return Source(
        read, make_said(_said(path, arrays), str(path)), bool({*names("val")} & {*arrays})
    )


def _said(path: Path, arrays: list[str]) -> dict[str, Any]:
    """Return the arrays that say something about the images, as the values of a data.toml."""
    values: dict[str, Any] = {}
    for key in SAID_KEYS:
        if key in arrays:
            kinds = NUMBERS if key == "first_label" else TEXTS
            value = read_npz(path, key, kinds, MAX_SAID_BYTES)
            values[key] = (value.astype(str) if kinds == TEXTS else value).tolist()
    return values
