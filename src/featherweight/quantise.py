"""Quantised weights: integers of a few bits times one scale per filter.

Example:
    integers, scale = round_filters(convolution.weight, bits=4)  # weight is about integers * scale
    quantise(model, bits=4)  # every convolution, in place
    with quantised(model, bits=4): loss(model(images)).backward()  # gradients for the floats
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .model import Block

# Scales that are tried for each filter: its largest weight, divided by the largest integer and by
# one of these factors. A factor above 1 clips the largest weights, which pays with few bits.
CLIP_FACTORS = tuple(1 + step / 10 for step in range(17))


def max_integer(bits: int) -> int:
    """Return the largest integer of `bits` bits in a symmetric range: 127, 7 or 1."""
    return (1 << bits - 1) - 1


def round_filters(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round the weights of each filter to integers times one scale.

    Of the scales given by `CLIP_FACTORS` each filter gets the one with the smallest squared error.
    Weights that are such multiples already keep their values.

    Returns the integers, as floats of shape (filters, ...), and the scales, shape (filters,).
    """
    rows, most = weight.detach().flatten(1), max_integer(bits)
    factors = torch.tensor(CLIP_FACTORS, device=weight.device)
    top = rows.abs().amax(1).clamp(min=torch.finfo(rows.dtype).tiny)
    scales = top[:, None] / (most * factors)  # (filters, factors)
    # (filters, factors, weights)
    tried = (rows[:, None] / scales[..., None]).round().clamp(-most, most) * scales[..., None]
    best = (tried - rows[:, None]).square().sum(2).argmin(1)
    scale = scales.gather(1, best[:, None])[:, 0]
    return (rows / scale[:, None]).round().clamp(-most, most).view_as(weight), scale


def convolutions(block: Block) -> list[nn.Conv2d]:
    """Return a block's convolutions: one, or the depthwise and pointwise ones of a separable."""
    return [module for module in block.convolution.modules() if isinstance(module, nn.Conv2d)]


def round_block(block: Block, bits: int) -> list[tuple[Tensor, Tensor]]:
    """Return the integers and scales of a block's convolutions.

    For a separable block, fold the depthwise scales into the pointwise weights before quantising
    those. The function is unchanged, and no per-channel scale is needed between the two.
    """
    first, *rest = convolutions(block)
    integers, scale = round_filters(first.weight, bits)
    return [
        (integers, scale),
        *(round_filters(each.weight * scale[:, None, None], bits) for each in rest),
    ]


def _quantised_weights(model: nn.Module, bits: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each convolution's weights and their quantised values."""
    for block in model.modules():
        if isinstance(block, Block):
            before: Tensor | None = None
            for convolution, (integers, scale) in zip(
                convolutions(block), round_block(block, bits), strict=True
            ):
                rounded = integers * scale[:, None, None, None]  # (filters, channels, k, k)
                # Undo the fold of the depthwise scales, see `round_block`.
                yield (
                    convolution.weight,
                    rounded if before is None else rounded / before[:, None, None],
                )
                before = scale


@torch.no_grad()
def quantise(model: nn.Module, bits: int) -> None:
    """Quantise the weights of every convolution of a Feather in place."""
    for weight, rounded in _quantised_weights(model, bits):
        weight.copy_(rounded)


@contextlib.contextmanager
def quantised(model: nn.Module, bits: int) -> Iterator[None]:
    """Quantise the weights inside the context and restore the floats after it.

    A gradient computed inside is that of the quantised weights. Applied to the floats, it treats
    rounding as the identity (straight-through estimator, Bengio et al. 2013).
    """
    with torch.no_grad():
        kept = [
            (weight, weight.clone(), rounded) for weight, rounded in _quantised_weights(model, bits)
        ]
        for weight, _, rounded in kept:
            weight.copy_(rounded)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before, _ in kept:
                weight.copy_(before)
