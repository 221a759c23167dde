"""CIFAR-10 and CIFAR-100 in their binary version (Krizhevsky 2009), 32x32 pixels in colour."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .._arrays import MAX_ARRAY_BYTES
from ..errors import InputError
from ._source import Part, PartName, Said, Source, make_said, read_said

SHAPE = (3, 32, 32)
N_PIXELS = 3 * 32 * 32
MAX_NAMES_BYTES = 10_000  # of the file that names the classes


@dataclass(frozen=True)
class _Layout:
    files: dict[PartName, list[str]]
    "The files of each part."
    n_labels: int
    "Bytes of the labels before each image: the last is the class."
    names: str
    "The file that names the classes."
    classes: tuple[str, ...] = ()
    "Their names where that file is missing."


LAYOUTS = (
    _Layout(
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
        1,
        "batches.meta.txt",
        (
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
    # CIFAR-100 has a coarse label before the class.
    _Layout({"train": ["train.bin"], "test": ["test.bin"]}, 2, "fine_label_names.txt"),
)


def find_cifar(folder: Path) -> Source | None:
    """Return the data set of a folder with CIFAR's binary files, None if it has none."""
    present = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
    for layout in LAYOUTS:
        if {name for files in layout.files.values() for name in files} & present.keys():
            known = Said(layout.classes, by_name=True)
            if layout.names in present:
                known = _read_names(present[layout.names])
            read = partial(_read, folder, present, layout)
            return Source(read, read_said(folder, known))
    return None


def _read(folder: Path, present: dict[str, Path], layout: _Layout, part: PartName) -> Part:
    names = layout.files[part]
    for name in names:
        if name not in present:
            raise InputError(f"{folder}: got no {name}, expected this file of CIFAR's")
    records = np.concatenate([_read_records(present[name], layout.n_labels) for name in names])
    images = records[:, layout.n_labels :].reshape(-1, *SHAPE)
    return Part(images, records[:, layout.n_labels - 1], f"{folder} ({part})")


def _read_records(path: Path, n_labels: int) -> np.ndarray:
    """Return the records of a file, uint8 (n, labels + pixels)."""
    record, size = n_labels + N_PIXELS, path.stat().st_size
    if size % record or not 0 < size <= MAX_ARRAY_BYTES:
        raise InputError(
            f"{path}: got {size:,} bytes, expected a multiple of {record:,}, the bytes of a label "
            f"and an image of CIFAR's, and at most {MAX_ARRAY_BYTES:,}"
        )
    return np.fromfile(path, np.uint8).reshape(-1, record)


def _read_names(path: Path) -> Said:
    with path.open("rb") as file:
        content = file.read(MAX_NAMES_BYTES)
    return make_said({"classes": content.decode("utf-8", "replace").split()}, str(path))
