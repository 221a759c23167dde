"""The reference implementation of a Feather network in integers, which the exported C reproduces.

    network = integer_network(model, split, bits=4)
    scores, looks = network.read(split.val.pixels)  # (n, classes), (n,) int64, as the C code has

An activation is an unsigned 8-bit integer q with a scale and an offset: it stands for the real
number scale * (q - offset). A convolution with integer weights w computes

    (1)  sum = w . q, then the maximum over each pool x pool window of the max-pool    (32 bits)
    (2)  x   = floor(sum * multiplier / 2**shift) + bias            (`fraction` fractional bits)
    (3)  y   = x * clamp(x + 3, 0, 6), six times hardswish; for ReLU, y = x
    (4)  q'  = clamp(floor(y * out_multiplier / 2**out_shift + 1/2) + zero_point, 0, 255)

The first half of a separable layer, the depthwise convolution, has no activation: there y = sum.
A stage that only pools takes the maximum of q, without (2) to (4). The scores are

    (5)  score = head . (sum of q over all positions and image shifts) + head_bias

Dense evaluation looks at an image at several shifts, which is seldom needed. The first look is at
the image as it is: its scores are (5) with its features times the number of shifts. Only if the two
largest differ by less than `margin`, the image is looked at at all shifts, and the scores are (5).

Multipliers and biases, one for each output channel, hold batch norm, scales and offsets. With
weights w * filter_scale, batch norm gain * (z - mean) + beta and inputs as above, the real number
before the activation is

    (6)  factor * sum + (beta - gain * mean - factor * (w . offset)),
         factor = gain * filter_scale * scale

so that multiplier / 2**shift is factor * 2**fraction. The scheme is that of Jacob et al. (2018).
"""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..confidence import temperature
from ..data import Images, Split
from ..errors import InputError
from ..evaluate import evaluate, normalise
from ..model import Block, Feather, Pool
from ..quantise import convolutions, round_block, round_filters
from ..run import Run
from . import CALIBRATION_IMAGES

MAX_FRACTION = 12  # fractional bits of x; more would not fit a bias of ordinary size
MULTIPLIER_BITS, MAX_BIAS = 15, 2**15 - 1  # a sign and 15 bits, as int16_t holds
HEAD_BITS = 8  # of the head's weights
MAX_MARGIN = 2**31 - 1  # as int32_t holds
SCORE_BATCH = 500  # images at a time in `read`; it bounds the memory
# Calibrated probability of the likelier of two classes from which on one look is enough.
ONE_LOOK_FROM = 0.9


class AccumulatorOverflowError(InputError):
    """A number of the network may exceed the integer that holds it in C."""


def fixed_point(values: Tensor) -> tuple[Tensor, int]:
    """Return integers of at most 15 bits and a sign, and a shift: values ~ integers / 2**shift."""
    shift = MULTIPLIER_BITS - 1 - math.floor(math.log2(float(values.abs().max())))
    integers = (values.double() * 2.0**shift).round()
    if integers.abs().max() >= 2**MULTIPLIER_BITS:  # rounding has carried into one more bit
        shift -= 1
        integers = (values.double() * 2.0**shift).round()
    return integers.long(), shift


@dataclass(kw_only=True)
class Layer:
    """One layer in integers; the module's docstring has the equations."""

    kind: Literal["conv", "depthwise", "pool"]
    """conv; depthwise: a convolution of each channel by itself, without activation; or pool: the
    maximum of the inputs, without weights."""
    repeat: bool
    "Whether the layer begins a block that shares the weights of the block before it."
    kernel: int
    "Side of the filters."
    stride: int
    "Stride of the convolution."
    padding: int
    "Pixels of padding on every side."
    pool: int
    "Side of the max-pool window; 1 for no max-pool."
    weights: Tensor
    "(outputs, inputs, kernel, kernel) int64 of a conv, otherwise (outputs, 1, kernel, kernel)."
    pad_value: int
    "Integer that stands for 0 in the input."
    multipliers: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    "(outputs,) of a conv; see (2)."
    biases: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    "(outputs,) of a conv; see (2)."
    shift: int = 0
    "Right shift in (2)."
    fraction: int = 0
    "Number of fractional bits of x in (2)."
    out_multiplier: int = 0
    "Multiplier in (4)."
    out_shift: int = 0
    "Right shift in (4)."
    zero_point: int = 0
    "Integer that stands for 0 in the output; see (4)."

    @property
    def outputs(self) -> int:
        """Return the number of output channels."""
        return len(self.weights)

    @property
    def window(self) -> int:
        """Return the side of the receptive field of one output, max-pool included."""
        return self.kernel + (self.pool - 1) * self.stride

    def output_side(self, side: int) -> int:
        """Return the output's side from the input's, in pixels."""
        return (side + 2 * self.padding - self.window) // (self.pool * self.stride) + 1

    def sums(self, q: Tensor) -> Tensor:
        """Apply (1): q (n, inputs, height, width) -> (n, outputs, height, width), both int64."""
        if self.padding:
            q = F.pad(q, (self.padding,) * 4, value=self.pad_value)
        groups = 1 if self.kind == "conv" else self.outputs
        # Exact: float64 holds every integer below 2**53, and `max_sum` is far below that.
        sums = F.conv2d(q.double(), self.weights.double(), stride=self.stride, groups=groups)
        return F.max_pool2d(sums, self.pool).long()

    def max_sum(self) -> int:
        """Return an upper bound on the absolute value of any sum in (1), for inputs 0 to 255.

        Partial sums are included.
        """
        return 255 * int(self.weights.abs().flatten(1).sum(1).max())

    def before_activation(self, sums: Tensor) -> Tensor:
        """Apply (2) of a conv."""
        return (sums * self.multipliers[:, None, None] >> self.shift) + self.biases[:, None, None]

    def set_output_ratio(self, ratio: float) -> float:
        """Set (4) so that one unit of y is `ratio` units of q; return the ratio after rounding."""
        multiplier, self.out_shift = fixed_point(torch.tensor(ratio, dtype=torch.float64))
        self.out_multiplier = int(multiplier)
        return self.out_multiplier / 2.0**self.out_shift

    def requantise(self, y: Tensor) -> Tensor:
        """Apply (4)."""
        half = (1 << self.out_shift) >> 1
        q = (y * self.out_multiplier + half >> self.out_shift) + self.zero_point
        return q.clamp(0, 255)


@dataclass
class IntegerNetwork:
    """A network in integers."""

    shape: tuple[int, int]
    "Height and width of an image in pixels."
    hardswish: bool
    "Whether the activation is hardswish; otherwise it is ReLU."
    image_shifts: range
    """Shifts of the image in pixels, downwards and to the right, whose features are added: dense
    evaluation. range(1) for plain evaluation."""
    bits: int
    "Bits of each weight of the layers."
    layers: list[Layer] = field(default_factory=list)
    "Layers from the image to the features."
    head: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    "Weights of the head, (classes, channels)."
    head_biases: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    "Biases of the head, (classes,)."
    scores_per_logit: float = 1.0
    "Score that corresponds to a logit of 1."
    margin: int = 0
    "Least difference of the two largest scores with which one look is enough."

    def activation(self, layer: Layer, x: Tensor) -> Tensor:
        """Apply (3) of a conv."""
        if not self.hardswish:
            return x
        return x * (x + (3 << layer.fraction)).clamp(0, 6 << layer.fraction)

    def output(self, layer: Layer, q: Tensor) -> Tensor:
        """Return a layer's output from its input, both (n, channels, height, width) int64."""
        sums = layer.sums(q)
        if layer.kind == "pool":
            return sums
        if layer.kind == "depthwise":
            return layer.requantise(sums)
        return layer.requantise(self.activation(layer, layer.before_activation(sums)))

    @property
    def max_looks(self) -> int:
        """Return the number of pairs of shifts at which an image is looked at, at most."""
        return len(self.image_shifts) ** 2

    def _features(self, pixels: Tensor, y: int, x: int) -> Tensor:
        """Return the features (n, channels) int64 of images (n, 1, height, width) at one shift.

        The image's border is repeated.
        """
        (height, width), margin = self.shape, -self.image_shifts[0]
        q = F.pad(pixels.double(), (margin,) * 4, mode="replicate") if margin else pixels
        q = q[:, :, margin + y : margin + y + height, margin + x : margin + x + width].long()
        for layer in self.layers:
            q = self.output(layer, q)
        return q.sum((2, 3))  # (n, channels, h, w) -> (n, channels)

    def _scores(self, features: Tensor) -> Tensor:
        """Apply (5) to sums of features over all shifts (n, channels)."""
        return (features.double() @ self.head.double().T).long() + self.head_biases

    @torch.no_grad()
    def read(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (n, classes) and the number of looks (n,), both int64.

        Args:
            pixels: Images (n, 1, height, width) uint8.
        """
        scores, looks = [], []
        for batch in pixels.split(SCORE_BATCH):
            features = self._features(batch, 0, 0)
            found = self._scores(features * self.max_looks)
            best, second = found.topk(2).values.T
            doubtful = best - second < self.margin
            if doubtful.any():
                features = features[doubtful]
                for y in self.image_shifts:
                    for x in self.image_shifts:
                        if (y, x) != (0, 0):
                            features = features + self._features(batch[doubtful], y, x)
                found[doubtful] = self._scores(features)
            scores.append(found)
            looks.append(torch.where(doubtful, self.max_looks, 1))
        return torch.cat(scores), torch.cat(looks)

    def scores(self, pixels: Tensor) -> Tensor:
        """Return the scores (n, classes) int64 of images (n, 1, height, width) uint8."""
        return self.read(pixels)[0]

    def check(self) -> None:
        """Check that every number fits the integer that the C code has for it, for any image.

        Raises:
            AccumulatorOverflowError: A number may not fit.
        """
        (height, width), channels, weights, rows = self.shape, 1, 0, 0
        for number, layer in enumerate(self.layers, 1):
            self._check_layer(layer, f"layer {number}")
            weights += layer.weights.numel()
            rows += layer.window * (width + 2 * layer.padding) * channels
            height, width = layer.output_side(height), layer.output_side(width)
            channels = layer.outputs
        _check_fits("weights", weights, 17)
        _check_fits("bytes of rows", rows, 17)
        max_feature = 255 * height * width * self.max_looks
        max_head = int(self.head.abs().sum(1).max())
        max_score = max_feature * max_head + int(self.head_biases.abs().max())
        _check_fits("a score", max_score, 32)

    def _check_layer(self, layer: Layer, where: str) -> None:
        y = layer.max_sum()
        _check_fits(f"{where}, a sum", y, 32)
        if layer.kind == "conv":
            _check_fits(f"{where}, a multiplier", layer.multipliers, 16)
            _check_fits(f"{where}, a bias", layer.biases, 16)
            product = y * int(layer.multipliers.abs().max()) >> layer.shift
            x = product + 1 + int(layer.biases.abs().max())
            _check_fits(f"{where}, before the activation", x + (6 << layer.fraction), 32)
            y = x * (6 << layer.fraction) if self.hardswish else x
        product = y * layer.out_multiplier + (1 << layer.out_shift)
        _check_fits(f"{where}, after the activation", product, 64)
        _check_fits(f"{where}, channels", layer.outputs, 9)
        if min(layer.shift, layer.out_shift, layer.fraction) < 0:
            raise AccumulatorOverflowError(
                f"{where}: got shifts {layer.shift} and {layer.out_shift} and {layer.fraction} "
                "fractional bits, expected 0 or more: the network's scales are extreme"
            )

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates for an image that is looked at at all shifts."""
        height, width = self.shape
        total = 0
        for layer in self.layers:
            height, width = layer.output_side(height), layer.output_side(width)
            if layer.kind != "pool":
                total += height * width * layer.pool**2 * layer.weights.numel()
        # The head is applied after the first look and after the last one.
        return total * self.max_looks + self.head.numel() * min(self.max_looks, 2)

    @property
    def first_macs(self) -> int:
        """Return the multiply-accumulates for an image that is looked at once."""
        return replace(self, image_shifts=range(1)).macs


def _check_fits(what: str, values: Tensor | int, bits: int) -> None:
    largest = values if isinstance(values, int) else int(values.abs().max())
    if largest >= 2 ** (bits - 1):
        raise AccumulatorOverflowError(
            f"{what}: got up to {largest:,}, expected less than 2**{bits - 1}"
        )


def _check_dense(model: Feather, images: Tensor) -> None:
    """Check that dense evaluation equals the mean of the logits over shifted images."""
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
            "the network's dense evaluation is not the mean over shifted images, because a stride "
            "or padding comes before a max-pool",
            hint="train it with dense = false",
        )


class _Builder:
    """Builds the layers of a network in order and runs the calibration images through each.

    `q` (n, channels, height, width) is the last layer's output; it stands for the real numbers
    scale * (q - offset), where `offset` has one value for each channel.
    """

    def __init__(
        self, network: IntegerNetwork, pixels: Tensor, mean_std: tuple[float, float]
    ) -> None:
        mean, std = mean_std
        self.network, self.q = network, pixels.long()
        # The network is trained on (pixel / 255 - mean) / std.
        self.scale, self.offset = 1 / (255 * std), torch.full((1,), 255 * mean, dtype=torch.float64)
        self.pad_value = round(255 * mean)

    def _layer(
        self,
        kind: Literal["conv", "depthwise"],
        convolution: nn.Conv2d,
        integers: Tensor,
        *,
        pool: int,
        repeat: bool,
    ) -> Layer:
        return Layer(
            kind=kind,
            repeat=repeat,
            kernel=convolution.kernel_size[0],
            stride=convolution.stride[0],
            padding=int(convolution.padding[0]),
            pool=pool,
            weights=integers.long(),
            pad_value=self.pad_value,
        )

    def _add(self, layer: Layer) -> None:
        self.network.layers.append(layer)
        self.q, self.pad_value = self.network.output(layer, self.q), layer.zero_point

    def _offset_sums(self, integers: Tensor) -> Tensor:
        """Return w . offset in (6), the part of each sum that the input's offsets make (outputs,).

        `integers` is (outputs, inputs, k, k), or (outputs, 1, k, k) of a depthwise convolution.
        """
        weights = integers.double().sum((2, 3))  # (outputs, inputs) or (outputs, 1)
        return weights[:, 0] * self.offset if weights.shape[1] == 1 else weights @ self.offset

    def pool(self, size: int) -> None:
        self._add(
            Layer(
                kind="pool",
                repeat=False,
                kernel=1,
                stride=1,
                padding=0,
                pool=size,
                weights=torch.ones(self.q.shape[1], 1, 1, 1, dtype=torch.int64),
                pad_value=self.pad_value,
                zero_point=self.pad_value,
            )
        )

    def depthwise(self, convolution: nn.Conv2d, integers: Tensor, *, repeat: bool) -> None:
        layer = self._layer("depthwise", convolution, integers, pool=1, repeat=repeat)
        sums = layer.sums(self.q)
        low, high = int(sums.min()), int(sums.max())
        ratio = layer.set_output_ratio(255 / max(1, high - low))
        layer.zero_point = round(-low * ratio)
        # The output's real number is scale * (sum - w . offset), with the filters' scales folded
        # into the next layer's weights; q' = ratio * sum + zero_point.
        self.scale, self.offset = (
            self.scale / ratio,
            layer.zero_point + ratio * self._offset_sums(integers),
        )
        self._add(layer)

    def conv(
        self,
        convolution: nn.Conv2d,
        integers: Tensor,
        filter_scale: Tensor,
        norm: nn.BatchNorm2d,
        *,
        pool: int,
        repeat: bool,
    ) -> None:
        layer = self._layer("conv", convolution, integers, pool=pool, repeat=repeat)
        self._set_multipliers(layer, filter_scale, norm)
        self._set_output(layer)
        self._add(layer)

    def _set_multipliers(self, layer: Layer, filter_scale: Tensor, norm: nn.BatchNorm2d) -> None:
        """Set multipliers and biases of (2) from (6)."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        factor = gain * filter_scale.double() * self.scale  # (outputs,)
        offset_sums = self._offset_sums(layer.weights)
        bias = norm.bias.double() - gain * norm.running_mean.double() - factor * offset_sums
        # As many fractional bits as the largest bias leaves in 16 bits.
        largest = max(float(bias.abs().max()), 2.0**-MAX_FRACTION)
        layer.fraction = min(MAX_FRACTION, math.floor(math.log2(MAX_BIAS / largest)))
        layer.multipliers, layer.shift = fixed_point(factor * 2.0**layer.fraction)
        # The half makes up for (2), which rounds the product down, by half a unit on average.
        layer.biases = (bias * 2.0**layer.fraction + 0.5).round().long()

    def _set_output(self, layer: Layer) -> None:
        """Set (4) so that the calibration images' outputs fill 0 to 255."""
        hardswish = self.network.hardswish
        y = self.network.activation(layer, layer.before_activation(layer.sums(self.q)))
        # The integer that stands for 1 in y: (3) multiplies two numbers of `fraction` bits, by 6.
        one = float(6 << 2 * layer.fraction if hardswish else 1 << layer.fraction)
        low = min(0.0, float(y.min()) / one) if hardswish else 0.0
        high = float(y.max()) / one
        ratio = layer.set_output_ratio(255 / (max(high - low, 2.0**-MAX_FRACTION) * one))
        layer.zero_point = round(-low * one * ratio)
        self.scale = 1 / (one * ratio)
        self.offset = torch.full((layer.outputs,), layer.zero_point, dtype=torch.float64)

    def head(self, weight: Tensor, bias: Tensor) -> None:
        # The features (5) are sums over positions and shifts; the network's head takes the mean.
        count = self.q.shape[2] * self.q.shape[3] * self.network.max_looks
        # One scale for the whole matrix, so that the scores of the classes compare.
        integers, scale = round_filters(weight.flatten()[None], HEAD_BITS)
        unit = float(scale) * self.scale / count  # the logit that corresponds to a score of 1
        network = self.network
        network.scores_per_logit = 1 / unit
        network.head = integers.view_as(weight).long()
        biases = bias.double() / unit - count * (network.head.double() @ self.offset)
        network.head_biases = biases.round().long()

    def separable_head(self, block: Block, bits: int) -> None:
        # Behind the depthwise convolution it is linear, so that the mean may come first.
        (depthwise, pointwise), (norm,) = convolutions(block), block.norms
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        integers, scale = round_filters(depthwise.weight, bits)
        self.depthwise(depthwise, integers, repeat=False)
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = gain[:, None] * pointwise.weight.flatten(1) * scale  # (classes, channels)
        self.head(weight, norm.bias - gain * norm.running_mean)


def choose_margin(network: IntegerNetwork, images: Images) -> int:
    """Return the margin with which one look is enough from ONE_LOOK_FROM on.

    Args:
        network: The network; its own margin does not count.
        images: Validation images, by which the scores of first looks are calibrated.
    """
    if network.max_looks == 1:
        return 0
    logits = replace(network, margin=0).scores(images.pixels).double() / network.scores_per_logit
    logit = math.log(ONE_LOOK_FROM / (1 - ONE_LOOK_FROM)) * temperature(logits, images.labels)
    return min(math.ceil(logit * network.scores_per_logit), MAX_MARGIN)


@torch.no_grad()
def integer_network(model: nn.Module, split: Split, bits: int) -> IntegerNetwork:
    """Convert a trained Feather network in evaluation mode to integers, without its views.

    Args:
        model: The network.
        split: Data set. The ranges of activations are taken from its first training images, the
            margin of dense evaluation from its validation images.
        bits: Bits of each weight: 2, 4 or 8.

    Raises:
        InputError: The network is no Feather, its images have colours, or its dense evaluation has
            no integer form.
        AccumulatorOverflowError: Its numbers may not fit the integers of the C code.
    """
    if not isinstance(model, Feather):
        raise InputError(
            f"the network is a {type(model).__name__}, expected a Feather",
            hint="featherweight export RUN --format onnx-int8",
        )
    if split.shape[0] != 1:
        raise InputError(
            f"the images have {split.shape[0]} channels, expected grey ones for integers",
            hint="featherweight export RUN --format onnx-int8",
        )
    if model.views:  # rotating and scaling needs floats, so that the integers look once
        model = copy.deepcopy(model)
        model.views = ()
    _check_dense(model, normalise(split.train.pixels[:8], split.mean_std))
    height, width = split.shape[1:]
    hardswish = any(isinstance(module, nn.Hardswish) for module in model.modules())
    network = IntegerNetwork((height, width), hardswish, model.shifts, bits)
    builder = _Builder(network, split.train.pixels[:CALIBRATION_IMAGES], split.mean_std)
    for stage in model.features:
        if isinstance(stage, Pool):
            builder.pool(stage.size)
            continue
        assert isinstance(stage, Block)
        if any(convolution.dilation != (1, 1) for convolution in convolutions(stage)):
            raise InputError(
                "the network has dilated convolutions, expected none for integers",
                hint="featherweight export RUN --format onnx-int8",
            )
        pool = next((module.size for module in stage.modules() if isinstance(module, Pool)), 1)
        # A separable block has a depthwise convolution first; all others have one convolution.
        *first, last = zip(convolutions(stage), round_block(stage, bits), strict=True)
        # A block with several batch norms is passed through once with each.
        for time, norm in enumerate(stage.norms):
            assert isinstance(norm, nn.BatchNorm2d)
            again = time > 0
            for convolution, (integers, _) in first:
                builder.depthwise(convolution, integers, repeat=again)
            convolution, (integers, scale) = last
            repeat = again and not first
            builder.conv(convolution, integers, scale, norm, pool=pool, repeat=repeat)
    if isinstance(model.head, Block):
        builder.separable_head(model.head, bits)
    else:
        builder.head(model.head.weight, model.head.bias)
    network.check()
    network.margin = choose_margin(network, split.val)
    return network


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A run's network in integers, and its results on the validation images."""

    network: IntegerNetwork
    "The reference implementation."
    n_params: int
    "Number of parameters of the network in floating point."
    float_correct: int
    "Validation images that the network in floating point reads right."
    correct: int
    "Validation images that the network in integers reads right."
    scores: Tensor
    "Scores (n, classes) int64 of the validation images, in integers."
    looks: Tensor
    "Number of looks at each (n,) int64."


def convert_run(run: Run, split: Split, bits: int) -> Conversion:
    """Convert a finished run's network to integers and evaluate both on the validation images.

    Raises what `Run.load_model` and `integer_network` raise.
    """
    model = run.load_model()
    network = integer_network(model, split, bits)
    scores, looks = network.read(split.val.pixels)
    return Conversion(
        network=network,
        n_params=sum(parameter.numel() for parameter in model.parameters()),
        float_correct=evaluate(model, split.val, split.mean_std).correct,
        correct=int((scores.argmax(1) == split.val.labels).sum()),
        scores=scores,
        looks=looks,
    )
