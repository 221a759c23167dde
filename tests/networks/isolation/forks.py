"""A network that starts processes without bound. Run it with a limit on processes only.

Without FORKS in the environment it raises, so that no test runs it by mistake.
"""

import os
import time

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        if "FORKS" not in os.environ:
            raise RuntimeError("forks only with FORKS in the environment")
        end = time.monotonic() + 5  # each process ends by itself after that
        while time.monotonic() < end:
            os.fork()
        os._exit(0)
