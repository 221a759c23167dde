"""How often a network looks at an image: how often the same weights are applied side by side.

Test-time augmentation, dense evaluation and any other average over changed copies of an image have
this in common, however they are written: as copies among the images of one batch, as a picture that
is composed of them, or as several calls. A layer that takes its own output again looks once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from .fields import Axis, Field
from .flow import Step, leaves
from .follow import CONVOLUTIONS, FACTORS

# Operations that apply weights to positions.
APPLICATIONS = CONVOLUTIONS | set(FACTORS) | {"einsum"}
# An argument of an operation that depends on the images: its name, value and field.
Input = tuple[str, Tensor, Field]


def find_views(
    steps: Sequence[Step],
    inputs: Mapping[Step, Sequence[Input]],
    weights: Mapping[Step, Iterable[int]],
    n_images: int,
    shape: Sequence[int],
) -> dict[Step, int]:
    """Return how often each application of weights to a map is made side by side for one image.

    Side by side are the copies of an image that one operation takes, and operations with the same
    weights before which equally many operations with these weights have come one after another.

    Args:
        steps: The steps that lead from the images to the output, in the order in which they ran.
        inputs: The arguments of each that depend on the images.
        weights: The stored tensors, by identity, that the operations of `APPLICATIONS` use.
        n_images: Number of images.
        shape: Shape of one image, (channels, height, width).
    """
    keys: dict[Step, tuple[object, ...]] = {}
    for step in steps:
        used = frozenset(weights.get(step, ()))
        if used and any(field.moves for _, _, field in inputs[step]):
            shapes = (each.tensor.shape for each in step.operands if not each.from_images)
            keys[step] = (used, *map(tuple, shapes))
    uses: dict[tuple[object, ...], int] = {}
    for key in keys.values():
        uses[key] = uses.get(key, 0) + 1
    # For the weights that several steps apply: how many of them came before, one after another.
    before: dict[Step, dict[tuple[object, ...], int]] = {}
    side_by_side: dict[tuple[object, ...], int] = {}
    places: dict[Step, tuple[object, ...]] = {}
    for step in steps:
        counts: dict[tuple[object, ...], int] = {}
        for parent in step.parents:
            for key, count in before.get(parent, {}).items():
                counts[key] = max(count, counts.get(key, 0))
        if step in keys:
            key = keys[step]
            places[step] = (*key, counts.get(key, 0))
            copies = _copies(step, inputs[step], n_images, shape)
            side_by_side[places[step]] = side_by_side.get(places[step], 0) + copies
            if uses[key] > 1:
                counts[key] = counts.get(key, 0) + 1
        before[step] = counts
    return {step: side_by_side[place] for step, place in places.items()}


def _copies(step: Step, inputs: Sequence[Input], n_images: int, shape: Sequence[int]) -> int:
    """Return to how many copies of one image an operation applies its weights."""
    found = max(
        _among_images(x, field, n_images) * _in_pictures(x, field, shape)
        for _, x, field in inputs
        if field.moves
    )
    if step.op in CONVOLUTIONS:
        weight, (_, x, field) = step.named["weight"], inputs[0]
        # Beside positions a convolution may slide over copies, as one of three dimensions does.
        for dim in range(x.ndim - (weight.ndim - 2), x.ndim):
            if not any(jump for axis in field[:2] for _, jump in axis.parts[dim]):
                found *= step.results[0].shape[dim]
        # Copies that are channels have groups of their own, each with the same weights.
        if step.named.get("groups", 1) > 1 and weight.shape[1] > 1:
            stored = sum(leaf.result.numel() for leaf in leaves(step))
            found *= max(1, weight.numel() // stored)
    return found


def _among_images(x: Tensor, field: Field, n_images: int) -> int:
    """Return how many copies of an image lie along the dimension of the images.

    Parts of an image, such as windows, are copies only as far as they overlap."""
    moving = [d for d, part in enumerate(field.images.parts) if any(jump for _, jump in part)]
    found = 1.0
    for dim in moving or [0]:  # an operation that is not known leaves them where they were
        found *= x.shape[dim] / n_images
        for axis in field[:2]:
            for count, jump in axis.parts[dim]:
                if jump:
                    found *= min(count, max(1.0, _length(axis, dim) / abs(jump))) / count
    return max(1, math.ceil(round(found, 6)))


def _length(axis: Axis, dim: int) -> float:
    """Return how many pixels the map of one part of an image covers, without dimension `dim`."""
    others = [i for i in range(len(axis.parts)) if i != dim]
    jumps = [abs(jump) for i in others for _, jump in axis.parts[i] if jump]
    return axis.reach(others) + min(jumps, default=0.0)


def _in_pictures(x: Tensor, field: Field, shape: Sequence[int]) -> int:
    """Return how many images fit beside each other into a map."""
    found = 1
    for axis, side in zip(field[:2], shape[1:], strict=True):
        for dim, part in enumerate(axis.parts):
            if len(part) == 1 and part[0][1] > 0:
                found *= max(1, math.floor(x.shape[dim] * part[0][1] / side))
    return found
