"""Building a user's network: memory format, lazy layers, checks that leave it unchanged."""

import dataclasses
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featherweight.build import build, check_model, count_parameters, forward, unchanged
from featherweight.data import Images, Split
from featherweight.device import seed_everything
from featherweight.model import BaselineNet, Feather
from featherweight.recipe import RECIPES
from featherweight.train import check_recipe
from featherweight.trainer import Trainer


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_projects_networks_are_built_channels_last(recipe):
    model = build(recipe.model, recipe.model_args, 10)
    # Weights with fewer dimensions above 1 have both memory formats at once.
    weights = [p for p in model.parameters() if p.ndim == 4 and min(p.shape[1:3]) > 1]
    assert all(
        p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in weights
    )
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_networks_are_built_channels_last():
    model = build("featherweight.model:Feather", {}, 10)
    x = torch.zeros(2, 1, 28, 28)
    for stage in model.features:
        x = stage(x)
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_shared_layers_are_counted_once():
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == 12


MEMORY = """
import sys
import torch
from torch import nn
class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 6, 5, 2), nn.Conv2d(6, 12, 5, 2))
        self.fc = nn.Linear(192, 10)
class Reshapes(Maps):
    def forward(self, x): return self.fc(self.conv(x).reshape(-1, 192))
class Views(Maps):
    def forward(self, x): return self.fc(self.conv(x).view(-1, 192))
class ViewsInTraining(Maps):
    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.view(-1, 192) if self.training else x.reshape(-1, 192))
class ReadsMemory(Maps):
    def forward(self, x): return self.fc(torch.as_strided(self.conv(x), (len(x), 192), (192, 1)))
class ViewsTheGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x * 1.0
    @staticmethod
    def backward(ctx, gradient): return gradient.view(-1).view(gradient.shape) * 1.0
class ViewsBackward(Maps):
    def forward(self, x): return self.fc(ViewsTheGradient.apply(self.conv(x)).reshape(-1, 192))
class Random(Maps):
    def forward(self, x): return self.fc(nn.functional.dropout(self.conv(x)).reshape(-1, 192))
class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.LazyConv2d(4, 3, 2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10))
class NeverCalled(Lazy):
    def __init__(self):
        super().__init__()
        self.unused = nn.LazyLinear(3)
    def forward(self, x):
        for layer in list(self)[:4]: x = layer(x)
        return x
class LazyAndBroken(Lazy):
    def forward(self, x): return super().forward(x[:, :, :1])
class MadeInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = None
    def forward(self, x):
        if self.fc is None: self.fc = nn.Linear(x[0].numel(), 10)
        return self.fc(x.flatten(1))
class Exits(Maps):
    def __init__(self): sys.exit(0)
class NoModule(Maps):
    def __new__(cls): return "a text"
class OnMeta(Maps):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 10, device="meta")
"""


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Build a class of MEMORY by name."""
    (tmp_path / "memory_nets.py").write_text(MEMORY)
    monkeypatch.chdir(tmp_path)
    return lambda name, *shape: build(f"memory_nets.py:{name}", {}, 10, shape or (1, 28, 28))


@pytest.mark.parametrize(
    ("name", "channels_last"),
    [
        ("Reshapes", True),
        ("Views", False),
        ("ViewsInTraining", False),
        ("ReadsMemory", False),
        ("Random", False),
    ],
)
def test_a_network_that_depends_on_memory_is_taken_in_contiguous_memory(
    stranger, name, channels_last
):
    model = stranger(name)
    weight = model.conv[1].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert weight.is_contiguous() is not channels_last
    images = torch.randn(5, 1, 28, 28)
    check_model(model, images, 10)
    if name != "Random":
        torch.manual_seed(3)
        plain = type(model)()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(model(images), plain(images))


def test_a_network_whose_gradient_depends_on_memory_trains(stranger):
    model = stranger("ViewsBackward")
    model(torch.randn(5, 1, 28, 28)).sum().backward()
    assert model.conv[1].weight.grad is not None


def test_the_memory_is_chosen_alike_whatever_the_weights(stranger):
    for name, expected in (("Reshapes", True), ("ReadsMemory", False)):
        for seed in range(4):
            torch.manual_seed(seed)
            weight = stranger(name).conv[1].weight
            assert weight.is_contiguous(memory_format=torch.channels_last) is expected


def test_building_draws_no_more_than_the_constructor(stranger):
    torch.manual_seed(0)
    stranger("Random")
    after = torch.rand(3)
    torch.manual_seed(0)
    nn.Sequential(nn.Conv2d(1, 6, 5, 2), nn.Conv2d(6, 12, 5, 2)), nn.Linear(192, 10)
    torch.testing.assert_close(after, torch.rand(3), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_the_number_of_channels_is_passed_to_those_who_ask_for_it():
    def first(arguments, shape):
        model = build("featherweight.model:Feather", {"layers": ["conv 4"]} | arguments, 10, shape)
        return model.features[0].convolution.in_channels

    assert first({}, (1, 9, 9)) == 1
    assert first({}, (3, 9, 9)) == 3
    with pytest.raises(ValueError, match="channels"):
        check_model(
            build("featherweight.model:Feather", {"in_channels": 1}, 10, (3, 28, 28)),
            torch.zeros(2, 3, 28, 28),
            10,
        )


DEFAULTS = """
import torch
from torch import nn
torch.manual_seed(1)
class Usual(nn.Module):
    def __init__(self, num_classes=10, in_channels=1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3)
        self.fc = nn.Linear(8, num_classes)
    def forward(self, x): return self.fc(self.conv(x).mean((2, 3)))
class Wide(Usual):
    "`in_channels` of the second layer."
    def __init__(self, num_classes=10, in_channels=6):
        super().__init__(num_classes, in_channels)
        self.first = nn.LazyConv2d(in_channels, 1)
    def forward(self, x): return super().forward(self.first(x))
class Needs(Usual):
    def __init__(self, num_classes, in_channels): super().__init__(num_classes, in_channels)
class Unset(Usual):
    def __init__(self, in_channels=None): super().__init__(10, in_channels)
"""


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("name", "given", "classes", "channels", "expected"),
    [
        ("Usual", {}, 10, 1, (10, 1)),
        ("Usual", {}, 47, 3, (47, 3)),
        ("Usual", {}, 10, 3, (10, 3)),
        ("Usual", {"num_classes": 12, "in_channels": 2}, 10, 1, (12, 2)),
        ("Wide", {}, 10, 3, (10, 6)),  # its default fits
        ("Wide", {}, 47, 1, (47, 6)),
        ("Needs", {}, 47, 3, (47, 3)),
        ("Unset", {}, 10, 3, (10, 3)),
    ],
)
def test_classes_and_channels_are_given_where_the_defaults_do_not_fit(
    name, given, classes, channels, expected, tmp_path
):
    (tmp_path / "defaults.py").write_text(DEFAULTS)
    path, shape = f"{tmp_path}/defaults.py:{name}", (channels, 9, 9)
    model = build(path, given, classes, shape)
    assert (model.fc.out_features, model.conv.in_channels) == expected
    # A try with the defaults takes no random numbers, nor does the file set the seed.
    same = dict(zip(("num_classes", "in_channels"), expected, strict=True)) | given
    if name == "Unset":
        del same["num_classes"]
    weights = [
        build(path, values, classes, shape, seed).conv.weight
        for values, seed in ((given, 3), (same, 3), (given, 4))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_lazy_layers_are_made_for_the_images(stranger):
    for side, features in ((28, 4 * 13 * 13), (20, 4 * 9 * 9)):
        model = stranger("Lazy", 1, side, side)
        assert model[3].weight.shape == (10, features)
        assert type(model[3]) is nn.Linear
        assert model[1].num_batches_tracked == 0
        assert model.training
    seeds = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        seeds.append(stranger("Lazy")[3].weight)
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])
    for name, message in (
        ("NeverCalled", "memory_nets.py:NeverCalled.*lazy.*unused"),
        ("LazyAndBroken", "memory_nets.py:LazyAndBroken.*lazy.*fails on images"),
    ):
        with pytest.raises(ValueError, match=message):
            stranger(name)


def test_a_layer_that_a_forward_pass_makes_is_there_to_be_trained(stranger):
    model = stranger("MadeInForward")
    assert [tuple(p.shape) for p in model.parameters()] == [(10, 784), (10,)]


def test_a_constructor_that_ends_the_process_or_gives_no_module_is_refused(stranger):
    with pytest.raises(ValueError, match=r"memory_nets.py:Exits.*ends the process, exit"):
        stranger("Exits")
    with pytest.raises(ValueError, match=r"got 'a text' from its constructor, expected a torch"):
        stranger("NoModule")


def test_weights_without_values_are_refused(stranger):
    with pytest.raises(ValueError, match=r"memory_nets.py:OnMeta.*fc\.weight on the meta device"):
        stranger("OnMeta")


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x.flatten(1)[:, :10])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x[:, :7], r"\(4, 7\)"),
        (lambda x: x[0], r"\(10,\)"),
        (lambda x: [x], "list"),
        (lambda x: x / 0, "NaN"),
        (lambda x: x.softmax(1), "probabilities"),
        (lambda x: x @ x, "fails on images"),
    ],
)
def test_outputs_that_cannot_be_used_are_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        check_model(Answers(answer), torch.rand(4, 1, 28, 28) + 1, 10)


def test_weights_that_are_not_finite_are_refused():
    model = Feather(["conv 6"])
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        check_model(model, torch.rand(4, 1, 28, 28), 10)


def test_logits_and_log_probabilities_pass():
    for answer in (lambda x: x, lambda x: x.log_softmax(1)):
        check_model(Answers(answer), torch.rand(4, 1, 28, 28) + 1, 10)


class Restless(nn.Module):
    """A network that changes everything it can in a forward pass."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc, self.lock = nn.BatchNorm2d(1), nn.Linear(784, 10), threading.Lock()
        self.register_buffer("seen", torch.zeros(1))
        self.calls, self.memory = 0, torch.zeros(2)

    def forward(self, x):
        self.calls += 1
        self.seen = self.seen + len(x)
        self.memory += 1
        self.last = x
        self.extra = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.bias.add_(1)
        return self.fc(self.norm(x).flatten(1))


def test_a_check_leaves_a_network_as_it_was():
    model, images = Restless(), torch.rand(4, 1, 28, 28)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with unchanged(model):
        model.eval()
        forward(model, images).sum().backward()
    check_model(model, images, 10)
    assert (model.calls, model.memory.tolist(), model.training) == (0, [0, 0], True)
    assert not hasattr(model, "last")
    assert model.fc.weight.grad is None
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_network_that_fails_or_leaves_is_one_line_that_names_it():
    def leave(x):
        raise SystemExit

    for answer, message in ((leave, "ends the process"), (lambda x: x @ x, "RuntimeError")):
        with pytest.raises(
            ValueError, match=rf"test_build.py:Answers fails on images \(2, .*\): .*{message}"
        ):
            forward(Answers(answer), torch.zeros(2, 1, 28, 28))

    def stop(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_model(Answers(stop), torch.zeros(2, 1, 28, 28), 10)


def test_a_check_moves_no_statistics():
    model = BaselineNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_model(model, torch.rand(4, 1, 28, 28), 10)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Net(nn.Module):
    """A network that can be trained; subclasses break one thing each."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, x):
        return self.fc(x.flatten(1))


class SqueezesAll(Net):
    def forward(self, x):
        return F.log_softmax(super().forward(x).squeeze(), dim=-1)


class AtMostAHundred(Net):
    def forward(self, x):
        if len(x) > 100:
            raise RuntimeError("batch too large")
        return super().forward(x)


class Complex(Net):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.ones(28, 28, dtype=torch.cfloat))

    def forward(self, x):
        return super().forward(torch.fft.ifft2(torch.fft.fft2(x) * self.filter).real)


class NoGradient(Net):
    def forward(self, x):
        return super().forward(x).detach()


class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


class SparseGradient(Net):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, 10, sparse=True)

    def forward(self, x):
        return super().forward(x) + self.table(torch.zeros(len(x), dtype=torch.long))


class SharedMemory(Net):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 10).expand(3, 10))

    def forward(self, x):
        return super().forward(x) * self.scale[0]


class Locked(Net):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def cut(split, n_val):
    val = split.val.pixels.repeat(6, 1, 1, 1)[:n_val], split.val.labels.repeat(6)[:n_val]
    return Split(None, split.train, Images(*val), split.num_classes)


@pytest.mark.parametrize(
    ("kind", "n_val", "message"),
    [
        (
            SqueezesAll,
            501,
            r"SqueezesAll returns \(10,\) for images \(1, 1, 28, 28\), expected \(1, 10\)",
        ),
        (SqueezesAll, 500, None),
        (AtMostAHundred, 500, r"fails on images \(500,.*batch too large"),
        (AtMostAHundred, 100, None),
        (Complex, 100, "complex parameter, filter"),
        (NoGradient, 100, "NoGradient can't be trained.*hint: .*no torch.no_grad"),
        (SharedMemory, 100, "elements share memory, scale.*hint: expand it in forward"),
        (Frozen, 100, "no trainable parameter"),
        (SparseGradient, 100, "can't be trained.*hint: leave out sparse=True"),
        (
            Locked,
            100,
            "can't be copied, for the EMA of tiny: .*lock.*hint: .*baseline",
        ),
    ],
)
def test_what_would_end_a_training_is_refused_before(kind, n_val, message, split, tiny_recipe):
    model = kind()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if message is None:
        check_recipe(tiny_recipe, cut(split, n_val), model)
    else:
        with pytest.raises(ValueError, match=message):
            check_recipe(tiny_recipe, cut(split, n_val), model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_training_batch_of_one_is_tried_too(split, tiny_recipe):
    few = Split(
        None, Images(split.train.pixels[:3], split.train.labels[:3]), split.val, split.num_classes
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.BatchNorm1d(10))
    with pytest.raises(ValueError, match=r"fails on images \(1, 1, 28, 28\)"):
        check_recipe(dataclasses.replace(tiny_recipe, batch_size=2), few, model)


class JoinsLater(Net):
    """A network with a parameter that the first steps do not use."""

    def __init__(self):
        super().__init__()
        self.scale, self.calls = nn.Parameter(torch.ones(784)), 0

    def forward(self, x):
        self.calls += self.training
        x = x.flatten(1)
        return self.fc(x * self.scale if self.calls > 3 else x)


def test_a_parameter_that_joins_later_is_trained_as_plain_sgd_would(split, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, weight_decay=0.01, ema=0.0)
    trained = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = JoinsLater()
        trainer = Trainer(recipe, model, split.train, split.mean_std)
        for group in trainer.optimizers["sgd"][0].param_groups:
            group["fused"] = fused
        list(trainer.steps(0, seed_everything(0, 0)))
        trained.append(model.scale)
    assert not torch.equal(trained[0], torch.ones(784))
    torch.testing.assert_close(trained[0], trained[1])
