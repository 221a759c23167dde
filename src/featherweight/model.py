"""The networks: the assignment's own, and the Feather family.

model = Feather(["conv 8", "pool", "conv 16"], dropout=0.02)
log_probabilities = torch.log_softmax(model(images), 1)     # images (n, 1, 28, 28), normalised
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InputError


class BaselineNet(nn.Module):
    """The assignment's network, 18,746 parameters: images (n, 1, 28, 28) -> log-probabilities (n, 10)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3),
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
        log_probabilities: Tensor = self.layers(images)
        return log_probabilities


class Block(nn.Module):
    """A convolution, batch norm, activation; `times` over, the same weights but a batch norm for each time."""

    def __init__(
        self, convolution: nn.Module, width: int, activation: nn.Module, times: int
    ) -> None:
        super().__init__()
        self.convolution, self.activation = convolution, activation
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(times))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = self.activation(norm(self.convolution(x)))
        return x


class Pool(nn.Module):
    """Maximum of size x size pixels: (n, c, height, width) -> (n, c, height / size, width / size).

    `dense`, in evaluation mode: at each of the size x size offsets that such a grid can have (Sermanet et al.
    2013), one after the other: -> (size * size * n, c, height / size, width / size).
    """

    def __init__(self, size: int, dense: bool) -> None:
        super().__init__()
        self.size, self.dense = size, dense

    def forward(self, x: Tensor) -> Tensor:
        size = self.size
        if self.training or not self.dense:
            return F.max_pool2d(x, size)
        x = F.max_pool2d(x, size, stride=1)
        height, width = (side // size * size for side in x.shape[2:])
        return torch.cat(
            [x[:, :, i:height:size, j:width:size] for i in range(size) for j in range(size)]
        )


ACTIVATIONS = {"relu": nn.ReLU, "hardswish": nn.Hardswish}
FEATHER_20K = (
    "conv 8",
    "conv 16 m2",
    "conv 16",
    "conv 24",
    "conv 24",
    "conv 32",
)  # 19,650 parameters
_LAYER = re.compile(r"(conv|sep) ([1-9]\d*)((?: [kspxm]\d+)*)")


class Feather(nn.Module):
    """Convolutions, global average pooling, dropout, a linear layer: images (n, 1, height, width) -> logits.

    Each of `layers` is a few words:

        conv 16     3x3 convolution to 16 channels, batch norm, activation
        sep 24      the same, but a 3x3 convolution of each channel alone, then a 1x1 one to 24 channels (Sifre
                    and Mallat 2013): from 24 channels 792 weights instead of 5,184
        pool        maximum of 2x2 pixels

    The first two take k5 (another kernel), s2 (stride), p2 (padding; none by itself, so that later layers cost
    less and see the digit, not a border), m2 (maximum of 2x2 pixels right after the convolution: batch norm and
    activation then have a quarter to do) and x3 (three times over with the same weights). No convolution has a
    bias, since the batch norm after it has one. `activation` is relu, or hardswish (Howard
    et al. 2019), which learns more in the same epochs. Raises ValueError for other words.

    `dense`: in evaluation mode every maximum is taken at every offset of its grid, and the answer is the mean of
    what the network says to the image moved accordingly: by -1 or 0 pixels either way where there is one maximum
    of 2x2. No parameter more, nothing more in training, and for an answer 1.7 to 2.6 times the multiply-accumulates.
    """

    def __init__(
        self,
        layers: Sequence[str] = FEATHER_20K,
        dropout: float = 0.02,
        activation: str = "hardswish",
        dense: bool = False,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InputError(f"activation {activation!r}: expected {' or '.join(ACTIVATIONS)}")
        stages: list[nn.Module] = []
        channels, grid = 1, 1
        for layer in layers:
            if layer == "pool":
                stages.append(Pool(2, dense))
                grid *= 2
                continue
            words = _LAYER.fullmatch(layer)
            if words is None:
                raise InputError(
                    f"layer {layer!r}: expected pool, conv WIDTH or sep WIDTH, with options such as "
                    "k5 s2 p2 x3"
                )
            kind, width = words[1], int(words[2])
            given = {word[0]: int(word[1:]) for word in words[3].split()}
            option = {"k": 3, "s": 1, "p": 0, "m": 1, "x": 1} | given
            if min(option[key] for key in "ksmx") < 1 or (option["x"] > 1 and width != channels):
                raise InputError(
                    f"layer {layer!r}: expected kernel, stride, maximum and times of at least 1, "
                    f"and as many channels out as in, {channels}, to go through several times"
                )
            size = option["k"], option["s"], option["p"]
            convolution: nn.Module = nn.Conv2d(channels, width, *size, bias=False)
            if kind == "sep":
                convolution = nn.Sequential(
                    nn.Conv2d(channels, channels, *size, groups=channels, bias=False),
                    nn.Conv2d(channels, width, 1, bias=False),
                )
            if option["m"] > 1:
                grid *= option["m"]
                convolution = nn.Sequential(convolution, Pool(option["m"], dense))
            stages.append(
                Block(convolution, width, ACTIVATIONS[activation](inplace=True), option["x"])
            )
            channels = width
        self.moves = (
            range(-(grid // 2), grid - grid // 2) if dense else range(1)
        )  # pixels, either way
        self.margin = -self.moves[0]  # pixels, that the moved images are whole
        self.features = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        n = images.shape[0]  # not len(): ONNX has a batch of any size
        if self.margin and not self.training:
            images = F.pad(images, (self.margin,) * 4, mode="replicate")
        x = self.features(images).mean((2, 3))  # (offsets * n, channels)
        x = x.reshape(-1, n, x.shape[1]).mean(0)  # (n, channels)
        logits: Tensor = self.head(self.dropout(x))
        return logits
