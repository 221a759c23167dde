"""Data sets as IDX files (LeCun's format): MNIST's, Fashion-MNIST's, EMNIST's, QMNIST's.

find_sets(Path("emnist"))       # {"emnist-letters": {...}, "emnist-digits": {...}}
"""

import re
from pathlib import Path

from .._arrays import INT32, read_idx
from ..errors import InputError
from ._source import Part, PartName, Source, read_said, said_by_name, visible

# `train-images-idx3-ubyte`, `emnist-letters-test-labels-idx1-ubyte.gz`, `T10K-IMAGES.IDX3-UBYTE`,
# `qmnist-train-labels-idx2-int.gz`
_NAME = re.compile(
    r"(?:(?P<set>.+?)[-_.])?(?P<part>train|test|t10k)[-_.]"
    r"(?P<what>images[-_.]idx3(?:[-_.]ubyte)?|labels[-_.]idx1(?:[-_.]ubyte)?|labels[-_.]idx2[-_.]int)"
    r"(?P<gz>\.gz)?",
    re.IGNORECASE,
)

Files = dict[tuple[PartName, str], Path]


def find_sets(folder: Path) -> dict[str, Files]:
    """Return the files of each data set in a folder by its name, which is empty for MNIST's names.

    A file's key is its part, and `images`, `labels`, or `ints` for labels of QMNIST's kind.
    """
    sets: dict[str, Files] = {}
    # Gzipped files come last, because they are taken where the same file is there unpacked too.
    for path in sorted(visible(folder), key=lambda path: path.suffix.lower() == ".gz"):
        found = _NAME.fullmatch(path.name)
        if found is None:
            continue
        if path.is_dir():  # some archives unpack each file into a folder of its name
            path = path / path.name
        if path.is_file():
            part: PartName = "train" if found["part"].lower() == "train" else "test"
            what = found["what"].lower()
            kind = "ints" if what.endswith("int") else what[:6]
            sets.setdefault((found["set"] or "").lower(), {})[part, kind] = path
    return sets


def open_set(folder: Path, name: str, files: Files) -> Source:
    """Return a data set that `find_sets` found."""

    def read(part: PartName) -> Part:
        stem = f"{name}-{part}" if name else {"train": "train"}.get(part, "t10k")
        where = f"{folder / name if name else folder} ({part})"
        for kind in ("images", "labels"):
            if not {(part, kind), (part, "ints" if kind == "labels" else kind)} & files.keys():
                raise InputError(
                    f"{folder}: got no {stem}-{kind}-idx{3 if kind == 'images' else 1}-ubyte, "
                    "expected this file, gzipped or not"
                )
        images = read_idx(files[part, "images"], 3)
        if (part, "labels") in files:
            return Part(images, read_idx(files[part, "labels"], 1), where)
        # QMNIST has eight numbers for each image (Yadav and Bottou 2019): the class is the first.
        return Part(images, read_idx(files[part, "ints"], 2, INT32)[:, :1], where)

    known = said_by_name(name, folder.name, folder.parent.name)
    return Source(read, read_said(folder, known))
