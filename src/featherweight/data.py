"""Load a data set: training and validation images as one split, and test images on request.

    split = load_split(None, n_train=50_000, n_val=10_000)     # MNIST, from packages/mnist
    split = load_split("fashion/", n_train=50_000, n_val=10_000)
    test = load_test(split)                                    # for the final evaluation only

A source is a directory of four IDX files (LeCun's format, gzipped or not, with MNIST's file names),
or one `.npz` file with train, val and test images and labels (as MedMNIST ships them). An array may
have 2 GiB (`_arrays.MAX_ARRAY_BYTES`); a header that claims more is refused before it is read.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ._arrays import read_idx, read_npz
from .errors import InputError
from .image_kind import CHANNELS, MAX_SIDE, ImageKind

STEMS = {"train": "train", "test": "t10k"}
# Grey levels up to which a border's pixel is dark, and from which it is light; and the share of
# such pixels in the borders of images that show light ink on dark paper, or dark ink on light.
DARK, LIGHT, PAPER_SHARE = 63, 192, 0.6


def normalise(pixels: Tensor, mean_std: tuple[float, float]) -> Tensor:
    """Return pixels in [0, 255], uint8 or float, less the mean and divided by the deviation.

    `mean_std` are the mean and standard deviation of pixels scaled to [0, 1].
    """
    mean, std = mean_std
    return (pixels.float() - 255 * mean) / (255 * std)


@dataclass(frozen=True)
class Images:
    """Labelled images."""

    pixels: Tensor
    "Shape (n, channels, height, width), uint8; channels are 1 (grey) or 3 (red, green, blue)."
    labels: Tensor
    "Shape (n,), int64."

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Images":
        """Return the images on another device."""
        return Images(self.pixels.to(device), self.labels.to(device))

    def digests(self) -> list[bytes]:
        """Return a hash of each image's pixels; equal images have equal hashes."""
        return [
            hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            for image in self.pixels.numpy()
        ]


@dataclass(frozen=True)
class Said:
    """What a data set, or its name, says about its images; what is empty is not said."""

    polarity: str = ""
    "As in `ImageKind`."
    orientation: str = ""
    "As in `ImageKind`."
    classes: tuple[str, ...] = ()
    "Name of each class."


@dataclass(frozen=True)
class Split:
    """Training and validation images of one data set."""

    source: str | None
    "Absolute path of the data. None: MNIST."
    train: Images
    "Training images."
    val: Images
    "Validation images."
    num_classes: int
    "Number of classes, from the training labels or as the data set says."
    said: Said = Said()
    "What the data set says about its images."

    @cached_property
    def kind(self) -> ImageKind:
        """What the images are like: as the data set says, else as the training images show."""
        return ImageKind(
            *self.shape,
            self.said.polarity or find_polarity(self.train.pixels),
            self.said.orientation or "upright",
            self.said.classes or tuple(map(str, range(self.num_classes))),
        )

    @cached_property
    def mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation of the training pixels of all channels, scaled to [0, 1].

        For MNIST's first 50,000 images 0.1310 and 0.3085 (of all 60,000: 0.1307 and 0.3081).
        """
        # From the histogram: exact in integers, and no float copy of 47 million pixels.
        counts = torch.bincount(self.train.pixels.flatten(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        if variance == 0:
            raise InputError(
                "the training images: got one grey level in all of them, expected at least two"
            )
        return mean.item(), variance.sqrt().item()

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return pixels in [0, 255], uint8 or float, normalised by the training images' `mean_std`.

        Over the training images the result has mean 0 and standard deviation 1.
        """
        return normalise(pixels, self.mean_std)

    @cached_property
    def sha256(self) -> str:
        """Hash of the pixels and labels of both parts, in order."""
        digest = hashlib.sha256()
        for part in (self.train, self.val):
            digest.update(str(tuple(part.pixels.shape)).encode())
            digest.update(part.pixels.numpy().data)
            digest.update(part.labels.numpy().data)
        return digest.hexdigest()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, (channels, height, width)."""
        channels, height, width = self.train.pixels.shape[1:]
        return channels, height, width


def find_polarity(pixels: Tensor) -> str:
    """Return the polarity of images (n, channels, height, width) uint8, as `ImageKind` names it.

    Paper shows at the border of an image. Colour images count as natural.
    """
    if pixels.shape[1] != 1:
        return "natural"
    rows, columns = pixels[:, 0, [0, -1]], pixels[:, 0, :, [0, -1]]
    counts = sum(torch.bincount(border.flatten(), minlength=256) for border in (rows, columns))
    assert isinstance(counts, Tensor)
    shares = counts.double() / counts.sum()
    if shares[: DARK + 1].sum() >= PAPER_SHARE:
        return "light on dark"
    return "dark on light" if shares[LIGHT:].sum() >= PAPER_SHARE else "natural"


def mnist_folder() -> Path:
    """Return the folder of MNIST's files. Raises InputError where they are not installed."""
    try:
        from featherweight_mnist import FOLDER
    except ModuleNotFoundError as error:
        raise InputError(
            "MNIST's images are not installed; expected the package featherweight-mnist",
            hint="python -m pip install packages/mnist, in a checkout of Featherweight; or --data",
        ) from error
    return FOLDER


def _find(folder: Path, stem: str) -> Path:
    for name in (f"{stem}-ubyte.gz", f"{stem}-ubyte", f"{stem.replace('-idx', '.idx')}-ubyte"):
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: got no {stem}-ubyte, expected this file, gzipped or not")


def _read_idx_part(folder: Path, part: str, *, checked: bool = False) -> Images:
    images = read_idx(_find(folder, f"{STEMS[part]}-images-idx3"), 3)
    labels = read_idx(_find(folder, f"{STEMS[part]}-labels-idx1"), 1)
    if checked:
        _check_sums(part, images, labels)
    return _images(f"{folder} ({part})", images, labels)


def _check_sums(part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Compare MNIST's files with SHA256SUMS, which holds sums of the uncompressed bytes."""
    lines = (mnist_folder() / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in map(str.split, lines)}
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        name = f"{STEMS[part]}-{kind}-ubyte"
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        got = hashlib.sha256(header)
        got.update(array.data)
        if got.hexdigest() != sums[name]:
            raise InputError(
                f"{name}: got SHA-256 {got.hexdigest()}, expected {sums[name]}",
                hint="install featherweight-mnist again",
            )


def _images(where: str, images: np.ndarray, labels: np.ndarray) -> Images:
    """Check arrays and return tensors.

    Images are (n, height, width), (n, height, width, channels) or (n, channels, height, width),
    with 1 channel or 3; labels are (n,) or (n, 1).
    """
    axis = _channel_axis(images.shape)
    if axis is None or images.dtype != np.uint8:
        raise InputError(
            f"{where}: got images {images.dtype} {images.shape}, expected uint8 (n, height, width),"
            " greyscale, or (n, height, width, 3), colour"
        )
    images = np.moveaxis(images, axis, 1) if axis else images[:, None]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{where}: got labels {labels.dtype} {labels.shape}, expected whole numbers (n,)"
        )
    if len(images) != len(labels):
        raise InputError(
            f"{where}: got {len(images)} images and {len(labels)} labels, expected one label "
            "per image"
        )
    if not len(images) or not all(1 <= side <= MAX_SIDE for side in images.shape[2:]):
        raise InputError(
            f"{where}: got images {images.shape}, "
            f"expected at least one image, of at most {MAX_SIDE}x{MAX_SIDE} pixels"
        )
    if labels.min() < 0 or labels.max() > 255:
        raise InputError(
            f"{where}: got label {labels.min() if labels.min() < 0 else labels.max()}, "
            "expected 0 to 255"
        )
    return Images(
        torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
    )


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of the channels of images, 0 where they have none, None where it is wrong."""
    if len(shape) == 3:
        return 0
    if len(shape) == 4 and shape[3] in CHANNELS:
        return 3
    return 1 if len(shape) == 4 and shape[1] in CHANNELS else None


def _read_npz_part(path: Path, part: str) -> Images:
    try:
        arrays = [read_npz(path, f"{part}_{kind}") for kind in ("images", "labels")]
    except KeyError as error:
        raise InputError(
            f"{path}: got no array {part}_images or {part}_labels, expected both"
        ) from error
    return _images(f"{path} ({part})", *arrays)


def _part(images: Images, where: slice) -> Images:
    return Images(images.pixels[where], images.labels[where])


def _same_kind(where: str, part: Images, shape: torch.Size, num_classes: int) -> Images:
    """Return `part` if its images and labels are like the training images'."""
    if part.pixels.shape[1:] != shape:
        raise InputError(
            f"{where}: got images {tuple(part.pixels.shape[1:])}, expected {tuple(shape)}"
        )
    if part.labels.max() >= num_classes:
        raise InputError(
            f"{where}: got label {part.labels.max()}, expected one of the {num_classes} "
            "classes in the training labels"
        )
    return part


@lru_cache(maxsize=1)
def load_split(source: str | None, n_train: int, n_val: int) -> Split:
    """Return the training and validation images of a data set.

    Args:
        source: Directory of IDX files or .npz file. None: MNIST.
        n_train: Number of training images: the first ones of the training file.
        n_val: Number of validation images: the last ones of the training file. An .npz file has
            validation images of its own, and both of its numbers must match.

    Raises InputError if the data can't be read, or does not have these images.
    """
    path = Path(source).resolve() if source is not None else mnist_folder()
    wanted = f"expected {n_train:,} training and {n_val:,} validation images"
    if path.suffix == ".npz" and path.is_file():
        train, val = _read_npz_part(path, "train"), _read_npz_part(path, "val")
        if (len(train), len(val)) != (n_train, n_val):
            raise InputError(f"{path}: got {len(train):,} and {len(val):,}, {wanted}")
    elif path.is_dir():
        both = _read_idx_part(path, "train", checked=source is None)
        if len(both) < n_train + n_val:
            raise InputError(f"{path}: got {len(both):,} images, {wanted}")
        train, val = _part(both, slice(n_train)), _part(both, slice(len(both) - n_val, None))
    else:
        raise InputError(
            f"data {source!r}: got no such directory or .npz file, "
            "expected a directory of four MNIST-format files, or an .npz file"
        )
    num_classes = int(train.labels.max()) + 1
    if num_classes < 2:
        raise InputError(f"{path}: got one class, expected at least two")
    val = _same_kind(f"{path} (val)", val, train.pixels.shape[1:], num_classes)
    return Split(str(path) if source is not None else None, train, val, num_classes)


def load_test(split: Split) -> Images:
    """Return the test images of a split's data set.

    For the final evaluation only: nothing may be chosen by a result on these images. Raises
    InputError if they can't be read, or are not like the training images.
    """
    path = Path(split.source) if split.source is not None else mnist_folder()
    if path.suffix == ".npz":
        test = _read_npz_part(path, "test")
    else:
        test = _read_idx_part(path, "test", checked=split.source is None)
    return _same_kind(f"{path} (test)", test, split.train.pixels.shape[1:], split.num_classes)
