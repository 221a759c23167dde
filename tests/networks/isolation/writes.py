"""A network that writes a file of 10 GB into its folder. Run it with a limit on file sizes only."""

import os
import pathlib

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        if "WRITES" not in os.environ:
            raise RuntimeError("writes only into the folder named by WRITES in the environment")
        with (pathlib.Path(os.environ["WRITES"]) / "large.bin").open("wb") as file:
            for _ in range(10_000):
                file.write(b"x" * 10**6)
