"""The source of a class as a module."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import Linear as Dense
from torch.nn import functional as F

from featherweight.errors import InputError
from featherweight.source import module_source

WIDTH = 4
SIZES = {"hidden": (WIDTH, [1, 2.5]), "name": "a text"}
WEIGHTS = torch.ones(3)


def double(x):
    return 2 * x * math.pi


def decorate(function):
    return function


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = Dense(WIDTH, WIDTH)

    @decorate
    def forward(self, x):
        return F.relu(double(self.dense(x)))


class Net(Layer):
    size: int = SIZES["hidden"][0]

    def forward(self, x):
        def inner(y, WEIGHTS=1):  # a name of its own, not the tensor above
            return y * WEIGHTS

        return inner(super().forward(x))


class Stranger(nn.Module):
    def forward(self, x):
        return x * WEIGHTS


def defined_in_a_function():
    class Inner(nn.Module):
        def forward(self, x):
            return x

    return Inner


def run(text):
    names = {"__name__": "made"}
    exec(compile(text, "made.py", "exec"), names)
    return names


def test_a_module_of_the_source_has_the_same_class():
    names = run(module_source(Net))
    torch.manual_seed(0)
    made = names["Net"]()
    torch.manual_seed(0)
    ours = Net()
    x = torch.randn(3, WIDTH)
    assert torch.equal(made(x), ours(x))
    assert names["Net"].size == WIDTH


def test_only_what_the_class_uses_goes_along():
    text = module_source(Net)
    assert "class Stranger" not in text
    assert "pytest" not in text
    assert text.count("class Layer") == 1


def test_what_another_process_cannot_have_is_named():
    with pytest.raises(InputError, match=r"Stranger: uses WEIGHTS, Tensor"):
        module_source(Stranger)


def test_a_class_inside_a_function_is_refused():
    with pytest.raises(InputError, match="Inner: its source"):
        module_source(defined_in_a_function())


def test_a_class_without_a_file_is_refused():
    names = run(
        "from torch import nn\nclass Made(nn.Module):\n    def forward(self, x): return x\n"
    )
    assert not Path("made.py").exists()
    with pytest.raises(InputError, match="Made: its source"):
        module_source(names["Made"])
