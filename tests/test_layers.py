"""The layer table: what is a layer, its numbers, and layers that do nothing."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featherweight.capture import Pass, capture
from featherweight.errors import InputError
from featherweight.layers import (
    LayerTable,
    depthwise_separable,
    dilated,
    dropouts,
    layer_table,
    max_pools,
    normalisations,
    strided,
    without_dropout,
)

SHAPE = (1, 12, 12)


class Net(nn.Module):
    """A network of a function of the images and of modules or parameters by name."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, images):
        return self.function(self, images)


def table(function, training=False, trained=False, **parts):
    torch.manual_seed(0)
    passes = [Pass(training, SHAPE, (64,) if training else ())]
    return layer_table(capture(Net(function, **parts), passes), training, trained)


def chain(*modules, training=False):
    torch.manual_seed(0)
    passes = [Pass(training, SHAPE)]
    return layer_table(capture(nn.Sequential(*modules), passes), training)


def kinds(found):
    return [layer.kind for layer in found.layers]


@pytest.fixture(scope="module")
def usual():
    return chain(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.1),
        nn.Conv2d(4, 8, (3, 1), stride=(2, 1), padding=(1, 0)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
        nn.LogSoftmax(1),
    )


def test_each_layer_has_its_numbers(usual):
    rows = [
        (x.name, x.kind, x.shape, x.receptive_field, x.jump, x.parameters, x.macs)
        for x in usual.layers
    ]
    assert rows == [
        ("0", "conv", (4, 10, 10), (3, 3), (1, 1), 36, 100 * 36),
        ("1", "batch norm", (4, 10, 10), (3, 3), (1, 1), 8, 0),
        ("relu", "activation", (4, 10, 10), (3, 3), (1, 1), 0, 0),
        ("max_pool2d", "max pool", (4, 5, 5), (4, 4), (2, 2), 0, 0),
        ("dropout", "dropout", (4, 5, 5), (4, 4), (2, 2), 0, 0),
        ("5", "conv", (8, 3, 5), (8, 4), (4, 2), 104, 15 * 96),
        ("adaptive_avg_pool2d", "global average pool", (8, 1, 1), (16, 12), None, 0, 0),
        ("8", "linear", (10,), (16, 12), None, 90, 80),
        ("log_softmax", "activation", (10,), (16, 12), None, 0, 0),
    ]
    convolution = usual.layers[5]
    assert convolution.kernel == (3, 1)
    assert convolution.stride == (2, 1)
    assert convolution.dilation == (1, 1)
    assert usual.parameters == 36 + 8 + 104 + 90
    assert usual.macs == 3600 + 1440 + 80
    assert usual.receptive_field == (8, 4)


def test_functions_of_parameters_give_the_table_of_modules(usual):
    def forward(net, x):
        x = F.conv2d(x, net.w1)
        x = F.batch_norm(x, torch.zeros(4), torch.ones(4), net.scale, net.shift)
        x = F.dropout(F.max_pool2d(torch.relu(x), 2), 0.1, net.training)
        x = F.conv2d(x, net.w2, stride=(2, 1), padding=(1, 0)) + net.b2.view(1, -1, 1, 1)
        return F.log_softmax(x.mean((2, 3)) @ net.w3 + net.b3, 1)

    shapes = {"w1": (4, 1, 3, 3), "scale": (4,), "shift": (4,), "w2": (8, 4, 3, 1), "b2": (8,)}
    shapes |= {"w3": (8, 10), "b3": (10,)}
    found = table(forward, **{name: torch.randn(shape) for name, shape in shapes.items()})
    assert kinds(found) == kinds(usual)
    assert [x.name for x in found.layers if x.parameters] == ["w1", "scale", "w2", "w3"]
    for key in ("kind", "receptive_field", "jump", "parameters", "macs"):
        assert [getattr(x, key) for x in found.layers] == [getattr(x, key) for x in usual.layers]


def test_parameters_of_a_shared_layer_are_counted_once():
    found = table(lambda net, x: net.conv(net.conv(x)), conv=nn.Conv2d(1, 1, 3))
    assert [(x.parameters, x.shared) for x in found.layers] == [(10, False), (0, True)]
    assert found.parameters == 10
    assert "shared" in found.to_text().splitlines()[3]


def test_operations_by_hand_are_shown_as_what_they_are():
    def forward(net, x):
        x = net.conv(x)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()
        x = x * net.scale + net.shift
        return torch.einsum("nchw,kc->nk", x, net.head)

    parts = {"scale": torch.ones(4, 1, 1), "shift": torch.zeros(4, 1, 1), "head": torch.ones(10, 4)}
    found = table(forward, conv=nn.Conv2d(1, 4, 3), **parts)
    assert [(x.name, x.operation, x.parameters) for x in found.layers] == [
        ("conv", "conv2d", 40),
        ("scale", "div", 8),
        ("head", "einsum", 40),
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: (x.flatten(1)[:, None] * net.weight).sum(-1),
        lambda net, x: (x * net.weight.view(10, 12, 12)).mean((2, 3)),
        lambda net, x: (x * net.weight.view(10, 12, 12)).sum(-1).sum(-1),
    ],
)
def test_a_sum_of_products_with_weights_is_a_linear_layer(function):
    found = table(function, weight=torch.randn(10, 144))
    assert (found.layers[-1].kind, found.layers[-1].jump) == ("linear", None)


@pytest.mark.parametrize(
    "mean", [lambda x: x.mean((2, 3)), lambda x: torch.einsum("nchw->nc", x) / 100]
)
def test_a_mean_behind_a_factor_for_each_channel_is_pooling(mean):
    parts = {"conv": nn.Conv2d(1, 4, 3), "scale": torch.randn(4, 1, 1)}
    found = table(lambda net, x: mean(net.conv(x) * net.scale), **parts)
    assert kinds(found) == ["conv", "other", "global average pool"]


def test_a_mean_of_one_number_each_is_no_layer():
    found = table(lambda _, x: x.mean((2, 3)).reshape(1, -1, 1).mean(0).expand(-1, 10))
    assert kinds(found) == ["global average pool"]


def test_spectral_norm_and_the_like_keep_the_layers_name():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
    found = table(lambda net, x: net.conv(x), conv=normed)
    assert [(x.name, x.parameters) for x in found.layers] == [("conv", 4 + 36 + 4)]


def grid(x, width):
    """Fixed coordinates of 3 rows to sample, the same for all images."""
    return torch.linspace(-0.9, 0.9, 6 * width).view(1, 3, width, 2).expand(x.shape[0], -1, -1, -1)


# Multiply-accumulates by hand: outputs times what each sums over.
MACS = {
    "groups": (lambda net, x: net.a(net.b(x)), 100 * 4 * 9 + 64 * 8 * 2 * 9),
    "transposed": (lambda net, x: net.t(net.b(x)), 100 * 4 * 9 + 100 * 4 * 3 * 4),
    "linear": (lambda net, x: net.lin(x), 12 * 12 * 5),
    "matmul": (lambda net, x: x @ net.w, 12 * 12 * 7),
    "attention": (
        lambda net, x: torch.softmax(x @ x.transpose(2, 3), -1) @ x,
        12 * 12 * 12 * 2,
    ),
    "fused attention": (lambda net, x: F.scaled_dot_product_attention(x, x, x), 12 * 12 * 12 * 2),
    "einsum": (lambda net, x: torch.einsum("nchw,wk->nchk", x, net.w), 12 * 12 * 7),
    "sampling": (lambda net, x: F.grid_sample(x, grid(x, 5), align_corners=False), 3 * 5 * 4),
    "sampling the nearest": (
        lambda net, x: F.grid_sample(x, grid(x, 5), mode="nearest", align_corners=False),
        0,
    ),
    "sampling, bicubic": (
        lambda net, x: F.grid_sample(x, grid(x, 5), mode="bicubic", align_corners=False),
        3 * 5 * 16,
    ),
    "interpolation": (lambda net, x: F.interpolate(x, (3, 5), mode="bilinear"), 3 * 5 * 4),
    "product and sum": (lambda net, x: (x[..., None] * net.w).sum(3), 12 * 12 * 7),
}


@pytest.mark.parametrize("name", MACS)
def test_multiply_accumulates(name):
    function, expected = MACS[name]
    found = table(
        function,
        a=nn.Conv2d(4, 8, 3, groups=2),
        b=nn.Conv2d(1, 4, 3),
        t=nn.ConvTranspose2d(4, 3, 2, stride=2),
        lin=nn.Linear(12, 5),
        w=torch.randn(12, 7),
    )
    assert found.macs == expected


def pixels(x):
    """The four maps of every second pixel."""
    return [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]


POOLS = {
    "function": lambda net, x: F.max_pool2d(x, 2),
    "negative": lambda net, x: -F.max_pool2d(-x, 2),
    "adaptive": lambda net, x: F.adaptive_max_pool2d(x, 5),
    "with indices": lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0],
    "along a line": lambda net, x: F.max_pool1d(x.flatten(2), 2),
    "in space and time": lambda net, x: F.max_pool3d(x, (1, 2, 2)),
    "unfold": lambda net, x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5)),
    "unfold, flat": lambda net, x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).max(4)[0],
    "columns": lambda net, x: F.unfold(x, 2, stride=2).view(-1, 4, 4, 25).amax(2),
    "view": lambda net, x: x.view(-1, 4, 5, 2, 5, 2).amax((3, 5)),
    "smallest": lambda net, x: (-x).view(-1, 4, 5, 2, 5, 2).amin((3, 5)),
    "pixel unshuffle": lambda net, x: F.pixel_unshuffle(x, 2).view(-1, 4, 4, 5, 5).amax(2),
    "stack": lambda net, x: torch.stack(pixels(x)).amax(0),
    "beside the images": lambda net, x: torch.cat(pixels(x)).view(4, -1, 4, 5, 5).amax(0),
    "maximum": lambda net, x: torch.maximum(x[:, :, ::2], x[:, :, 1::2]),
    "where": lambda net, x: torch.where(x[:, :, ::2] > x[:, :, 1::2], x[:, :, ::2], x[:, :, 1::2]),
    "shifted by padding": lambda net, x: torch.maximum(x, F.pad(x, (1, -1, 0, 0))),
    "roll": lambda net, x: torch.maximum(x, x.roll(1, 3)),
    "sort": lambda net, x: x.view(-1, 4, 5, 2, 10).sort(3)[0][:, :, :, 1],
    "largest k": lambda net, x: x.view(-1, 4, 5, 2, 10).topk(1, 3)[0],
    "over the whole map": lambda net, x: x.amax((2, 3)),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_max_pool_is_found_however_it_is_written(name):
    function = POOLS[name]
    found = table(lambda net, x: function(net, net.conv(x)), conv=nn.Conv2d(1, 4, 3))
    assert len(max_pools(found)) == 1


NO_POOLS = {
    "maxout": lambda net, x: torch.maximum(x[:, :2], x[:, 2:]),
    "maxout of a view": lambda net, x: x.view(-1, 2, 2, 10, 10).amax(2),
    "of two branches": lambda net, x: torch.maximum(x, net.same(x)),
    "clamp": lambda net, x: x.clamp(0, 6),
    "average": lambda net, x: F.avg_pool2d(x, 2),
    "classes": lambda net, x: x.mean((2, 3)).amax(1),
    "softmax": lambda net, x: x.softmax(1),
}


@pytest.mark.parametrize("name", NO_POOLS)
def test_other_maxima_are_no_max_pool(name):
    function = NO_POOLS[name]
    found = table(
        lambda net, x: function(net, net.conv(x)),
        conv=nn.Conv2d(1, 4, 3),
        same=nn.Conv2d(4, 4, 3, padding=1),
    )
    assert max_pools(found) == []


BETWEEN = [nn.BatchNorm2d(4), nn.ReLU6(), nn.Dropout(0.1)]
SEPARABLE = {
    "directly": ([nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1)], 1),
    "with layers between": ([nn.Conv2d(4, 4, 3, groups=4), *BETWEEN, nn.Conv2d(4, 8, 1)], 1),
    "several filters a channel": ([nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 8, 1)], 1),
    "two": ([nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1)] * 2, 2),
    "not pointwise": ([nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3)], 0),
    "grouped": ([nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 8, 1)], 0),
    "of one pixel": ([nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 8, 1)], 0),
    "a pool between": ([nn.Conv2d(4, 4, 3, groups=4), nn.AvgPool2d(2), nn.Conv2d(4, 8, 1)], 0),
    "the other order": ([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=4)], 0),
    "pointwise in groups": ([nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1, groups=4)], 0),
}


@pytest.mark.parametrize("name", SEPARABLE)
def test_depthwise_separable_convolutions(name):
    modules, expected = SEPARABLE[name]
    assert depthwise_separable(chain(nn.Conv2d(1, 4, 3), *modules)) == expected


def test_one_input_channel_is_not_depthwise():
    assert depthwise_separable(chain(nn.Conv2d(1, 1, 3, groups=1), nn.Conv2d(1, 8, 1))) == 0


def test_a_linear_layer_over_channels_is_pointwise():
    def forward(net, x):
        return net.pointwise(net.depthwise(net.conv(x)).permute(0, 2, 3, 1))

    parts = {"conv": nn.Conv2d(1, 4, 3), "depthwise": nn.Conv2d(4, 4, 3, groups=4)}
    assert depthwise_separable(table(forward, pointwise=nn.Linear(4, 8), **parts)) == 1


def test_dilated_and_strided_convolutions():
    found = chain(nn.Conv2d(1, 4, 3, 2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 1))
    assert (dilated(found), strided(found)) == (1, 1)
    assert strided(chain(nn.ConvTranspose2d(1, 4, 2, stride=2))) == 0


class Wide(nn.Module):
    """Every clause about layers, in a branch."""

    def __init__(self, gain):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(4, 4, 3, dilation=2, padding=2),
            nn.Conv2d(4, 4, 5, padding=2, groups=4),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 3, stride=2, padding=1),
            nn.Upsample(scale_factor=2),
        )
        self.register_buffer("gain", torch.tensor(gain))

    def forward(self, x):
        return self.branch(x)


# What is made of a map and of a branch that would change it.
DECOYS = {
    "not used": lambda net, x, y: x,
    "a number": lambda net, x, y: x + 0 * y,
    "a buffer": lambda net, x, y: x + net.wide.gain * y,
    "almost nothing": lambda net, x, y: x + 1e-6 * y,
    "cancelled": lambda net, x, y: x + y - y,
    "cut off": lambda net, x, y: torch.cat([x, y], 1)[:, :4],
    "chosen against": lambda net, x, y: torch.where(net.wide.gain > 0, y, x),
    "written over": lambda net, x, y: y.clone().copy_(x),
    "clamped": lambda net, x, y: x + y.clamp(0, 0),
    "shape alone": lambda net, x, y: x + torch.zeros_like(y),
}


@pytest.mark.parametrize("name", DECOYS)
def test_a_branch_without_an_effect_does_not_count(name):
    function = DECOYS[name]

    def forward(net, x):
        x = net.conv(x)
        return net.last(function(net, x, net.wide(x)))

    parts = {"conv": nn.Conv2d(1, 4, 3), "wide": Wide(0.0), "last": nn.Conv2d(4, 4, 3)}
    found = table(forward, **parts)
    assert (dilated(found), strided(found), depthwise_separable(found)) == (0, 0, 0)
    assert found.receptive_field == (5, 5)
    assert found.parameters == 40 + 148
    parts["wide"] = Wide(1.0)
    used = table(lambda net, x: net.last(net.conv(x) + net.wide(net.conv(x))), **parts)
    assert (dilated(used), strided(used), depthwise_separable(used)) == (1, 1, 1)


def test_layers_without_an_effect_are_counted_in_the_summary():
    parts = {"a": nn.Conv2d(1, 4, 3), "b": nn.Conv2d(1, 4, 3)}
    found = table(lambda net, x: net.a(x) + 0 * net.b(x), **parts)
    assert found.hidden == 1
    assert found.to_text().endswith("1 layer without an effect left out")


def test_only_training_can_make_a_weight_of_zero_count():
    zero = nn.Conv2d(4, 4, 3, padding=1)
    nn.init.zeros_(zero.weight)
    parts = {"conv": nn.Conv2d(1, 4, 3), "zero": zero}

    def residual(net, x):
        x = net.conv(x)
        return x + net.zero(x)

    assert table(residual, **parts).receptive_field == (5, 5)
    assert table(residual, trained=True, **parts).receptive_field == (3, 3)
    for parameter in zero.parameters():
        parameter.requires_grad_(False)
    assert table(residual, **parts).receptive_field == (3, 3)


def centre(kernel):
    """A kernel with zeros around its middle."""
    mask = torch.zeros_like(kernel)
    mask[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2] = 1
    return kernel * mask


def test_places_of_a_kernel_that_see_nothing_do_not_count():
    masked = table(
        lambda net, x: F.conv2d(x, centre(net.w), padding=4, dilation=2), w=torch.rand(4, 1, 5, 5)
    )
    outside = table(
        lambda net, x: F.conv2d(x, net.w, padding=12, dilation=12), w=torch.rand(4, 1, 3, 3)
    )
    for found in (masked, outside):
        assert dilated(found) == 0
        assert found.receptive_field == (1, 1)
        assert found.layers[0].reach == (1, 1)


def test_layers_before_a_step_function_count():
    """There is no gradient, but an effect."""

    def forward(net, x):
        return net.last(torch.sign(net.conv(x)))

    found = table(forward, conv=nn.Conv2d(1, 4, 3, dilation=2), last=nn.Conv2d(4, 4, 3))
    assert (dilated(found), found.receptive_field) == (1, (7, 7))


def test_kinds_of_normalisation():
    norms = {
        "batch norm": nn.BatchNorm2d(4),
        "group norm": nn.GroupNorm(2, 4),
        "layer norm": nn.GroupNorm(1, 4),
        "instance norm": nn.InstanceNorm2d(4),
    }
    for kind, norm in norms.items():
        assert normalisations(chain(nn.Conv2d(1, 4, 3), norm)) == {kind}
    assert normalisations(chain(nn.LayerNorm(12))) == {"layer norm"}
    assert normalisations(chain(nn.Conv2d(1, 4, 3), nn.GroupNorm(4, 4))) == {"instance norm"}


def _normalised(x, dims, correction=0):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / torch.sqrt(x.var(dims, keepdim=True, correction=correction) + 1e-5)


def _by_squares(x):
    groups = x.view(len(x), 2, -1)
    centred = groups - groups.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
    return (centred * scale).view(x.shape)


def _by_both(x):
    groups = x.reshape(len(x), 2, 2, *x.shape[2:])
    variance, mean = torch.var_mean(groups, (2, 3, 4), keepdim=True)
    return ((groups - mean) * (variance + 1e-5) ** -0.5).reshape(x.shape)


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (_by_squares, "group norm"),
        (_by_both, "group norm"),
        (lambda x: _normalised(x, (1, 2, 3)), "layer norm"),
        (lambda x: _normalised(x.flatten(1), 1, correction=1).view_as(x), "layer norm"),
        (lambda x: _normalised(x, 1), "layer norm"),
        (lambda x: _normalised(x.permute(0, 2, 3, 1), -1).permute(0, 3, 1, 2), "layer norm"),
        (lambda x: _normalised(x, (2, 3)), "instance norm"),
    ],
)
def test_a_norm_by_hand_is_one_layer(norm, kind):
    def forward(net, x):
        return net.two(norm(net.one(x)) * net.weight + net.bias)

    found = table(
        forward,
        one=nn.Conv2d(1, 4, 3),
        two=nn.Conv2d(4, 10, 3),
        weight=torch.rand(4, 1, 1),
        bias=torch.rand(4, 1, 1),
    )
    assert kinds(found) == ["conv", kind, "conv"]
    # As of PyTorch's own, without the statistics.
    assert found.receptive_field == (5, 5)
    assert found.layers[1].parameters == 8


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x - x.mean((1, 2, 3), keepdim=True),
        lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / x.abs().amax((1, 2, 3), keepdim=True),
        lambda x: (x - x.mean(3, keepdim=True)) / x.std(3, keepdim=True),  # of a row
        lambda x: (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True),
        lambda x: (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True) + 99),
        lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    ],
)
def test_what_does_not_normalise_is_no_norm_by_hand(change):
    found = table(lambda net, x: change(net.conv(x)), conv=nn.Conv2d(1, 4, 3))
    assert normalisations(found) == set()


@pytest.mark.parametrize("divide", [True, False])
def test_a_norm_by_hand_may_multiply_by_its_weight_first(divide):
    def forward(net, x):
        x = net.conv(x)
        mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        scaled = net.weight * (x - mean)
        return (scaled / deviation if divide else scaled * (1 / deviation)) + net.bias

    weight, bias = torch.rand(4, 1, 1) + 0.5, torch.rand(4, 1, 1)
    found = table(forward, conv=nn.Conv2d(1, 4, 3), weight=weight, bias=bias)
    assert kinds(found) == ["conv", "layer norm"]
    assert found.layers[1].name == "weight"
    assert [layer.parameters for layer in found.layers] == [40, 8]
    assert found.receptive_field == (3, 3)


def test_a_max_pool_does_not_hide_where_there_is_little_deviation():
    def forward(net, x):
        x = net.conv(x) * net.scale
        centred = x - x.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        seen = 0.01 * F.max_pool2d(x.abs(), 5, 1, 2).mean(1, keepdim=True)
        return centred / torch.where(net.scale == 1, (variance + 1e-9).sqrt(), seen)

    scale = torch.tensor([1, 0.001]).repeat(5)
    found = table(forward, conv=nn.Conv2d(1, 8, 3), scale=scale)
    assert len(max_pools(found)) == 1
    assert normalisations(found) == set()


@pytest.mark.parametrize("zero_first", [True, False])
def test_a_dropout_that_chooses_zero_times_the_activations_has_its_rate(zero_first):
    def forward(net, x):
        x = net.conv(x)
        drawn = torch.rand_like(x)
        return (
            torch.where(drawn < 0.2, 0 * x, x) if zero_first else torch.where(drawn > 0.2, x, 0 * x)
        )

    found = table(forward, training=True, conv=nn.Conv2d(1, 4, 3))
    assert dropouts(found) == [pytest.approx(0.2, abs=0.02)]


def test_a_statistic_that_is_also_used_elsewhere_stays_a_layer():
    def forward(net, x):
        x = net.conv(x)
        mean = x.mean((2, 3), keepdim=True)
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5) + mean.sigmoid()

    found = table(forward, conv=nn.Conv2d(1, 4, 3))
    assert normalisations(found) == {"instance norm"}
    assert "global average pool" in kinds(found)


def test_dropouts_of_training_mode():
    def forward(net, x):
        x = net.drop(net.one(x))
        x = net.two(x)
        if net.training:
            x = x * (torch.rand_like(x) > 0.25)
        return net.three(x)

    parts = {"one": nn.Conv2d(1, 4, 3), "two": nn.Conv2d(4, 4, 3), "three": nn.Conv2d(4, 4, 1)}
    found = table(forward, training=True, drop=nn.Dropout2d(0.05), **parts)
    assert dropouts(found) == [0.05, pytest.approx(0.25, abs=0.02)]
    assert [layer.name for layer in without_dropout(found)] == ["three"]
    bare = table(forward, training=True, drop=nn.Dropout(0), **parts)
    assert [layer.name for layer in without_dropout(bare)] == ["one", "three"]


def _fill_in_place(x):
    return x.clone().masked_fill_(torch.rand_like(x) < 0.25, 0)


def _put(x):
    x = x.clone()
    x[torch.rand_like(x) < 0.25] = 0
    return x


def _drawn_in_place(x):
    mask = torch.empty_like(x)
    mask.bernoulli_(0.75)
    return x * mask


def _product_in_the_mask(x):
    mask = (torch.rand_like(x) > 0.25).float()
    mask *= x
    return mask


@pytest.mark.parametrize(
    "dropout",
    [
        lambda x: x.masked_fill(torch.rand_like(x) < 0.25, 0),
        lambda x: torch.where(torch.rand_like(x) < 0.25, 0.0, x),
        lambda x: torch.where(torch.rand_like(x) < 0.25, torch.zeros_like(x), x),
        lambda x: torch.where(torch.rand_like(x) > 0.25, x, 0.0),
        lambda x: x * torch.bernoulli(torch.full_like(x, 0.75)) / 0.75,
        _fill_in_place,
        _put,
        _drawn_in_place,
        _product_in_the_mask,
    ],
)
def test_a_dropout_by_hand_has_the_fraction_that_it_zeroes(dropout):
    def forward(net, x):
        x = net.conv(x)
        return dropout(x) if net.training else x

    found = table(forward, training=True, conv=nn.Conv2d(1, 4, 3))
    assert dropouts(found) == [pytest.approx(0.25, abs=0.02)]


def test_a_network_that_looks_at_values_fails_in_a_line():
    network = capture(
        Net(lambda net, x: net.table[(100 * x).long()], table=torch.rand(9)), [Pass(False)]
    )
    with pytest.raises(InputError, match="fails on images"):
        layer_table(network)
    dark = layer_table(network, images=torch.zeros(4, 1, 28, 28))
    assert dark.receptive_field == (1, 1)


def test_operations_too_many_to_try_each_are_refused_in_a_line():
    def steps(_, x):
        x = x.flatten(1)[:, :10]
        for _ in range(501):
            x = -x
        return x.sign()  # through which no gradient comes

    with pytest.raises(
        InputError, match=r"test_layers.py:Net: got 50\d operations whose gradients"
    ):
        table(steps)


def test_a_graph_of_another_mode_is_asked_for_in_a_line():
    network = capture(nn.Flatten(), [Pass(True)])
    with pytest.raises(InputError, match="got no graph of evaluation mode"):
        layer_table(network)


def test_text_fits_a_terminal(usual):
    lines = usual.to_text(60).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0].split() == ["layer", "type", "output", "RF", "jump", "params", "MACs"]
    assert lines[7].split() == ["5", "conv", "3x1", "s2x1", "8x3x5", "8x4", "4x2", "104", "1,440"]
    assert lines[8].startswith("…")
    assert "238 parameters" in lines


def test_markdown_and_html_show_names_as_they_are(usual):
    name = "a|b <script> `c` *d*"
    hostile = replace(usual, layers=(replace(usual.layers[0], name=name),))
    row = hostile.to_markdown().splitlines()[2]
    assert row == (r"| a\|b \<script\> \`c\` \*d\* | conv 3x3 | 4x10x10 | 3 | 1 | 36 | 3,600 |")
    assert "<script>" not in hostile._repr_html_()


def test_json_comes_back(usual):
    values = json.loads(json.dumps(usual.to_json()))
    assert LayerTable.from_json(values) == usual
    assert (values["parameters"], values["receptive_field"]) == (238, [8, 4])
    for damage in ({"layers": [{}]}, {"layers": 3}, {"image": None}, {"hidden": math.inf}):
        with pytest.raises(InputError, match="expected a table of layers"):
            LayerTable.from_json(values | damage)
