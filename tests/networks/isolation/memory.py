"""A network that takes memory without bound. Run it with a limit only."""

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        kept = []
        while True:
            kept.append(bytearray(b"x" * 2**26))
