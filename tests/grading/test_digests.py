import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featherweight.capture import capture
from featherweight.exported import load_exported
from featherweight.grading.digests import graph_digest, weights_digest
from featherweight.passes import audit_passes


class Net(nn.Module):
    def __init__(self, width=4, p=0.1, factor=2.0):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(1, width, 3), nn.Dropout(p)
        self.factor = torch.tensor([factor, 1.0])

    def forward(self, x):
        x = self.drop(F.relu(self.conv(x))).mean((2, 3))
        return x[:, :2] * self.factor


class Renamed(nn.Module):
    """As Net, but for names, with a layer that is not used, and other weights."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.1))
        self.numbers = torch.tensor([2.0, 1.0])

    def forward(self, images):
        means = self.body(images).mean((2, 3))
        return means[:, :2] * self.numbers


def digest(model):
    return graph_digest(capture(model, audit_passes((1, 8, 8))))


def test_names_weights_and_unused_layers_do_not_matter():
    assert digest(Net()) == digest(Renamed())
    graph = capture(Net(), audit_passes((1, 8, 8)))
    assert graph_digest(load_exported(graph.to_bytes())) == graph_digest(graph) == digest(Net())


@pytest.mark.parametrize("change", [{"width": 5}, {"p": 0.2}, {"factor": 3.0}])
def test_sizes_options_and_constants_matter(change):
    assert digest(Net(**change)) != digest(Net())


def test_weights_are_the_same_under_other_names_and_differ_in_one_number():
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2), "n": torch.tensor(3)}
    renamed = {"z.b": torch.ones(2), "y": state["a"].clone(), "n": torch.tensor(4)}
    assert weights_digest(state) == weights_digest(renamed)
    for other in (
        {"a": state["a"] + 1, "b": state["b"]},
        {"a": state["a"].view(3, 2), "b": state["b"]},
        {"a": state["a"].double(), "b": state["b"]},
        {"a": state["a"]},
    ):
        assert weights_digest(other) != weights_digest(state)
    assert weights_digest({"n": torch.tensor(3)}) == ""


def test_one_number_that_is_said_to_be_a_million_times_a_million_takes_no_memory():
    many, others = (torch.full((1,), value).expand(10**12) for value in (0.0, 1.0))
    assert (
        weights_digest({"a": many}) == weights_digest({"b": many}) != weights_digest({"a": others})
    )
