"""Find a data set where people have it, in the format in which it is distributed.

    source = open_source(Path("data"))
    part = source.read("train")         # part.images, part.labels: arrays as they are in the files

A path names one of

- a folder of IDX files, with the names of MNIST, EMNIST or QMNIST; `FOLDER/emnist-letters` is one
  of several sets in a folder;
- a folder of CIFAR-10's or CIFAR-100's binary version;
- a folder of pictures, train/CLASS/NAME, or a .zip file of one;
- a .npz file, or a folder with the four of KMNIST or K49;
- a CSV table with a row for each image, or a folder with train.csv;
- a folder above one of these, such as torchvision's root.

No pickle is ever loaded. What an array or a picture may take up is limited.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import InputError
from ._source import SAID_FILE, Part, PartName, Said, Source, listed, visible
from .cifar import find_cifar
from .idx import find_sets, open_set
from .npz import find_npz_sets, open_npz_files, open_npz_set
from .pictures import find_pictures, find_unsorted, open_archive
from .table import find_tables, open_table

__all__ = ["SAID_FILE", "Part", "PartName", "Said", "Source", "open_source"]

EXPECTED = (
    "expected IDX files, CIFAR's binary version, train/CLASS/PICTURE or train.csv in a folder; "
    "or a .npz, .zip or .csv file"
)
CIFAR_PICKLES = ("data_batch_1", "batches.meta")
MAX_FOLDERS = 1000  # that are looked into for a data set
# What people have too, and why it is not read.
NOT_READ = {
    (".pkl", ".pickle", ".pt", ".pth", ".pkl.gz", ".pickle.gz"): (
        "not read, because loading a pickle can run code",
        'save its arrays: numpy.savez("data.npz", train_images=..., train_labels=..., ...)',
    ),
    (".npy",): (
        "one array, which is not read by itself",
        'save all in one file: numpy.savez("data.npz", train_images=..., train_labels=..., ...)',
    ),
    (".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".gz"): (
        "an archive, which is not read as it is",
        "unpack it, and name its folder",
    ),
    (".mat", ".h5", ".hdf5", ".parquet", ".arrow", ".tfrecord"): (
        "a format that is not read",
        'save its arrays: numpy.savez("data.npz", train_images=..., train_labels=..., ...)',
    ),
}


def open_source(path: Path) -> Source:
    """Return the data set at a path.

    Raises InputError if there is none, or there are several, and OSError if it can't be read."""
    if path.is_file():
        return _open_file(path)
    if path.is_dir():
        return _open_folder(path)
    if path.parent.is_dir():
        name = path.name.lower()
        if files := find_sets(path.parent).get(name):
            return open_set(path.parent, name, files)
        if npz_files := find_npz_sets(path.parent).get(name):
            return open_npz_files(path.parent, name, npz_files)
    # Windows and macOS take DATA.npz for data.npz.
    alike = [each for each in _siblings(path) if each.name.lower() == path.name.lower()]
    alike += [each for each in _siblings(path) if each.stem == path.name]
    raise InputError(
        f"{path}: got no such file or folder, {EXPECTED}",
        hint=f"did you mean {alike[0]}?" if alike else None,
    )


def _siblings(path: Path) -> list[Path]:
    return visible(path.parent) if path.parent.is_dir() else []


def _open_file(path: Path) -> Source:
    name = path.name.lower()
    if name.endswith(".npz"):
        for each, files in find_npz_sets(path.parent).items():
            if path in files.values():
                return open_npz_files(path.parent, each, files)
        return open_npz_set(path)
    if name.endswith(".zip"):
        return open_archive(path)
    if name.endswith(".csv"):
        return open_table(path)
    of_a_set = any(path in files.values() for files in find_sets(path.parent).values())
    if not of_a_set and (refused := _not_read(path)):
        raise refused
    hint = f"name its folder: --data {path.parent}" if _find(path.parent) else None
    what = "one file of several" if of_a_set else "a file of another format"
    raise InputError(f"{path}: got {what}, {EXPECTED}", hint=hint)


def _open_folder(folder: Path) -> Source:
    found, looked_into = _find(folder), [folder]
    everywhere = [folder]
    # Else in the folders inside, and those inside of them, as in torchvision's root/MNIST/raw; and
    # once more, for the folder above such a root.
    for _ in range(3):
        inside = [path for each in looked_into for path in visible(each) if path.is_dir()]
        looked_into = [] if found else inside[:MAX_FOLDERS]
        everywhere += looked_into
        for each in looked_into:
            found |= _find(each)
    if len(found) == 1:
        path, opened = next(iter(found.items()))
        place = path if path.is_dir() else path.parent
        if place != folder and (folder / SAID_FILE).is_file():
            raise InputError(
                f"{folder / SAID_FILE}: not beside the data set that it is about",
                hint=f"move it to {place / SAID_FILE}",
            )
        return opened()
    if found:
        raise InputError(
            f"{folder}: got {len(found)} data sets, "
            f"{listed(str(path.relative_to(folder)) for path in found)}; expected one",
            hint=f"name one of them: --data {next(iter(found))}",
        )
    for refuse in (find_unsorted, _find_not_read):
        for each in everywhere:
            if refused := refuse(each):
                raise refused
    table = next(
        (path for each in everywhere for path in visible(each) if path.suffix.lower() == ".csv"),
        None,
    )
    raise InputError(
        f"{folder}: got no data set in this folder, {EXPECTED}",
        hint=f"name the table: --data {table}" if table else None,
    )


def _find_not_read(folder: Path) -> InputError | None:
    files = [path for path in visible(folder) if path.is_file()]
    return next(filter(None, map(_not_read, files)), None)


def _find(folder: Path) -> dict[Path, Callable[[], Source]]:
    """Return the data sets in a folder itself, by path: those of the first format that has any."""
    if sets := find_sets(folder):
        # A set with MNIST's own names is what the folder names; others are named in full.
        named = {"": sets[""]} if "" in sets else sets
        return {folder / name: partial(open_set, folder, name, named[name]) for name in named}
    for find in (find_cifar, find_pictures):
        if source := find(folder):
            return {folder: partial(_same, source)}
    if tables := find_tables(folder)["train"]:
        paths = [folder] if len(tables) == 1 else tables
        return {path: partial(open_table, each) for path, each in zip(paths, tables, strict=True)}
    if npz_sets := find_npz_sets(folder):
        return {
            folder / name: partial(open_npz_files, folder, name, files)
            for name, files in npz_sets.items()
        }
    files = [path for path in visible(folder) if path.is_file()]
    return {
        path: partial(_open_file, path)
        for path in files
        if path.name.lower().endswith((".npz", ".zip"))
    }


def _same(source: Source) -> Source:
    return source


def _not_read(path: Path) -> InputError | None:
    """Return why a file is not read, if its name shows that it is of a format that is not."""
    pickled = path.name in CIFAR_PICKLES or path.parent.name == "cifar-100-python"
    if pickled:
        return InputError(
            f"{path.parent}: CIFAR's pickled version, which is not read, because loading a pickle "
            "can run code; expected the binary version",
            hint="download cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, and unpack it",
        )
    for suffixes, (why, hint) in NOT_READ.items():
        if path.name.lower().endswith(suffixes):
            return InputError(f"{path}: {why}; {EXPECTED}", hint=hint)
    return None
