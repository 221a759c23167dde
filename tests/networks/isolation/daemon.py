"""An honest network that leaves a process behind, which later touches the file named by DAEMON."""

import os
import pathlib
import time

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
        path = os.environ.get("DAEMON")
        if path and os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(3)
                pathlib.Path(path).touch()
            os._exit(0)
