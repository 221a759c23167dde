"""Ways to write a head, batch norm or dropout: each is recognised, in both memory formats."""

import numpy as np
import pytest
import torch
from helpers import make_contract
from torch import nn
from torch.nn import functional as F

from featherweight.audit import audit_model
from featherweight.contract import Contract
from featherweight.errors import InputError
from featherweight.requirements import Requirement

POOLED = Contract("pooled", "", 500, 100, (Requirement("head", {"gap": True}),))


class Maps(nn.Module):
    """Images (n, 1, 28, 28) -> maps (n, 12, 8, 8), with batch norm and dropout; no head."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = (
            nn.Conv2d(1, 12, 5, stride=3),
            nn.BatchNorm2d(12),
            nn.Dropout(0.2),
        )
        self.ten, self.fc, self.wide = (
            nn.Conv2d(12, 10, 1),
            nn.Linear(12, 10),
            nn.Linear(12 * 64, 10),
        )
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.BatchNorm1d(10)

    def maps(self, x):
        return self.drop(F.relu(self.norm(self.conv(x))))

    def forward(self, x):
        return self.end(self.ten(self.maps(x)))


def network(end, start="ten"):
    """A network that ends in `end(self, x)`, of its ten maps, its twelve maps, or their mean."""
    starts = {
        "ten": lambda self, x: self.ten(self.maps(x)),
        "maps": lambda self, x: self.maps(x),
        "mean": lambda self, x: self.maps(x).mean((2, 3)),
    }
    return type("Net", (Maps,), {"forward": lambda self, x: end(self, starts[start](self, x))})()


def clause(model, split, contract, name, evidence="graph"):
    return next(
        clause
        for clause in audit_model(model, split, contract, False, evidence).clauses
        if clause.clause == name
    )


GAP = {
    "adaptive, view": lambda self, x: self.pool(x).view(-1, 10),
    "adaptive, view, log-softmax": lambda self, x: F.log_softmax(self.pool(x).view(-1, 10), dim=-1),
    "adaptive, squeeze": lambda self, x: self.pool(x).squeeze(),
    "adaptive, squeeze of one": lambda self, x: self.pool(x).squeeze(-1).squeeze(-1),
    "adaptive, flatten": lambda self, x: torch.flatten(self.pool(x), 1),
    "adaptive, reshape": lambda self, x: self.pool(x).reshape(x.size(0), -1),
    "adaptive, index": lambda self, x: self.pool(x)[:, :, 0, 0],
    "log-softmax, then view": lambda self, x: F.log_softmax(self.pool(x), dim=1).view(-1, 10),
    "functional adaptive": lambda self, x: F.adaptive_avg_pool2d(x, (1, 1)).view(
        x.shape[0], x.shape[1]
    ),
    "mean over two": lambda self, x: x.mean((2, 3)),
    "mean, kept": lambda self, x: x.mean(dim=[2, 3], keepdim=True).view(-1, 10),
    "mean, and mean": lambda self, x: x.mean(-1).mean(-1),
    "view, mean": lambda self, x: x.reshape(x.shape[0], x.shape[1], -1).mean(2),
    "flatten, mean": lambda self, x: x.flatten(2).mean(-1),
    "channels behind, mean": lambda self, x: x.permute(0, 2, 3, 1).mean((1, 2)),
    "average pool of the shape": lambda self, x: F.avg_pool2d(x, x.shape[2:]).view(-1, 10),
    "average pool of eight": lambda self, x: nn.AvgPool2d(8)(x).view(-1, 10),
    "average pools": lambda self, x: F.avg_pool2d(F.avg_pool2d(x, 2), 4).flatten(1),
    "average pool of a line": lambda self, x: F.avg_pool1d(x.flatten(2), 64).squeeze(2),
    "adaptive pool of a line": lambda self, x: F.adaptive_avg_pool1d(x.flatten(2), 1).squeeze(2),
    "sum, divided": lambda self, x: x.sum((2, 3)) / 64,
    "sums, divided": lambda self, x: x.sum(-1).sum(-1).div(x.shape[2] * x.shape[3]),
    "einsum": lambda self, x: torch.einsum("nchw->nc", x) / 64,
    "area": lambda self, x: F.interpolate(x, size=1, mode="area").flatten(1),
    "negative": lambda self, x: -x.mean((2, 3)),
    "twice": lambda self, x: self.pool(self.pool(x)).view(-1, 10),
    "two, added": lambda self, x: x.mean((2, 3)) + self.pool(x).flatten(1),
}
LINEAR = {
    "layer": lambda self, x: self.fc(x),
    "products, summed": lambda self, x: (x[:, None] * self.fc.weight).sum(2) + self.fc.bias,
    "products, summed twice": lambda self, x: (
        (x.view(-1, 1, 3, 4) * self.fc.weight.view(10, 3, 4)).sum(-1).sum(-1)
    ),
    "functional": lambda self, x: F.linear(x, self.fc.weight, self.fc.bias),
    "product": lambda self, x: x @ self.fc.weight.t() + self.fc.bias,
    "product from the left": lambda self, x: (self.fc.weight @ x.t()).t() + self.fc.bias,
    "einsum": lambda self, x: torch.einsum("nc,kc->nk", x, self.fc.weight) + self.fc.bias,
    "addmm": lambda self, x: torch.addmm(self.fc.bias, x, self.fc.weight.T),
    "tensordot": lambda self, x: torch.tensordot(x, self.fc.weight, ([1], [1])),
    "batched": lambda self, x: torch.bmm(x[:, None], self.fc.weight.t().expand(len(x), 12, 10))[
        :, 0
    ],
    "convolution of one position": lambda self, x: self.ten(x[:, :, None, None]).view(-1, 10),
    "in three dimensions": lambda self, x: self.fc(x[:, None]).squeeze(1),
    "batch norm behind it": lambda self, x: self.last(self.fc(x)),
    "two, added": lambda self, x: self.fc(x) + F.linear(x, self.ten.weight.flatten(1)),
    "two, subtracted and halved": lambda self, x: (
        (self.fc(x) - F.linear(x, self.ten.weight.flatten(1))) / 2
    ),
    "tied, added": lambda self, x: self.fc(x) + self.fc(x.roll(1, 1)),
    "two, beside each other": lambda self, x: torch.cat(
        [self.fc(x)[:, :4], self.fc(x.roll(1, 1))[:, 4:]], 1
    ),
    "into a tensor": lambda self, x: torch.empty(len(x), 10).copy_(self.fc(x)),
    "temperature": lambda self, x: F.log_softmax(self.fc(x) * 3.5, 1),
    "log of softmax": lambda self, x: F.softmax(self.fc(x), 1).log(),
    "log-softmax by hand": lambda self, x: (y := self.fc(x)) - y.exp().sum(1, keepdim=True).log(),
    "less the largest": lambda self, x: (y := self.fc(x)) - y.max(1, keepdim=True).values,
    "many small additions": lambda self, x: sum((self.fc(x), *[0.001] * 1200)),
    "doubled often": lambda self, x: [y := self.fc(x), *(y := y + y for _ in range(40))][-1],
}
# Of ten maps, what a contract that asks for global average pooling refuses.
NOT_POOLED = {
    "linear layer, then a mean": lambda self, x: (
        F.linear(x.flatten(1), self.fc.weight.repeat(4, 54)[:, :640])
        .view(-1, 10, 2, 2)
        .mean((2, 3))
    ),
    "products with weights, summed": lambda self, x: (
        x.flatten(1)[:, None] * self.wide.weight[:, :640]
    ).sum(-1),
    "linear layer, and pooling": lambda self, x: (
        self.wide(x.repeat(1, 2, 1, 1)[:, :12].flatten(1)) + x.mean((2, 3))
    ),
    "maps that a linear layer weighs": lambda self, x: (
        x * self.wide(x.repeat(1, 2, 1, 1)[:, :12].flatten(1))[:, :, None, None]
    ).mean((2, 3)),
}
OTHER = {
    "maximum": ("ten", lambda self, x: x.amax((2, 3))),
    "adaptive maximum": ("ten", lambda self, x: F.adaptive_max_pool2d(x, 1).view(-1, 10)),
    "one position": ("ten", lambda self, x: x[:, :, 3, 3]),
    "mean of lines, maximum of rows": ("ten", lambda self, x: x.mean(3).amax(2)),
    "mean, rectified": ("ten", lambda self, x: F.relu(x.mean((2, 3)))),
    "linear, rectified": ("mean", lambda self, x: F.relu(self.fc(x))),
    "linear, squared": ("mean", lambda self, x: self.fc(x) * self.fc(x)),
    "linear, squared in one": ("mean", lambda self, x: (y := self.fc(x)) * y),
    "linear, by a power": ("mean", lambda self, x: self.fc(x) ** 2),
    "linear, gated": ("mean", lambda self, x: self.fc(x) * torch.sigmoid(x.mean(1, keepdim=True))),
    "linear and maximum, added": (
        "maps",
        lambda self, x: self.fc(x.mean((2, 3))) + self.ten(x).amax((2, 3)),
    ),
    "linear and rectified, added": ("mean", lambda self, x: self.fc(x) + F.relu(x[:, :10])),
    "product with a made matrix": ("ten", lambda self, x: x.amax((2, 3)) @ torch.eye(10)),
    "addmm with a made matrix": (
        "ten",
        lambda self, x: torch.addmm(self.fc.bias, x.amax((2, 3)), torch.eye(10)),
    ),
    "maximum, added to pairs of classes": (
        "ten",
        lambda self, x: torch.cat(
            [
                self.fc(self.drop(x.mean((2, 3))).repeat(1, 2)[:, :12])[:, 2 * i : 2 * i + 2]
                + x.amax((2, 3))[:, i : i + 1]
                for i in range(5)
            ],
            1,
        ),
    ),
    "product of two of the images": (
        "ten",
        lambda self, x: torch.bmm(x.flatten(2), x.flatten(2)[:, :1].mT)[..., 0],
    ),
}


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", GAP)
def test_global_average_pooling_however_written(name, memory, split, tiny_contract):
    model = network(GAP[name]).to(memory_format=memory)
    for contract in (tiny_contract, POOLED):
        head = clause(model, split, contract, "head")
        assert (head.found, head.passed) == ("global average pooling", True)


@pytest.mark.parametrize("name", NOT_POOLED)
def test_a_linear_layer_of_a_map_is_no_global_average_pooling(name, split):
    assert clause(network(NOT_POOLED[name]), split, POOLED, "head").passed is False


def test_attention_by_largest_values_leaves_the_pooling(split):
    model = network(
        lambda self, x: self.fc((x * x.amax((2, 3), True).sigmoid()).mean((2, 3))), "maps"
    )
    assert clause(model, split, POOLED, "head").passed is True


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_however_written(name, split, tiny_contract):
    assert (
        clause(network(LINEAR[name], "mean"), split, tiny_contract, "head").found == "linear layer"
    )


def test_parts_of_the_batch_have_no_graph_but_can_be_watched(split, tiny_contract):
    model = network(lambda self, x: torch.cat([self.fc(part) for part in x.split(16)]), "mean")
    with pytest.raises(InputError, match="number of images only") as raised:
        audit_model(model, split, tiny_contract)
    assert "--evidence watched" in raised.value.hint
    assert clause(model, split, tiny_contract, "head", "watched").found == "linear layer"


@pytest.mark.parametrize("name", OTHER)
def test_another_head_is_neither(name, split, tiny_contract):
    start, end = OTHER[name]
    head = clause(network(end, start), split, tiny_contract, "head")
    assert "something else" in head.found
    assert head.passed is False


def test_a_sum_of_two_kinds_of_heads_needs_a_contract_that_takes_both(split, tiny_contract):
    model = network(lambda self, x: self.ten(x).mean((2, 3)) + self.fc(x.mean((2, 3))), "maps")
    both = clause(model, split, tiny_contract, "head")
    assert (both.found, both.passed) == ("global average pooling and linear layer", True)
    assert clause(model, split, make_contract(heads=("gap",)), "head").passed is False


def dropout(self, x, mask):
    """Maps that are passed through `mask(self, x)`, before the mean and the linear layer."""
    return self.fc(mask(self, x).mean((2, 3)))


class NoDropout(Maps):
    def __init__(self):
        super().__init__()
        self.drop = nn.Identity()

    def forward(self, x):
        x = self.maps(x)
        return self.fc((self.mask(x) if self.training else x).mean((2, 3)))


DROPS = {
    "larger than": lambda self, x: x * (torch.rand_like(x) > 0.2) / 0.8,
    "larger than, as floats": lambda self, x: x * (torch.rand(x.shape) >= 0.2).float().div(0.8),
    "a channel": lambda self, x: x * (torch.rand(len(x), 12, 1, 1) > 0.2) * 1.25,
    "in place": lambda self, x: x.mul_(torch.empty_like(x).uniform_() > 0.2),
    "in place of the mask": lambda self, x: (torch.rand_like(x) > 0.2).float().mul_(x + 1),
    "floor of keep and random": lambda self, x: x / 0.8 * (0.8 + torch.rand_like(x)).floor_(),
    "bernoulli": lambda self, x: x * torch.bernoulli(torch.full_like(x, 0.8)) / 0.8,
    "bernoulli in place": lambda self, x: x * torch.empty_like(x).bernoulli_(0.8).div_(0.8),
    "where": lambda self, x: torch.where(torch.rand_like(x) > 0.2, x / 0.8, 0.0),
    "where, otherwise round": lambda self, x: torch.where(
        torch.rand_like(x) < 0.2, torch.zeros_like(x), x / 0.8
    ),
    "masked": lambda self, x: x.masked_fill(torch.rand_like(x) < 0.2, 0) / 0.8,
    "assigned": lambda self, x: x.index_put_((torch.rand_like(x) < 0.2,), torch.tensor(0.0)),
    "randint": lambda self, x: x * torch.randint(0, 5, x.shape).clamp(max=1),
}
NO_DROPS = {
    "hardly there": lambda self, x: x + 1e-6 * F.dropout(x, 0.5),
    "noise added": lambda self, x: x + 0.1 * torch.randn_like(x),
    "noise multiplied": lambda self, x: x * (1 + 0.1 * torch.randn_like(x)),
    "bits added": lambda self, x: x + 1e-3 * torch.bernoulli(torch.full_like(x, 0.5)),
    "a factor that is never zero": lambda self, x: x * (1 + 1e-3 * (torch.rand_like(x) > 0.5)),
    "thrown away": lambda self, x: [x, x * (torch.rand_like(x) > 0.2)][0],
    "always the same": lambda self, x: (
        x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.2)
    ),
    "by a mask of the images": lambda self, x: x * (x > 0.2),
    "filled with one": lambda self, x: x.masked_fill(torch.rand_like(x) < 0.2, 1),
}
NO_GRAPH = {"always the same"}


@pytest.mark.parametrize("name", DROPS)
def test_dropout_however_written(name, split, tiny_contract):
    found = clause(
        type("Net", (NoDropout,), {"mask": DROPS[name]})(), split, tiny_contract, "dropout"
    )
    assert found.passed, found
    dropped, possible = (
        int(word.replace(",", "")) for word in found.found.split(" activations")[0].split(" of ")
    )
    assert 0.1 < dropped / possible < 0.3


@pytest.mark.parametrize("name", NO_DROPS)
def test_what_drops_nothing_at_random_is_no_dropout(name, split, tiny_contract):
    model = type("Net", (NoDropout,), {"mask": NO_DROPS[name]})()
    evidence = "watched" if name in NO_GRAPH else "graph"
    assert clause(model, split, tiny_contract, "dropout", evidence).passed is False


def test_a_generator_of_its_own_has_no_graph(split, tiny_contract):
    model = type("Net", (NoDropout,), {"mask": NO_DROPS["always the same"]})()
    with pytest.raises(InputError, match=r"a torch\.Generator of its own"):
        audit_model(model, split, tiny_contract)


class ByHand(Maps):
    """Batch norm by hand: `self.normal(x)` in training, running statistics in evaluation."""

    def __init__(self):
        super().__init__()
        del self.norm
        self.norm = self.standard
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("var", torch.ones(12))

    def standard(self, x):
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean((0, 2, 3)), 0.1)
                self.var = 0.9 * self.var + 0.1 * x.var((0, 2, 3))
            return self.normal(x)
        return (x - self.mean[:, None, None]) / (self.var[:, None, None] + 1e-5).sqrt()

    def forward(self, x):
        return self.fc(self.maps(x).mean((2, 3)))


def moments(x, dims=(0, 2, 3)):
    return x.mean(dims, keepdim=True), x.var(dims, keepdim=True)


NORMS = {
    "quotient": lambda self, x: (x - moments(x)[0]) / (moments(x)[1] + 1e-5).sqrt(),
    "product": lambda self, x: (x - moments(x)[0]) * torch.rsqrt(moments(x)[1] + 1e-5),
    "product, the other way": lambda self, x: (
        (moments(x)[1] + 1e-5).pow(-0.5) * (x - moments(x)[0])
    ),
    "deviation": lambda self, x: (x - moments(x)[0]) / (x.std((0, 2, 3), keepdim=True) + 1e-5),
    "var_mean": lambda self, x: (
        (x - torch.var_mean(x, (0, 2, 3), keepdim=True)[1])
        / torch.var_mean(x, (0, 2, 3), keepdim=True)[0].sqrt()
    ),
    "mean of squares": lambda self, x: (
        (c := x - x.mean((0, 2, 3), keepdim=True))
        / (c.pow(2).mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    ),
    "mean of squares less square of mean": lambda self, x: (
        (x - (m := x.mean((0, 2, 3), keepdim=True)))
        / ((x * x).mean((0, 2, 3), keepdim=True) - m * m + 1e-5).sqrt()
    ),
    "sums": lambda self, x: (
        (c := x - x.sum((0, 2, 3), keepdim=True) / (len(x) * 64))
        / (c.square().sum((0, 2, 3), keepdim=True) / (len(x) * 64) + 1e-5).sqrt()
    ),
    "scaled before": lambda self, x: (x - moments(x)[0]) * 1.5 / (moments(x)[1] + 1e-5).sqrt(),
    "scaled": lambda self, x: (
        (x - moments(x)[0]) / (moments(x)[1] + 1e-5).sqrt() * self.ten.weight[0] + 0.5
    ),
    "torch's own": lambda self, x: F.batch_norm(x, None, None, training=True),
}
NO_NORMS = {
    "of an image": lambda self, x: (x - moments(x, (2, 3))[0]) / moments(x, (2, 3))[1].sqrt(),
    "of a layer": lambda self, x: (x - moments(x, (1, 2, 3))[0]) / moments(x, (1, 2, 3))[1].sqrt(),
    "of everything": lambda self, x: (
        (x - moments(x, (0, 1, 2, 3))[0]) / moments(x, (0, 1, 2, 3))[1].sqrt()
    ),
    "centred alone": lambda self, x: x - moments(x)[0],
    "scaled alone": lambda self, x: x / moments(x)[1].sqrt(),
    "centred, and divided by means": lambda self, x: (x - moments(x)[0]) / moments(x)[0].abs(),
    "of other maps": lambda self, x: (y := x * x, (x - moments(y)[0]) / moments(y)[1].sqrt())[1],
    "hardly there": lambda self, x: x + 1e-6 * (x - moments(x)[0]) / moments(x)[1].sqrt(),
    "thrown away": lambda self, x: [x, (x - moments(x)[0]) / moments(x)[1].sqrt()][0],
    "by weights": lambda self, x: (
        (x - self.fc.weight[0, :, None, None]) / self.fc.weight[1, :, None, None].exp()
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_however_written(name, split, tiny_contract):
    model = type("Net", (ByHand,), {"normal": NORMS[name]})()
    verdict = audit_model(model, split, tiny_contract, everything=False)
    assert verdict.passed, verdict.failed
    assert next(each.found for each in verdict.clauses if each.clause == "batch norm") == "1 used"


@pytest.mark.parametrize("name", NO_NORMS)
def test_another_normalisation_is_no_batch_norm(name, split, tiny_contract):
    model = type("Net", (ByHand,), {"normal": NO_NORMS[name]})()
    assert clause(model, split, tiny_contract, "batch norm").passed is False


class Sign(Maps):
    """A network with a sign function after batch norm, which then changes few outputs."""

    def forward(self, x):
        return self.fc(
            torch.sign(self.norm(self.conv(x)))
            .mul(self.drop(torch.ones(len(x), 12, 1, 1)))
            .mean((2, 3))
        )


def test_a_batch_norm_before_a_sign_matters(split, tiny_contract):
    for seed in range(5):
        torch.manual_seed(seed)
        assert audit_model(Sign(), split, tiny_contract, everything=False).passed


class WritesOverItsImages(Maps):
    def forward(self, x):
        return self.fc(self.maps(x.mul_(2).sub_(0.1)).mean((2, 3)))


def test_a_network_may_write_over_its_images(split, tiny_contract):
    verdict = audit_model(WritesOverItsImages(), split, tiny_contract)
    assert verdict.passed, verdict.failed


class AlwaysDrops(Maps):
    def forward(self, x):
        return self.fc(F.dropout(self.maps(x).mean((2, 3)), 0.01))


class DrawsWithNumpy(Maps):
    def forward(self, x):
        return self.fc(self.maps(x).mean((2, 3))) + float(
            np.random.default_rng().random()
        ) * torch.arange(10.0)


class LooksAround(Maps):
    def forward(self, x):
        x = self.maps(x).mean((2, 3))
        return self.fc(x + 0.5 * x.roll(1, 0))


class NoRunningStatistics(Maps):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(12, track_running_stats=False)

    def forward(self, x):
        return self.fc(self.maps(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (AlwaysDrops, "random"),
        (LooksAround, "other images"),
        (NoRunningStatistics, "other images"),
    ],
)
@pytest.mark.parametrize("evidence", ["graph", "watched"])
def test_outputs_that_depend_on_more_than_the_image_fail(
    kind, found, evidence, split, tiny_contract
):
    verdict = audit_model(kind(), split, tiny_contract, False, evidence)
    assert [clause.clause for clause in verdict.failed] == ["evaluation"]
    assert found in verdict.failed[0].found


def test_random_numbers_of_numpy_are_refused_where_they_would_become_constants(
    split, tiny_contract
):
    watched = audit_model(DrawsWithNumpy(), split, tiny_contract, False, "watched")
    assert [clause.clause for clause in watched.failed] == ["evaluation"]
    assert "random" in watched.failed[0].found
    # A graph would have the numbers that were drawn when it was made, and never others.
    with pytest.raises(InputError, match="other outputs for the same images"):
        audit_model(DrawsWithNumpy(), split, tiny_contract)
