"""Networks that never return, and that take no notice of being asked to end."""

import signal
import time

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        while True:
            pass


class Sleeps(nn.Module):
    """Uses no processor time, so that a limit of processor time does not end it."""

    def __init__(self):
        super().__init__()
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGXCPU):
            signal.signal(each, signal.SIG_IGN)
        while True:
            time.sleep(3600)


class InForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x):
        while True:
            x = x + 1
