"""How the exported digit.c keeps weights and adds products: two sums in a word, 32-bit products.

    packing = pack_network(network)
    packing.weights, packing.lanes      # bytes, and the sums that share a word
    split_bits(network)                 # how digit.c multiplies without 64-bit integers

Nothing here changes a result: the C code computes what `integer.IntegerNetwork` defines, and what
is found here says how far it may go before a number no longer fits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .integer import AccumulatorOverflowError, IntegerNetwork, Layer

BLOCK = 4  # output channels that digit.c computes together
MAX_SPLIT, MAX_GROUP = 16, 31  # as many as the fields of digit.c hold
MAX_X = 87_381  # in digit.c, of x in (2); times 6 * 2**12 it is below 2**31


@dataclass(frozen=True)
class Parts:
    """When digit.c takes the sums in a word of a layer apart."""

    split: int = 1
    "Parts of equal length into which a row of a filter is divided."
    group: int = 0
    "Parts after which the sums are taken apart; 0 where a word holds one sum."


@dataclass(frozen=True)
class Packing:
    """The weights of a network as digit.c keeps them."""

    lanes: int
    "Sums that share a word of 32 bits: 1 or 2."
    parts: tuple[Parts, ...]
    "Those of each layer."
    weights: bytes
    "All weights."

    def filter_words(self, layer: Layer, inputs: int) -> int:
        """Return the words of the filters of a layer that are computed together."""
        if layer.kind == "pool":
            return 0
        if layer.kind == "depthwise":
            return layer.kernel * self.depthwise_run(layer)
        run = layer.kernel * inputs
        if self.lanes == 2:
            return BLOCK // 2 * layer.kernel * run
        paired = BLOCK // 2 * layer.kernel * -(-run // 4) * 4  # where one instruction adds two
        return max(BLOCK * layer.kernel * run, paired)

    def depthwise_run(self, layer: Layer) -> int:
        """Return the words of a row of a depthwise layer's filter.

        A word has the weight of an input for an output and for the next one to the right.
        """
        return layer.kernel + (layer.stride if self.lanes == 2 else 0)


def pack(values: Tensor, bits: int) -> bytes:
    """Pack signed integers of 2, 4 or 8 bits into bytes.

    The first integer is in the lowest bits; zeros fill the last byte.
    """
    per_byte = 8 // bits
    fields = np.asarray(values.flatten().numpy(), np.int64) & (2**bits - 1)
    fields = np.pad(fields, (0, -len(fields) % per_byte)).reshape(-1, per_byte)
    return bytes((fields << (bits * np.arange(per_byte))).sum(1).astype(np.uint8))


def pack_network(network: IntegerNetwork) -> Packing:
    """Return the weights of a network as digit.c keeps them.

    Raises:
        AccumulatorOverflowError: They are too many bytes for the indices in digit.c.
    """
    found = [find_parts(layer) for layer in network.layers] if network.bits < 8 else [None]
    parts = [each for each in found if each is not None]
    if len(parts) == len(network.layers):
        lanes = 2
    else:  # 8 bits, or so many large weights in a row of a prime length that no part fits
        lanes, parts = 1, [Parts()] * len(network.layers)
    # A repeated block shares the weights of the block before it, so its weights are left out: those
    # of the layer that begins it and, if that is depthwise, those of the next layer.
    weighted = [layer for layer in network.layers if layer.kind != "pool"]
    stored = [
        layer
        for i, layer in enumerate(weighted)
        if not (
            layer.repeat or (i and weighted[i - 1].repeat and weighted[i - 1].kind == "depthwise")
        )
    ]
    weights = pack(torch.cat([_in_blocks(layer, lanes) for layer in stored]), network.bits)
    if len(weights) >= 2**16:
        raise AccumulatorOverflowError(
            f"weights: got {len(weights):,} bytes in blocks of {BLOCK} channels, expected fewer "
            "than 65,536"
        )
    return Packing(lanes, tuple(parts), weights)


def find_parts(layer: Layer) -> Parts | None:
    """Return the parts of a layer whose words hold two sums, or None if no sums fit 16 bits.

    Of any image, the positive products of a group of parts stay below 2**15, and the negative ones
    are not below -2**15.
    """
    if layer.kind == "pool":
        return Parts()
    filters = layer.weights.permute(0, 2, 3, 1).flatten(2)  # (outputs, kernel, run)
    run = filters.shape[2]
    for split in range(1, 1 + (MAX_SPLIT if layer.kind == "conv" else 1)):
        if run % split == 0:
            parts = filters.reshape(layer.outputs, -1, run // split)
            for group in range(min(parts.shape[1], MAX_GROUP), 0, -1):
                if all(map(_fit_lanes, parts.split(group, 1))):
                    return Parts(split, group)
    return None


def _fit_lanes(weights: Tensor) -> bool:
    """Return whether sums over weights (outputs, parts, run) fit 16 bits for every image."""
    weights = weights.flatten(1)
    most = int(weights.clamp(min=0).sum(1).max()) * 255
    least = int(weights.clamp(max=0).sum(1).min()) * 255
    return most < 2**15 and least >= -(2**15)


def _in_blocks(layer: Layer, lanes: int) -> Tensor:
    """Return a layer's weights, flat, in blocks of BLOCK output channels.

    A block has the first weight of each of its channels, then the second ... Where a word holds one
    sum, a convolution's rows are divided in fours: the first four weights of the first channel,
    then of the second ...; what remains of a row is as above. Zeros fill the last block.
    """
    weights = layer.weights.permute(0, 2, 3, 1).flatten(2)  # (outputs, kernel, run)
    weights = F.pad(weights, (0, 0, 0, 0, 0, -layer.outputs % BLOCK)).unflatten(0, (-1, BLOCK))
    run = weights.shape[3]
    fours = run // 4 * 4 if lanes == 1 and layer.kind == "conv" else 0
    # (blocks, channels, kernel, fours, 4) -> (blocks, kernel, fours, channels, 4)
    first = weights[..., :fours].unflatten(3, (fours // 4, 4)).permute(0, 2, 3, 1, 4).flatten(2)
    rest = weights[..., fours:].permute(0, 2, 3, 1).flatten(2)  # (blocks, kernel, channels * rest)
    return torch.cat([first, rest], 2).flatten()


def split_bits(network: IntegerNetwork) -> int | None:
    """Return the low bits of a sum that digit.c multiplies apart, so that 32 bits suffice.

    None if some product needs 64 bits. It mirrors the arithmetic of `activate` and `requantise` in
    digit.c for the largest sums of any image.
    """
    weighted = [layer for layer in network.layers if layer.kind != "pool"]
    least = min([16, *(layer.shift for layer in weighted if layer.kind == "conv")])
    for split in (16, 8, least):  # the low 16 or 8 bits take one instruction
        if split <= least and all(_fits(layer, split, network.hardswish) for layer in weighted):
            return split
    return None


def _fits(layer: Layer, split: int, hardswish: bool) -> bool:
    sums = 255 * layer.weights.abs().flatten(1).sum(1)  # (outputs,), bounds
    y, largest = int(sums.max()), 0
    if layer.kind == "conv":
        multipliers = layer.multipliers.abs()
        # The high bits of a sum times the multiplier, plus those of the low bits' product.
        largest = int((((sums >> split) + 1) * multipliers).max()) + 2**15
        y = int(((sums * multipliers >> layer.shift) + 1 + layer.biases.abs()).max())
        if hardswish:
            most = 6 << layer.fraction
            if y > MAX_X:  # there it is limited, which must not show
                limited = layer.requantise(torch.tensor(MAX_X * most))
                if int(limited) < 255:
                    return False
            y = min(y, MAX_X) * most
    if layer.out_shift < 17:  # the half that rounds is a multiple of 2**16
        return False
    added = (1 << layer.out_shift - 17) + (layer.zero_point << layer.out_shift - 16)
    largest = max(largest, y, ((y >> 16) + 1) * layer.out_multiplier + 2**16 + added)
    return largest < 2**31
