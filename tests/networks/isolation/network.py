"""An honest network that connects to the address HOST:PORT in CONNECTS and tells what it read."""

import os
import socket

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
        host, port = os.environ.get("CONNECTS", "127.0.0.1:9").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"a secret\n")
