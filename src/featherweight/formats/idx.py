"""Data sets as IDX files (LeCun's format): MNIST's, Fashion-MNIST's, EMNIST's, QMNIST's.

find_sets(Path("emnist"))       # {"emnist-letters": {...}, "emnist-digits": {...}}
"""

import re
import string
from pathlib import Path

from .._arrays import INT32, read_idx
from ..errors import InputError
from ._source import Part, PartName, Said, Source, read_said

# `train-images-idx3-ubyte`, `emnist-letters-test-labels-idx1-ubyte.gz`, `T10K-IMAGES.IDX3-UBYTE`,
# `qmnist-train-labels-idx2-int.gz`
_NAME = re.compile(
    r"(?:(?P<set>.+?)[-_.])?(?P<part>train|test|t10k)[-_.]"
    r"(?P<what>images[-_.]idx3(?:[-_.]ubyte)?|labels[-_.]idx1(?:[-_.]ubyte)?|labels[-_.]idx2[-_.]int)"
    r"(?P<gz>\.gz)?",
    re.IGNORECASE,
)
_DIGITS, _UPPER, _LOWER = string.digits, string.ascii_uppercase, string.ascii_lowercase
# Classes of EMNIST's sets (Cohen et al. 2017). Where upper and lower case are alike they are one
# class, which the capital names.
EMNIST_CLASSES = {
    "letters": _UPPER,
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "byclass": _DIGITS + _UPPER + _LOWER,
    "bymerge": _DIGITS + _UPPER + "abdefghnqrt",
    "balanced": _DIGITS + _UPPER + "abdefghnqrt",
}
# Classes of sets that torchvision's folders name.
FOLDER_CLASSES = {
    "FashionMNIST": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}

Files = dict[tuple[PartName, str], Path]


def find_sets(folder: Path) -> dict[str, Files]:
    """Return the files of each data set in a folder by its name, which is empty for MNIST's names.

    A file's key is its part, and `images`, `labels`, or `ints` for labels of QMNIST's kind.
    """
    sets: dict[str, Files] = {}
    # Gzipped files come last, because they are taken where the same file is there unpacked too.
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() == ".gz", path)):
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

    return Source(read, read_said(folder, _known(folder, name)))


def _known(folder: Path, name: str) -> Said | None:
    """Return what the name of a set, or of its folder, says about it."""
    emnist = re.fullmatch(rf"emnist[-_.]({'|'.join(EMNIST_CLASSES)})", name)
    if emnist is not None:
        first = int(emnist[1] == "letters")  # whose labels are 1 to 26
        classes = tuple(EMNIST_CLASSES[emnist[1]])
        return Said(classes, "light on dark", "transposed", first, by_name=True)
    folders = folder.name, folder.parent.name
    classes = next((FOLDER_CLASSES[each] for each in folders if each in FOLDER_CLASSES), ())
    return Said(classes, by_name=True) if classes else None
