"""Evidence: which heads are recognised, that places sum to the logits, and where the places lie."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import LAYERS, random_feather
from torch import nn
from torch.nn import functional as F

import featherweight as fw
from featherweight.build import build
from featherweight.data import load_split
from featherweight.evaluate import normalise
from featherweight.export import graph as graphs
from featherweight.export.evidence import _outputs, find_head, measure_grid
from featherweight.export.graph import UnfaithfulError, to_graph
from featherweight.inference.reader import Reader
from featherweight.recipe import find_recipe

# One that resizes, one with dense evaluation, one that is quantised: the others are like these.
FEATHERS = {name: find_recipe(name).model_args for name in ("sprint", "reader", "int4-4kb")}


class Own(nn.Module):
    """A user's network with one of several heads."""

    def __init__(self, head):
        super().__init__()
        self.head = head
        last = 10 if head in ("classes", "log") else 12
        self.maps = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, last, 5)
        )
        self.linear = nn.Linear(last * (100 if head == "flat" else 1), 10)
        self.convolution = nn.Conv2d(last, 10, 1, bias=False)

    def forward(self, x):
        x = self.maps(x)
        if self.head in ("classes", "log"):
            return F.log_softmax(x.mean((2, 3)), 1) if self.head == "log" else x.mean((2, 3))
        if self.head == "convolution":
            return self.convolution(F.adaptive_avg_pool2d(x, 1)).flatten(1)
        if self.head == "maximum":
            return self.linear(x.amax((2, 3)))
        return self.linear(x.flatten(1) if self.head == "flat" else x.mean((2, 3)))


def own(head):
    torch.manual_seed(0)
    return Own(head).eval()


def images(split, n=20):
    return normalise(split.val.pixels[:n], split.mean_std)


@pytest.mark.parametrize("head", ["mean", "classes", "log", "convolution"])
def test_the_head_of_a_users_network_is_found_by_what_it_computes(head, split):
    model, x = own(head), images(split)
    found = find_head(model, x)
    with torch.no_grad():
        logits = found.evidence(model.maps(x)).sum((2, 3))
        torch.testing.assert_close(
            logits.log_softmax(1), model(x).log_softmax(1), atol=1e-5, rtol=0
        )
    # 28 -> 28 -> 14 -> 10 places, 2 pixels apart. The first one sees pixels -1 to 10.
    grid = measure_grid(model, found, (1, 28, 28))
    assert grid.extent == (4, 4, 24, 24)
    assert grid.field == (12, 12)


@pytest.mark.parametrize("head", ["flat", "maximum"])
def test_other_heads_have_no_evidence(head, split):
    assert find_head(own(head), images(split)) is None


@pytest.mark.parametrize(
    ("layers", "dense", "extent", "field"),
    [
        # 26 places a pixel apart, the first one in the middle of pixel 1.
        (["conv 4"], False, (1, 1, 27, 27), 3),
        # 13 places 2 pixels apart.
        (["conv 4 m2"], False, (1, 1, 27, 27), 4),
        # At each offset of the pooling grid 13 places, 2 pixels apart: 26 places a pixel apart. The
        # image has a margin of 1 pixel, so that the first one sees pixels -1 to 2.
        (["conv 4 m2"], True, (0.5, 0.5, 26.5, 26.5), 4),
        (["conv 4 k5 s2 p2", "conv 4"], False, (1.5, 1.5, 25.5, 25.5), 9),
    ],
)
def test_the_grid_lies_where_the_arithmetic_of_convolutions_says(
    layers, dense, extent, field, split
):
    model = random_feather(split, layers, dense=dense)
    grid = measure_grid(model, find_head(model, images(split)), (1, 28, 28))
    assert grid.extent == extent
    assert grid.field == (field, field)


IDS = [*FEATHERS, "two pools", "not dense", "relu", "separable head"]
NETWORKS = [
    *FEATHERS.values(),
    {"layers": LAYERS, "dense": True},
    {"layers": LAYERS, "dense": False},
    {"layers": ["conv 6 m2", "conv 6 m2", "conv 6 p1"], "dense": True, "activation": "relu"},
    {"layers": ["conv 6 m2", "conv 6"], "dense": True, "head": "sep"},
]


@pytest.mark.parametrize("arguments", NETWORKS, ids=IDS)
def test_a_pixel_changes_the_places_around_it(arguments, split):
    """One pixel changes just those places whose field holds it, as far as the grid goes."""
    model = random_feather(split, **arguments)
    head = find_head(model, images(split))
    grid = measure_grid(model, head, (1, 28, 28))
    x = images(split, 30)
    (left, top, right, bottom), (width, height) = grid.extent, grid.field
    for row, column in ((14, 14), (9, 17), (20, 12)):
        changed = x.clone()
        changed[:, :, row, column] += 3
        before, after = (
            head.evidence(outputs(model, head, each)).double() for each in (x, changed)
        )
        seen = ((before - after).abs() > 1e-9).any(0).any(0)  # (rows, columns)
        step_y, step_x = (bottom - top) / seen.shape[0], (right - left) / seen.shape[1]
        y = top + (np.arange(seen.shape[0])[:, None] + 0.5) * step_y
        x_centre = left + (np.arange(seen.shape[1])[None] + 0.5) * step_x
        within = (abs(y - row - 0.5) < height / 2) & (abs(x_centre - column - 0.5) < width / 2)
        assert not (seen.numpy() & ~within).any()
        # A path through weights near zero or through a maximum may not show in 30 images.
        assert (seen.numpy() & within).sum() >= 0.9 * within.sum()


@torch.no_grad()
def outputs(model, head, x):
    """Return the maps that the head takes the mean of."""
    kept = []
    hook = model.get_submodule(head.name).register_forward_hook(lambda _, __, out: kept.append(out))
    model(x)
    hook.remove()
    return kept[-1]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", NETWORKS, ids=IDS)
def test_the_file_holds_what_the_evidence_is_made_of(arguments, split):
    model = random_feather(split, **arguments)
    graph = to_graph(model, split, evidence=True)
    told = {item.key: item.value for item in graph.metadata_props}
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    pixels = split.val.pixels[:50, 0].numpy()
    names = [told["evidence_maps"], "head", "bias", "log_probabilities"]
    maps, weight, bias, expected = session.run(names, {"pixels": pixels})
    means = maps.reshape(-1, 50, *maps.shape[1:]).mean((0, 3, 4))
    logits = torch.from_numpy(means @ weight.T + bias)
    np.testing.assert_allclose(logits.log_softmax(1), expected, atol=1e-4)


def test_a_stride_between_two_pools_gives_no_even_grid(split):
    model = random_feather(split, ["conv 4 m2", "conv 4 s2 p1", "conv 4 p1 m2"], dense=True)
    assert measure_grid(model, find_head(model, images(split)), (1, 28, 28)) is None
    graph = to_graph(model, split, evidence=True)
    assert not [item for item in graph.metadata_props if item.key.startswith("evidence")]


def test_a_network_for_images_of_one_size_has_no_grid(split):
    class Fixed(Own):
        def forward(self, x):
            return (
                super().forward(x.reshape(-1, 1, 28, 28))[: len(x)]
                + 0 * x.view(len(x), 784)[:, :10]
            )

    torch.manual_seed(0)
    model = Fixed("mean").eval()
    head = find_head(model, images(split))
    assert measure_grid(model, head, (1, 28, 28)) is None


def test_evidence_that_does_not_sum_to_the_logits_is_not_written(split, monkeypatch):
    model = build("featherweight.model:Feather", {"layers": ["conv 4 m2"]}, 10).eval()
    monkeypatch.setattr(graphs, "find_head", lambda *given: _wrong(find_head(*given)))
    with pytest.raises(UnfaithfulError, match="the evidence differs from the logits by"):
        to_graph(model, split, evidence=True)


def _wrong(head):
    """Return the head with one weight changed."""
    weight = head.weight.clone()
    weight[0, 0] += 1
    return dataclasses.replace(head, weight=weight)


@pytest.mark.parametrize("name", ["reader", "int4-8kb", "int4-fast", "sprint"])
def test_the_reader_puts_each_place_where_the_network_has_it(name):
    """Without PyTorch the reader joins the offsets of dense evaluation by itself."""
    mnist = load_split(None, 50_000, 10_000)
    pixels = mnist.val.pixels[:20]
    model, x = fw.load_model(name), normalise(pixels, mnist.mean_std)
    head = find_head(model, x)
    with torch.no_grad(), _outputs(model) as outputs:
        model(x)
    grids = head.evidence(outputs[head.name]).numpy()  # (n, classes, rows, columns)
    for grid, reading in zip(
        grids, Reader(name).read_prepared([*pixels[:, 0].numpy()]), strict=True
    ):
        why = reading.evidence
        expected = grid[int(why.first)] - grid[int(why.second)]
        np.testing.assert_allclose(why.values, expected, atol=1e-4)
        assert abs(expected - expected.T).max() > 0.01  # rows and columns are told apart
