"""Data sets in one .npz file, as MedMNIST and Keras ship them, or in four, as KMNIST and K49."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from .._arrays import NUMBERS, TEXTS, list_npz, read_npz
from ..errors import InputError
from ._source import (
    MAX_SAID_BYTES,
    SAID_KEYS,
    Part,
    PartName,
    Source,
    listed,
    make_said,
    read_said,
    said_by_name,
    visible,
)

# Names of the arrays of a part, of images and of labels: MedMNIST's, then Keras's.
NAMES = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))
# What else people call them: `X_train`, `train_x`, `training_data`, `valid_targets`, `xtest`.
PARTS: dict[PartName, str] = {
    "train": "tr|train|training",
    "val": "val|valid|validation",
    "test": "te|test|testing",
}
WORDS = {"images": "images?|imgs?|x|data", "labels": "labels?|y|targets?"}
# `kmnist-train-imgs.npz`, `k49-test-labels.npz` (Clanuwat et al. 2018), each with one array.
_NAME = re.compile(r"(.+)[-_](train|test)[-_](imgs|images|labels)\.npz", re.IGNORECASE)
ONE_ARRAY = "arr_0"

Files = dict[tuple[str, str], Path]


def find_npz_sets(folder: Path) -> dict[str, Files]:
    """Return the files of each data set of four .npz files in a folder, by its name.

    A file's key is its part, and `images` or `labels`."""
    sets: dict[str, Files] = {}
    for path in visible(folder):
        if (found := _NAME.fullmatch(path.name)) and path.is_file():
            name, part, what = map(str.lower, found.groups())
            sets.setdefault(name, {})[part, "labels" if what == "labels" else "images"] = path
    return sets


def open_npz_files(folder: Path, name: str, files: Files) -> Source:
    """Return a data set that `find_npz_sets` found."""

    def read_array(path: Path) -> np.ndarray:
        try:
            return read_npz(path, ONE_ARRAY)
        except KeyError as error:
            raise InputError(f"{path}: got no array {ONE_ARRAY}, but {error.args[0]}") from error

    def read(part: PartName) -> Part:
        for what, word in (("images", "imgs"), ("labels", "labels")):
            if (part, what) not in files:
                raise InputError(
                    f"{folder}: got no {name}-{part}-{word}.npz, expected this file too"
                )
        images, labels = (read_array(files[part, what]) for what in ("images", "labels"))
        return Part(images, labels, f"{folder / name} ({part})")

    return Source(read, read_said(folder, said_by_name(name)))


def open_npz_set(path: Path) -> Source:
    """Return the data set of an .npz file. Raises InputError if it is damaged."""
    arrays = list_npz(path)

    def names(part: PartName) -> tuple[str, str]:
        """Return the names of a part's arrays: those of which the file has both, or one."""
        pairs = [(images.format(part), labels.format(part)) for images, labels in NAMES]
        pairs.append((_named(arrays, part, "images"), _named(arrays, part, "labels")))
        return max(pairs, key=lambda pair: len(set(pair) & set(arrays)))  # of equal ones the first

    def read(part: PartName) -> Part:
        images, labels = names(part)
        for name in (images, labels):
            if name not in arrays:
                raise InputError(
                    f"{path}: got no array {name}, expected {images} and {labels}; "
                    f"it has {listed(arrays) or 'none'}",
                    hint="save them by these names: "
                    f"numpy.savez({path.name!r}, {images}=..., {labels}=..., ...)",
                )
        return Part(read_npz(path, images), read_npz(path, labels), f"{path} ({part})")

    values = _said(path, arrays)
    said = make_said(values, str(path)) if values else read_said(path.parent)
    return Source(read, said, bool({*names("val")} & {*arrays}))


def _named(arrays: list[str], part: PartName, what: str) -> str:
    """Return the one array whose name says that it holds the images or labels of a part.

    Without one, or with several, return the first of NAMES."""
    part_word, word = PARTS[part], WORDS[what]
    name = re.compile(f"(?:{part_word})[-_. ]?(?:{word})|(?:{word})[-_. ]?(?:{part_word})")
    found = [array for array in arrays if name.fullmatch(array.lower())]
    return found[0] if len(found) == 1 else f"{part}_{what}"


def _said(path: Path, arrays: list[str]) -> dict[str, Any]:
    """Return the arrays that say something about the images, as the values of a data.toml."""
    values: dict[str, Any] = {}
    for key in SAID_KEYS:
        if key in arrays:
            kinds = NUMBERS if key == "first_label" else TEXTS
            value = read_npz(path, key, kinds, MAX_SAID_BYTES)
            if value.dtype.kind == "S":
                value = np.char.decode(value, "utf-8", "replace")
            try:
                values[key] = value.tolist()
            except (ValueError, SystemError) as error:  # code points that there are not
                raise InputError(f"{path} ({key}): got no characters, expected texts") from error
    return values
