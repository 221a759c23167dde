"""Weights of a few bits: integers times one scale a filter.

integers, scale = round_filters(convolution.weight, bits=4)     # weight is about integers * scale
quantise(model, bits=4)                                         # every convolution's weights, in place
with quantised(model, bits=4): loss(model(images)).backward()   # the gradients then move the floats
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .model import Block

# Scales that are tried: the largest weight is this factor of the largest integer. Cutting it pays with few bits.
CUTS = tuple(1 + step / 10 for step in range(17))


def largest(bits: int) -> int:
    """The largest integer of so many bits, and minus the least: 127, 7, 1."""
    return (1 << bits - 1) - 1


def round_filters(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """weight (filters, ...) -> integers of its shape, as floats, and the scale (filters,) of each filter.

    Each scale is the one of `CUTS` with the least squared error. What is on such a grid stays as it is."""
    rows, most = weight.detach().flatten(1), largest(bits)
    cuts = torch.tensor(CUTS, device=weight.device)
    top = rows.abs().amax(1).clamp(min=torch.finfo(rows.dtype).tiny)
    scales = top[:, None] / (most * cuts)  # (filters, cuts)
    tried = (rows[:, None] / scales[..., None]).round().clamp(-most, most) * scales[..., None]
    best = (tried - rows[:, None]).square().sum(2).argmin(1)
    scale = scales.gather(1, best[:, None])[:, 0]
    return (rows / scale[:, None]).round().clamp(-most, most).view_as(weight), scale


def convolutions(block: Block) -> list[nn.Conv2d]:
    """A block's convolutions: one, or a separable one's two."""
    return [module for module in block.convolution.modules() if isinstance(module, nn.Conv2d)]


def round_block(block: Block, bits: int) -> list[tuple[Tensor, Tensor]]:
    """The integers and scales of a block's convolutions.

    The scales of a separable one's filters of single channels go into the weights behind them, which are rounded
    with them in: the block computes the same, and what is between the two needs no scale a channel."""
    first, *rest = convolutions(block)
    integers, scale = round_filters(first.weight, bits)
    return [
        (integers, scale),
        *(round_filters(each.weight * scale[:, None, None], bits) for each in rest),
    ]


def _rounded(model: nn.Module, bits: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every convolution's weights, and what they are with so many bits."""
    for block in model.modules():
        if isinstance(block, Block):
            before: Tensor | None = None
            for convolution, (integers, scale) in zip(
                convolutions(block), round_block(block, bits), strict=True
            ):
                rounded = integers * scale[:, None, None, None]
                yield (
                    convolution.weight,
                    rounded if before is None else rounded / before[:, None, None],
                )
                before = scale


@torch.no_grad()
def quantise(model: nn.Module, bits: int) -> None:
    """Round the weights of every convolution of a Feather, in place."""
    for weight, rounded in _rounded(model, bits):
        weight.copy_(rounded)


@contextlib.contextmanager
def quantised(model: nn.Module, bits: int) -> Iterator[None]:
    """Rounded weights within, the floats again behind: a gradient taken within is applied to the floats, as if
    rounding had the derivative 1 (the straight-through estimator, Bengio et al. 2013)."""
    with torch.no_grad():
        kept = [(weight, weight.clone(), rounded) for weight, rounded in _rounded(model, bits)]
        for weight, _, rounded in kept:
            weight.copy_(rounded)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before, _ in kept:
                weight.copy_(before)
