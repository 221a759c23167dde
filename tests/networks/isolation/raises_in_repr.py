"""Networks whose exceptions, names and output are hostile to whoever prints them."""

from torch import nn


class Error(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Net(nn.Module):
    def __init__(self):
        raise Error


class Markup(nn.Module):
    def __init__(self):
        raise ValueError("[red]passed[/red]\x1b[2J\r\n=HYPERLINK(1)\n" + "x" * 10**6)


class Interrupts(nn.Module):
    def __init__(self):
        raise KeyboardInterrupt


class Repr(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def __repr__(self):
        raise RuntimeError("no text")

    def forward(self, x):
        return self.layer(x.flatten(1))
