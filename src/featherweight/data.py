"""Load a data set: training and validation images as one split, and test images on request.

    split = load_split(None, n_train=50_000, n_val=10_000)     # MNIST, from packages/mnist
    split = load_split("fashion/", n_train=50_000, n_val=10_000)
    test = load_test(split)                                    # for the final evaluation only

`formats` says what a source may be, and reads it.
"""

import hashlib
import math
import os
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .formats import SAID_FILE, Part, Said, Source, open_source
from .image_kind import CHANNELS, MAX_CLASSES, MAX_SIDE, ImageKind
from .synthetic import make_synthetic

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
    said: Said = field(default_factory=Said)
    "What the data set says about its images."
    validating: str = "the last {n} images of the training file"
    "Which images validate, with a place for their number."

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


def _check_sums(name: str, part: Part) -> None:
    """Compare a part of MNIST with SHA256SUMS, which holds sums of the uncompressed bytes."""
    lines = (mnist_folder() / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, name in map(str.split, lines)}
    for kind, array in (("images-idx3", part.images), ("labels-idx1", part.labels)):
        file = f"{STEMS[name]}-{kind}-ubyte"
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        got = hashlib.sha256(header)
        got.update(array.data)
        if got.hexdigest() != sums[file]:
            raise InputError(
                f"{file}: got SHA-256 {got.hexdigest()}, expected {sums[file]}",
                hint="install featherweight-mnist again",
            )


def _images(part: Part, said: Said, channels: int = 1) -> Images:
    """Check the arrays of a part, and return tensors.

    Grey images get three equal channels where `channels` are 3."""
    images, labels, where = part
    axis = _channel_axis(images.shape)
    if axis is None or images.dtype != np.uint8:
        raise InputError(
            f"{where}: got images {images.dtype} {images.shape}, expected uint8 (n, height, width),"
            " greyscale, or (n, height, width, 3), colour",
            hint=_image_hint(images),
        )
    images = np.moveaxis(images, axis, 1) if axis else images[:, None]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{where}: got labels {labels.dtype} {labels.shape}, expected whole numbers (n,)",
            hint=_label_hint(labels),
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
    labels = labels.astype(np.int64) - said.first_label
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(
            f"{where}: got label {wrong + said.first_label}, "
            f"expected {said.first_label} to {MAX_CLASSES - 1 + said.first_label}"
        )
    if images.shape[1] < channels:
        images = images.repeat(channels, 1)
    return Images(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels))


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of the channels of images, 0 where they have none, None where it is wrong."""
    if len(shape) == 3:
        return 0
    if len(shape) == 4 and shape[3] in CHANNELS:
        return 3
    return 1 if len(shape) == 4 and shape[1] in CHANNELS else None


def _label_hint(labels: np.ndarray) -> str | None:
    """Return how labels of another type or shape can be converted."""
    if labels.ndim == 1:
        return 'convert them: labels.astype("int64")'
    one_hot = labels.ndim == 2 and labels.dtype.kind in "biuf" and (labels.sum(1) == 1).all()
    return "convert them: labels.argmax(1)" if one_hot else None


def _image_hint(images: np.ndarray) -> str | None:
    """Return how images of another type or shape can be converted."""
    if images.ndim == 2:
        for sides, n in (("", images.shape[1]), ("3, ", images.shape[1] // 3)):
            side = math.isqrt(n)
            if side**2 * (3 if sides else 1) == images.shape[1]:
                return f"give them their sides: images.reshape(-1, {sides}{side}, {side})"
    if images.ndim == 4 and images.shape[3] == 4:
        return "leave out transparency: images[..., :3]"
    if images.dtype == bool:
        return 'convert them: (255 * images).astype("uint8")'
    if images.dtype.kind == "f" and images.size and -1 <= images.min() <= images.max() <= 1:
        zero_to_one = "images" if images.min() >= 0 else "(images + 1) / 2"
        return f'convert them: (255 * {zero_to_one}).round().astype("uint8")'
    if images.dtype == np.uint8:
        return None
    if images.dtype.kind in "fiu" and images.size and 0 <= images.min() <= images.max() <= 255:
        return 'convert them: images.round().astype("uint8")'
    return None


def _part(images: Images, which: slice | Tensor) -> Images:
    return Images(images.pixels[which], images.labels[which])


def _same_kind(where: str, part: Images, train: Images, num_classes: int) -> Images:
    """Return `part` if its images and labels are like the training images'."""
    got, expected = tuple(part.pixels.shape[1:]), tuple(train.pixels.shape[1:])
    if got != expected:
        raise InputError(f"{where}: got images {got}, expected {expected}")
    if part.labels.max() >= num_classes:
        raise InputError(
            f"{where}: got label {part.labels.max()}, expected one of the {num_classes} "
            "classes in the training labels"
        )
    return part


def _checked_said(source: Source, labels: np.ndarray, where: str) -> Said:
    """Return what is said about the images, in so far as it fits the training labels.

    Raises InputError if it does not fit though the data set itself says it, or if label 0 never
    occurs though nothing is said about it.
    """
    said = source.said
    if not len(labels) or labels.dtype.kind not in "iu":
        return said  # which is refused where the labels are checked
    least, most = int(labels.min()), int(labels.max())
    if said.by_name and least < said.first_label:  # labels of another's making
        said = replace(said, first_label=0)
    if said.by_name:
        n_classes = most + 1 - said.first_label
        classes = said.classes[:n_classes] if n_classes <= len(said.classes) else ()
        said = replace(said, classes=classes if len(classes) > 1 else ())
    if least == 1 and not said.first_label:
        raise InputError(
            f"{where}: label 0 never occurs: the training labels are 1 to {most}, expected them "
            "from 0",
            hint=f"subtract 1 from all of them; or say first_label = 1, in {SAID_FILE} or as an "
            "array of the .npz file",
        )
    return said


@lru_cache(maxsize=1)
def load_split(source: str | None, n_train: int, n_val: int) -> Split:
    """Return the training and validation images of a data set.

    Args:
        source: Where it is, as `formats.open_source` finds it. None: MNIST.
        n_train: Number of training images: the first ones of the training file. Of pictures in
            folders, the first ones of each class.
        n_val: Number of validation images: the last ones of the training file. Of pictures in
            folders, the last ones of each class, in equal numbers. A data set that has validation
            images of its own must have these numbers of both.

    Raises InputError if the data can't be read, or does not have these images.
    """
    if source == "":
        raise InputError("data: got an empty path, expected a folder or a file")
    # Not Path.resolve, which fails for links that lead to themselves.
    path = Path(os.path.realpath(source)) if source is not None else mnist_folder()
    found = open_source(path)
    part = found.read("train")
    if source is None:
        _check_sums("train", part)
    said = _checked_said(found, part.labels, part.where)
    both = _images(part, said)
    wanted = f"expected {n_train:,} training and {n_val:,} validation images"
    validating = Split.validating
    if found.has_val:
        validating = "the {n} validation images of the data set"
        channels = both.pixels.shape[1] if found.by_class else 1
        train, val = both, _images(found.read("val"), said, channels)
        if (len(train), len(val)) != (n_train, n_val):
            raise InputError(f"{path}: got {len(train):,} and {len(val):,}, {wanted}")
    elif len(both) < n_train + n_val:
        raise InputError(f"{path}: got {len(both):,} images, {wanted}")
    elif found.by_class:
        validating = "the last training pictures of each class, {n} in all"
        train, val = _split_by_class(str(path), both, said.classes, n_train, n_val)
    else:
        train, val = _part(both, slice(n_train)), _part(both, slice(len(both) - n_val, None))
    num_classes = int(train.labels.max()) + 1
    if said.classes:
        if num_classes > len(said.classes):
            raise InputError(
                f"{path}: got names of {len(said.classes)} classes, and label "
                f"{num_classes - 1 + said.first_label} in the training images"
            )
        num_classes = len(said.classes)
    if num_classes < 2 or bool((train.labels == train.labels[0]).all()):
        raise InputError(f"{path}: got one class, expected at least two")
    val = _same_kind(f"{path} (val)", val, train, num_classes)
    return Split(
        str(path) if source is not None else None, train, val, num_classes, said, validating
    )


def _split_by_class(
    where: str, images: Images, classes: tuple[str, ...], n_train: int, n_val: int
) -> tuple[Images, Images]:
    """Return training images, and the last ones of each class, in equal numbers, to validate."""
    is_val = torch.zeros(len(images), dtype=torch.bool)
    for label, name in enumerate(classes):
        # Of numbers that can't be equal, the first ones are larger by one.
        n = n_val // len(classes) + (label < n_val % len(classes))
        own = (images.labels == label).nonzero()[:, 0]
        if len(own) <= n:
            raise InputError(
                f"{where}: got {len(own):,} training pictures of class {name!r}, expected more "
                f"than the {n:,} that validate",
                hint="put the validation pictures into a folder val; or use a contract with a "
                "smaller val_size",
            )
        is_val[own[len(own) - n :]] = True
    return _part(images, (~is_val).nonzero()[:n_train, 0]), _part(images, is_val)


@lru_cache(maxsize=1)
def synthetic_images(n: int, seed: int) -> Images:
    """Return images that MNIST lacks, with the label NO_DIGIT where they show no digit.

    The arguments are those of `synthetic.make_synthetic`."""
    made = make_synthetic(n, seed)
    return Images(torch.from_numpy(made.pixels)[:, None], torch.from_numpy(made.labels))


def load_test(split: Split) -> Images:
    """Return the test images of a split's data set.

    For the final evaluation only: nothing may be chosen by a result on these images. Raises
    InputError if they can't be read, or are not like the training images.
    """
    path = Path(split.source) if split.source is not None else mnist_folder()
    found = open_source(path)
    part = found.read("test")
    if split.source is None:
        _check_sums("test", part)
    test = _images(part, split.said, split.shape[0] if found.by_class else 1)
    return _same_kind(f"{path} (test)", test, split.train, split.num_classes)
