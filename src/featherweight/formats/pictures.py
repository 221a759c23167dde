"""Data sets as pictures in folders of their classes, or in a .zip of such folders.

The folders are `train/cat`, `train/dog` and so on, and `test/cat`. Validation pictures are in
`val/cat`; without it, some of the training pictures validate. An archive is read as it is: nothing
is unpacked to the disk.
"""

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from .._arrays import MAX_ARRAY_BYTES
from .._files import reason
from .._pictures import (
    OTHER_SUFFIXES,
    SUFFIXES,
    decode,
    is_named_as_picture,
    open_image,
    readable,
)
from ..errors import InputError
from ..image_kind import MAX_SIDE
from ._source import (
    MAX_SAID_BYTES,
    SAID_FILE,
    Part,
    PartName,
    Said,
    Source,
    listed,
    parse_said,
    read_said,
)

# Names of the folders of each part, which may also be called `trainingSet` or `test_images`.
PART_FOLDERS: dict[PartName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_WHAT = re.compile(r"[-_ ]?(set|data|images|imgs)$")
MAX_PICTURE_BYTES = 4_000_000  # of a file: uncompressed, 64x64 pixels take 0.1 MB at most
DEEP = ("I", "I;16", "I;16B", "I;16L")  # Pillow's modes of grey pictures with 16 bits a pixel

Names = dict[PartName, dict[str, list[str]]]  # file names in name order, by part and class
_Files = AbstractContextManager[Callable[[str], bytes]]  # gives a function that reads a file


def find_pictures(folder: Path) -> Source | None:
    """Return the data set of pictures in a folder, None if it has no training pictures."""
    files: Names = {}
    for path in _folders(folder):
        part = _part_of(path.name)
        for inside in _folders(path) if part else []:
            inner = sorted(os.listdir(inside))
            names = [
                f"{path.name}/{inside.name}/{name}"
                for name in inner
                if is_named_as_picture(name) or not (inside / name).is_dir()
            ]
            # A link, or a name of a part as in trainingSet/trainingSet/3, may be no class.
            perhaps = inside.is_symlink() or _part_of(inside.name)
            if part and (not perhaps or any(map(is_named_as_picture, names))):
                files.setdefault(part, {}).setdefault(inside.name, []).extend(names)
    parts = _pictures(folder, files)
    if "train" not in parts:
        return None

    @contextmanager
    def reader() -> Iterator[Callable[[str], bytes]]:
        yield lambda name: _read_file(folder / name)

    return _make_source(folder, parts, reader, read_said(folder))


def find_unsorted(folder: Path) -> InputError | None:
    """Return what is wrong with a folder of pictures that `find_pictures` does not find, if any."""
    loose = sorted(filter(is_named_as_picture, os.listdir(folder)))
    if len(loose) > 1:  # one may be of the data set, and not in it
        return InputError(
            f"{folder / loose[0]}: a picture in no folder of its class, "
            "expected train/CLASS/PICTURE and test/CLASS/PICTURE",
            hint="make a folder for each class in train and in test, and move the pictures there",
        )
    classes = [each for each in _folders(folder) if any(map(is_named_as_picture, os.listdir(each)))]
    if len(classes) < 2 or any(_part_of(each.name) for each in classes):
        return None
    names = listed(each.name for each in classes)
    if _part_of(folder.parent.name):
        return InputError(
            f"{folder}: got the folders {names} with pictures, expected them in {folder.parent}",
            hint=f"move them up, into {folder.parent}",
        )
    if _part_of(folder.name):
        return InputError(
            f"{folder}: got one part of a data set, with the classes {names}",
            hint=f"name the folder above: --data {folder.parent}",
        )
    return InputError(
        f"{folder}: got the folders {names} with pictures, expected them in a folder train",
        hint=f"move them into {folder / 'train'}; those of test pictures into {folder / 'test'}",
    )


def open_archive(path: Path) -> Source:
    """Return the data set of pictures in a .zip file. Raises InputError if it holds none."""
    with _open_zip(path) as archive:
        members = {each.filename.replace("\\", "/"): each for each in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise InputError(f"{path}: got a file twice in it, expected each once")
        files_of_parts, tops = _sort(members)
        parts = _pictures(path, files_of_parts)
        if len(tops) > 1:
            raise InputError(
                f"{path}: got several data sets in it, in {listed(map(repr, sorted(tops)))}; "
                "expected one",
                hint="unpack it, and name the folder of one",
            )
        if "train" not in parts:
            files = sorted(name for name in members if not name.endswith("/"))
            hint = "unpack it, and name its folder"
            if any(is_named_as_picture(name.rpartition("/")[2]) for name in files):
                hint += ", with the folders of its classes in one named train"
            raise InputError(
                f"{path}: got no train/CLASS/PICTURE in it, but {listed(files, 3) or 'no file'}",
                hint=hint,
            )
        said, file = read_said(path.parent), f"{tops.pop()}{SAID_FILE}"
        if file in members:
            content = _read_member(archive, members[file], MAX_SAID_BYTES)
            said = parse_said(content, f"{path} ({file})")

    @contextmanager
    def reader() -> Iterator[Callable[[str], bytes]]:
        with _open_zip(path) as archive:
            yield lambda name: _read_member(archive, members[name], MAX_PICTURE_BYTES)

    return _make_source(path, parts, reader, said)


def _part_of(name: str) -> PartName | None:
    """Return the part that a folder's name stands for."""
    name = _WHAT.sub("", name.lower())
    return next((part for part, names in PART_FOLDERS.items() if name in names), None)


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder in name order, without hidden ones."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir())


def _sort(members: Iterable[str]) -> tuple[Names, set[str]]:
    """Return an archive's files by part and class, and the folders of parts with pictures."""
    parts: Names = {}
    tops: set[str] = set()
    for name in sorted(members):
        above, _, file = name.rpartition("/")
        above, _, label = above.rpartition("/")
        above, _, part_folder = above.rpartition("/")
        part, hidden = _part_of(part_folder), label.startswith(".") or above.startswith("__MACOSX")
        if part and not hidden and (is_named_as_picture(file) or not _part_of(label)):
            parts.setdefault(part, {}).setdefault(label, []).append(name)
            if is_named_as_picture(file):
                tops.add(f"{above}/" if above else "")
    return parts, tops


def _pictures(where: Path, files: Names) -> Names:
    """Return the pictures among the files of each part and class.

    Raises InputError if pictures of a class would be passed over: if one is of a format that is not
    read, or if a class has training pictures of none."""
    formats = f"expected one of {', '.join(sorted(SUFFIXES))}"
    parts: Names = {}
    for part, by_class in files.items():
        for label, names in by_class.items():
            other = next((name for name in names if name.lower().endswith(OTHER_SUFFIXES)), None)
            if other and not Path(other).name.startswith("."):
                raise InputError(
                    f"{where}/{other}: got a picture of a format that is not read, {formats}",
                    hint="convert such pictures first, for example to .png",
                )
            if pictures := [name for name in names if is_named_as_picture(Path(name).name)]:
                parts.setdefault(part, {})[label] = pictures
    for label, names in files.get("train", {}).items():
        if "train" in parts and label not in parts["train"]:
            got = names[0] if names else f"no file in train/{label}"
            raise InputError(
                f"{where}: got no picture of class {label!r} in train, but {got}; {formats}",
                hint="remove the folder of a class that has no pictures",
            )
    return parts


def _make_source(where: Path, parts: Names, reader: Callable[[], _Files], said: Said) -> Source:
    """Return the data set of pictures by part and class."""
    # Numbers in their order, so that the label of digit 10 is 10.
    classes = sorted(parts["train"], key=lambda name: (int(name) if name.isdecimal() else -1, name))
    for part, by_class in parts.items():
        if others := sorted(by_class.keys() - set(classes)):
            raise InputError(
                f"{where}: got class {others[0]!r} in {part}, expected one of those in train: "
                f"{listed(classes)}"
            )

    def read(part: PartName) -> Part:
        by_class = parts.get(part)
        if by_class is None:
            raise InputError(
                f"{where}: got no {part}/CLASS/PICTURE, expected pictures in folders of their class"
            )
        # The first picture of each class, then the second of each: the first ones show all classes.
        files = sorted(
            (i, label, name)
            for label, one in enumerate(classes)
            for i, name in enumerate(by_class.get(one, ()))
        )
        with reader() as read_file:
            images = _stack((f"{where}/{name}", read_file(name)) for _, _, name in files)
        return Part(images, np.array([label for _, label, _ in files]), f"{where} ({part})")

    try:
        said = said if said.classes else replace(said, classes=tuple(classes))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return Source(read, said, has_val="val" in parts, by_class=True)


def _read_file(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # to open a named pipe would wait for its writer
        raise InputError(f"{path}: not a file, expected a picture")
    with path.open("rb") as file:
        return _bounded(file.read(MAX_PICTURE_BYTES + 1), str(path), MAX_PICTURE_BYTES)


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive. Raises InputError for what zipfile raises while it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # zipfile and zlib raise many kinds for damaged files
        raise InputError(f"{path}: damaged .zip file: {reason(error)}") from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    where = f"{archive.filename}/{member.filename}"
    # What else ZIP allows is decompressed without a limit.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"{where}: got compression method {member.compress_type}, expected deflate or none"
        )
    if member.flag_bits & 1:
        raise InputError(f"{where}: encrypted, expected an archive without a password")
    with archive.open(member) as file:
        return _bounded(file.read(most + 1), where, most)


def _bounded(content: bytes, where: str, most: int) -> bytes:
    if len(content) > most:
        raise InputError(f"{where}: got over {most:,} bytes, expected at most that many")
    return content


def _stack(files: Iterable[tuple[str, bytes]]) -> np.ndarray:
    """Decode pictures of one size, and return (n, height, width), or (n, height, width, 3).

    Grey pictures among ones in colour get three equal channels."""
    images: list[np.ndarray] = []
    first, n_bytes, in_colour = "", 0, False
    for name, content in files:
        image = _decode(content, name)
        first = first or name
        if images and image.shape[:2] != images[0].shape[:2]:
            got, expected = (f"{x.shape[1]}x{x.shape[0]}" for x in (image, images[0]))
            raise InputError(
                f"{name}: got {got} pixels, expected {expected}, as {first}: images of one size"
            )
        n_bytes += image.nbytes
        if n_bytes > MAX_ARRAY_BYTES:
            raise InputError(f"{name}: got more pictures than fit into {MAX_ARRAY_BYTES:,} bytes")
        in_colour = in_colour or image.ndim == 3
        images.append(image)
    if in_colour:
        images = [x if x.ndim == 3 else x[..., None].repeat(3, 2) for x in images]
    return np.stack(images)


def _decode(content: bytes, name: str) -> np.ndarray:
    """Return a picture, (height, width) or (height, width, 3) uint8, turned as its EXIF data says.

    Raises InputError if it is damaged, too large, animated or transparent."""
    most = f"{MAX_SIDE}x{MAX_SIDE}"
    picture = open_image(content, name, f"{most} pixels")
    if max(picture.size) > MAX_SIDE:
        raise InputError(
            f"{name}: got {picture.width}x{picture.height} pixels, expected at most {most}",
            hint="make all pictures smaller first, for example with Pillow's Image.resize",
        )
    with readable(name):
        if getattr(picture, "is_animated", False):
            raise InputError(f"{name}: got several frames, expected a still picture")
        return _pixels(decode(picture, name), name)


def _pixels(picture: Image.Image, name: str) -> np.ndarray:
    mode = picture.mode
    if mode in ("1", "L"):
        return np.asarray(picture.convert("L"))
    if mode in DEEP:
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise InputError(f"{name}: got {deep.min()} to {deep.max()}, expected 8 or 16 bits")
        return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if mode == "F":
        raise InputError(f"{name}: got floats, expected pixels of 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if np.asarray(picture)[..., 3].min() < 255:
            raise InputError(
                f"{name}: got transparent pixels, expected none",
                hint="draw the pictures on a background of one colour first",
            )
    pixels = np.asarray(picture.convert("RGB"))
    grey = mode in ("P", "LA", "PA") and (pixels == pixels[..., :1]).all()
    return pixels[..., 0] if grey else pixels
