"""Networks of other people, built from their published layer tables.

The plans beside this file name it as `results/peers/network.py:Network`, with the layers of one
network each. Such a path starts at the working directory: run the plans from the repository's root.
"""

from torch import Tensor, nn

# Operations without weights, and what they take behind their name.
PLAIN = {
    "relu": nn.ReLU,
    "leaky": nn.LeakyReLU,  # the slope below zero
    "dropout": nn.Dropout,  # the probability of zeroing an activation
    "dropout2d": nn.Dropout2d,  # the probability of zeroing a whole channel
}


class Network(nn.Module):
    """Layers in a row, from images (n, 1, height, width) to logits (n, classes).

    Each text of `layers` is one or more of these operations, separated by commas:

        conv 16     3x3 convolution to 16 channels
        sep 16      3x3 depthwise convolution, then a 1x1 pointwise one to 16 channels
        norm        batch norm
        pool        max-pooling of 2x2 pixels
        mean        average over all positions

    and relu, leaky 0.2, dropout 0.05 or dropout2d 0.05, as in PyTorch. `conv` and `sep` take the
    options `k1` (kernel of 1x1 pixels), `p1` (zero padding of 1 pixel) and `bias`. Raises
    ValueError for another operation.
    """

    def __init__(self, layers: list[str]) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        channels = 1
        for operation in ", ".join(layers).split(", "):
            name, *words = operation.split()
            if name in ("conv", "sep"):
                width, bias = int(words[0]), "bias" in words
                options = {word[0]: int(word[1:]) for word in words[1:] if word != "bias"}
                size = options.get("k", 3), 1, options.get("p", 0)
                if name == "sep":
                    steps.append(nn.Conv2d(channels, channels, *size, groups=channels, bias=False))
                    size = 1, 1, 0
                steps.append(nn.Conv2d(channels, width, *size, bias=bias))
                channels = width
            elif name == "norm":
                steps.append(nn.BatchNorm2d(channels))
            elif name == "pool":
                steps.append(nn.MaxPool2d(2))
            elif name == "mean":
                steps.append(nn.AdaptiveAvgPool2d(1))
            elif name in PLAIN:
                steps.append(PLAIN[name](*map(float, words)))
            else:
                raise ValueError(f"layers: unknown operation {operation!r}")
        self.layers = nn.Sequential(*steps)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes) for normalised images (n, 1, height, width)."""
        logits: Tensor = self.layers(images).flatten(1)
        return logits
