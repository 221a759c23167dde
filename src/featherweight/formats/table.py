"""Data sets as CSV tables with a row for each image, as Kaggle's digit recogniser: train.csv.

The label is in the column `label` or `class`, else in the first one; the others are the pixels of a
square grey image, row by row, from 0 to 255. A header is optional.
"""

import math
import re
import warnings
from pathlib import Path

import numpy as np

from .._arrays import MAX_ARRAY_BYTES
from .._files import reason
from ..errors import InputError
from ..image_kind import MAX_SIDE
from ._source import Part, PartName, Source, read_said

LABEL_COLUMNS = ("label", "class")
MAX_LINE = 100_000  # characters: 64x64 pixels of 3 digits take 16,384
_NAME = re.compile(r"(?:.*[-_.])?(train|test)(?:ing)?(?:[-_.].*)?\.csv", re.IGNORECASE)


def find_tables(folder: Path) -> Source | None:
    """Return the data set of a folder with a train.csv, None if it has none."""
    files: dict[PartName, list[Path]] = {"train": [], "test": []}
    for path in sorted(folder.glob("*")):
        if (found := _NAME.fullmatch(path.name)) and path.is_file():
            files["train" if found[1].lower() == "train" else "test"].append(path)
    if not files["train"]:
        return None

    def read(part: PartName) -> Part:
        paths = files[part]
        if len(paths) != 1:
            names = " and ".join(path.name for path in paths) or f"no {part}.csv"
            raise InputError(f"{folder}: got {names}, expected one table of {part} images")
        return read_table(paths[0])

    return Source(read, read_said(folder))


def open_table(path: Path) -> Source:
    """Return the data set of a training table, with the test table beside it."""
    folder = find_tables(path.parent) if _NAME.fullmatch(path.name) else None

    def read(part: PartName) -> Part:
        if part == "train":
            return read_table(path)
        if folder is None:
            raise InputError(f"{path}: got no test.csv beside it, expected one with labels")
        return folder.read(part)

    return Source(read, read_said(path.parent))


def read_table(path: Path) -> Part:
    """Return the images of a table. Raises InputError if it is none, or has no labels."""
    if (size := path.stat().st_size) > MAX_ARRAY_BYTES:
        raise InputError(f"{path}: got {size:,} bytes, expected at most {MAX_ARRAY_BYTES:,}")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = [word.strip(' "\r\n').lower() for word in file.readline(MAX_LINE).split(",")]
        has_header = not all(word.isdecimal() for word in first)
        label = next((first.index(name) for name in LABEL_COLUMNS if name in first), 0)
        side = math.isqrt(len(first) - 1)
        if math.isqrt(len(first)) ** 2 == len(first) > 1 and not {*LABEL_COLUMNS} & {*first}:
            raise InputError(
                f"{path}: got {len(first):,} columns, all of pixels, expected labels too",
                hint="Kaggle publishes no labels of its test images, so they can't be evaluated",
            )
        if side**2 != len(first) - 1 or not 1 <= side <= MAX_SIDE:
            raise InputError(
                f"{path}: got {len(first):,} columns, expected a label and the pixels of a square "
                f"image of at most {MAX_SIDE}x{MAX_SIDE}"
            )
        if not has_header:
            file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a table without rows, which is refused
                values = np.loadtxt(file, np.uint8, delimiter=",", quotechar='"', ndmin=2)
        except ValueError as error:
            raise InputError(
                f"{path}: {reason(error)} (below the header); expected rows of "
                f"{len(first):,} whole numbers from 0 to 255"
            ) from error
    if values.shape[1:] != (len(first),) or not len(values):
        raise InputError(f"{path}: got no row of {len(first):,} numbers, expected one an image")
    pixels = np.delete(values, label, 1).reshape(-1, side, side)
    return Part(pixels, values[:, label].astype(np.int64), str(path))
