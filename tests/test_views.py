"""How often a network looks at an image, however the looks are written."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featherweight.audit import audit_model
from featherweight.build import build, count_parameters
from featherweight.capture import Pass, capture
from featherweight.contract import Contract
from featherweight.data import Images
from featherweight.layers import LayerTable, layer_table
from featherweight.model import MAX_VIEWS


class Net(nn.Module):
    """A network of a function of the images, with modules of which it uses some."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a, self.b, self.same = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
        self.head, self.mix = nn.Linear(4, 10), nn.Linear(100, 100)
        self.first, self.second = nn.Linear(144, 20), nn.Linear(20, 10)

    def once(self, x):
        return self.head(self.b(self.a(x).relu()).relu().mean((2, 3)))

    def forward(self, x):
        return self.function(self, x)


def mean(net, copies, n):
    """The mean over copies of n images each, the first copy of all images first."""
    return net.once(copies).view(-1, n, 10).mean(0)


def looped(net, x):
    return sum(net.once(x.roll(i, 3)) for i in range(3))


def interleaved(net, x):
    return net.once(torch.stack([x, x.flip(3)], 1).flatten(0, 1)).view(-1, 2, 10).mean(1)


def halfway(net, x):
    maps = net.a(x)
    return net.head(sum(net.b(each) for each in (maps, maps.flip(3))).mean((2, 3)))


def overlapping(net, x):
    crops = x.unfold(2, 10, 1).unfold(3, 10, 1).permute(2, 3, 0, 1, 4, 5)
    return mean(net, crops.reshape(-1, 1, 10, 10), x.shape[0])


def deep(net, x):
    both = F.conv3d(torch.stack([x, x.flip(3)], 2), net.a.weight[:, :, None])
    return net.head(both.mean((2, 3, 4)))


def grouped(net, x):
    maps = net.a(x)
    both = F.conv2d(torch.cat([maps, maps.flip(3)], 1), net.b.weight.repeat(2, 1, 1, 1), groups=2)
    return net.head(both.unflatten(1, (2, 4)).mean((1, 3, 4)))


def sampled(net, x):
    grid = torch.linspace(-1, 1, 3 * 12 * 12 * 2).cos().view(3, 12, 12, 2)
    copies = F.grid_sample(
        x.reshape(1, -1, 12, 12).expand(3, -1, -1, -1), grid, align_corners=False
    )
    return mean(net, copies.reshape(-1, 1, 12, 12), x.shape[0])


def perceptron(net, x):
    return sum(net.second(net.first(each.flatten(1)).relu()) for each in (x, x.flip(3)))


def barely_fed_back(net, x):
    found = net.once(x)
    return found + net.once(x + 1e-9 * found[:, :1, None, None])


SEVERAL = {
    "a loop": (looped, 3),
    "a batch": (lambda net, x: mean(net, torch.cat([x, x.flip(3), 2 * x]), x.shape[0]), 3),
    "a repeated batch": (lambda net, x: mean(net, x.repeat(2, 1, 1, 1), x.shape[0]), 2),
    "image by image": (interleaved, 2),
    "an operation that is not known": (
        lambda net, x: net.once(x.repeat_interleave(3, 0)).view(-1, 3, 10).mean(1),
        3,
    ),
    "half of the network": (halfway, 2),
    "overlapping crops": (overlapping, 9),
    "one picture": (lambda net, x: net.once(torch.cat([x, x.flip(3), x.flip(2)], 3)), 3),
    "a third dimension": (deep, 2),
    "groups with the same weights": (grouped, 2),
    "sampling": (sampled, 3),
    "no convolution": (perceptron, 2),
    "a feedback without an effect": (barely_fed_back, 2),
}


def repeated(net, x):
    x = net.a(x)
    for _ in range(3):
        x = net.b(F.pad(x, (1, 1, 1, 1)))
    return net.head(x.mean((2, 3)))


def residual(net, x):
    x = net.a(x)
    for _ in range(3):
        x = x + net.same(x)
    return net.head(x.mean((2, 3)))


def windows(net, x):
    quarters = x.view(-1, 1, 2, 6, 2, 6).permute(0, 2, 4, 1, 3, 5).reshape(-1, 1, 6, 6)
    return net.once(quarters).view(-1, 4, 10).mean(1)


def attended(net, x):
    x = net.a(x)
    weights = [net.same(pool[:, :, None, None]) for pool in (x.mean((2, 3)), x.amax((2, 3)))]
    return net.head((x * sum(weights).sigmoid()).mean((2, 3)))


ONCE = {
    "plain": lambda net, x: net.once(x),
    "a shared layer in sequence": repeated,
    "a shared residual layer in sequence": residual,
    "windows that do not overlap": windows,
    "weights of two pooled vectors": attended,
    "the same weights for every channel": lambda net, x: net.head(
        net.mix(net.mix(net.a(x).flatten(2)).relu()).mean(2)
    ),
    "the same weights for every token": lambda net, x: net.head(
        net.head(net.a(x).flatten(2).transpose(1, 2))[..., :4].mean(1)
    ),
}


@pytest.mark.parametrize("name", [*SEVERAL, *ONCE])
def test_looks_are_counted_by_what_is_computed(name):
    function, expected = SEVERAL.get(name) or (ONCE[name], 1)
    torch.manual_seed(0)
    assert layer_table(capture(Net(function), [Pass(False, (1, 12, 12))])).views == expected


VIEWS = [[0, 1], [7, 1], [-7, 1.05]]


@pytest.fixture(scope="module")
def tables():
    """The table of a small network with and without dense evaluation and views."""

    def made(**arguments):
        torch.manual_seed(0)
        layers = {"layers": ["conv 4 m2", "conv 5", "conv 5 x3 p1"]}
        model = build("featherweight.model:Feather", layers | arguments, 10)
        return layer_table(capture(model, [Pass(False)]))

    return {
        "plain": made(),
        "dense": made(dense=True),
        "both": made(dense=True, views=VIEWS),
    }


def test_views_multiply_offsets_and_multiply_accumulates(tables):
    views = {name: table.views for name, table in tables.items()}
    assert views == {"plain": 1, "dense": 4, "both": 12}
    few, many = tables["dense"], tables["both"]
    sampling, *layers = many.layers
    assert (sampling.name, sampling.kind) == ("grid_sampler", "other")
    # Four for each pixel of each view; the head runs once.
    assert sampling.macs == 4 * len(VIEWS) * 28 * 28
    assert many.macs - sampling.macs - 50 == len(VIEWS) * (few.macs - 50)
    assert many.parameters == few.parameters
    rows = [
        [(each.name, each.kind, each.shape) for each in found] for found in (few.layers, layers)
    ]
    assert rows[0] == rows[1]
    assert "of 1x28x28, looked at 12 times\n" in str(many)
    assert "looked" not in str(tables["plain"])


def test_tables_from_before_views_were_counted_are_read(tables):
    values = tables["dense"].to_json()
    assert LayerTable.from_json(values) == tables["dense"]
    del values["views"]
    for layer in values["layers"]:
        del layer["views"]
    assert LayerTable.from_json(values).views == 1


def test_an_audit_counts_views_and_no_numbers_for_them(split):
    parts = [
        Images(part.pixels[:128, :, 8:20, 8:20], part.labels[:128])
        for part in (split.train, split.val)
    ]
    split = dataclasses.replace(split, train=parts[0], val=parts[1])
    views = [[step - 15.5, 1 + step / 100] for step in range(MAX_VIEWS)]
    arguments = {"layers": ["conv 4 m2", "conv 4"], "dense": True, "views": views}
    model = build("featherweight.model:Feather", arguments, 10, split.shape)
    values = {"name": "mine", "train_size": 500, "val_size": 100}
    contract = Contract.from_dict(
        values | {"max_params": count_parameters(model) + 1, "views": 4 * MAX_VIEWS - 1}
    )
    verdict = audit_model(model, split, contract)
    assert verdict.n_params == count_parameters(model)
    found = {clause.clause: (clause.passed, clause.found) for clause in verdict.clauses}
    assert found["views"] == (False, "128, by features.1.convolution")
    assert found["parameters"][0]
    assert found["evaluation"] == (True, "it does")
