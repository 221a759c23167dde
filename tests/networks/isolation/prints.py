"""An honest network that prints a million lines to stdout and stderr, from Python and from C."""

import ctypes
import os
import sys

from torch import nn

LINES = b"a line that nobody asked for\n" * 1000


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
        c = ctypes.CDLL(None)
        for _ in range(250):
            sys.stdout.write(LINES.decode())
            sys.stderr.write(LINES.decode())
            os.write(1, LINES)
            c.printf(b"%s", LINES)
        c.fflush(None)
