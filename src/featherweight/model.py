"""The networks: the assignment's baseline and the Feather family.

Example:
    model = Feather(["conv 8", "pool", "conv 16"], dropout=0.02)
    log_probabilities = torch.log_softmax(model(images), 1)     # images (n, c, 28, 28), normalised
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InputError
from .recipe import DEFAULT_LAYERS

ACTIVATIONS = {"relu": nn.ReLU, "hardswish": nn.Hardswish}
HEADS = ("linear", "sep")


class BaselineNet(nn.Module):
    """The assignment's network, with 18,746 parameters for 10 classes of grey images.

    Maps images (n, channels, 28, 28) to log-probabilities (n, classes).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3),
            nn.ReLU(),
            nn.BatchNorm2d(16),
            nn.Dropout(0.01),  # (n, 16, 26, 26)
            nn.Conv2d(16, 32, 3),
            nn.ReLU(),
            nn.BatchNorm2d(32),  # (n, 32, 24, 24)
            nn.MaxPool2d(2),
            nn.Dropout(0.01),  # (n, 32, 12, 12)
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.BatchNorm2d(32),  # (n, 32, 10, 10)
            nn.MaxPool2d(2),
            nn.Dropout(0.0),  # (n, 32, 5, 5)
            nn.Conv2d(32, 16, 1),  # (n, 16, 5, 5)
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, num_classes),
            nn.LogSoftmax(1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities (n, classes) for images (n, channels, 28, 28)."""
        log_probabilities: Tensor = self.layers(images)
        return log_probabilities


class Block(nn.Module):
    """A convolution, batch norm and activation, applied `times` times.

    Every repetition shares the convolution's weights and has its own batch norm.
    """

    def __init__(
        self, convolution: nn.Module, width: int, activation: nn.Module, times: int
    ) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(times))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (n, width, height', width') for x (n, channels, height, width)."""
        for norm in self.norms:
            x = self.activation(norm(self.convolution(x)))
        return x


def separable(
    channels: int, width: int, kernel: int = 3, stride: int = 1, padding: int = 0, dilation: int = 1
) -> nn.Sequential:
    """Return a separable convolution from `channels` to `width` channels, without bias."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False),
        nn.Conv2d(channels, width, 1, bias=False),
    )


class Pool(nn.Module):
    """Max-pooling with windows of size x size: (n, c, h, w) -> (n, c, h / size, w / size).

    With `dense`, in evaluation mode, the pooling grid is placed at each of its size x size offsets
    (Sermanet et al. 2013). The results are stacked along the batch: the output has shape
    (size * size * n, c, h / size, w / size).
    """

    def __init__(self, size: int, dense: bool) -> None:
        super().__init__()
        self.size, self.dense = size, dense

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled maps, of every offset if dense and in evaluation mode."""
        size = self.size
        if self.training or not self.dense:
            return F.max_pool2d(x, size)
        x = F.max_pool2d(x, size, stride=1)  # every window of every offset
        height, width = (side // size * size for side in x.shape[2:])
        return torch.cat(
            [x[:, :, i:height:size, j:width:size] for i in range(size) for j in range(size)]
        )


def check_views(views: object) -> tuple[tuple[float, float], ...]:
    """Return views (degrees, scale) that are read from JSON; see `Feather`.

    Raises InputError for anything else than a list of at most `MAX_VIEWS` pairs of such numbers.
    """
    expected = (
        f"expected a list of at most {MAX_VIEWS} pairs [degrees, scale], such as [[0, 1], [5, 1]], "
        f"of -{MAX_DEGREES} to {MAX_DEGREES} degrees and scales of {MIN_SCALE:g} to {MAX_SCALE:g}"
    )
    if not isinstance(views, (list, tuple)) or len(views) > MAX_VIEWS:
        got = f"{len(views)} views" if isinstance(views, (list, tuple)) else f"{views!r:.80}"
        raise InputError(f"views: got {got}, {expected}")
    for view in views:
        if (
            not isinstance(view, (list, tuple))
            or len(view) != 2
            or not all(type(number) in (int, float) for number in view)
            or not (abs(view[0]) <= MAX_DEGREES and MIN_SCALE <= view[1] <= MAX_SCALE)
        ):
            raise InputError(f"views: got {view!r:.80}, {expected}")
    pairs = tuple((float(degrees), float(scale)) for degrees, scale in views)
    if len(set(pairs)) < len(pairs):
        raise InputError("views: got a view twice, expected different ones")
    return pairs


def view_images(images: Tensor, views: Sequence[tuple[float, float]]) -> Tensor:
    """Rotate and scale images about their centre, once for each view.

    Pixels are interpolated bilinearly; what comes from outside an image has its nearest pixel.

    Args:
        images: Shape (n, channels, height, width).
        views: Of each, the degrees counter-clockwise and the scale, above 1 for a larger picture.

    Returns shape (views * n, channels, height, width), all images of the first view first.
    """
    channels, height, width = images.shape[1:]
    angles = [(math.radians(degrees), scale) for degrees, scale in views]
    turns = [[math.cos(angle) / scale, math.sin(angle) / scale] for angle, scale in angles]
    # Where in the image each pixel of a view lies is computed here: no coordinates are stored.
    turned = torch.tensor(turns, device=images.device, dtype=images.dtype)  # (views, 2)
    cos, sin = turned[:, 0, None, None], turned[:, 1, None, None]
    # Pixels from the centre, x to the right and y down, as in `augment.affine`.
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    # grid_sample measures in half sides: (views, height, width, 2), from -1 to 1.
    grid = torch.stack([(cos * x - sin * y) * (2 / width), (sin * x + cos * y) * (2 / height)], 3)
    # All images of a view share its grid: they are channels of one image, so that the place and
    # the weights of a sample are found once. (views, n * channels, height, width)
    stacked = images.reshape(1, -1, height, width).expand(len(views), -1, -1, -1)
    sampled = F.grid_sample(stacked, grid, padding_mode="border", align_corners=False)
    return sampled.reshape(-1, channels, height, width)


# Far above what a budget allows: a stranger's configuration must not fill the memory.
MAX_LAYERS, MAX_NUMBER = 200, 2048
# So few views that their angles and scales are no stored numbers in an audit.
MAX_VIEWS, MAX_DEGREES, MIN_SCALE, MAX_SCALE = 32, 45, 0.5, 2.0
_LAYER = re.compile(r"(conv|sep) ([1-9]\d*)((?: [kspdxm]\d+)*)")


@dataclass(frozen=True)
class LayerSpec:
    """A layer of a Feather, as `parse_layer` reads it."""

    kind: str
    "conv, sep or pool."
    width: int = 0
    "Number of output channels. 0: as many as input channels (pool)."
    kernel: int = 3
    "Side of the kernel in pixels."
    stride: int = 1
    "Stride in pixels."
    padding: int = 0
    "Zero padding on every side in pixels."
    pool: int = 1
    "Side of the max-pooling windows in pixels. 1: no pooling."
    times: int = 1
    "How many times the layer is applied with the same weights."
    dilation: int = 1
    "Distance between neighbouring taps of the kernel in pixels."


def parse_layer(layer: str) -> LayerSpec:
    """Parse a layer such as `conv 16 k5 m2`; see `Feather`. Raises InputError for other text."""
    if layer == "pool":
        return LayerSpec("pool", pool=2)
    words = _LAYER.fullmatch(layer)
    if words is None:
        raise InputError(
            f"layer {layer!r}: expected pool, conv WIDTH or sep WIDTH, with options such as "
            "k5 s2 p2 d2 m2 x3"
        )
    option = {word[0]: int(word[1:]) for word in words[3].split()}
    spec = LayerSpec(
        kind=words[1],
        width=int(words[2]),
        kernel=option.get("k", 3),
        stride=option.get("s", 1),
        padding=option.get("p", 0),
        dilation=option.get("d", 1),
        pool=option.get("m", 1),
        times=option.get("x", 1),
    )
    least_one = spec.kernel, spec.stride, spec.dilation, spec.pool, spec.times
    if min(least_one) < 1:
        raise InputError(f"layer {layer!r}: expected k, s, d, m and x of at least 1")
    if max(spec.width, spec.padding, *least_one) > MAX_NUMBER:
        raise InputError(f"layer {layer!r}: expected no number above {MAX_NUMBER:,}")
    return spec


class Feather(nn.Module):
    """Convolutions, dropout, global average pooling and a linear layer.

    Maps normalised images (n, channels, height, width) to logits (n, classes). Each of `layers` is
    one of

        conv 16     3x3 convolution to 16 channels, batch norm, activation
        sep 24      the same with a separable convolution: a 3x3 depthwise one, then a 1x1 pointwise
                    one to 24 channels (Sifre and Mallat 2013). From 24 channels it has 792 weights
                    instead of 5,184
        pool        max-pooling of 2x2 pixels

    `conv` and `sep` take options:

        k5          kernel of 5x5 pixels
        s2          stride of 2 pixels
        p2          zero padding of 2 pixels. Without it, maps shrink and later layers cost less
        d2          dilation: every second pixel is read (Yu and Koltun 2016), so that a kernel of
                    3x3 sees 5x5 pixels
        m2          max-pooling of 2x2 pixels right after the convolution, so that batch norm and
                    activation process a quarter of the pixels
        x3          the layer is applied 3 times with the same weights

    No convolution has a bias, because batch norm adds one.

    Args:
        layers: The layers, as above.
        dropout: Probability that dropout zeroes an activation before the head.
        activation: relu, or hardswish (Howard et al. 2019), which reaches a higher accuracy in the
            same number of epochs.
        dense: Whether to use dense evaluation: in evaluation mode predictions are averaged over
            every offset of the max-pool grid, which equals averaging over shifted images (by -1
            and 0 pixels along either axis for one 2x2 max-pool). It costs no parameters, nothing in
            training, and 1.7 to 2.6 times the multiply-accumulates in evaluation.
        views: Pairs [degrees, scale]: in evaluation mode predictions are averaged over the image
            rotated counter-clockwise by so many degrees and scaled by such a factor about its
            centre, once for each pair, each view at every offset if `dense` (test-time
            augmentation, Krizhevsky et al. 2012). The image itself is [0, 1]. It costs no
            parameters, nothing in training, and as many times the multiply-accumulates in
            evaluation as there are views. Empty: the image alone.
        head: linear, or sep: a separable convolution to one channel for each class, and batch norm,
            whose mean over all places is the logit. Below some 2,000 parameters the linear layer
            is worth less than its weights are elsewhere.
        num_classes: Number of classes.
        in_channels: Number of channels of an image: 1 (grey) or 3 (colour).

    Raises InputError for other layers, heads, activations or views.
    """

    def __init__(
        self,
        layers: Sequence[str] = DEFAULT_LAYERS,
        dropout: float = 0.02,
        activation: str = "hardswish",
        dense: bool = False,
        views: Sequence[Sequence[float]] = (),
        head: str = "linear",
        num_classes: int = 10,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.views = check_views(views)
        if activation not in ACTIVATIONS:
            raise InputError(f"activation {activation!r}: expected {' or '.join(ACTIVATIONS)}")
        if head not in HEADS:
            raise InputError(f"head {head!r}: expected {' or '.join(HEADS)}")
        if len(layers) > MAX_LAYERS:
            raise InputError(f"layers: got {len(layers):,}, expected at most {MAX_LAYERS}")
        stages: list[nn.Module] = []
        inplace = activation == "relu"  # others would copy their input for the gradient
        channels, grid = in_channels, 1
        for layer in layers:
            spec = parse_layer(layer)
            grid *= spec.pool
            if spec.kind == "pool":
                stages.append(Pool(spec.pool, dense))
                continue
            width = spec.width
            if spec.times > 1 and width != channels:
                raise InputError(
                    f"layer {layer!r}: got {width} channels, expected the {channels} of its input, "
                    "because it is applied several times"
                )
            size = spec.kernel, spec.stride, spec.padding, spec.dilation
            convolution: nn.Module = nn.Conv2d(channels, width, *size, bias=False)
            if spec.kind == "sep":
                convolution = separable(channels, width, *size)
            if spec.pool > 1:
                convolution = nn.Sequential(convolution, Pool(spec.pool, dense))
            stages.append(
                Block(convolution, width, ACTIVATIONS[activation](inplace=inplace), spec.times)
            )
            channels = width
        # Shifts of the image along either axis, in pixels, that dense evaluation averages over.
        self.shifts = range(-(grid // 2), grid - grid // 2) if dense else range(1)
        # Pixels by which an image is padded, so that no shift moves part of it out.
        self.margin = -self.shifts[0]
        self.features = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = (
            nn.Linear(channels, num_classes)
            if head == "linear"
            else Block(separable(channels, num_classes), num_classes, nn.Identity(), times=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes) for normalised images (n, channels, height, width)."""
        n = images.shape[0]  # len() would fix the batch size in an ONNX export
        if self.views and not self.training:
            images = view_images(images, self.views)  # (views * n, channels, height, width)
        if self.margin and not self.training:
            images = F.pad(images, (self.margin,) * 4, mode="replicate")
        x = self.features(images)  # (offsets * views * n, channels, rows, columns)
        if isinstance(self.head, Block):
            x = self.head(self.dropout(x))
        x = x.mean((2, 3))  # (offsets * views * n, channels)
        x = x.reshape(-1, n, x.shape[1]).mean(0)  # (n, channels)
        logits: Tensor = x if isinstance(self.head, Block) else self.head(self.dropout(x))
        return logits
