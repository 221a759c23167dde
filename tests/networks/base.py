"""Two small honest networks that the other networks of this folder start from."""

import torch
from torch import nn
from torch.nn import functional as F

NET = 72 + 16 + 1152 + 32 + 170  # parameters of `Net` and of `Gap`


class Net(nn.Module):
    """Images (n, 1, 28, 28) to log-probabilities (n, 10), with 1,442 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def first(self, x):  # (n, 8, 13, 13)
        return self.drop(F.relu(self.norm1(self.conv1(x))))

    def second(self, x):  # (n, 16, 6, 6)
        return F.relu(self.norm2(self.conv2(x)))

    def body(self, x):
        return self.second(self.first(x))

    def features(self, x):  # (n, 16)
        return self.body(x).mean((2, 3))

    def logits(self, x):
        return self.head(self.features(x))

    def forward(self, x):
        return F.log_softmax(self.logits(x), 1)


class Gap(Net):
    """`Net` with a 1x1 convolution and an average over the map last; as many parameters."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(16, 10, 1)

    def pool(self, maps):  # (n, 10, 6, 6) to (n, 10)
        return maps.mean((2, 3))

    def logits(self, x):
        return self.pool(self.head(self.body(x)))


def random(*shape, seed=0, scale=0.05):
    """Return normal numbers as float32, the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
