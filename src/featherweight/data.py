"""Read a data set into two tensors, train and validation, and the test images only when asked.

    split = load_split(None, n_train=50_000, n_val=10_000)     # the embedded MNIST
    split = load_split("fashion/", n_train=50_000, n_val=10_000)
    test = load_test(split)                                    # nothing is ever chosen on it

A source is a directory of four IDX files (LeCun's format, `.gz` or not, the names of MNIST), or one
`.npz` with train, val and test images and labels (as MedMNIST ships).
"""

import gzip
import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from .errors import InputError

EMBEDDED = Path(__file__).parent / "mnist"
STEMS = {"train": "train", "test": "t10k"}
MAX_SIDE = 64  # pixels; the largest image side that is read


@dataclass(frozen=True)
class Images:
    """`pixels` (n, 1, height, width) uint8 and `labels` (n,) int64."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.labels.to(device))

    def digests(self) -> list[bytes]:
        """One hash an image, of its pixels: equal images have equal hashes."""
        return [
            hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            for image in self.pixels.numpy()
        ]


@dataclass(frozen=True)
class Split:
    """Training and validation images; `source` is None for the embedded MNIST, else an absolute path."""

    source: str | None
    train: Images
    val: Images
    num_classes: int

    @cached_property
    def mean_std(self) -> tuple[float, float]:
        """Of all training pixels in [0, 1]; 0.1310 and 0.3085 for MNIST (0.1307, 0.3081 of all 60,000)."""
        # From the histogram: exact in integers, and no float copy of 47 million pixels.
        counts = torch.bincount(self.train.pixels.flatten(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        if variance == 0:
            raise InputError("the training images all have one and the same grey level")
        return mean.item(), variance.sqrt().item()

    @cached_property
    def sha256(self) -> str:
        """Of the pixels and labels of both parts, in order."""
        digest = hashlib.sha256()
        for part in (self.train, self.val):
            digest.update(str(tuple(part.pixels.shape)).encode())
            digest.update(part.pixels.numpy().data)
            digest.update(part.labels.numpy().data)
        return digest.hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """(1, height, width) of one image."""
        return tuple(self.train.pixels.shape[1:])


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """The uint8 array of an IDX file. Raises ValueError for what is not one."""
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file: {error}") from error
    magic = bytes([0, 0, 8, ndim])
    if content[:4] != magic:
        raise InputError(
            f"{path}: got magic number {content[:4].hex() or 'of an empty file'}, "
            f"expected {magic.hex()}"
        )
    header = 4 + 4 * ndim
    shape = (
        tuple(int(n) for n in np.frombuffer(content[4:header], ">u4"))
        if len(content) >= header
        else ()
    )
    expected = header + int(np.prod(shape, dtype=object)) if shape else header
    if len(content) != expected:
        raise InputError(
            f"{path}: got {len(content)} bytes, expected {expected} (truncated or damaged)"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, stem: str) -> Path:
    for name in (f"{stem}-ubyte.gz", f"{stem}-ubyte", f"{stem.replace('-idx', '.idx')}-ubyte"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: got no {stem}-ubyte, expected it there, .gz or not")


def _read_idx_part(folder: Path, part: str) -> Images:
    images = _read_idx(_find(folder, f"{STEMS[part]}-images-idx3"), 3)
    labels = _read_idx(_find(folder, f"{STEMS[part]}-labels-idx1"), 1)
    if folder == EMBEDDED:
        _check_sums(part, images, labels)
    return _images(f"{folder} ({part})", images, labels)


def _check_sums(part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """The embedded files against SHA256SUMS, whose sums are of the uncompressed bytes."""
    lines = (EMBEDDED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in map(str.split, lines)}
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        name = f"{STEMS[part]}-{kind}-ubyte"
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        got = hashlib.sha256(header)
        got.update(array.data)
        if got.hexdigest() != sums[name]:
            raise InputError(
                f"{name}: got SHA-256 {got.hexdigest()}, expected {sums[name]}; "
                "install featherweight again"
            )


def _images(where: str, images: np.ndarray, labels: np.ndarray) -> Images:
    """Checked arrays, images (n, height, width) and labels (n,) or (n, 1), as tensors."""
    if images.ndim != 3 or images.dtype != np.uint8:
        raise InputError(
            f"{where}: got images {images.dtype} {images.shape}, "
            "expected greyscale uint8 (n, height, width)"
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{where}: got labels {labels.dtype} {labels.shape}, expected whole numbers (n,)"
        )
    if len(images) != len(labels):
        raise InputError(
            f"{where}: got {len(images)} images and {len(labels)} labels, expected as many"
        )
    if not len(images) or not all(1 <= side <= MAX_SIDE for side in images.shape[1:]):
        raise InputError(
            f"{where}: got images {images.shape}, "
            f"expected at least one, of up to {MAX_SIDE}x{MAX_SIDE} pixels"
        )
    if labels.min() < 0 or labels.max() > 255:
        raise InputError(
            f"{where}: got label {labels.min() if labels.min() < 0 else labels.max()}, "
            "expected 0 to 255"
        )
    return Images(
        torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype(np.int64))
    )


def _read_npz_part(path: Path, part: str) -> Images:
    try:
        # Opened here: np.load leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return _images(f"{path} ({part})", arrays[f"{part}_images"], arrays[f"{part}_labels"])
    except KeyError as error:
        raise InputError(
            f"{path}: got no array {part}_images or {part}_labels, expected both"
        ) from error
    except (
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        TypeError,
    ) as error:  # TypeError: a lone array, no archive
        raise InputError(f"{path}: damaged .npz file: {error}") from error


def _part(images: Images, where: slice) -> Images:
    return Images(images.pixels[where], images.labels[where])


def _same_kind(where: str, part: Images, shape: torch.Size, num_classes: int) -> Images:
    if part.pixels.shape[1:] != shape:
        raise InputError(
            f"{where}: got images {tuple(part.pixels.shape[1:])}, expected {tuple(shape)}"
        )
    if part.labels.max() >= num_classes:
        raise InputError(
            f"{where}: got label {part.labels.max()}, expected one of the {num_classes} "
            "classes that the training labels have"
        )
    return part


@lru_cache(maxsize=1)
def load_split(source: str | None, n_train: int, n_val: int) -> Split:
    """The first `n_train` training images and the last `n_val` of the same file (an .npz has its own
    validation images, which must be `n_val`). Raises ValueError for data that is not as it must be."""
    path = Path(source).resolve() if source is not None else EMBEDDED
    wanted = f"expected {n_train:,} training and {n_val:,} validation images"
    if path.suffix == ".npz" and path.is_file():
        train, val = _read_npz_part(path, "train"), _read_npz_part(path, "val")
        if (len(train), len(val)) != (n_train, n_val):
            raise InputError(f"{path}: got {len(train):,} and {len(val):,}, {wanted}")
    elif path.is_dir():
        both = _read_idx_part(path, "train")
        if len(both) < n_train + n_val:
            raise InputError(f"{path}: got {len(both):,} images, {wanted}")
        train, val = _part(both, slice(n_train)), _part(both, slice(len(both) - n_val, None))
    else:
        raise InputError(
            f"data {source!r}: got no such directory or .npz file, "
            "expected four MNIST-format files in a directory, or an .npz"
        )
    num_classes = int(train.labels.max()) + 1
    if num_classes < 2:
        raise InputError(f"{path}: got one class, expected at least two")
    val = _same_kind(f"{path} (val)", val, train.pixels.shape[1:], num_classes)
    return Split(str(path) if source is not None else None, train, val, num_classes)


def load_test(split: Split) -> Images:
    """The test images that belong to a split. Only `--split test` (evaluate, stress) and a study's end call this."""
    path = Path(split.source) if split.source is not None else EMBEDDED
    read = _read_npz_part if path.suffix == ".npz" else _read_idx_part
    return _same_kind(
        f"{path} (test)", read(path, "test"), split.train.pixels.shape[1:], split.num_classes
    )
