"""Honest networks, plain and odd: each must pass an audit, with its right number of parameters.

    for name, case in HONEST.items():
        audit(case.network())

`n_params` counts the learned numbers in use, each once. Numbers that a careful audit may count too
(buffers of constants, masks, a hand-made norm's statistics) are in `n_params_max`.
"""

import collections
import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.utils.checkpoint
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from .base import NET, Gap, Net

BODY = NET - 170  # all but the head


@dataclass(frozen=True)
class Case:
    """A network that must pass, and the bounds of the number of parameters told."""

    network: Callable[[], nn.Module]
    note: str
    n_params: int
    n_params_max: int


HONEST: dict[str, Case] = {}


def honest(note, n_params=NET, n_params_max=None):
    """Enter a class into `HONEST`."""

    def register(network):
        HONEST[network.__name__] = Case(network, note, n_params, n_params_max or n_params)
        return network

    return register


# Heads: average pooling. The map is (n, 10, 6, 6).


@honest("nn.AdaptiveAvgPool2d(1) and view(-1, 10)")
class AdaptiveView(Gap):
    def __init__(self):
        super().__init__()
        self.gap = nn.AdaptiveAvgPool2d(1)

    def pool(self, maps):
        return self.gap(maps).view(-1, 10)


@honest("adaptive pooling and view(x.size(0), -1)")
class AdaptiveViewSize(Gap):
    def pool(self, maps):
        return F.adaptive_avg_pool2d(maps, (1, 1)).view(maps.size(0), -1)


@honest("adaptive pooling and flatten")
class AdaptiveFlatten(Gap):
    def pool(self, maps):
        return torch.flatten(F.adaptive_avg_pool2d(maps, 1), 1)


@honest("adaptive pooling and squeeze() of all dimensions")
class AdaptiveSqueezeAll(Gap):
    def pool(self, maps):
        return F.adaptive_avg_pool2d(maps, 1).squeeze()


@honest("adaptive pooling and squeeze(-1).squeeze(-1)")
class AdaptiveSqueeze(Gap):
    def pool(self, maps):
        return F.adaptive_avg_pool2d(maps, 1).squeeze(-1).squeeze(-1)


@honest("adaptive pooling and reshape(len(x), -1)")
class AdaptiveReshape(Gap):
    def pool(self, maps):
        return F.adaptive_avg_pool2d(maps, 1).reshape(len(maps), -1)


@honest("adaptive pooling and maps[:, :, 0, 0]")
class AdaptiveIndex(Gap):
    def pool(self, maps):
        return F.adaptive_avg_pool2d(maps, 1)[:, :, 0, 0]


@honest("F.avg_pool2d of the whole map and view")
class AveragePool(Gap):
    def pool(self, maps):
        return F.avg_pool2d(maps, 6).view(-1, 10)


@honest("F.avg_pool2d(x, x.shape[2:])")
class AveragePoolShape(Gap):
    def pool(self, maps):
        return F.avg_pool2d(maps, maps.shape[2:]).flatten(1)


@honest("average pooling in two steps, 2 and 3")
class AveragePoolTwice(Gap):
    def pool(self, maps):
        return F.avg_pool2d(F.avg_pool2d(maps, 2), 3).flatten(1)


@honest("mean((2, 3))")
class Mean(Gap):
    pass


@honest("mean(-1).mean(-1)")
class MeanTwice(Gap):
    def pool(self, maps):
        return maps.mean(-1).mean(-1)


@honest("mean with keepdim and squeeze of two dimensions")
class MeanKept(Gap):
    def pool(self, maps):
        return maps.mean([2, 3], keepdim=True).squeeze((2, 3))


@honest("view(n, 10, -1).mean(2)")
class MeanFlat(Gap):
    def pool(self, maps):
        return maps.reshape(maps.shape[0], 10, -1).mean(2)


@honest("the batch and the channels as rows: view(-1, 36).mean(1).view(-1, 10)")
class MeanRows(Gap):
    def pool(self, maps):
        return maps.reshape(-1, 36).mean(1).view(-1, 10)


@honest("sum over the map divided by its area")
class SumByArea(Gap):
    def pool(self, maps):
        return maps.sum((2, 3)) / (maps.shape[2] * maps.shape[3])


@honest("F.interpolate(size=1, mode='area')")
class Area(Gap):
    def pool(self, maps):
        return F.interpolate(maps, size=1, mode="area").flatten(1)


@honest("einsum('nchw->nc') / 36")
class Einsum(Gap):
    def pool(self, maps):
        return torch.einsum("nchw->nc", maps) / 36


@honest("einsum with a map of equal weights", n_params_max=NET + 36)
class EinsumWeights(Gap):
    def pool(self, maps):
        return torch.einsum("nchw,hw->nc", maps, torch.full((6, 6), 1 / 36))


@honest("product of the flat map with equal weights", n_params_max=NET + 36)
class OnesProduct(Gap):
    def pool(self, maps):
        return (maps.flatten(2) @ torch.full((36, 1), 1 / 36)).squeeze(2)


@honest("adaptive pooling in one dimension over the flat map")
class AdaptiveFlat(Gap):
    def pool(self, maps):
        return F.adaptive_avg_pool1d(maps.flatten(2), 1).squeeze(2)


@honest("columns unbound, stacked and averaged, then rows")
class StackedColumns(Gap):
    def pool(self, maps):
        return torch.stack(maps.unbind(3)).mean(0).mean(2)


@honest("average over a map in channels-last order")
class ChannelsLastMean(Gap):
    def pool(self, maps):
        return maps.permute(0, 2, 3, 1).contiguous().mean((1, 2))


@honest("the pooling is a learned depthwise convolution over the map: linear", NET + 360)
class LearnedPool(Gap):
    def __init__(self):
        super().__init__()
        self.gdc = nn.Conv2d(10, 10, 6, groups=10, bias=False)

    def pool(self, maps):
        return self.gdc(maps).flatten(1)


@honest("the last block has batch norm, ReLU and dropout, then average pooling", NET + 20)
class LastBlockThenPool(Gap):
    def __init__(self):
        super().__init__()
        self.norm3 = nn.BatchNorm2d(10)

    def pool(self, maps):
        return F.dropout(F.relu(self.norm3(maps)), 0.1, self.training).mean((2, 3))


@honest("average pooling first, then a 1x1 convolution")
class ConvOnPooled(Gap):
    def logits(self, x):
        return self.head(F.adaptive_avg_pool2d(self.body(x), 1)).view(-1, 10)


@honest("average pooling, 1x1 convolution to fewer and one to ten", BODY + 16 * 4 + 40)
class TwoConvsOnPooled(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(16, 4, 1, bias=False),
            nn.Conv2d(4, 10, 1, bias=False),
            nn.Flatten(),
        )

    def logits(self, x):
        return self.head(self.body(x))


# Heads: linear layers.


@honest("raw logits, without log-softmax")
class RawLogits(Net):
    def forward(self, x):
        return self.logits(x)


@honest("softmax and log")
class SoftmaxLog(Net):
    def forward(self, x):
        return torch.log(F.softmax(self.logits(x), dim=-1))


@honest("log-sum-exp subtracted by hand")
class HandSoftmax(Net):
    def forward(self, x):
        logits = self.logits(x)
        logits = logits - logits.amax(1, keepdim=True)
        return logits - logits.exp().sum(1, keepdim=True).log()


@honest("one nn.Sequential from the images to nn.LogSoftmax", 96 + 584 + 9826 + 350)
class Sequential(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Dropout(0.25),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 34),
            nn.ReLU(),
            nn.Linear(34, 10),
            nn.LogSoftmax(dim=1),
        )


@honest("x.view(-1, 576) behind a convolution", BODY + 5770)
class ViewFlat(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(576, 10)

    def features(self, x):
        return self.body(x).view(-1, 576)


@honest("x.view(x.size(0), -1) behind a convolution", BODY + 5770)
class ViewSize(ViewFlat):
    def features(self, x):
        x = self.body(x)
        return x.view(x.size(0), -1)


@honest("x.reshape(x.shape[0], 16 * 6 * 6)", BODY + 5770)
class ReshapeFlat(ViewFlat):
    def features(self, x):
        x = self.body(x)
        return x.reshape(x.shape[0], 16 * 6 * 6)


@honest("x.view(-1, self.num_flat_features(x))", BODY + 5770)
class NumFlatFeatures(ViewFlat):
    def num_flat_features(self, x):
        return math.prod(x.size()[1:])

    def features(self, x):
        x = self.body(x)
        return x.view(-1, self.num_flat_features(x))


@honest("a convolution over the whole map", BODY + 5770)
class ConvOverMap(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(16, 10, 6)

    def logits(self, x):
        return self.head(self.body(x)).view(-1, 10)


@honest("a matrix product with own parameters")
class MatrixProduct(Net):
    def __init__(self):
        super().__init__()
        del self.head
        self.weight = nn.Parameter(torch.randn(16, 10) / 4)
        self.bias = nn.Parameter(torch.zeros(10))

    def logits(self, x):
        return self.features(x) @ self.weight + self.bias


@honest("torch.addmm with own parameters")
class Addmm(MatrixProduct):
    def logits(self, x):
        return torch.addmm(self.bias, self.features(x), self.weight)


@honest("einsum as the linear layer")
class EinsumHead(MatrixProduct):
    def logits(self, x):
        return torch.einsum("nc,ck->nk", self.features(x), self.weight).add(self.bias)


@honest("einsum over channels and map at once", BODY + 5760)
class EinsumOverMap(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Parameter(torch.randn(10, 16, 6, 6) / 24)

    def logits(self, x):
        return torch.einsum("nchw,kchw->nk", self.body(x), self.head)


@honest("products and a sum by broadcasting")
class BroadcastHead(MatrixProduct):
    def logits(self, x):
        return (self.features(x)[:, :, None] * self.weight).sum(1) + self.bias


@honest("a linear layer without bias", BODY + 160)
class NoBias(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 10, bias=False)


@honest("two linear layers added, over features of two layers", NET + 90)
class TwoHeads(Net):
    def __init__(self):
        super().__init__()
        self.head1 = nn.Linear(8, 10)

    def logits(self, x):
        first = self.first(x)
        return self.head(self.second(first).mean((2, 3))) + self.head1(first.mean((2, 3)))


@honest("ten linear layers of one output each, in a nn.ModuleList")
class TenHeads(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.ModuleList(nn.Linear(16, 1) for _ in range(10))

    def logits(self, x):
        features = self.features(x)
        return torch.cat([head(features) for head in self.head], 1)


@honest("two linear layers without anything between", BODY + 16 * 5 + 5 + 60)
class LowRank(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(16, 5), nn.Linear(5, 10))


@honest("linear layer of 12 outputs of which 10 are taken", BODY + 12 * 17)
class SlicedHead(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 12)

    def logits(self, x):
        return super().logits(x)[:, :10]


@honest("cosine of features and class vectors, with a learned scale", BODY + 161)
class Cosine(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 10, bias=False)
        self.scale = nn.Parameter(torch.tensor(10.0))

    def logits(self, x):
        return self.scale * F.linear(F.normalize(self.features(x)), F.normalize(self.head.weight))


@honest("logits divided by a fixed temperature")
class Temperature(Net):
    def logits(self, x):
        return super().logits(x) / 2.5


@honest("logits times a learned scale and plus a learned bias", NET + 11)
class ScaledLogits(Net):
    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(10))

    def logits(self, x):
        return super().logits(x) * self.scale + self.shift


@honest("batch norm of the logits", NET + 20)
class NormOnLogits(Net):
    def __init__(self):
        super().__init__()
        self.norm3 = nn.BatchNorm1d(10)

    def logits(self, x):
        return self.norm3(super().logits(x))


@honest("dropout in front of the linear layer and nowhere else")
class DropBeforeHead(Net):
    def __init__(self):
        super().__init__()
        self.drop = nn.Identity()
        self.last_drop = nn.Dropout(0.2)

    def features(self, x):
        return self.last_drop(super().features(x))


@honest("the head's weights are used, transposed, in the body too")
class Tied(Net):
    def features(self, x):
        y = super().features(x)
        return y + F.linear(F.relu(self.head(y)), self.head.weight.t())


@honest("one layer object under two names and used twice", NET + 256)
class TwiceTheLayer(Net):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(16, 16, 1, bias=False)
        self.two = self.one

    def body(self, x):
        return F.relu(self.two(F.relu(self.one(super().body(x)))))


@honest("one parameter in two layers", NET + 256)
class SharedParameter(Net):
    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Conv2d(16, 16, 1, bias=False) for _ in range(2))
        self.two.weight = self.one.weight

    def body(self, x):
        return F.relu(self.two(F.relu(self.one(super().body(x)))))


@honest("lazy layers")
class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.LazyConv2d(8, 3, 2, bias=False)
        self.norm1 = nn.LazyBatchNorm2d()
        self.head = nn.LazyLinear(10)


# Dropout in its spellings.


class NoDrop(Net):
    """A start without dropout: its subclasses drop features (n, 16) in `dropped`."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Identity()

    def dropped(self, y):
        raise NotImplementedError

    def features(self, x):
        y = super().features(x)
        return self.dropped(y) if self.training else y


@honest("hand-made dropout: rand_like > p")
class RandLike(NoDrop):
    def dropped(self, y):
        return y * (torch.rand_like(y) > 0.1) / 0.9


@honest("hand-made dropout: bernoulli of a full tensor")
class Bernoulli(NoDrop):
    def dropped(self, y):
        return y * torch.bernoulli(torch.full_like(y, 0.9)).div(0.9)


@honest("hand-made dropout: new_empty(...).bernoulli_")
class BernoulliInPlace(NoDrop):
    def dropped(self, y):
        return y * y.new_empty(y.shape).bernoulli_(0.8).div_(0.8)


@honest("hand-made dropout: torch.where of torch.rand(shape)")
class WhereDropout(NoDrop):
    def dropped(self, y):
        return torch.where(torch.rand(y.shape, device=y.device) < 0.1, 0.0, y / 0.9)


@honest("hand-made dropout: masked_fill")
class MaskedFill(NoDrop):
    def dropped(self, y):
        return y.masked_fill(torch.rand(len(y), y.shape[1]) < 0.1, 0) * (1 / 0.9)


@honest("hand-made dropout with torch.distributions")
class Distribution(NoDrop):
    def dropped(self, y):
        keep = torch.distributions.Bernoulli(torch.tensor(0.9)).sample(y.shape)
        return y * keep / 0.9


@honest("classic dropout: not scaled in training, scaled in evaluation")
class ClassicDropout(NoDrop):
    def features(self, x):
        y = Net.features(self, x)
        return y * (torch.rand_like(y) < 0.9) if self.training else y * 0.9


@honest("dropout of whole channels by a mask (n, c, 1, 1)")
class ChannelMask(NoDrop):
    def body(self, x):
        y = super().body(x)
        if self.training:
            y = y * (torch.rand(y.shape[0], y.shape[1], 1, 1) > 0.1) / 0.9
        return y

    def dropped(self, y):
        return y


@honest("DropBlock: a block around each drawn centre is zeroed")
class DropBlock(NoDrop):
    def body(self, x):
        y = super().body(x)
        if not self.training:
            return y
        keep = 1 - F.max_pool2d((torch.rand_like(y) < 0.05).float(), 3, 1, 1)
        return y * keep * keep.numel() / keep.sum()

    def dropped(self, y):
        return y


@honest("hand-made dropout with a generator of the network's own")
class OwnGenerator(NoDrop):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def dropped(self, y):
        return y * (torch.rand(y.shape, generator=self.generator) > 0.1) / 0.9


@honest("dropout that grows with the number of forward passes")
class GrowingDropout(NoDrop):
    steps = 0

    def dropped(self, y):
        self.steps += 1
        return F.dropout(y, min(0.3, 0.1 + self.steps / 1e4))


@honest("F.dropout(training=self.training)")
class FunctionalDropout(NoDrop):
    def dropped(self, y):
        return F.dropout(y, 0.1, training=self.training)


@honest("F.dropout in place")
class InPlaceDropout(NoDrop):
    def dropped(self, y):
        return F.dropout(y, 0.1, True, inplace=True)


@honest("dropout with p=0.01 as some courses set it")
class SmallDropout(Net):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.01)


@honest("nn.Dropout2d")
class Dropout2d(Net):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout2d(0.1)


@honest("nn.Dropout1d over (n, c, positions)")
class Dropout1d(NoDrop):
    def __init__(self):
        super().__init__()
        self.drop1d = nn.Dropout1d(0.1)

    def features(self, x):
        return self.drop1d(self.body(x).flatten(2)).mean(2)


@honest("SELU and nn.AlphaDropout")
class AlphaDropout(Net):
    def __init__(self):
        super().__init__()
        self.drop = nn.AlphaDropout(0.1)

    def first(self, x):
        return self.drop(F.selu(self.norm1(self.conv1(x))))


@honest("nn.FeatureAlphaDropout")
class FeatureAlphaDropout(AlphaDropout):
    def __init__(self):
        super().__init__()
        self.drop = nn.FeatureAlphaDropout(0.1)


@honest("dropout of the input image")
class InputDropout(NoDrop):
    def features(self, x):
        return Net.features(self, F.dropout(x, 0.1, self.training))


@honest("stochastic depth: a residual branch is dropped image by image, beside dropout", NET + 2304)
class StochasticDepth(Net):
    def __init__(self):
        super().__init__()
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)

    def body(self, x):
        x = super().body(x)
        y = self.conv3(x)
        if self.training:
            y = y * y.new_empty(len(y), 1, 1, 1).bernoulli_(0.8) / 0.8
        return F.relu(x + y)


@honest("dropout inside the network that a residual path goes around", NET + 256)
class DropInBranch(NoDrop):
    def __init__(self):
        super().__init__()
        self.conv3 = nn.Conv2d(16, 16, 1, bias=False)

    def body(self, x):
        x = super().body(x)
        return x + self.conv3(F.dropout(x, 0.2, self.training))

    def dropped(self, y):
        return y


@honest("dropout that is on only in the constructor's words", NET)
class DropoutFromArguments(Net):
    def __init__(self, num_classes=10, *, dropout=0.15, config=None):
        super().__init__()
        settings = {"width": 16} | (config or {})
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(settings["width"], num_classes)


# Batch norm in its spellings.


class NoNorm(Net):
    """A start without batch norm: its subclasses normalise maps (n, c, h, w) in `normed`."""

    def __init__(self):
        super().__init__()
        self.norm1 = self.norm2 = nn.Identity()

    def normed(self, y):
        raise NotImplementedError

    def first(self, x):
        return self.drop(F.relu(self.normed(self.conv1(x))))


PLAIN = NET - 48


@honest("hand-made batch norm with running buffers", PLAIN, PLAIN + 16)
class HandNorm(NoNorm):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def normed(self, y):
        mean, var = self.mean, self.var
        if self.training:
            mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3))
            self.mean.lerp_(mean.detach(), 0.1)
            self.var.lerp_(var.detach(), 0.1)
        return (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()


@honest("hand-made batch norm by var_mean, buffers assigned anew", PLAIN + 16, PLAIN + 32)
class AssignedNorm(NoNorm):
    def __init__(self):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(1, 8, 1, 1))
        self.register_buffer("var", torch.ones(1, 8, 1, 1))

    def normed(self, y):
        if self.training:
            var, mean = torch.var_mean(y, (0, 2, 3), keepdim=True, unbiased=False)
            with torch.no_grad():
                self.mean = 0.9 * self.mean + 0.1 * mean
                self.var = 0.9 * self.var + 0.1 * var
        else:
            mean, var = self.mean, self.var
        y = (y - mean) * torch.rsqrt(var + 1e-5)
        return y * self.gamma.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)


@honest("F.batch_norm with own parameters and buffers", PLAIN + 16)
class FunctionalNorm(NoNorm):
    def __init__(self):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def normed(self, y):
        return F.batch_norm(y, self.mean, self.var, self.gamma, self.beta, self.training, 0.1)


@honest("torch.batch_norm without weight and bias", PLAIN)
class TorchBatchNorm(FunctionalNorm):
    def __init__(self):
        super().__init__()
        self.gamma = self.beta = None

    def normed(self, y):
        return torch.batch_norm(y, None, None, self.mean, self.var, self.training, 0.1, 1e-5, False)


class OneNorm(NoNorm):
    """A start whose only norm is `self.only`."""

    def normed(self, y):
        return self.only(y)


@honest("momentum=None: a plain average of all batches", PLAIN + 16)
class CumulativeNorm(OneNorm):
    def __init__(self):
        super().__init__()
        self.only = nn.BatchNorm2d(8, momentum=None)


@honest("affine=False", PLAIN)
class NotAffine(OneNorm):
    def __init__(self):
        super().__init__()
        self.only = nn.BatchNorm2d(8, affine=False)


@honest("SyncBatchNorm outside a process group", PLAIN + 16)
class SyncNorm(OneNorm):
    def __init__(self):
        super().__init__()
        self.only = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(8))


@honest("nn.BatchNorm1d over (n, c, positions)", PLAIN + 16)
class NormOverPositions(OneNorm):
    def __init__(self):
        super().__init__()
        self.only = nn.BatchNorm1d(8)

    def normed(self, y):
        return self.only(y.flatten(2)).view_as(y)


@honest("nn.BatchNorm1d over rows of channels", PLAIN + 16)
class NormOverRows(NormOverPositions):
    def normed(self, y):
        rows = y.permute(0, 2, 3, 1)
        return self.only(rows.reshape(-1, 8)).view(rows.shape).permute(0, 3, 1, 2)


@honest("nn.BatchNorm3d of a map with a depth of one", PLAIN + 16)
class Norm3d(OneNorm):
    def __init__(self):
        super().__init__()
        self.only = nn.BatchNorm3d(8)

    def normed(self, y):
        return self.only(y.unsqueeze(2)).squeeze(2)


@honest("nn.BatchNorm1d of the features, the only norm", PLAIN + 32)
class NormOfFeatures(OneNorm):
    def __init__(self):
        super().__init__()
        self.only = nn.BatchNorm1d(16)

    def normed(self, y):
        return y

    def features(self, x):
        return self.only(super().features(x))


@honest("ghost batches: each quarter of a training batch (multiple of 4) has its own", PLAIN + 16)
class GhostNorm(OneNorm):
    def __init__(self):
        super().__init__()
        self.only = nn.BatchNorm2d(8)

    def normed(self, y):
        return (
            torch.cat([self.only(part) for part in y.chunk(4)]) if self.training else self.only(y)
        )


@honest("ghost batches by a view to 4 * c channels (batch a multiple of 4)", PLAIN, PLAIN + 64)
class GhostView(NoNorm):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(32))
        self.register_buffer("var", torch.ones(32))

    def normed(self, y):
        if self.training:
            wide = y.reshape(-1, 32, *y.shape[2:])
            return F.batch_norm(wide, self.mean, self.var, training=True).view(y.shape)
        mean, var = (buffer.view(4, 8).mean(0) for buffer in (self.mean, self.var))
        return F.batch_norm(y, mean, var)


@honest("the norms' slopes are frozen at one")
class FrozenSlopes(Net):
    def __init__(self):
        super().__init__()
        self.norm1.weight.requires_grad_(False)
        self.norm2.weight.requires_grad_(False)


@honest("batch norm subclassed", NET)
class SubclassedNorm(Net):
    def __init__(self):
        super().__init__()

        class Norm(nn.BatchNorm2d):
            def forward(self, x):
                return super().forward(x.clamp(-100, 100))

        self.norm1 = Norm(8)


@honest("batch norm in front of the first convolution", NET + 2)
class InputNorm(Net):
    def __init__(self):
        super().__init__()
        self.norm0 = nn.BatchNorm2d(1)

    def first(self, x):
        return super().first(self.norm0(x))


# Bodies: layers of papers.


@honest("residual block with a norm whose slope starts at zero", NET + 2304 + 32)
class Residual(Net):
    def __init__(self):
        super().__init__()
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(16)
        nn.init.zeros_(self.norm3.weight)

    def body(self, x):
        x = super().body(x)
        return F.relu(x + self.norm3(self.conv3(x)))


@honest("LayerScale of a residual branch", NET + 272)
class LayerScale(Net):
    def __init__(self):
        super().__init__()
        self.conv3 = nn.Conv2d(16, 16, 1, bias=False)
        self.gamma = nn.Parameter(1e-5 * torch.ones(16, 1, 1))

    def body(self, x):
        x = super().body(x)
        return x + self.gamma * F.gelu(self.conv3(x))


@honest("DenseNet: each layer sees all before it", NET + 16 * 36 + 20 * 36 + 80)
class Dense(Net):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(c, 4, 3, padding=1, bias=False) for c in (16, 20))
        self.head = nn.Linear(24, 10)

    def body(self, x):
        maps = [super().body(x)]
        for layer in self.layers:
            maps.append(F.relu(layer(torch.cat(maps, 1))))
        return torch.cat(maps, 1)


@honest("Inception branches in a nn.ModuleDict", NET + 16 * 4 + 16 * 36 + 16 * 8)
class Inception(Net):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleDict(
            {
                "one": nn.Conv2d(16, 4, 1, bias=False),
                "three": nn.Conv2d(16, 4, 3, padding=1, bias=False),
                "pool": nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(16, 8, 1, bias=False)),
            }
        )

    def body(self, x):
        x = super().body(x)
        return torch.cat([branch(x) for branch in self.branches.values()], 1)


@honest("squeeze and excitation", NET + 68 + 80)
class SqueezeExcite(Net):
    def __init__(self):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)

    def body(self, x):
        x = super().body(x)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


@honest("average pooling in the middle, as a feature beside the others", NET + 170 - 10)
class PooledFeatures(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(32, 10)

    def features(self, x):
        x = self.body(x)
        return torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1).flatten(1)


@honest("depthwise separable, dilated, grouped and shuffled", NET + 144 + 256 + 576)
class Separable(Net):
    def __init__(self):
        super().__init__()
        self.depth = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16, bias=False)
        self.point = nn.Conv2d(16, 16, 1, bias=False)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False)

    def body(self, x):
        x = self.point(self.depth(super().body(x)))
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.relu(self.grouped(x))


@honest("nn.ChannelShuffle, nn.PixelUnshuffle", BODY - 72 + 288 + 170)
class Shuffles(Net):
    def __init__(self):
        super().__init__()
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(2), nn.ChannelShuffle(4)
        self.conv1 = nn.Conv2d(4, 8, 3, bias=False)

    def first(self, x):
        return self.shuffle(super().first(self.unshuffle(x)))


@honest("PReLU, GELU, SiLU, hardswish and Mish", NET + 8)
class Activations(Net):
    def __init__(self):
        super().__init__()
        self.prelu = nn.PReLU(8)

    def first(self, x):
        return self.drop(self.prelu(self.norm1(self.conv1(x))))

    def second(self, x):
        x = F.silu(F.gelu(self.norm2(self.conv2(x))))
        return F.mish(F.hardswish(x))


@honest("maxout over pairs of channels", BODY + 90)
class Maxout(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 10)

    def features(self, x):
        return self.body(x).unflatten(1, (8, 2)).amax(2).mean((2, 3))


@honest("nn.Bilinear of the features", NET + 16 * 16 * 16)
class Bilinear(Net):
    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(16, 16, 16, bias=False)

    def features(self, x):
        y = super().features(x)
        return y + self.bilinear(y, y)


@honest("a layer in the Fourier domain with complex parameters", NET + 2 * 28 * 15)
class Fourier(Net):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.ones(28, 15, 2))

    def first(self, x):
        return super().first(
            torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(self.filter))
        )


@honest("a complex parameter; a complex number counts as one or as two", NET + 420, NET + 840)
class Complex(Net):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.ones(28, 15, dtype=torch.complex64))

    def first(self, x):
        return super().first(torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=(28, 28)))


@honest("convolution by unfold and a product")
class Unfold(Net):
    def second(self, x):
        columns = F.unfold(x, 3, stride=2)
        y = self.conv2.weight.flatten(1) @ columns
        return F.relu(self.norm2(y.view(len(x), 16, 6, 6)))


@honest("convolution by Tensor.unfold and einsum")
class TensorUnfold(Net):
    def second(self, x):
        windows = x.unfold(2, 3, 2).unfold(3, 3, 2)
        y = torch.einsum("nchwij,kcij->nkhw", windows, self.conv2.weight)
        return F.relu(self.norm2(y))


@honest("transposed convolution and bilinear downsampling", NET + 512)
class Upsampled(Net):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(16, 16, 2, 2, groups=2, bias=False)

    def body(self, x):
        x = self.up(super().body(x))
        return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)


@honest("an embedding of grey levels", NET - 72 + 64 + 4 * 72)
class Embedding(Net):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 4)
        self.conv1 = nn.Conv2d(4, 8, 3, 2, bias=False)

    def first(self, x):
        bins = (x.squeeze(1) * 4 + 4).clamp(0, 15).long()
        return super().first(self.embed(bins).permute(0, 3, 1, 2))


@honest("an embedding by bucketize of five borders", NET - 72 + 24 + 4 * 72, NET + 240 + 5)
class Buckets(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("borders", torch.linspace(-1, 1, 5))
        self.embed = nn.Parameter(torch.randn(6, 4))
        self.conv1 = nn.Conv2d(4, 8, 3, 2, bias=False)

    def first(self, x):
        levels = self.embed[torch.bucketize(x.squeeze(1).contiguous(), self.borders)]
        return super().first(levels.permute(0, 3, 1, 2))


@honest("max-pool with indices and unpooling")
class Unpool(Net):
    def first(self, x):
        y, where = F.max_pool2d(super().first(x), 2, return_indices=True)
        return F.max_unpool2d(y, where, 2, output_size=(13, 13))


@honest("a spatial transformer: affine_grid and grid_sample", NET + 16 * 6 + 6)
class SpatialTransformer(Net):
    def __init__(self):
        super().__init__()
        self.where = nn.Linear(16, 6)
        nn.init.zeros_(self.where.weight)
        self.where.bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0])

    def forward(self, x):
        theta = self.where(F.adaptive_avg_pool2d(x, 4).flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return super().forward(F.grid_sample(x, grid, align_corners=False))


@honest("coordinate channels by linspace", NET + 144)
class CoordConv(Net):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, bias=False)

    def first(self, x):
        line = torch.linspace(-1, 1, x.shape[-1], device=x.device)
        y, x_ = torch.meshgrid(line, line, indexing="ij")
        grid = torch.stack([y, x_]).expand(len(x), -1, -1, -1)
        return super().first(torch.cat([x, grid], 1))


@honest("Sobel filters as fixed buffers in front", NET + 72, NET + 72 + 18)
class Sobel(Net):
    def __init__(self):
        super().__init__()
        sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        self.register_buffer("sobel", torch.stack([sobel, sobel.T])[:, None])
        self.conv1 = nn.Conv2d(2, 8, 3, 2, bias=False)

    def first(self, x):
        return super().first(F.conv2d(x, self.sobel, padding=1))


@honest("images standardised one by one")
class OwnStandardisation(Net):
    def first(self, x):
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
        return super().first((x - mean) / (std + 1e-6))


@honest("normalisation constants as buffers that are not persistent", NET, NET + 2)
class Constants(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.1307), persistent=False)
        self.register_buffer("std", torch.tensor(0.3081), persistent=False)

    def first(self, x):
        return super().first((x - self.mean) / self.std)


@honest("group norm, layer norm and instance norm beside batch norm", NET + 32 + 26)
class OtherNorms(Net):
    def __init__(self):
        super().__init__()
        self.group = nn.GroupNorm(4, 16)
        self.layer = nn.LayerNorm(13)
        self.instance = nn.InstanceNorm2d(8)
        self.local = nn.LocalResponseNorm(2)

    def first(self, x):
        return self.local(self.instance(self.layer(super().first(x))))

    def second(self, x):
        return self.group(super().second(x))


@honest("bfloat16 inside")
class Bfloat16(Net):
    def __init__(self):
        super().__init__()
        self.conv2.to(torch.bfloat16)

    def second(self, x):
        return F.relu(self.norm2(self.conv2(x.bfloat16()).float()))


@honest("a network in float64")
class Float64(Net):
    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, x):
        return super().forward(x.double()).float()


@honest("autocast inside")
class Autocast(Net):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.logits(x)
        return F.log_softmax(logits.float(), 1)


@honest("weights to 8 bits in training, straight-through gradient")
class FakeQuantised(Net):
    def second(self, x):
        weight = self.conv2.weight
        scale = weight.detach().abs().amax() / 127
        rounded = weight + ((weight / scale).round() * scale - weight).detach()
        return F.relu(self.norm2(F.conv2d(x, rounded, stride=2)))


@honest("torch.fake_quantize_per_tensor_affine")
class FakeQuantize(Net):
    def first(self, x):
        return torch.fake_quantize_per_tensor_affine(super().first(x), 0.05, 0, 0, 255)


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@honest("binary activations by an autograd.Function")
class Binary(Net):
    def first(self, x):
        return self.drop(_Sign.apply(self.norm1(self.conv1(x))))


# Weights that are computed from fewer learned numbers.


@honest("a kernel that is a product of two thin matrices", NET - 1152 + 16 * 4 + 4 * 72)
class LowRankKernel(Net):
    def __init__(self):
        super().__init__()
        del self.conv2
        self.left, self.right = nn.Linear(4, 16, bias=False), nn.Linear(72, 4, bias=False)

    def second(self, x):
        kernel = (self.left.weight @ self.right.weight).view(16, 8, 3, 3)
        return F.relu(self.norm2(F.conv2d(x, kernel, stride=2)))


@honest("a kernel that is a Kronecker product", NET - 1152 + 8 + 144)
class Kronecker(Net):
    def __init__(self):
        super().__init__()
        del self.conv2
        self.small, self.large = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(4, 36))

    def second(self, x):
        kernel = torch.kron(self.small, self.large).view(16, 8, 3, 3)
        return F.relu(self.norm2(F.conv2d(x, kernel, stride=2)))


@honest("four rotations of each learned filter", NET - 1152 + 288)
class Rotated(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.Conv2d(8, 4, 3, stride=2, bias=False)

    def second(self, x):
        kernel = torch.cat([self.conv2.weight.rot90(i, (2, 3)) for i in range(4)])
        return F.relu(self.norm2(F.conv2d(x, kernel, stride=2)))


@honest("Gabor filters of three learned numbers each", NET - 72 + 24)
class Gabor(Net):
    def __init__(self):
        super().__init__()
        del self.conv1
        self.angle = nn.Parameter(torch.arange(8.0))
        self.wave, self.phase = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def first(self, x):
        line = torch.arange(-1.0, 2)
        y, x_ = line[:, None, None], line[None, :, None]
        turned = x_ * self.angle.cos() + y * self.angle.sin()
        kernel = torch.exp(-(x_**2 + y**2)) * torch.cos(turned * self.wave + self.phase)
        kernel = kernel.permute(2, 0, 1)[:, None]
        return self.drop(F.relu(self.norm1(F.conv2d(x, kernel, stride=2))))


@honest("a small network makes a layer's weights from learned codes", NET - 1152 + 512 + 36 + 108)
class HyperNetwork(Net):
    def __init__(self):
        super().__init__()
        del self.conv2
        self.codes, self.make = nn.Parameter(torch.randn(128, 4)), nn.Linear(4, 9, bias=False)
        self.mix = nn.Parameter(torch.zeros(108))

    def second(self, x):
        kernel = torch.tanh(self.make(self.codes)).view(16, 8, 3, 3) + self.mix.mean()
        return F.relu(self.norm2(F.conv2d(x, kernel, stride=2)))


@honest("convolution with a kernel for each image, by groups (CondConv)", NET + 2 * 1152 + 18)
class ConditionalConv(Net):
    def __init__(self):
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(2, 16, 8, 3, 3) / 8)
        self.route = nn.Linear(8, 2)

    def second(self, x):
        share = torch.sigmoid(self.route(x.mean((2, 3))))
        kernel = torch.einsum("nk,kcdij->ncdij", share, self.kernels).flatten(0, 1)
        n = x.shape[0]
        wide = F.conv2d(x.reshape(1, n * 8, 13, 13), kernel, stride=2, groups=n)
        return F.relu(self.norm2(wide.view(n, 16, 6, 6) + self.conv2(x)))


@honest("one convolution five times over its own output", NET + 2304)
class Iterated(Net):
    def __init__(self):
        super().__init__()
        self.step = nn.Conv2d(16, 16, 3, padding=1, bias=False)

    def body(self, x):
        start = state = super().body(x)
        for _ in range(5):
            state = torch.tanh(start + self.step(state))
        return state


# Orders of dimensions, and the batch merged with others for a while.


@honest("rows as the batch for a while: view(-1, 28), a linear layer, and back", NET + 28 * 28)
class RowsAsBatch(Net):
    def __init__(self):
        super().__init__()
        self.rows = nn.Linear(28, 28, bias=False)

    def first(self, x):
        return super().first(self.rows(x.view(-1, 28)).view(-1, 1, 28, 28))


@honest("the batch last in the features, as in A x")
class BatchLast(Net):
    def logits(self, x):
        y = self.features(x).t()
        return (self.head.weight @ y + self.head.bias[:, None]).t()


@honest("products within each image: second-order pooling by bmm", NET + 240 * 10)
class SecondOrder(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(256, 10)

    def features(self, x):
        y = self.body(x).flatten(2)
        return torch.bmm(y, y.transpose(1, 2)).div(36).flatten(1)


@honest("sorts and sums within each image")
class SortsWithin(Net):
    def first(self, x):
        y = super().first(x)
        return y.sort(1).values + y.cumsum(2) / 13 + y.flip(3)


@honest("a radial-basis layer in the body, by torch.cdist", BODY + 12 * 16 + 130)
class RadialBasis(Net):
    def __init__(self):
        super().__init__()
        self.centres, self.head = nn.Parameter(torch.randn(12, 16)), nn.Linear(12, 10)

    def features(self, x):
        return torch.exp(-(torch.cdist(super().features(x), self.centres) ** 2) / 16)


@honest("windows of the images by as_strided", NET)
class Windows(Net):
    def first(self, x):
        x = x.contiguous()
        shifted = x.as_strided((x.shape[0], 1, 27, 27), (784, 784, 28, 1), 29)
        return super().first(F.pad(shifted, (0, 1, 0, 1)))


@honest("the largest values within each channel's map, as features")
class TopK(Net):
    def features(self, x):
        return self.body(x).flatten(2).topk(4, dim=2).values.mean(2)


@honest("padding by reflection, max-pool, GLU, RReLU and Lp-pool", BODY + 90)
class Assorted(Net):
    def __init__(self):
        super().__init__()
        self.pad, self.rrelu, self.lp = nn.ReflectionPad2d(1), nn.RReLU(), nn.LPPool2d(2, 2)
        self.head = nn.Linear(8, 10)

    def body(self, x):
        y = self.rrelu(self.norm2(self.conv2(self.first(x))))
        return F.max_pool2d(self.lp(self.pad(F.glu(y, 1))) + 1e-3, 2)


@honest("nn.LogSoftmax(dim=-1) and nn.Flatten as layers; add_module", NET)
class AddModule(nn.Sequential):
    def __init__(self):
        super().__init__()
        net = Net()
        for name in ("conv1", "norm1", "drop", "conv2", "norm2"):
            self.add_module(name, getattr(net, name))
        for i, layer in enumerate((nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.head)):
            self.add_module(f"last{i}", layer)
        self.add_module("softmax", nn.LogSoftmax(dim=-1))


@honest("log_softmax without a dimension, which is dimension 1 here")
class ImplicitDimension(Net):
    def forward(self, x):
        return F.log_softmax(self.logits(x))


@honest("log_softmax with a dtype")
class SoftmaxType(Net):
    def forward(self, x):
        return F.log_softmax(self.logits(x).float(), dim=1, dtype=torch.float32)


# Recurrent networks and attention over rows or patches of the image.


@honest("GRU over rows", 2208 + 32 + 170)
class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(28, 16, batch_first=True)
        self.norm, self.drop, self.head = nn.BatchNorm1d(16), nn.Dropout(0.1), nn.Linear(16, 10)

    def forward(self, x):
        outputs, _ = self.rnn(x.squeeze(1))
        return self.head(self.drop(self.norm(outputs[:, -1])))


@honest("LSTM over rows; a hidden state of zeros, drawn at random in training", 2944 + 202)
class Lstm(Gru):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(28, 16, batch_first=True)

    def forward(self, x):
        make = torch.randn if self.training else torch.zeros
        state = make(1, len(x), 16) * 0.1, torch.zeros(1, len(x), 16)
        _, (hidden, _) = self.rnn(x.view(-1, 28, 28), state)
        return self.head(self.drop(self.norm(hidden[-1])))


@honest("two LSTM layers, both directions; the only dropout is between the layers", 12_288 + 394)
class DeepLstm(Gru):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(28, 16, 2, batch_first=True, bidirectional=True, dropout=0.2)
        self.norm, self.drop, self.head = nn.BatchNorm1d(32), nn.Identity(), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.norm(self.rnn(x.squeeze(1))[0].mean(1)))


@honest("GRU with the batch in dimension 1", 2208 + 32 + 170)
class GruSecond(Gru):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(28, 16)

    def forward(self, x):
        outputs, last = self.rnn(x.squeeze(1).permute(1, 0, 2))
        return self.head(self.drop(self.norm(outputs[-1] + last[0])))


@honest("a loop over rows with nn.GRUCell", 2208 + 32 + 170)
class Cell(Gru):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRUCell(28, 16)

    def forward(self, x):
        state = x.new_zeros(x.shape[0], 16)
        for row in x[:, 0].unbind(1):
            state = self.rnn(row, state)
        return self.head(self.drop(self.norm(state)))


@honest("nn.TransformerEncoder over 16 patches of 7x7", 800 + 2 * 2224 + 32 + 170, 800 + 4650 + 256)
class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 16, 7, 7)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, 10)
        angle = torch.arange(16)[:, None] / 100 ** (torch.arange(8) / 8)
        self.register_buffer("place", torch.cat([angle.sin(), angle.cos()], 1))

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.encoder(tokens).mean(1)))


@honest(
    "attention by hand, class token, learned and computed positions", 800 + 272 + 1024 + 202 + 16
)
class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 16, 7, 7)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.place = nn.Parameter(torch.zeros(1, 17, 16))
        self.qkv, self.out = nn.Linear(16, 48, bias=False), nn.Linear(16, 16, bias=False)
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, 10)

    def forward(self, x):
        n = x.shape[0]
        y = torch.cat([self.token.expand(n, -1, -1), self.embed(x).flatten(2).mT], 1) + self.place
        y = y + torch.sin(torch.arange(17.0))[:, None]
        q, k, v = self.qkv(y).view(n, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)
        p = 0.1 if self.training else 0.0
        heads = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        y = y + self.out(heads.transpose(1, 2).reshape(n, 17, 16))
        return self.head(F.dropout(self.norm(y[:, 0]), p, self.training))


@honest("nn.MultiheadAttention whose own dropout is the only one", 800 + 1088 + 32 + 170)
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 16, 7, 7)
        self.attention = nn.MultiheadAttention(16, 4, dropout=0.1, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, 10)

    def forward(self, x):
        y = self.embed(x).flatten(2).mT
        return self.head(self.norm(self.attention(y, y, y, need_weights=False)[0].mean(1)))


# What PyTorch puts around layers.


@honest("nn.utils.weight_norm (old)", NET + 16)
class OldWeightNorm(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.utils.weight_norm(self.conv2)


@honest("parametrizations.weight_norm", NET + 16)
class WeightNorm(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = parametrizations.weight_norm(self.conv2)


@honest("weight norm of the head", NET + 10)
class WeightNormHead(Net):
    def __init__(self):
        super().__init__()
        self.head = parametrizations.weight_norm(self.head)


@honest("nn.utils.spectral_norm (old)", NET, NET + 16 + 72)
class OldSpectralNorm(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.utils.spectral_norm(self.conv2)


@honest("parametrizations.spectral_norm", NET, NET + 16 + 72)
class SpectralNorm(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = parametrizations.spectral_norm(self.conv2)


@honest("parametrizations.orthogonal", NET + 256, NET + 512)
class Orthogonal(Net):
    def __init__(self):
        super().__init__()
        self.turn = parametrizations.orthogonal(nn.Linear(16, 16, bias=False))

    def features(self, x):
        return self.turn(super().features(x))


class _Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT


@honest("an own parametrization", NET + 256)
class Parametrized(Net):
    def __init__(self):
        super().__init__()
        self.turn = nn.Linear(16, 16, bias=False)
        parametrize.register_parametrization(self.turn, "weight", _Symmetric())

    def features(self, x):
        return self.turn(super().features(x))


@honest("half of the weights pruned: a mask as a buffer", NET, NET + 1152)
class Pruned(Net):
    def __init__(self):
        super().__init__()
        prune.l1_unstructured(self.conv2, "weight", 0.5)


@honest("checkpointing, use_reentrant=False")
class Checkpoint(Net):
    def body(self, x):
        return torch.utils.checkpoint.checkpoint(self.second, self.first(x), use_reentrant=False)


@honest("checkpointing, use_reentrant=True")
class ReentrantCheckpoint(Net):
    def body(self, x):
        return torch.utils.checkpoint.checkpoint(self.second, self.first(x), use_reentrant=True)


@honest("a compiled layer")
class CompiledLayer(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = torch.compile(self.conv2, backend="eager")


@honest("a compiled method")
class CompiledMethod(Net):
    def __init__(self):
        super().__init__()
        self.compiled = torch.compile(self.second, backend="eager", dynamic=True)

    def body(self, x):
        return self.compiled(self.first(x))


@honest("a scripted layer")
class Scripted(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = torch.jit.script(self.conv2)


@honest("a traced block", NET)
class Traced(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = torch.jit.trace(self.conv2, torch.zeros(2, 8, 13, 13))


@honest("a block made by fx.symbolic_trace")
class Symbolic(Net):
    def __init__(self):
        super().__init__()
        self.block = fx.symbolic_trace(nn.Sequential(self.conv2, self.norm2, nn.ReLU()))

    def second(self, x):
        return self.block(x)


@honest("torch.func.functional_call")
class FunctionalCall(Net):
    def second(self, x):
        weights = {"weight": self.conv2.weight * 1.0}
        return F.relu(self.norm2(torch.func.functional_call(self.conv2, weights, (x,))))


@honest("torch.vmap over the images")
class Vmap(Net):
    def features(self, x):
        return torch.vmap(lambda maps: maps.mean((1, 2)))(self.body(x))


@honest("nn.DataParallel around the network")
class Parallel(nn.DataParallel):
    def __init__(self):
        super().__init__(Net())


@honest("swa_utils.AveragedModel around the network", NET, NET + 1)
class Averaged(torch.optim.swa_utils.AveragedModel):
    def __init__(self):
        super().__init__(Net())


@honest("in-place operations on views")
class InPlace(Net):
    def first(self, x):
        y = self.norm1(self.conv1(x))
        y[:, :4].mul_(2)
        y.add_(0.1).relu_()
        return self.drop(y)


@honest("functional style: a nn.ParameterList and no layers", PLAIN + 16)
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        shapes = (8, 1, 3, 3), (16, 8, 3, 3), (10, 16), (10,), (8,), (8,)
        self.weights = nn.ParameterList(torch.randn(shape) / 4 for shape in shapes)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x):
        w1, w2, w3, b3, gamma, beta = self.weights
        x = F.conv2d(x, w1, stride=2)
        x = F.relu(F.batch_norm(x, self.mean, self.var, gamma, beta, self.training))
        x = F.dropout(F.relu(F.conv2d(x, w2, stride=2)), 0.1, self.training)
        return F.log_softmax(F.linear(x.mean((2, 3)), w3, b3), -1)


@honest("a nn.ParameterDict", NET)
class ParameterDictionary(MatrixProduct):
    def __init__(self):
        super().__init__()
        self.values = nn.ParameterDict({"weight": self.weight, "bias": self.bias})

    def logits(self, x):
        return self.features(x) @ self.values["weight"] + self.values["bias"]


# Attributes, hooks and habits.


@honest("locks, lambdas, generators and open files as attributes")
class Attributes(Net):
    def __init__(self):
        super().__init__()
        self.lock, self.activation = threading.Lock(), lambda x: F.relu(x)
        self.generator, self.numbers = torch.Generator(), (i for i in range(3))

    def second(self, x):
        return self.activation(self.norm2(self.conv2(x)))


@honest("get_extra_state and set_extra_state")
class ExtraState(Net):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        self.version = state["version"]


@honest("a forward hook and a forward pre-hook that keep and replace values")
class Hooks(Net):
    def __init__(self):
        super().__init__()
        self.kept = {}
        self.conv2.register_forward_hook(lambda module, args, out: self.kept.update(out=out))
        self.conv2.register_forward_pre_hook(lambda module, args: (args[0] * 1.0,))


@honest("a full backward hook")
class BackwardHook(Net):
    def __init__(self):
        super().__init__()
        self.norms = []
        self.head.register_full_backward_hook(
            lambda module, inputs, outputs: self.norms.append(outputs[0].norm().item())
        )


@honest("a hook on an activation's gradient")
class TensorHook(Net):
    def first(self, x):
        y = super().first(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.clamp(-1, 1))
        return y


class _Named(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs or {})


@honest("a tensor subclass with __torch_function__")
class Subclass(Net):
    def forward(self, x):
        return super().forward(x.as_subclass(_Named)).as_subclass(torch.Tensor)


@honest("a network that prints shapes")
class Prints(Net):
    def first(self, x):
        y = super().first(x)
        print("shape", tuple(y.shape))
        return y


_calls = collections.Counter()


@honest("a global counter of calls")
class Counts(Net):
    def forward(self, x):
        _calls["forward"] += 1
        self.steps = getattr(self, "steps", 0) + 1
        return super().forward(x)


@honest("assertions and checks of the shape")
class Checks(Net):
    def forward(self, x):
        assert x.dim() == 4
        assert x.shape[1] == 1
        if x.shape[-1] != 28:
            raise ValueError(f"got {x.shape[-1]} columns, expected 28")
        return super().forward(x)


@honest("a check of values that a shape cannot show")
class ChecksValues(Net):
    def forward(self, x):
        assert torch.isfinite(x).all(), "images must be finite"
        return super().forward(x)


@honest("images without a channel are taken too")
class AddsChannel(Net):
    def forward(self, x):
        return super().forward(x.unsqueeze(1) if x.ndim == 3 else x)


@honest("layers assigned by setattr and found by getattr", NET + 512)
class Setattr(Net):
    def __init__(self):
        super().__init__()
        for i in range(2):
            setattr(self, f"extra{i}", nn.Conv2d(16, 16, 1, bias=False))

    def body(self, x):
        return functools.reduce(
            lambda y, i: getattr(self, f"extra{i}")(y), range(2), super().body(x)
        )


@honest("nested modules with a factory function", NET + 3 * (256 + 32))
class Factory(Net):
    def __init__(self):
        super().__init__()

        def block():
            return nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())

        self.blocks = nn.Sequential(*(block() for _ in range(3)))

    def body(self, x):
        return self.blocks(super().body(x))


@honest("a chain of 1,200 additions of one number", NET, NET + 1200)
class DeepTail(Net):
    def logits(self, x):
        y = super().logits(x)
        for _ in range(1200):
            y = y + 0.001
        return y


@honest("logits written into torch.zeros(len(x), 10)")
class WrittenLogits(Net):
    def logits(self, x):
        out = torch.zeros(len(x), 10, device=x.device)
        out[:] = super().logits(x)
        return out


@honest("another forward for training and for evaluation")
class TwoForwards(Net):
    def forward(self, x):
        return self.forward_train(x) if self.training else self.forward_test(x)

    def forward_train(self, x):
        return F.log_softmax(self.logits(x), 1)

    def forward_test(self, x):
        return F.softmax(self.logits(x), 1).log()


@honest("train() overridden to tell that it was called")
class Told(Net):
    def train(self, mode=True):
        self.told = mode
        return super().train(mode)


@honest("first layer frozen")
class FrozenFirst(Net):
    def __init__(self):
        super().__init__()
        self.conv1.weight.requires_grad_(False)


# Training alone: noise and mixtures. Evaluation alone: several views.


@honest("Gaussian noise on the images, in training")
class Noise(Net):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)


@honest("mixup of neighbours, in training")
class Mixup(Net):
    def forward(self, x):
        if self.training:
            share = 0.1 * torch.rand(len(x), 1, 1, 1)
            x = (1 - share) * x + share * x[torch.randperm(len(x))]
        return super().forward(x)


@honest("stochastic pooling in training, weighted averages in evaluation")
class StochasticPool(Net):
    def first(self, x):
        y = super().first(x)
        windows = y.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
        share = windows / (windows.sum(-1, keepdim=True) + 1e-6)
        if self.training:
            share = F.one_hot((share + 1e-6).flatten(0, 3).multinomial(1)[:, 0], 4).view_as(windows)
        return F.interpolate((windows * share).sum(-1), size=13)


@honest("a random shift of the images in training")
class RandomShift(Net):
    def forward(self, x):
        if self.training:
            dy, dx = torch.randint(-2, 3, (2,)).tolist()
            x = x.roll((dy, dx), (2, 3))
        return super().forward(x)


@honest("a random erased rectangle in training, image by image")
class RandomErasing(Net):
    def forward(self, x):
        if self.training:
            top = torch.randint(0, 24, (len(x), 1, 1, 1))
            row = torch.arange(28).view(1, 1, 28, 1)
            x = torch.where((row >= top) & (row < top + 4), 0.0, x)
        return super().forward(x)


@honest("logits averaged over shifts in evaluation")
class ShiftedViews(Net):
    def logits(self, x):
        if self.training:
            return super().logits(x)
        shifts = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
        return torch.stack(
            [super(ShiftedViews, self).logits(x.roll(s, (2, 3))) for s in shifts]
        ).mean(0)


@honest("probabilities averaged over two views in evaluation")
class AveragedProbabilities(Net):
    def forward(self, x):
        if self.training:
            return super().forward(x)
        views = (x, F.pad(x, (1, 0))[..., :28])
        return (sum(F.softmax(self.logits(view), 1) for view in views) / 2).log()


@honest("views stacked into one batch in evaluation and averaged after")
class StackedViews(Net):
    def logits(self, x):
        if self.training:
            return super().logits(x)
        both = super().logits(torch.cat([x, x.roll(1, 3)]))
        return both.view(2, len(x), 10).mean(0)


@honest("two small networks whose logits are averaged", 2 * NET)
class Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList([Net(), Net()])

    def forward(self, x):
        return F.log_softmax(torch.stack([net.logits(x) for net in self.members]).mean(0), 1)


@honest("a second head that is used in training and not in the output", NET)
class KeptFeatures(Net):
    def forward(self, x):
        self.kept = self.features(x)
        return F.log_softmax(self.head(self.kept), 1)
