"""Build a network with two seeds, and find what it starts from that no seed draws.

    fresh = fresh_networks("my_net.py:Net", {}, split, watched=False)
    compare_builds(fresh, seed=0).alike      # trained weights that were loaded or written down

Weights that are the same for two seeds were loaded from somewhere, or written down: they may know
something. Fixed filters, tables of positions and simple patterns such as an identity may be
written down too, as long as training makes most of the network.
"""

import copy
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .apart import capture_apart
from .build import build
from .data import Split
from .exported import Exported
from .facts import Builds
from .passes import audit_passes
from .trace import MAX_FREE_CONSTANTS

Fresh = Callable[[int], nn.Module]
# Two tensors are alike where the root mean square of their difference is below this part of their
# deviation. Of independent draws it is 1.4, and for few numbers it may be small by chance.
MAX_ALIKE, MAX_FEW_ALIKE = 0.5, 1e-3
# Numbers that are alike are a simple pattern if they compress to the size of as many numbers as are
# free constants, and of a hundredth of their own.
PATTERN_PART = 0.01
BYTES = 4  # of a number
# Different magnitudes of fixed filters that may be most of a network, and the decimals that count.
MAX_DIFFERENT, DECIMALS = MAX_FREE_CONSTANTS, 5


def fresh_networks(path: str, arguments: dict[str, Any], split: Split, watched: bool) -> Fresh:
    """Return a function that builds a network of a seed, in a process apart unless it is watched.

    What a process apart has built is kept, and each call gets a copy of its own.

    Args:
        path: MODULE:CLASS or FILE.py:CLASS.
        arguments: Arguments of its constructor.
        split: The images, for their shape and the number of classes.
        watched: Whether it is watched, so that its code runs in this process.
    """
    built: dict[int, Exported] = {}

    def build_fresh(seed: int) -> nn.Module:
        if watched or path.startswith("featherweight.model:"):
            return build(path, arguments, split.num_classes, split.shape, seed)
        if seed not in built:
            passes = audit_passes(split.shape)
            built[seed] = capture_apart(path, arguments, split.num_classes, passes, seed)
        return copy.deepcopy(built[seed])

    return build_fresh


@torch.no_grad()
def compare_builds(fresh: Fresh, seed: int) -> Builds:
    """Compare the stored tensors of the networks that a seed and the next one build.

    Tensors of one number throughout, such as zeros, say nothing, unless there are many numbers. Two
    others are alike where their difference is small against their own deviation: of independent
    draws it is larger; or where they hold the same numbers in many places.
    """
    one, other = (_stored(fresh(each)) for each in (seed, seed + 1))
    compared = 0
    few: dict[str, tuple[Tensor, Tensor]] = {}  # small tensors that differ
    constant: dict[str, Tensor] = {}
    alike: dict[str, Tensor] = {}
    fixed: dict[str, Tensor] = {}
    unpaired = sorted(one.keys() ^ other.keys())
    for name in filter(other.__contains__, one):
        (value, trained), (twin, _) = one[name], other[name]
        if twin.shape != value.shape:
            unpaired.append(name)
            continue
        deviation = max(_deviation(value), _deviation(twin))
        if deviation > 0:
            compared += trained
            difference = (value - twin) / deviation
            if _is_alike(difference, value):
                (alike if trained else fixed)[name] = value
            elif trained and value.numel() <= MAX_FREE_CONSTANTS:
                few[name] = value, difference
        elif torch.equal(value, twin):
            constant[name] = value
    # Small tensors say little by themselves, and tensors of one number nothing; many may.
    differences = _joined(difference for _, difference in few.values())
    if len(differences) > MAX_FREE_CONSTANTS and _is_alike(differences, differences):
        alike |= {name: value for name, (value, _) in few.items()}
    if len(_joined(x.flatten()[:1] for x in constant.values()).unique()) > MAX_FREE_CONSTANTS:
        for name, value in constant.items():
            (alike if one[name][1] else fixed)[name] = value
            compared += one[name][1]
    # The largest first, which are named.
    names = sorted(alike, key=lambda name: -alike[name].numel())
    total = sum(value.numel() for value, _ in one.values())
    n_fixed = sum(value.numel() for value in fixed.values())
    return Builds(
        compared,
        () if _is_pattern(alike.values()) else tuple(names),
        tuple(name for name in unpaired if _is_large(one, name) or _is_large(other, name)),
        tuple(fixed),
        n_fixed,
        total,
        mostly_fixed=2 * n_fixed > total and not _is_of_few(fixed.values()),
    )


def _stored(network: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    """Return parameters, buffers and constants as float64, and whether each is trained."""
    found = [*network.named_parameters(), *network.named_buffers()]
    reals = ((name, torch.view_as_real(x) if x.is_complex() else x, x) for name, x in found)
    # Infinity and NaN, which no network can use, would make the others incomparable.
    return {name: (r.double().nan_to_num(0, 0, 0), x.requires_grad) for name, r, x in reals}


def _is_alike(difference: Tensor, value: Tensor) -> bool:
    """Return whether two tensors are alike, by their difference in deviations and one of them."""
    n, size = value.numel(), difference.square().mean().sqrt()
    if n <= MAX_FREE_CONSTANTS:
        return bool(size < MAX_FEW_ALIKE)
    # One large number is the deviation of all others, so equal numbers are counted too.
    equal = value[difference == 0]
    many = equal.numel() > MAX_FREE_CONSTANTS + PATTERN_PART * n and not _is_of_few([equal])
    return many or bool(size < MAX_ALIKE)


def _deviation(x: Tensor) -> float:
    return float(x.std(correction=0)) if x.numel() else 0.0


def _is_large(stored: dict[str, tuple[Tensor, bool]], name: str) -> bool:
    return name in stored and stored[name][0].numel() > MAX_FREE_CONSTANTS


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0), *(x.flatten().float() for x in tensors)])


def _is_of_few(tensors: Iterable[Tensor]) -> bool:
    """Return whether tensors hold few different magnitudes, such as those of a cosine transform."""
    magnitudes = _joined(tensors).abs()
    largest = magnitudes.amax().clamp_min(torch.finfo(magnitudes.dtype).tiny)
    return len((magnitudes / largest).round(decimals=DECIMALS).unique()) <= MAX_DIFFERENT


def _is_pattern(tensors: Iterable[Tensor]) -> bool:
    """Return whether tensors hold few numbers, or repeat few, such as identities do."""
    numbers = _joined(tensors)
    size = len(zlib.compress(numbers.numpy(force=True).tobytes(), 9))
    most = MAX_FREE_CONSTANTS + PATTERN_PART * len(numbers)
    return len(numbers) <= MAX_FREE_CONSTANTS or size <= BYTES * most
