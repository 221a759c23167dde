"""Build a network with different seeds, and compare what it starts from.

    fresh = fresh_networks("my_net.py:Net", {}, split, watched=False)
    compare_builds(fresh).alike         # weights that do not depend on the seed

Weights that are the same for two seeds were loaded from somewhere, or written down.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .apart import capture_apart
from .build import build
from .data import Split
from .device import seed_everything
from .facts import Builds
from .passes import audit_passes
from .trace import MAX_FREE_CONSTANTS

Fresh = Callable[[int], nn.Module]
# Two tensors are alike where the root mean square of their difference is below this part of their
# deviation. Of independent draws it is 1.4.
MAX_ALIKE = 0.5


def fresh_networks(path: str, arguments: dict[str, Any], split: Split, watched: bool) -> Fresh:
    """Return a function that builds a network of a seed, in a process apart unless it is watched.

    Args:
        path: MODULE:CLASS or FILE.py:CLASS.
        arguments: Arguments of its constructor.
        split: The images, for their shape and the number of classes.
        watched: Whether it is watched, so that its code runs in this process.
    """

    def build_fresh(seed: int) -> nn.Module:
        if watched or path.startswith("featherweight.model:"):
            seed_everything(seed, -1)
            return build(path, arguments, split.num_classes, split.shape)
        passes = audit_passes(split.shape)
        return capture_apart(path, arguments, split.num_classes, passes, seed)

    return build_fresh


@torch.no_grad()
def compare_builds(fresh: Fresh) -> Builds:
    """Compare the stored tensors of two networks that were built with different seeds.

    Tensors of few numbers, or of one number throughout, say nothing. Two others are alike where
    their difference is small against their own deviation: of independent draws it is larger."""
    one, other = (_stored(fresh(seed)) for seed in (0, 1))
    compared, alike = 0, []
    unpaired = sorted(one.keys() ^ other.keys())
    for name in filter(other.__contains__, one):
        value, twin = one[name], other[name]
        deviation = max(value.std(), twin.std())
        if twin.shape != value.shape:
            unpaired.append(name)
        elif deviation > 0:
            compared += 1
            if (value - twin).square().mean().sqrt() < MAX_ALIKE * deviation:
                alike.append(name)
    return Builds(compared, tuple(alike), tuple(unpaired))


def _stored(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers and constants of more than a few numbers, as float64."""
    found = [*network.named_parameters(), *network.named_buffers()]
    reals = ((name, torch.view_as_real(x) if x.is_complex() else x) for name, x in found)
    return {name: x.double() for name, x in reals if x.numel() > MAX_FREE_CONSTANTS}
