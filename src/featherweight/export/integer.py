"""A Feather network in whole numbers: the arithmetic that the exported C computes, defined here.

    network = integer_network(model, split, bits=4)
    scores = network.scores(split.val.pixels)       # (n, classes) int64; the C code gives the same, bit for bit

Activations are unsigned 8-bit integers q, of which one means scale * (q - offset). A convolution with weights w has

    sum = w . q, then the largest of maximum x maximum neighbours               (32 bits)
    x   = floor(sum * multiplier / 2**shift) + bias                             (fixed point, `fraction` bits)
    y   = x * min(max(x + 3, 0), 6), which is 6 times the hardswish; with ReLU y = x
    q   = floor(y * out_multiplier / 2**out_shift + 1/2) + zero, between 0 and 255

where multiplier and bias, one a channel, hold batch norm, scales and offsets. In the first half of a separable layer
y is the sum. The scores are the last layer's sums over all positions times 8-bit weights, plus a bias.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Split
from ..errors import InputError
from ..evaluate import EVAL_BATCH_SIZE, normalise
from ..model import Block, Feather, Pool
from ..quantise import convolutions, round_block, round_filters

CALIBRATION = 1000  # training images that the ranges of activations are taken from
MOST_FRACTION = 12  # bits behind the point of x
MULTIPLIER_BITS, MOST_BIAS = 15, 2**15 - 1  # of 16 bits with the sign
HEAD_BITS = 8


class Overflow(ValueError):
    """A number of the network can exceed the integer that holds it."""


def fixed_point(values: Tensor) -> tuple[Tensor, int]:
    """Integers of `MULTIPLIER_BITS` and a sign, and a shift: values are about integers / 2**shift."""
    shift = MULTIPLIER_BITS - 1 - math.floor(math.log2(float(values.abs().max())))
    integers = (values.double() * 2.0**shift).round()
    if integers.abs().max() >= 2**MULTIPLIER_BITS:  # rounded up to one bit more
        shift -= 1
        integers = (values.double() * 2.0**shift).round()
    return integers.long(), shift


@dataclass
class Layer:
    """One convolution, or one maximum of pixels, in integers; the arithmetic is in the module's docstring."""

    kind: str
    "conv; depthwise: each channel alone, without activation; or pool: the maximum of pixels, without weights."
    repeat: bool
    "Whether it begins a block with the weights of the block before."
    kernel: int
    stride: int
    padding: int
    maximum: int
    weights: Tensor
    "(outputs, inputs, kernel, kernel) int64; but of a conv (outputs, 1, kernel, kernel)."
    pad: int
    "What stands for 0 in its input."
    multipliers: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    "(outputs,) of a conv, as the biases."
    biases: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    shift: int = 0
    fraction: int = 0
    out_multiplier: int = 0
    out_shift: int = 0
    zero: int = 0
    "What stands for 0 in its output."

    @property
    def outputs(self) -> int:
        return len(self.weights)

    @property
    def window(self) -> int:
        """Rows, and columns, of the input that one output rests on."""
        return self.kernel + (self.maximum - 1) * self.stride

    def side(self, side: int) -> int:
        """Pixels of the output's side from the input's."""
        return (side + 2 * self.padding - self.window) // (self.maximum * self.stride) + 1

    def sums(self, q: Tensor) -> Tensor:
        """q (n, inputs, height, width) int64 -> (n, outputs, height, width) int64."""
        if self.padding:
            q = F.pad(q, (self.padding,) * 4, value=self.pad)
        groups = 1 if self.kind == "conv" else self.outputs
        # Exact: float64 holds every whole number below 2**53, and `bound` is far below.
        sums = F.conv2d(q.double(), self.weights.double(), stride=self.stride, groups=groups)
        return F.max_pool2d(sums, self.maximum).long()

    def bound(self) -> int:
        """What no sum, nor a part of it, exceeds in absolute value when inputs are 0 to 255."""
        return 255 * int(self.weights.abs().flatten(1).sum(1).max())

    def before_activation(self, sums: Tensor) -> Tensor:
        """x, of a conv."""
        return (sums * self.multipliers[:, None, None] >> self.shift) + self.biases[:, None, None]

    def set_result(self, ratio: float) -> float:
        """Set how y becomes q; returns the ratio as it then is."""
        multiplier, self.out_shift = fixed_point(torch.tensor(ratio, dtype=torch.float64))
        self.out_multiplier = int(multiplier)
        return self.out_multiplier / 2.0**self.out_shift

    def result(self, y: Tensor) -> Tensor:
        """q from y."""
        half = (1 << self.out_shift) >> 1
        return ((y * self.out_multiplier + half >> self.out_shift) + self.zero).clamp(0, 255)


@dataclass
class Integers:
    """A network of integers."""

    shape: tuple[int, int]
    "Height and width of an image, pixels."
    hardswish: bool
    "Whether the activation is hardswish; else ReLU."
    moves: range
    "By how many pixels the image is moved down, and right; the features of all are added."
    bits: int
    "Of the layers' weights."
    layers: list[Layer] = field(default_factory=list)
    head: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    "(classes, channels)"
    head_biases: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    "(classes,)"
    logit: float = 1.0
    "What a score is divided by to give a logit."

    def activation(self, layer: Layer, x: Tensor) -> Tensor:
        """y, of a conv."""
        return (
            x * (x + (3 << layer.fraction)).clamp(0, 6 << layer.fraction) if self.hardswish else x
        )

    def output(self, layer: Layer, q: Tensor) -> Tensor:
        """A layer's output from its input, both (n, channels, height, width) int64 of 0 to 255."""
        sums = layer.sums(q)
        if layer.kind == "pool":
            return sums
        return layer.result(
            self.activation(layer, layer.before_activation(sums)) if layer.kind == "conv" else sums
        )

    def _moved(self, pixels: Tensor) -> Iterator[Tensor]:
        """The images (n, 1, height, width) at every pair of moves; outside, the border's pixels go on."""
        (height, width), margin = self.shape, -self.moves[0]
        padded = (
            F.pad(pixels.double(), (margin,) * 4, mode="replicate").long()
            if margin
            else pixels.long()
        )
        for y in self.moves:
            for x in self.moves:
                yield padded[
                    :, :, margin + y : margin + y + height, margin + x : margin + x + width
                ]

    @torch.no_grad()
    def scores(self, pixels: Tensor) -> Tensor:
        """pixels (n, 1, height, width) uint8 -> (n, classes) int64."""
        batches = []
        for batch in pixels.split(EVAL_BATCH_SIZE):
            features = torch.zeros(len(batch), self.head.shape[1], dtype=torch.int64)
            for q in self._moved(batch):
                for layer in self.layers:
                    q = self.output(layer, q)
                features += q.sum((2, 3))
            batches.append((features.double() @ self.head.double().T).long() + self.head_biases)
        return torch.cat(batches)

    def check(self) -> None:
        """Raises Overflow unless every number fits the integer that the C code has for it, whatever the image."""

        def within(what: str, most: Tensor | int, bits: int) -> None:
            most = most if isinstance(most, int) else int(most.abs().max())
            if most >= 2 ** (bits - 1):
                raise Overflow(f"{what}: got up to {most:,}, expected less than 2**{bits - 1}")

        (height, width), channels, weights, rows = self.shape, 1, 0, 0
        for number, layer in enumerate(self.layers, 1):
            where = f"layer {number}"
            y = layer.bound()
            within(f"{where}, a sum", y, 32)
            if layer.kind == "conv":
                within(f"{where}, a multiplier", layer.multipliers, 16)
                within(f"{where}, a bias", layer.biases, 16)
                x = (
                    (y * int(layer.multipliers.abs().max()) >> layer.shift)
                    + 1
                    + int(layer.biases.abs().max())
                )
                within(f"{where}, before its activation", x + (6 << layer.fraction), 32)
                y = x * (6 << layer.fraction) if self.hardswish else x
            within(
                f"{where}, before its result", y * layer.out_multiplier + (1 << layer.out_shift), 64
            )
            within(f"{where}, channels", layer.outputs, 9)
            if min(layer.shift, layer.out_shift, layer.fraction) < 0:
                raise Overflow(
                    f"{where}: got shifts {layer.shift} and {layer.out_shift} and {layer.fraction} bits "
                    "behind the point, expected 0 or more; the network's scales are out of the ordinary"
                )
            weights += layer.weights.numel()
            rows += layer.window * (width + 2 * layer.padding) * channels
            height, width, channels = layer.side(height), layer.side(width), layer.outputs
        within("weights", weights, 17)
        within("bytes of rows", rows, 17)
        feature = 255 * height * width * len(self.moves) ** 2
        within(
            "a score",
            feature * int(self.head.abs().sum(1).max()) + int(self.head_biases.abs().max()),
            32,
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one answer."""
        height, width = self.shape
        total = 0
        for layer in self.layers:
            height, width = layer.side(height), layer.side(width)
            if layer.kind != "pool":
                total += height * width * layer.maximum**2 * layer.weights.numel()
        return total * len(self.moves) ** 2 + self.head.numel()


def _check_dense(model: Feather, images: Tensor) -> None:
    """The answers to the moved images, averaged, must be the network's own."""
    plain = copy.deepcopy(model)
    plain.margin = 0
    for pool in plain.modules():
        if isinstance(pool, Pool):
            pool.dense = False
    margin, (height, width) = model.margin, images.shape[2:]
    padded = F.pad(images, (margin,) * 4, mode="replicate") if margin else images
    found = [
        plain(padded[:, :, margin + y : margin + y + height, margin + x : margin + x + width])
        for y in model.shifts
        for x in model.shifts
    ]
    if not torch.allclose(torch.stack(found).mean(0), model(images), rtol=1e-3, atol=1e-3):
        raise InputError(
            "the network's dense answer is not the mean of its answers to moved images, since a stride "
            "or padding stands before a maximum; hint: train it with dense = false"
        )


class _Builder:
    """Adds the layers of a network one after the other, and sends the calibration images through each."""

    def __init__(self, network: Integers, pixels: Tensor, mean_std: tuple[float, float]) -> None:
        mean, std = mean_std
        self.network, self.q = network, pixels.long()
        # An activation q of channel c means scale * (q - offset[c]); pad is what stands for 0.
        self.scale, self.offset = 1 / (255 * std), torch.full((1,), 255 * mean, dtype=torch.float64)
        self.pad = round(255 * mean)

    def _layer(
        self, kind: str, repeat: bool, convolution: nn.Conv2d, integers: Tensor, maximum: int
    ) -> Layer:
        kernel, stride, padding = (
            convolution.kernel_size[0],
            convolution.stride[0],
            int(convolution.padding[0]),
        )
        return Layer(kind, repeat, kernel, stride, padding, maximum, integers.long(), self.pad)

    def _add(self, layer: Layer) -> None:
        self.network.layers.append(layer)
        self.q, self.pad = self.network.output(layer, self.q), layer.zero

    def _added(self, integers: Tensor) -> Tensor:
        """What the offsets of the input add to each sum (outputs,)."""
        weights = integers.double().sum(
            (2, 3)
        )  # (outputs, inputs), or (outputs, 1) of a depthwise one
        return weights[:, 0] * self.offset if weights.shape[1] == 1 else weights @ self.offset

    def pool(self, size: int) -> None:
        weights = torch.ones(self.q.shape[1], 1, 1, 1, dtype=torch.int64)
        self._add(Layer("pool", False, 1, 1, 0, size, weights, self.pad, zero=self.pad))

    def depthwise(self, convolution: nn.Conv2d, integers: Tensor, repeat: bool) -> None:
        layer = self._layer("depthwise", repeat, convolution, integers, 1)
        sums = layer.sums(self.q)
        low, high = int(sums.min()), int(sums.max())
        ratio = layer.set_result(255 / max(1, high - low))
        layer.zero = round(-low * ratio)
        self.scale, self.offset = self.scale / ratio, layer.zero + ratio * self._added(integers)
        self._add(layer)

    def conv(
        self,
        convolution: nn.Conv2d,
        integers: Tensor,
        filter_scale: Tensor,
        norm: nn.BatchNorm2d,
        maximum: int,
        repeat: bool,
    ) -> None:
        layer = self._layer("conv", repeat, convolution, integers, maximum)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        factor = gain * filter_scale.double() * self.scale
        bias = (
            norm.bias.double() - gain * norm.running_mean.double() - factor * self._added(integers)
        )
        most = max(float(bias.abs().max()), 2.0**-MOST_FRACTION)
        layer.fraction = min(MOST_FRACTION, math.floor(math.log2(MOST_BIAS / most)))
        layer.multipliers, layer.shift = fixed_point(factor * 2.0**layer.fraction)
        # Rounded, and half more, since the product before it is rounded down.
        layer.biases = (bias * 2.0**layer.fraction + 0.5).round().long()
        y = self.network.activation(layer, layer.before_activation(layer.sums(self.q)))
        one = float(
            6 << 2 * layer.fraction if self.network.hardswish else 1 << layer.fraction
        )  # what is 1 in y
        low, high = (
            min(0.0, float(y.min()) / one) if self.network.hardswish else 0.0,
            float(y.max()) / one,
        )
        ratio = layer.set_result(255 / (max(high - low, 2.0**-MOST_FRACTION) * one))
        layer.zero = round(-low * one * ratio)
        self.scale = 1 / (one * ratio)
        self.offset = torch.full((layer.outputs,), layer.zero, dtype=torch.float64)
        self._add(layer)

    def head(self, head: nn.Linear) -> None:
        count = self.q.shape[2] * self.q.shape[3] * len(self.network.moves) ** 2
        integers, scale = round_filters(
            head.weight.flatten()[None], HEAD_BITS
        )  # one scale, that scores compare
        unit = float(scale) * self.scale / count  # what a score of 1 is, in logits
        network = self.network
        network.logit, network.head = 1 / unit, integers.view_as(head.weight).long()
        biases = head.bias.double() / unit - count * (network.head.double() @ self.offset)
        network.head_biases = biases.round().long()


@torch.no_grad()
def integer_network(model: nn.Module, split: Split, bits: int) -> Integers:
    """A trained Feather, in evaluation mode, as integers; ranges from the first training images.

    Raises ValueError for another network, Overflow where its numbers do not fit."""
    if not isinstance(model, Feather):
        raise InputError(
            f"the network is a {type(model).__name__}, expected a Feather; "
            "hint: featherweight export RUN --format onnx-int8"
        )
    _check_dense(model, normalise(split.train.pixels[:8], split.mean_std))
    height, width = split.shape[1:]
    hardswish = any(isinstance(module, nn.Hardswish) for module in model.modules())
    network = Integers((height, width), hardswish, model.shifts, bits)
    builder = _Builder(network, split.train.pixels[:CALIBRATION], split.mean_std)
    for stage in model.features:
        if isinstance(stage, Pool):
            builder.pool(stage.size)
            continue
        assert isinstance(stage, Block)
        maximum = next((module.size for module in stage.modules() if isinstance(module, Pool)), 1)
        *first, last = zip(convolutions(stage), round_block(stage, bits), strict=True)
        for time, norm in enumerate(stage.norms):
            assert isinstance(norm, nn.BatchNorm2d)
            for convolution, (integers, _) in first:
                builder.depthwise(convolution, integers, repeat=time > 0)
            convolution, (integers, scale) = last
            builder.conv(convolution, integers, scale, norm, maximum, repeat=time > 0 and not first)
    builder.head(model.head)
    network.check()
    return network
