"""Feather networks in integers: close to floating point, by hand, and safe from overflow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import random_feather

from featherweight.build import build
from featherweight.capture import Pass, capture
from featherweight.confidence import temperature
from featherweight.data import load_split
from featherweight.evaluate import normalise
from featherweight.export.integer import (
    MAX_MARGIN,
    ONE_LOOK_FROM,
    AccumulatorOverflowError,
    fixed_point,
    integer_network,
)
from featherweight.layers import layer_table


@pytest.fixture
def split(digits):
    return load_split(str(digits), 500, 100)


@torch.no_grad()
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"activation": "relu"},
        {"layers": ["conv 8", "conv 8 m2", "sep 12 p1", "conv 8"], "dense": True},
        {"layers": ["sep 8 m2", "conv 8", "pool", "sep 8"], "dense": True},
        {"layers": ["conv 8 m3", "conv 8 k1"], "dense": True},
        {"layers": ["conv 8", "sep 8 m2", "sep 12"], "head": "sep"},
        {"layers": ["conv 8 m2", "conv 8"], "head": "sep", "dense": True},
    ],
)
def test_eight_bits_give_nearly_what_floats_give(split, arguments):
    model = random_feather(split, **arguments)
    network = integer_network(model, split, 8)
    logits = network.scores(split.val.pixels) / network.scores_per_logit
    expected = model(normalise(split.val.pixels, split.mean_std))
    assert logits.shape == expected.shape
    error = (logits - expected).std() / (expected - expected.mean(0)).std()
    assert error < 0.1


@torch.no_grad()
def test_integers_look_once_where_the_network_averages_over_views(split):
    pixels, layers = split.val.pixels, ["conv 8 m2", "conv 8"]
    for dense in (False, True):
        once, several = (
            integer_network(random_feather(split, layers, dense=dense, views=views), split, 8)
            for views in ((), [[10, 1.08], [-10, 0.92]])
        )
        assert torch.equal(several.scores(pixels), once.scores(pixels))
        assert several.macs == once.macs


@torch.no_grad()
def test_one_layer_by_hand(split):
    """Equations (1) to (4) in Python integers, pixel by pixel."""
    network = integer_network(random_feather(split, ["conv 3 k2 s2 p1 m2"]), split, 4)
    layer, image = network.layers[0], split.val.pixels[0, 0].numpy().astype(object)
    padded = np.full((30, 30), layer.pad_value, dtype=object)
    padded[1:29, 1:29] = image
    out = network.output(layer, split.val.pixels[:1].long())[0].numpy()
    assert out.shape == (3, 7, 7)
    for channel, y, x in ((0, 0, 0), (1, 3, 6), (2, 6, 2)):
        sums = []
        for dy in (0, 1):
            for dx in (0, 1):
                top, left = (2 * y + dy) * 2, (2 * x + dx) * 2
                sums.append(
                    (
                        padded[top : top + 2, left : left + 2] * layer.weights[channel, 0].numpy()
                    ).sum()
                )
        value = (max(sums) * int(layer.multipliers[channel]) // 2**layer.shift) + int(
            layer.biases[channel]
        )
        value *= min(max(value + (3 << layer.fraction), 0), 6 << layer.fraction)
        value = (
            value * layer.out_multiplier + 2**layer.out_shift // 2
        ) // 2**layer.out_shift + layer.zero_point
        assert out[channel, y, x] == min(max(value, 0), 255)
    assert network.macs == 7 * 7 * 4 * 12 + 30


def test_multiply_accumulates_are_those_of_the_layer_table(split):
    model = random_feather(split, ["conv 8", "conv 8 m2", "sep 12", "pool", "conv 8"])
    table = layer_table(capture(model, [Pass(training=False)]))
    network = integer_network(model, split, 8)
    assert network.macs == network.first_macs == table.macs


@torch.no_grad()
def test_sums_stay_within_their_bound(split):
    network = integer_network(random_feather(split), split, 8)
    generator, channels = torch.Generator().manual_seed(0), 1
    for layer in network.layers:
        worst = (torch.rand(50, channels, 28, 28, generator=generator) < 0.5).long() * 255
        assert int(layer.sums(worst).abs().max()) <= layer.max_sum() < 2**31
        channels = layer.outputs


def test_what_could_overflow_is_refused(split):
    network = integer_network(random_feather(split), split, 4)
    network.check()
    layer = next(layer for layer in network.layers if layer.kind == "conv")
    layer.biases[0] = 2**15
    with pytest.raises(
        AccumulatorOverflowError,
        match=r"layer 1, a bias: got up to 32,768, expected less than 2\*\*15",
    ):
        network.check()
    layer.biases[0] = 0
    layer.weights[0, 0, 0, 0] = 2**31 // 255
    with pytest.raises(AccumulatorOverflowError, match="layer 1, a sum"):
        network.check()
    layer.weights[0, 0, 0, 0] = 0
    network.head[0, 0] = 2**23
    with pytest.raises(AccumulatorOverflowError, match="a score"):
        network.check()


def test_networks_without_an_integer_form_are_refused(split):
    with pytest.raises(
        ValueError, match=r"is a BaselineNet, expected a Feather; hint: .*onnx-int8"
    ):
        integer_network(build("featherweight.model:BaselineNet", {}, 10).eval(), split, 8)
    with pytest.raises(ValueError, match="stride or padding comes before a max-pool"):
        integer_network(random_feather(split, ["conv 8 s2", "conv 8 m2"], dense=True), split, 8)
    with pytest.raises(ValueError, match=r"dilated convolutions.*onnx-int8"):
        integer_network(random_feather(split, ["conv 8 s2", "sep 8 d2"]), split, 8)
    with pytest.raises(AccumulatorOverflowError, match=r"layer 1, channels: got up to 256"):
        integer_network(random_feather(split, ["conv 256 k5 s4"]), split, 8)
    with pytest.raises(AccumulatorOverflowError, match="weights: got up to 100,800"):
        integer_network(random_feather(split, ["conv 64 k5 s4", "conv 62 k5"]), split, 8)


@pytest.mark.parametrize("values", [[1.0], [-0.3, 0.001], [1 - 2**-20, 0.2], [700.0], [3e-9]])
def test_fixed_point_is_near(values):
    values = torch.tensor(values, dtype=torch.float64)
    integers, shift = fixed_point(values)
    assert 2**14 <= int(integers.abs().max()) < 2**15
    most = float(values.abs().max())
    torch.testing.assert_close(integers.double() / 2.0**shift, values, rtol=0, atol=most * 2**-15)


@torch.no_grad()
def test_a_second_look_is_taken_in_doubt(split):
    network = integer_network(random_feather(split, ["conv 8 m2", "conv 8"], dense=True), split, 8)
    assert network.max_looks == 4
    pixels = split.val.pixels
    network.margin = 0
    first, looks = network.read(pixels)
    assert looks.tolist() == [1] * len(pixels)
    once = integer_network(random_feather(split, ["conv 8 m2", "conv 8"]), split, 8)
    # The features of one look count four times, and so does the unit of the head's biases.
    assert first.argmax(1).tolist() == once.scores(pixels).argmax(1).tolist()
    network.margin = MAX_MARGIN
    all_of_them, looks = network.read(pixels)
    assert looks.tolist() == [4] * len(pixels)
    best, second = first.topk(2).values.T
    leads = best - second
    network.margin = int(leads.median()) + 1
    scores, looks = network.read(pixels)
    again = leads < network.margin
    assert torch.equal(looks, torch.where(again, 4, 1))
    assert torch.equal(scores, torch.where(again[:, None], all_of_them, first))
    assert network.macs == 4 * (network.first_macs - 80) + 2 * 80


@torch.no_grad()
def test_the_margin_is_that_of_a_calibrated_probability(split):
    network = integer_network(random_feather(split, ["conv 8 m2", "conv 8"], dense=True), split, 8)
    unit = network.scores_per_logit
    divisor = temperature(
        replace(network, margin=0).scores(split.val.pixels).double() / unit, split.val.labels
    )
    chance = torch.tensor([network.margin / unit / divisor, 0.0]).softmax(0)[0]
    assert float(chance) == pytest.approx(ONE_LOOK_FROM, abs=1e-4)
    assert integer_network(random_feather(split), split, 8).margin == 0
