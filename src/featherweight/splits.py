"""Load a contract's split, and judge whether its validation images can measure anything.

    split = contract_split(None, load_contract("era-v3-s6"))
    split_faults(split, load_contract("era-v3-s6"))     # []

Sizes, images that are in both parts, exactly or almost, one label that is nearly all of them, and
the contract's data set: whether the images are MNIST's or Fashion-MNIST's, or have the shape and
classes of CIFAR-10.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from .contract import DATA_NAMES, DATA_SETS, Contract
from .counts import percent
from .data import Images, Split, load_split
from .device import cpu_threads
from .errors import InputError
from .facts import SplitFound

# Data sets that everybody has in the same bits: `Split.sha256` of the first 50,000 training images
# and the last 10,000, with their labels.
MNIST_SPLIT = "bef6aa79bded95295eef7eb594897e2fd08798e7b4b6748d6a8e853b7ad808a4"
SPLITS = {
    "mnist": MNIST_SPLIT,
    # 8 of its last 10,000 images are near copies of its first 50,000; none is an exact one.
    "fashion-mnist": "de533d1745ad642a55a4d3fc98f3b8818e08c167fe52cb4240e1c5e3a709d16e",
}
KNOWN_SIZES, KNOWN_IMAGES = (50_000, 10_000), 60_000
# A validation image is a near copy of a training image if, without the pixel that differs most, the
# root mean square of their difference is at most this part of the training pixels' deviation: for
# MNIST 3.9 grey levels. Noise of up to 3 levels in every pixel is at most 3.0 away. In MNIST's own
# split the nearest training image is at least 6.2 away (of 1 image in 1,000 under 8.9, median 38).
NEAR = 0.05
BLOCK = 4  # side in pixels of the blocks whose sums are compared before the pixels
CHUNK = 200  # validation images that are compared at a time


def contract_split(data: str | None, contract: Contract) -> Split:
    """Return the images of a data set in the sizes of a contract; None is MNIST.

    Raises InputError where the contract is about another data set than MNIST and `data` is None,
    or the data can't be read."""
    if data is None and contract.data not in ("", "mnist"):
        name = DATA_NAMES[contract.data]
        raise InputError(
            f"contract {contract.name}: got no data, expected {name}'s images",
            hint=f"give their place with --data; MNIST comes with Featherweight, {name} does not",
        )
    return load_split(data, contract.train_size, contract.val_size)


def find_split(
    split: Split, contract: Contract, own: bool | None, n_synthetic: int = 0
) -> SplitFound:
    """Return what is found of a split for a contract.

    `own` says whether it is the split of the run that is judged, None where there is no run, and
    `n_synthetic` how many synthetic images the run's training added."""
    known = _known_data(split, contract.data)
    faults = _faults(split, contract, known)
    if n_synthetic and contract.data:
        faults.append(
            f"trained on {n_synthetic:,} synthetic images too, not on "
            f"{DATA_NAMES[contract.data]}'s alone"
        )
    if own is False:
        faults.append("not the run's images")
    if known:
        how = f"the hash is that of {DATA_NAMES[known]}'s own"
    else:
        how = "every validation image against every training image"
        if contract.data not in ("", *SPLITS):
            how += (
                "; shape and classes, not that the images are "
                f"{DATA_NAMES[contract.data]}'s own, of which there are copies of other bits"
            )
    whose = (
        "the images that the weights were trained on are unknown"
        if own is None
        else "the split's hash is the run's"
    )
    return SplitFound(
        tuple(faults), len(split.train), len(split.val), f"{how}; {whose}", n_synthetic
    )


def split_faults(split: Split, contract: Contract) -> list[str]:
    """Return what is wrong with a split, one sentence each; nothing if it may judge the contract.

    Takes about 1 s of one core for 10,000 x 50,000 images of 28x28 pixels, and no time for MNIST
    and Fashion-MNIST.
    """
    return _faults(split, contract, _known_data(split, contract.data))


def _faults(split: Split, contract: Contract, known: str) -> list[str]:
    faults, sizes = [], (len(split.train), len(split.val))
    expected = contract.train_size, contract.val_size
    if sizes != expected:
        faults.append(
            f"{sizes[0]:,} training and {sizes[1]:,} validation images, "
            f"expected {expected[0]:,} and {expected[1]:,}"
        )
    if contract.data in SPLITS:
        if known != contract.data:
            name = DATA_NAMES[contract.data]
            faults.append(f"not {name}'s images: their hash is {split.sha256[:12]}")
    elif (about := DATA_SETS[contract.data]) is not None:
        shape, classes = about
        if (split.shape, split.num_classes) != about:
            faults.append(
                f"not {DATA_NAMES[contract.data]}'s images: {_size(split.shape)} in "
                f"{split.num_classes} classes, expected {_size(shape)} in {classes}"
            )
    if not known:
        n_copies, n_near, distance = _copies(split)
        if n_copies:
            faults.append(f"{n_copies:,} of {sizes[1]:,} validation images are training images too")
        if n_near:
            faults.append(
                f"{n_near:,} of {sizes[1]:,} validation images are training images with small "
                f"changes: but for one pixel, at most {distance:.1f} grey levels from one"
            )
    for part, images, name in (
        ("val", split.val, "validation"),
        ("train", split.train, "training"),
    ):
        most, required = int(torch.bincount(images.labels).max()), contract.min_accuracy(part)
        # A contract that asks for no more than even guesses is not made easier by its data.
        if 1 / split.num_classes < (required or 0) <= most / len(images):
            faults.append(
                f"one label is right for {percent(most, len(images))} of the {name} images: always "
                "to give that one is all that the contract asks for"
            )
    return faults


@lru_cache(maxsize=1)
def _copies(split: Split) -> tuple[int, int, float]:
    """Return how many validation images are training images, how many are near one, and how near.

    Kept for the next verdict on the same images."""
    seen = set(split.train.digests())
    copies = torch.tensor([digest in seen for digest in split.val.digests()])
    distance = NEAR * 255 * split.mean_std[1]
    others = Images(split.val.pixels[~copies], split.val.labels[~copies])
    return int(copies.sum()), int(near_copies(split.train, others, distance).sum()), distance


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _known_data(split: Split, wanted: str) -> str:
    """Return the key in SPLITS of the data set whose first and last images and labels these are.

    Empty if there is none. Sizes other than the usual ones are compared with the data set `wanted`
    alone, as it is installed (MNIST) or where the split is from. Raises InputError if MNIST is
    wanted and not installed."""
    sizes = len(split.train), len(split.val)
    if sizes == KNOWN_SIZES:
        return next((name for name, sha256 in SPLITS.items() if split.sha256 == sha256), "")
    source = None if wanted == "mnist" else split.source
    if wanted not in SPLITS or sum(sizes) > KNOWN_IMAGES:
        return ""
    if wanted != "mnist" and (source is None or not _holds(source, SPLITS[wanted])):
        return ""
    return wanted if load_split(source, *sizes).sha256 == split.sha256 else ""


def _holds(source: str, sha256: str) -> bool:
    """Return whether a data set's images in the usual sizes have this hash."""
    try:
        return load_split(source, *KNOWN_SIZES).sha256 == sha256
    except InputError:  # it was read in other sizes: it has too few images for these
        return False


def near_copies(train: Images, val: Images, distance: float) -> Tensor:
    """Return for each validation image whether a training image is almost the same, bool (n,).

    Almost: without the pixel that differs most, the root mean square difference is at most
    `distance` grey levels.
    """
    found = torch.zeros(len(val), dtype=torch.bool)
    n_pixels = train.pixels[0].numel()
    # The difference d of two such images has a norm of at most `noise`, and one pixel of up to 255
    # more. So its sum is at most sqrt(n_pixels) * noise + 255, and by the inequality of Cauchy and
    # Schwarz the sums of its blocks have a norm of at most BLOCK * noise + 255.
    noise = n_pixels**0.5 * distance
    max_sum, max_norm = n_pixels**0.5 * noise + 255, BLOCK * noise + 255
    train_sums, val_sums = _block_sums(train.pixels), _block_sums(val.pixels)
    middle = train_sums.mean(0)  # so that norms are small, and float32 is exact enough
    train_sums, val_sums = train_sums - middle, val_sums - middle
    # In the order of their sums, a chunk has to be compared with a part of the training images.
    train_sum, train_order = train_sums.sum(1).sort()
    val_sum, val_order = val_sums.sum(1).sort()
    train_sums, val_sums = train_sums[train_order], val_sums[val_order]
    train_norms, val_norms = train_sums.square().sum(1), val_sums.square().sum(1)
    first = torch.searchsorted(train_sum, val_sum - max_sum - 1)
    last = torch.searchsorted(train_sum, val_sum + max_sum + 1)
    with cpu_threads(1):  # threads would wait for one another in the many short products
        for start in range(0, len(val), CHUNK):
            chunk = slice(start, start + CHUNK)
            part = slice(int(first[chunk][0]), int(last[chunk][-1]))
            if part.start == part.stop:
                continue
            # |a - b|^2 - |b|^2, of validation images b and training images a.
            squares = torch.addmm(
                train_norms[None, part], val_sums[chunk], train_sums[part].T, alpha=-2
            )
            limits = 1.001 * max_norm**2 + 1 - val_norms[chunk]
            for row in (squares.amin(1) <= limits).nonzero().flatten().tolist():
                candidates = train_order[part][squares[row] <= limits[row]]
                image = val_order[start + row]
                found[image] = _any_near(train.pixels, candidates, val.pixels[image], noise)
    return found


def _any_near(pixels: Tensor, candidates: Tensor, image: Tensor, noise: float) -> bool:
    for some in candidates.split(1000):
        squares = (pixels[some].int() - image.int()).square().flatten(1)
        if bool((squares.sum(1) - squares.amax(1) <= noise**2).any()):
            return True
    return False


def _block_sums(pixels: Tensor) -> Tensor:
    """Return the sums of each image's blocks, float32 (n, blocks)."""
    height, width = pixels.shape[2:]
    whole = pad(pixels.float(), (0, -width % BLOCK, 0, -height % BLOCK))
    return avg_pool2d(whole, BLOCK).flatten(1) * BLOCK**2
