"""Receptive fields, derived operation by operation, against gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featherweight.capture import Pass, capture
from featherweight.layers import layer_table

SIDE = 28
DRAWS = 48  # images, so that each pixel of a max-pool's windows is the largest once


class Net(nn.Module):
    """A network of a function, whose weights are random and positive: nothing cancels."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.modules_ = function, nn.ModuleList(modules)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.1 + torch.rand(parameter.shape, generator=generator))

    def forward(self, images):
        return self.function(images, *self.modules_)


def chain(x, *modules):
    for module in modules:
        x = module(x)
    return x


def measured(network):
    """Largest height and width of the pixels with a gradient of a place in the middle."""
    images = torch.rand(DRAWS, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    images.requires_grad_()
    out = network.eval()(images)
    places = out.sum((0, 1)) if out.ndim == 4 else out.sum((0, 2))[None]  # (h, w), or (1, tokens)
    down, right = (slice(max(0, side // 2 - 1), side // 2 + 1) for side in places.shape)
    largest = [0, 0]
    for place in places[down, right].flatten():
        (gradient,) = torch.autograd.grad(place, images, retain_graph=True)
        seen = (gradient != 0).any(0)[0]
        for side in (0, 1):
            pixels = seen.any(1 - side).nonzero().flatten()
            if len(pixels):
                largest[side] = max(largest[side], int(pixels[-1] - pixels[0]) + 1)
    return tuple(largest)


def residual(x, first, second):
    x = first(x)
    return x + second(x)


def bottleneck(x, down, one, shortcut):
    return one(F.relu(down(x))) + shortcut(x)


def gated(x, first, second):
    x = first(x)
    return x * second(x)


def shifted_max(x, first):
    x = first(x)
    return torch.maximum(
        torch.maximum(x[:, :, ::2, ::2], x[:, :, 1::2, ::2]),
        torch.maximum(x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2]),
    )


def stacked_max(x, first):
    x = first(x)
    return torch.stack([x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]]).amax(0)


def windows_max(x, first):
    return first(x).unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))


def viewed_mean(x, first):
    x = first(x)
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


def patches(x, embed, mix):
    n = x.shape[0]
    x = x.view(n, 1, 7, 4, 7, 4).permute(0, 2, 4, 3, 5, 1).reshape(n, 49, 16)
    return mix(F.relu(embed(x)))


def tokens(x, embed, mix):
    return mix(embed(x).flatten(2).transpose(1, 2))


def channels_last(x, depthwise, pointwise):
    x = depthwise(x).permute(0, 2, 3, 1)
    return pointwise(x).permute(0, 3, 1, 2)


def space_to_depth(x, convolution):
    return convolution(F.pixel_unshuffle(x, 2))


def depth_to_space(x, first, second):
    return second(F.pixel_shuffle(first(x), 2))


def columns(x, linear):
    n = x.shape[0]
    return linear(F.unfold(x, 3, stride=2).transpose(1, 2)).transpose(1, 2).reshape(n, -1, 13, 13)


def dense(x, first, second):
    x = F.max_pool2d(first(x), 2, stride=1)
    x = torch.cat([x[:, :, i:24:2, j:24:2] for i in (0, 1) for j in (0, 1)])
    return second(x).view(4, -1, 2, 10, 10).mean(0)


def sampled(x, first, second):
    shifted = (torch.arange(SIDE) + 1) * (2 / SIDE) - 1  # half a pixel beyond the centres
    grid = torch.stack(torch.meshgrid(shifted, shifted, indexing="xy"), 2)
    maps = first(x)
    maps = F.pad(maps, (1, 1, 1, 1)).reshape(1, -1, SIDE, SIDE)
    return second(F.grid_sample(maps, grid[None], align_corners=False).view(-1, 2, SIDE, SIDE))


def in_place(x, first, second):
    x = first(x).clone()
    x[:, :1] = second(x[:, 1:].clone())
    return x


def filled(x, first, second):
    out = torch.zeros(x.shape[0], 2, 26, 26)
    out[:, :1] = first(x)
    out[:, 1:] = first(x).relu()
    return second(out)


def overwritten(x, first, second):
    x = first(x)
    x.mul_(2)
    x[:, :, 0] = 1
    return second(x)


NETWORKS = {
    "plain": (chain, [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)], (5, 5)),
    "padded": (chain, [nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 5, padding=2)], (7, 7)),
    "same": (
        chain,
        [nn.Conv2d(1, 2, 5, padding="same", dilation=2), nn.Conv2d(2, 2, 3)],
        (11, 11),
    ),
    "strided": (
        chain,
        [nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 2), nn.Conv2d(2, 2, 3)],
        (15, 15),
    ),
    "dilated": (
        chain,
        [nn.Conv2d(1, 2, 3, dilation=2), nn.Conv2d(2, 2, 3, dilation=3)],
        (11, 11),
    ),
    "asymmetrical": (
        chain,
        [
            nn.Conv2d(1, 2, (5, 1), (2, 1)),
            nn.Conv2d(2, 2, (1, 3), dilation=(1, 4)),
            nn.Conv2d(2, 2, 3),
        ],
        (9, 11),
    ),
    "depthwise separable": (
        chain,
        [
            nn.Conv2d(1, 4, 3),
            nn.Conv2d(4, 4, 3, groups=4),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 8, 1),
        ],
        (5, 5),
    ),
    "residual": (residual, [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 5, padding=2)], (7, 7)),
    "residual, strided": (
        bottleneck,
        [nn.Conv2d(1, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 1, 1), nn.Conv2d(1, 2, 1, 2)],
        (7, 7),
    ),
    "gated": (gated, [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1)], (5, 5)),
    "max-pool": (chain, [nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3)], (8, 8)),
    "max-pool, overlapping": (chain, [nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 2, 1)], (5, 5)),
    "average pool": (chain, [nn.AvgPool2d(2), nn.Conv2d(1, 2, 3, padding=1)], (6, 6)),
    "adaptive pool": (chain, [nn.AdaptiveAvgPool2d(7), nn.Conv2d(1, 2, 3)], (12, 12)),
    "shifted maximum": (shifted_max, [nn.Conv2d(1, 2, 3, padding=1)], (4, 4)),
    "maximum of a stack": (stacked_max, [nn.Conv2d(1, 2, 3, padding=1)], (4, 4)),
    "maximum of windows": (windows_max, [nn.Conv2d(1, 2, 3)], (5, 5)),
    "mean of a view": (viewed_mean, [nn.Conv2d(1, 2, 3)], (4, 4)),
    "upsampled": (
        chain,
        [nn.Conv2d(1, 2, 3, 2), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3)],
        (5, 5),
    ),
    "transposed": (
        chain,
        [nn.Conv2d(1, 2, 3, 2), nn.ConvTranspose2d(2, 2, 2, 2), nn.Conv2d(2, 2, 3)],
        (5, 5),
    ),
    "transposed, overlapping": (
        chain,
        [nn.Conv2d(1, 2, 3, 2), nn.ConvTranspose2d(2, 2, 3, 2, 1)],
        (5, 5),
    ),
    "sampled": (sampled, [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)], (6, 6)),
    "patches": (patches, [nn.Linear(16, 8), nn.Linear(8, 8)], (4, 4)),
    "tokens": (tokens, [nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 8)], (4, 4)),
    "channels last": (channels_last, [nn.Conv2d(1, 4, 5), nn.Linear(4, 8)], (5, 5)),
    "space to depth": (space_to_depth, [nn.Conv2d(4, 8, 3)], (6, 6)),
    "depth to space": (depth_to_space, [nn.Conv2d(1, 8, 3, 2), nn.Conv2d(2, 2, 3)], (5, 5)),
    "columns": (columns, [nn.Linear(9, 4)], (3, 3)),
    "dense evaluation": (dense, [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)], (9, 9)),
    "filled in part": (filled, [nn.Conv2d(1, 1, 3), nn.Conv2d(2, 2, 3)], (5, 5)),
    "written over": (overwritten, [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)], (5, 5)),
    "in place": (in_place, [nn.Conv2d(1, 2, 3), nn.Conv2d(1, 1, 3, padding=1)], (5, 5)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_field_is_where_the_gradient_is(name):
    function, modules, expected = NETWORKS[name]
    network = capture(Net(function, *modules), [Pass(False)])
    assert measured(network) == expected
    assert layer_table(network).receptive_field == expected
