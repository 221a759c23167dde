"""An honest network that waits for a line on stdin; at the end of a closed stdin it is built."""

import sys

from torch import nn


class Honest(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 5, stride=3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10),
        )


class Net(Honest):
    def __init__(self):
        super().__init__()
        self.answer = sys.stdin.readline()


class Asks(Honest):
    """Raises EOFError where stdin is closed."""

    def __init__(self):
        super().__init__()
        self.answer = input("Which width? ")
