"""Find group, layer and instance norms that a network writes by hand, in the steps of its graph.

`find_norms` returns them by their last steps, and `norm_kind` tells which of the three one is. Such
a norm is a quotient or product whose numerator is x minus a mean of x, and whose values are x
normalised over the dimensions of that mean. PyTorch's own are operations of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .fields import Field
from .flow import Operand, Step
from .follow import COPIES, RESHAPES, dims_of

MEANS = {"mean", "var_mean", "std_mean"}
QUOTIENTS, PRODUCTS = {"div", "divide"}, {"mul", "multiply"}
# What may stand inside beside operations element by element. A max-pool, for example, may not: it
# could show where there is no deviation, and would not be seen.
INSIDE = {*MEANS, *RESHAPES, *COPIES, "getitem", "sum", "var", "std"}
# How much a normalised value may differ from (x - mean) / sqrt(variance + eps), in deviations, and
# the part of the divisor that eps may be, as of a batch norm.
TOLERANCE, MAX_EPS_PART = 1e-3, 0.8


@dataclass(frozen=True)
class HandNorm:
    """A norm that is written by hand."""

    x: Operand
    "What it normalises, in the shape in which it does."
    dims: tuple[int, ...]
    "The dimensions of the mean."
    inner: frozenset[Step]
    "The steps between x and the last one, which nothing else uses."
    factors: tuple[Step, ...] = ()
    "Those of them that multiply x minus its mean by stored numbers."


def find_norms(steps: Sequence[Step]) -> dict[Step, HandNorm]:
    """Return the norms that are written by hand, by their last steps."""
    users: dict[Step, set[Step]] = {}
    for step in steps:
        for parent in step.parents:
            users.setdefault(parent, set()).add(step)
    found = {}
    for step in steps:
        if (norm := _read(step, users)) is not None:
            found[step] = norm
    return found


def norm_kind(norm: HandNorm, field: Field) -> str | None:
    """Return the kind of normalisation, given the field of x.

    It is None for a norm over images, or over some positions only."""
    shape = norm.x.tensor.shape
    others = [dim for dim in range(len(shape)) if dim not in norm.dims]
    if field.images.reach(norm.dims):
        return None
    groups = math.prod(field.shape_of_one(shape)) // math.prod(shape[dim] for dim in norm.dims)
    positions = math.prod(
        size for axis in field[:2] for part in axis.parts for size, jump in part if jump
    )
    channels = math.prod(field.shape_of_one(shape)) // positions
    if field.reach(others):  # as a layer norm of the channels of each position
        return "layer norm" if groups == positions > 1 else None
    if groups == 1:
        return "layer norm"
    return "instance norm" if groups == channels else "group norm"


def _read(step: Step, users: dict[Step, set[Step]]) -> HandNorm | None:
    """Return the norm whose last step this is, None if it is none."""
    sides = [each for each in step.operands if each.from_images]
    if step.op not in {*QUOTIENTS, *PRODUCTS} or len(sides) != 2:
        return None
    for numerator in sides if step.op in PRODUCTS else sides[:1]:
        centred, factors, factor = _without_factors(numerator)
        if centred.op not in ("sub", "subtract") or len(centred.operands) != 2:
            continue
        x, subtracted = centred.operands
        mean = _source(subtracted.step)
        if mean.op not in MEANS or not mean.operands:
            continue
        of = mean.operands[0].tensor
        if of.shape != x.tensor.shape or of.shape != step.result.shape:
            continue
        dims = tuple(dims_of(mean.named, of.ndim))
        inner = _between(step, x.step)
        if inner is None or not all(each.pointwise or each.op in INSIDE for each in inner):
            continue
        if _normalises(x.tensor.detach(), step.result.detach() / factor, dims):
            private = _private(inner, step, users)
            return HandNorm(x, dims, private, tuple(each for each in factors if each in private))
    return None


def _without_factors(numerator: Operand) -> tuple[Step, list[Step], Tensor]:
    """Return what a numerator multiplies by stored numbers, the steps that do, and the numbers.

    As in weight * (x - mean) / sqrt(variance + eps), which is multiplied first."""
    factors: list[Step] = []
    factor = torch.ones(())
    step = numerator.step
    while step.op in PRODUCTS and len(step.operands) == 2:
        one, other = sorted(step.operands, key=lambda each: each.from_images)
        if one.from_images or not other.from_images:
            break
        factors.append(step)
        factor = factor * one.tensor.detach()
        step = other.step
    return step, factors, factor


def _source(step: Step) -> Step:
    """Return the step whose result another only rearranges or repeats."""
    while step.op in RESHAPES | COPIES | {"getitem"} and step.operands:
        step = step.operands[0].step
    return step


def _between(last: Step, first: Step) -> set[Step] | None:
    """Return the steps from one to another, None if the last depends on the images otherwise.

    The first may be rearranged."""
    ends = {first}
    while first.op in RESHAPES and first.operands:
        first = first.operands[0].step
        ends.add(first)
    found: set[Step] = set()
    todo = [last]
    while todo:
        for parent in todo.pop().parents:
            if parent in ends or parent in found or not parent.from_images:
                continue
            if parent.op == "images":
                return None
            found.add(parent)
            todo.append(parent)
    return found


def _private(inner: set[Step], last: Step, users: dict[Step, set[Step]]) -> frozenset[Step]:
    """Return those of some steps that lead nowhere but to each other and to the last one."""
    kept = set(inner)
    while public := {step for step in kept if users.get(step, set()) - kept - {last}}:
        kept -= public
    return frozenset(kept)


def _normalises(x: Tensor, result: Tensor, dims: tuple[int, ...]) -> bool:
    """Return whether a result is x normalised over some dimensions, with some eps."""
    count = math.prod(x.shape[dim] for dim in dims)
    if not dims or count < 2 or not x.is_floating_point():
        return False
    x, result = x.double(), result.double()
    centred = x - x.mean(dims, keepdim=True)
    squares = centred.square().mean(dims, keepdim=True)
    # Where there is hardly a deviation, as in a blank part of an image, the scale is not known.
    known = squares > TOLERANCE * squares.mean()
    factor = (result * centred).mean(dims, keepdim=True) / squares.clamp_min(1e-30)
    if not bool(known.any()) or not torch.allclose(
        result * known, factor * centred * known, rtol=0, atol=TOLERANCE
    ):
        return False
    divisor, variance = factor[known] ** -2, squares[known]
    for variances in (variance, variance * count / (count - 1)):
        eps = divisor - variances
        spread, mean = float(eps.max() - eps.min()), float(eps.mean())
        scale = float(variances.mean())
        if spread <= 10 * TOLERANCE * scale and mean <= MAX_EPS_PART * (scale + mean):
            return True
    return False
