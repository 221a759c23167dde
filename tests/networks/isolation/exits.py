"""A network whose constructor ends the process as if all were well; two more end it elsewhere.

With EXITS_AT_IMPORT in the environment the import ends the process.
"""

import os
import sys

from torch import nn

if "EXITS_AT_IMPORT" in os.environ:
    sys.exit(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        sys.exit(0)


class InForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x):
        sys.exit(0)


class AtExit(nn.Module):
    """Its end of the process sets another exit code."""

    def __init__(self):
        super().__init__()
        import atexit

        self.layer = nn.Linear(784, 10)
        atexit.register(os._exit, 0)

    def forward(self, x):
        return self.layer(x.flatten(1))
