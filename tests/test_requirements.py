"""Requirements: how each kind is judged, on facts and on networks."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from featherweight._layers import Layer, LayerTable
from featherweight.audit import audit_model, judge, structure_facts, training_facts
from featherweight.capture import capture
from featherweight.contract import CONTRACTS, Contract
from featherweight.data import Images, Split, load_split
from featherweight.evaluate import evaluate
from featherweight.facts import Builds, Effect, Evaluated, Facts, Structure, Training
from featherweight.fresh import compare_builds, fresh_networks
from featherweight.passes import audit_passes
from featherweight.recipe import Recipe
from featherweight.requirements import KINDS, Requirement
from featherweight.splits import SPLITS, find_split
from featherweight.structure import structure as find_structure


class SmallMnist(nn.Sequential):
    """All that the contracts about MNIST ask for, in 622 parameters."""

    def __init__(self, num_classes=10):
        super().__init__(
            *(nn.Conv2d(1, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.1)),
            *(nn.Conv2d(6, 10, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )


class WrongMnist(nn.Module):
    """Nothing of it: many parameters, outputs that depend on the batch, another head."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 40), nn.ReLU())
        self.last = nn.Linear(40, 10)

    def forward(self, x):
        return torch.relu(self.last(self.layers(x - x.mean(0))))


class Separable(nn.Module):
    """All that the contracts about CIFAR-10 ask for, with one kind of normalisation."""

    def __init__(self, norm):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, dilation=8, padding=8), norm(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, dilation=8, padding=8, groups=8), nn.Conv2d(8, 8, 1)),
            *(nn.Dropout(0.05), nn.Conv2d(8, 8, 3, dilation=8, padding=8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
        )

    def forward(self, x):
        return self.layers(x)


class WrongCifar(nn.Module):
    """Nothing of it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.InstanceNorm2d(16, affine=True)),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 200), nn.ReLU(), nn.Linear(200, 10)),
        )

    def forward(self, x):
        return self.layers(x - x.mean(0))


NETWORKS = {
    "small-mnist": (SmallMnist, (1, 28, 28)),
    "wrong-mnist": (WrongMnist, (1, 28, 28)),
    "batch": (lambda: Separable(nn.BatchNorm2d), (3, 32, 32)),
    "group": (lambda: Separable(lambda n: nn.GroupNorm(2, n)), (3, 32, 32)),
    "layer": (lambda: Separable(lambda n: nn.GroupNorm(1, n)), (3, 32, 32)),
    "wrong-cifar": (WrongCifar, (3, 32, 32)),
}
# The network that meets each contract; one that misses every clause is `wrong-`.
GOOD = {"era-s8-bn": "batch", "era-s8-gn": "group", "era-s8-ln": "layer", "era-s9": "batch"}


@pytest.fixture(scope="module")
def colours():
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (600, 3, 32, 32), generator=random, dtype=torch.uint8)
    images = Images(pixels, torch.arange(600) % 10)
    val = Images(images.pixels[500:], images.labels[500:])
    return Split("colours", Images(images.pixels[:500], images.labels[:500]), val, 10)


@pytest.fixture(scope="module")
def splits(colours):
    return {"mnist": load_split(None, 500, 100), "cifar-10": colours}


@pytest.fixture(scope="module")
def graphs():
    """The graph of each network, which is captured once."""
    made = {}

    def graph(name):
        if name not in made:
            network, shape = NETWORKS[name]
            torch.manual_seed(0)
            made[name] = capture(network(), audit_passes(shape))
        return made[name]

    return graph


def small(contract):
    """The contract about fewer images."""
    return dataclasses.replace(contract, train_size=500, val_size=100)


def answered(split, model, wrong):
    """The split with the network's own predictions as labels, or with others."""
    parts = []
    for part in (split.train, split.val):
        predicted = evaluate(model.eval(), part, split.mean_std).predicted
        parts.append(Images(part.pixels, (predicted + wrong) % 10))
    return Split(split.source, *parts, 10)


def judged(contract, model, split, recipe, good):
    """The clauses of a contract for a network as if a run had trained it by a recipe."""
    contract, labelled = small(contract), answered(split, model, wrong=not good)
    facts = structure_facts(model, split, contract, True, fresh=None, trained=False)
    logged = range(1, recipe.epochs + 1)
    facts.training = training_facts(recipe, len(split.train), logged, recipe.epochs)
    leaky = Split(None, split.train, Images(split.train.pixels[:100], split.train.labels[:100]), 10)
    facts.split = find_split(split if good else leaky, contract, own=True)
    for part in ("val", "train"):
        result = evaluate(model, getattr(labelled, part), split.mean_std)
        counts = dict.fromkeys(range(3), (result.correct, result.total))
        facts.accuracies[part] = Evaluated(counts, epochs=recipe.epochs)
    return judge(contract, facts)


def recipe(**changes):
    return Recipe("made", "net.py:Net", {}, lr=0.1, **changes)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.name)
def test_each_clause_of_a_built_in_contract_is_met_and_missed(
    contract, graphs, splits, monkeypatch
):
    if (
        contract.data == "fashion-mnist"
    ):  # which does not come with the package: MNIST takes its part
        monkeypatch.setattr("featherweight.splits.KNOWN_SIZES", (500, 100))
        monkeypatch.setitem(SPLITS, "fashion-mnist", splits["mnist"].sha256)
    mnist = contract.data != "cifar-10"
    split = splits["mnist" if mnist else "cifar-10"]
    met = graphs(GOOD.get(contract.name, "small-mnist" if mnist else "batch"))
    missed = graphs("wrong-mnist" if mnist else "wrong-cifar")
    good = recipe(epochs=24, batch_size=512, warmup=5 / 24, optimiser="adam")
    if contract.name != "era-s10":
        good = recipe(epochs=1)
    bad = recipe(epochs=30, batch_size=128, schedule="constant")
    titles = [title for title, _, _ in contract.rows]
    held = judged(contract, met, split, good, True)
    assert [clause.clause for clause in held] == titles
    assert [(c.clause, c.found) for c in held if not c.passed] == []
    fell = judged(contract, missed, split, bad, False)
    assert [clause.clause for clause in fell] == titles
    assert [(c.clause, c.found) for c in fell if c.passed is not False] == []
    assert sum(clause.points for clause in held) == sum(clause.max_points for clause in held)
    assert sum(clause.points for clause in fell) == 0


STRUCTURE = Structure(
    n_params=1_000,
    n_trainable=900,
    declared=1_200,
    counted="counted",
    batch_norm=Effect(0, True, 0.0, "0 used"),
    dropout=Effect(2, False, 0.5, "9 of 99 activations dropped"),
    changed={"batch norm": "other images", "dropout": "other random numbers"},
    rates=((0.05, 0.0), (0.12, 0.04)),
    heads={"linear"},
    head_seen="addmm",
    dependence="",
    evaluated="twice",
)
TRAINING = Training(5, 5, 5, True, 128, ("muon", "sgd"), "one-cycle", 2.0)
TAUGHT = dataclasses.replace(TRAINING, teacher="a network")


def layer(kind, inputs, jump=1.0, **values):
    """A layer; without a jump it has no positions."""
    jumps = None if jump is None else (jump, jump)
    given = {"kernel": (), "stride": (), "dilation": (), "groups": 1, "receptive_field": (9, 7)}
    return Layer(
        **{"name": f"{kind} {len(inputs)}", "kind": kind, "shape": (8, 4, 4), "jump": jumps}
        | {"parameters": 0, "macs": 50, "inputs": inputs}
        | given
        | values
    )


def table(*layers, training=False):
    return LayerTable(tuple(layers), (1, 28, 28), training)


CONV = layer("conv", (-1,), name="first")
DENSE = table(CONV, layer("conv", (0,), name="second", views=4), layer("linear", (1,), None))
FLAT = table(CONV, layer("linear", (0,), None, name="fc"))
POOLED = table(CONV, layer("global average pool", (0,), None), layer("linear", (1,), None))
# Squeeze and excitation: a global pool that is not the last thing a map goes through.
EXCITED = table(
    CONV,
    layer("global average pool", (0,), None),
    layer("other", (0, 1)),
    layer("linear", (2,), None),
)
# Weighed by largest values, behind which a linear layer stands or the pooling.
ATTENTION = table(
    CONV,
    layer("max pool", (0,), None),
    layer("other", (0, 1)),
    layer("global average pool", (2,), None),
    layer("linear", (3,), None),
)
LARGEST = table(
    CONV,
    layer("global average pool", (0,), None),
    layer("other", (0, 1)),
    layer("max pool", (2,), None),
    layer("linear", (3,), None),
)
BOTH = table(CONV, layer("group norm", (0,)), layer("batch norm", (1,)))
DROPPED = table(
    CONV,
    layer("dropout", (0,), p=0.1),
    layer("conv", (1,), name="second"),
    layer("conv", (2,), name="third"),
    training=True,
)
BARELY = LayerTable((CONV, layer("dropout", (0,), p=1e-9), *DROPPED.layers[2:]), (1, 28, 28), True)
FACTS = {
    "structure": STRUCTURE,
    "layers": FLAT,
    "training_layers": DROPPED,
    "training": TRAINING,
    "accuracies": {
        "val": Evaluated({0: (95, 100), 1: (91, 100), 2: (99, 100)}, epochs=5),
        "train": Evaluated({0: (450, 500)}, epochs=5),
    },
}


def facts(**changes):
    return Facts(**FACTS | changes)


def structure(**changes):
    return {"structure": dataclasses.replace(STRUCTURE, **changes)}


ALONE = {"val": Evaluated({0: (95, 100)})}
GAP = structure(heads={"gap"})


@pytest.mark.parametrize(
    ("kind", "limits", "changes", "passed", "found"),
    [
        ("parameters", {"fewer_than": 1_001}, {}, True, "1,000 (1,200 declared)"),
        ("parameters", {"fewer_than": 1_000}, {}, False, "1,000 (1,200 declared)"),
        ("parameters", {"at_most": 1_000}, {}, True, "1,000 (1,200 declared)"),
        ("parameters", {"at_most": 899, "which": "trainable"}, {}, False, "900 (1,200 declared)"),
        ("parameters", {"at_most": 900, "which": "trainable"}, {}, True, "900 (1,200 declared)"),
        ("normalisation", {"norm": "batch"}, {}, False, "0 used"),
        (
            "normalisation",
            {"norm": "batch", "only": True},
            structure(batch_norm=Effect(1, False, 0.5, "1 used")) | {"layers": BOTH},
            False,
            "1 used; also group norm",
        ),
        ("normalisation", {"norm": "group"}, {"layers": BOTH}, True, "1 used"),
        (
            "normalisation",
            {"norm": "group", "only": True},
            {"layers": BOTH},
            False,
            "1 used; also batch norm",
        ),
        (
            "normalisation",
            {"norm": "group", "only": True},
            structure(batch_norm=Effect(1, False, 0.5, "1 used"))
            | {"layers": table(CONV, layer("group norm", (0,)))},
            False,
            "1 used; also batch norm",  # written by hand
        ),
        ("normalisation", {"norm": "layer"}, {"layers": BOTH}, False, "0 used"),
        ("normalisation", {"norm": "layer"}, {"layers": None}, None, "not judged: needs the graph"),
        ("dropout", {}, {}, True, "9 of 99 activations dropped"),
        ("dropout", {"least": 0.05, "greatest": 0.1}, {}, True, "9 of 99 activations dropped"),
        ("dropout", {"greatest": 0.07}, {}, False, "9 of 99 activations dropped; p 0.12"),
        ("dropout", {"least": 0.06}, {}, False, "9 of 99 activations dropped; p 0.05"),
        (
            "dropout",
            {"least": 0.01},
            structure(dropout=Effect(0, True, 0.0, "0 dropped"), rates=()),
            False,
            "0 dropped",
        ),
        ("dropout", {"all_but": 2}, {}, True, "9 of 99 activations dropped"),
        (
            "dropout",
            {"all_but": 1},
            {},
            False,
            "9 of 99 activations dropped; none after second, third",
        ),
        (
            "dropout",
            {"all_but": 2},
            {"training_layers": BARELY},
            False,
            "9 of 99 activations dropped; none after first, second, third",
        ),
        ("dropout", {"all_but": 1}, {"training_layers": None}, None, "not judged: needs the graph"),
        ("head", {"accept": ["linear"]}, {}, True, "linear layer"),
        ("head", {"accept": ["gap"]}, {}, False, "linear layer"),
        ("head", {"accept": ["gap"]}, GAP, True, "global average pooling"),
        ("head", {"gap": True}, GAP | {"layers": POOLED}, True, "global average pooling"),
        ("head", {"gap": True}, GAP, False, "global average pooling, behind linear"),
        ("head", {"gap": True}, {"layers": ATTENTION}, True, None),
        ("head", {"gap": True}, {"layers": LARGEST}, False, None),
        ("head", {"gap": True}, {}, False, "linear layer, behind linear"),
        (
            "head",
            {"gap": True},
            {"layers": POOLED},
            True,
            "linear layer, behind global average pool",
        ),
        ("head", {"gap": True}, {"layers": EXCITED}, False, None),
        (
            "head",
            {"gap": True},
            structure(heads={"other"}) | {"layers": POOLED},
            False,
            "something else, behind global average pool",
        ),
        ("head", {"gap": True}, {"layers": None}, None, "not judged: needs the graph"),
        ("forbid", {"layer": "linear"}, {}, False, "1 layer: fc"),
        (
            "forbid",
            {"layer": "linear"},
            {"layers": table(CONV, layer("linear", (0,)))},  # a 1x1 convolution
            True,
            "none",
        ),
        ("forbid", {"layer": "max-pool"}, {}, True, "none"),
        (
            "forbid",
            {"layer": "max-pool"},
            {"layers": table(CONV, layer("max pool", (0,), 2.0))},
            False,
            "1 layer: max pool 1",
        ),
        ("forbid", {"layer": "stride"}, {}, True, "none"),
        (
            "forbid",
            {"layer": "stride"},
            {"layers": table(CONV, layer("average pool", (0,), 2.0), layer("conv", (1,), 2.0))},
            False,
            "1 layer: average pool 1",
        ),
        ("forbid", {"layer": "pretrained"}, {}, None, "not judged: no class"),
        (
            "forbid",
            {"layer": "pretrained"},
            {"builds": Builds(3, ("a.weight",))},
            False,
            "1 of 3 trained tensors start from fixed numbers: a.weight",
        ),
        (
            "forbid",
            {"layer": "pretrained"},
            {"builds": Builds(3, (), ("w7", "w9"))},
            False,
            "0 of 3 trained tensors start from fixed numbers; of other names or shapes: w7, w9",
        ),
        (
            "forbid",
            {"layer": "pretrained"},
            {"builds": Builds(3, (), (), ("sobel",), 72, 1_000)},
            True,
            "0 of 3 trained tensors start from fixed numbers; never trained: sobel, 72 of 1,000 "
            "numbers",
        ),
        (
            "forbid",
            {"layer": "pretrained"},
            {"builds": Builds(3, (), (), ("a",), 900, 1_000, mostly_fixed=True)},
            False,
            "0 of 3 trained tensors start from fixed numbers; never trained: a, 900 of 1,000 "
            "numbers",
        ),
        (
            "forbid",
            {"layer": "pretrained"},
            {"builds": Builds(3, ())},
            True,
            "0 of 3 trained tensors start from fixed numbers",
        ),
        ("require", {"layer": "dilated", "at_least": 1}, {}, False, "0"),
        ("receptive field", {"more_than": 6}, {}, True, "9x7"),
        ("receptive field", {"more_than": 7}, {}, False, "9x7"),
        ("receptive field", {"at_least": 7}, {}, True, "9x7"),
        ("macs", {"at_most": 100}, {}, True, "100"),
        ("macs", {"fewer_than": 100}, {}, False, "100"),
        ("macs", {"fewer_than": 100}, {"layers": None}, None, "not judged: needs the graph"),
        ("views", {"at_most": 1}, {}, True, "1"),
        ("views", {"at_most": 4}, {"layers": DENSE}, True, "4, by second"),
        ("views", {"at_most": 3}, {"layers": DENSE}, False, "4, by second"),
        ("views", {"at_most": 4}, {"layers": None}, None, "not judged: needs the graph"),
        ("evaluation", {}, {}, True, "it does"),
        ("evaluation", {}, structure(dependence="random"), False, "random"),
        ("epochs", {"fewer_than": 6}, {}, True, "5"),
        ("epochs", {"at_most": 4}, {}, False, "5"),
        ("epochs", {"at_most": 4}, {"training": None}, None, "not judged: no run"),
        (
            "epochs",
            {"at_most": 5},
            {"training": dataclasses.replace(TRAINING, logged=4, agree=False)},
            False,
            "recipe 5, log 4, state 5",
        ),
        ("batch size", {"exactly": 128}, {}, True, "128"),
        ("batch size", {"exactly": 512}, {}, False, "128"),
        ("batch size", {"at_least": 64, "at_most": 128}, {}, True, "128"),
        ("batch size", {"at_least": 129}, {}, False, "128"),
        ("optimiser", {"accept": ["sgd"]}, {}, False, "muon and sgd"),
        ("optimiser", {"accept": ["sgd", "muon"]}, {}, True, "muon and sgd"),
        ("teacher", {"accept": ["none"]}, {}, True, "none"),
        ("teacher", {"accept": ["none"]}, {"training": TAUGHT}, False, "a network"),
        ("teacher", {"accept": ["none", "network"]}, {"training": TAUGHT}, True, "a network"),
        ("teacher", {"accept": ["network"]}, {}, False, "none"),
        ("schedule", {"name": "one-cycle"}, {}, True, "one-cycle, highest after 2 epochs"),
        ("schedule", {"name": "constant"}, {}, False, "one-cycle, highest after 2 epochs"),
        (
            "schedule",
            {"name": "one-cycle", "peak_epoch": 2},
            {},
            True,
            "one-cycle, highest after 2 epochs",
        ),
        (
            "schedule",
            {"name": "one-cycle", "peak_epoch": 1},
            {},
            False,
            "one-cycle, highest after 2 epochs",
        ),
        ("split", {}, {}, None, "not judged: no weights"),
        ("accuracy", {"at_least": 0.95}, {}, True, "epoch 5: 95.00 % (5 wrong of 100)"),
        ("accuracy", {"more_than": 0.95}, {}, False, "epoch 5: 95.00 % (5 wrong of 100)"),
        (
            "accuracy",
            {"at_least": 0.95, "last_epochs": 2},
            {},
            False,
            "epoch 4: 91.00 % (9 wrong of 100); epoch 5: 95.00 % (5 wrong of 100)",
        ),
        (
            "accuracy",
            {"at_least": 0.9, "last_epochs": 2},
            {"accuracies": {"val": Evaluated({0: (95, 100), 2: (95, 100)}, epochs=5)}},
            False,
            "epoch 5: 95.00 % (5 wrong of 100); weights of 1 epoch are missing",
        ),
        (
            "accuracy",
            {"at_least": 0.9, "last_epochs": 2},
            {"accuracies": ALONE},
            None,
            "95.00 % (5 wrong of 100); weights of 1 epoch are missing",
        ),
        (
            "accuracy",
            {"at_least": 0.96, "last_epochs": 2},
            {"accuracies": ALONE},
            False,
            "95.00 % (5 wrong of 100); weights of 1 epoch are missing",
        ),
        (
            "accuracy",
            {"at_least": 0.9, "split": "train"},
            {},
            True,
            "epoch 5: 90.00 % (50 wrong of 500)",
        ),
        ("accuracy", {"at_least": 0.9}, {"accuracies": {}}, None, "not judged: no weights"),
    ],
)
def test_a_kind_is_judged_on_facts(kind, limits, changes, passed, found):
    clause = Requirement(kind, limits, points=2).judge("row", "words", facts(**changes))
    assert (clause.clause, clause.required, clause.passed) == ("row", "words", passed)
    if found is not None:
        assert clause.found == found
    # What was not judged has no points, and is not passed.
    assert (clause.points, clause.max_points) == ({True: 2, False: 0, None: None}[passed], 2)


def test_every_kind_is_judged_in_words():
    for kind in KINDS.values():
        assert kind.name == kind.name.lower()
        assert type(kind).__doc__.endswith(".")


@pytest.mark.parametrize(
    ("correct", "points", "passed"),
    [
        (50, 0, False),
        (60, 1, False),
        (75, 2, False),
        (80, 3.5, False),
        (86, 5, True),
        (99, 5, True),
    ],
)
def test_points_are_linear_between_bands(correct, points, passed):
    bands = [[0.6, 1], [0.75, 2], [0.85, 5]]
    requirement = Requirement("accuracy", {"at_least": 0.86, "bands": bands}, 5)
    counts = {"val": Evaluated({0: (correct, 100)}, epochs=5)}
    clause = requirement.judge("accuracy", "", facts(accuracies=counts))
    assert clause.points == pytest.approx(points)
    assert clause.passed is passed


@pytest.mark.parametrize(("correct", "passed"), [(99, None), (93, False)])
def test_weights_of_one_epoch_get_the_points_of_the_bands(correct, passed):
    """An accuracy in several epochs is not shown by one, but is missed by one."""
    limits = {"at_least": 0.95, "last_epochs": 3, "bands": [[0.9, 0], [1.0, 10]]}
    alone = facts(accuracies={"val": Evaluated({0: (correct, 100)})})
    clause = Requirement("accuracy", limits, 10).judge("accuracy", "", alone)
    assert clause.passed is passed
    assert clause.points == pytest.approx(correct - 90)
    assert clause.how.endswith("points of the bands for the accuracy that was evaluated")
    assert ("not judged" in clause.how) is (passed is None)
    contract = Contract("c", "", 500, 100, (Requirement("accuracy", limits, 10),))
    unsteady = dataclasses.replace(alone, **structure(dependence="random"))
    assert judge(contract, unsteady)[-1].points == 0


def test_points_of_several_epochs_are_those_of_the_lowest():
    bands = {"at_least": 0.9, "last_epochs": 2, "bands": [[0.9, 0], [1.0, 10]]}
    clause = Requirement("accuracy", bands, 10).judge("accuracy", "", facts())
    assert clause.points == pytest.approx(1)


def test_an_accuracy_that_measures_nothing_has_no_points():
    contract = Contract("c", "", 500, 100, (Requirement("accuracy", {"at_least": 0.9}),))
    accuracy = judge(contract, facts())[-1]
    assert (accuracy.passed, accuracy.points) == (True, 1)
    accuracy = judge(contract, facts(**structure(dependence="random")))[-1]
    assert (accuracy.passed, accuracy.points) == (True, 0)
    assert accuracy.how.endswith("; no points, as evaluation fails")


def test_an_absurd_number_of_epochs_is_judged_at_once():
    found = training_facts(recipe(epochs=10**12, warmup=0.25), 500, [], 1)
    assert (found.agree, found.peak_epoch) == (False, 2.5e11)
    clause = Requirement("accuracy", {"at_least": 0.9, "last_epochs": 10**12})
    assert clause.judge("accuracy", "", facts()).passed is False


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 0.999])
def test_the_peak_is_where_the_learning_rate_is_highest(warmup):
    made, steps = recipe(epochs=3, batch_size=100, warmup=warmup), 15
    rates = [made.lr_at(step, steps) for step in range(steps)]
    assert made.peak_step(steps) == rates.index(max(rates))
    assert training_facts(made, 500, [1, 2, 3], 3).peak_epoch == (rates.index(max(rates)) + 1) / 5


class Rates(nn.Module):
    """Dropouts of PyTorch's two kinds, one by hand, and one that a factor follows."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, x):
        x = nn.functional.dropout(x, 0.25, self.training)
        x = nn.functional.dropout2d(x.view(-1, 49, 4, 4), 0.5, self.training).flatten(1)
        if self.training:
            x = x * (torch.rand_like(x) > 0.1)
        return self.head(x)


def test_the_rates_of_dropouts_are_stated_or_measured(split):
    model = capture(Rates(), audit_passes((1, 28, 28)))
    contract = Contract("c", "", 500, 100, (Requirement("dropout"),))
    found = structure_facts(model, split, contract, False, None, trained=False).structure
    rates = sorted(found.rates)
    assert [rate for rate, _ in rates] == [pytest.approx(0.1, abs=0.01), 0.25, 0.5]
    assert 0.001 < rates[0][1] < 0.01
    assert [uncertainty for _, uncertainty in rates[1:]] == [0, 0]


def test_a_convolution_is_a_linear_head_and_no_fully_connected_layer(splits):
    """So the head may be linear in a contract that forbids linear layers."""
    layers = nn.Conv2d(1, 4, 3, 3), nn.ReLU(), nn.Conv2d(4, 10, 9), nn.Flatten()
    clauses = [
        Requirement("head", {"accept": ["linear"]}),
        Requirement("forbid", {"layer": "linear"}),
    ]
    contract = Contract("c", "", 500, 100, clauses)
    verdict = audit_model(nn.Sequential(*layers), splits["mnist"], contract)
    assert [clause.passed for clause in verdict.clauses[:2]] == [True, True]


def test_outputs_that_change_are_counted_among_those_that_were_compared(split):
    found = find_structure(WrongMnist().eval(), split, everything=False)
    changed, compared = map(int, re.findall(r"\d+", found.dependence))
    assert found.dependence.endswith("outputs change with the other images of the batch")
    assert 32 < changed <= compared


def test_frozen_parameters_are_not_trainable(split):
    torch.manual_seed(0)
    model = SmallMnist()
    model[0].weight.requires_grad_(False)
    clauses = tuple(
        Requirement("parameters", {"at_most": n, "which": which})
        for n, which in ((622, "all"), (568, "trainable"))
    )
    verdict = audit_model(model, split, Contract("c", "", 500, 100, clauses))
    found = [clause.found for clause in verdict.clauses[:2]]
    assert found == ["622", "568"]
    assert verdict.passed


class Drawn(nn.Module):
    """Weights that the seed draws; what other networks start from stands in their files."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, num_classes)
        self.conv = nn.Conv2d(1, 8, 5)
        self.zero = nn.Conv2d(8, 8, 3)
        nn.init.zeros_(self.zero.weight)
        self.few = nn.Parameter(torch.arange(8.0))

    def filters(self, x):
        return self.conv(x)

    def forward(self, x):
        x = self.norm(self.filters(x) * self.few[:, None, None])
        return self.head((x[..., 1:-1, 1:-1] + self.zero(x)).amax((2, 3)))


def written(n):
    """Numbers that no seed draws, and that are no simple pattern."""
    return (torch.arange(float(n)) ** 2).sin()


class Filters(Drawn):
    """A first layer with weights that stand in the file and are trained."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.conv.weight = nn.Parameter(written(200).view(8, 1, 5, 5))


class Many(Drawn):
    """Trained weights in tensors of few numbers each, which are many together."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.parts = nn.ParameterList(written(20 * i)[-20:] for i in range(1, 11))
        self.conv.weight = nn.Parameter(torch.zeros(8, 1, 5, 5), requires_grad=False)

    def filters(self, x):
        return nn.functional.conv2d(x, torch.cat(list(self.parts)).view(8, 1, 5, 5))


class Identity(Drawn):
    """A layer that starts as the identity."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.more = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        nn.init.dirac_(self.more.weight)

    def filters(self, x):
        return self.more(self.conv(x))


class Positions(Drawn):
    """A table of positions, which is never trained, in a network of more numbers."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.register_buffer("table", written(784).view(28, 28))
        self.more = nn.Conv2d(8, 8, 5)

    def filters(self, x):
        return self.more(self.conv(x + self.table))


class Frozen(Filters):
    """Most of its weights stand in the file, and are never trained."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        self.zero.weight = nn.Parameter(written(576).view(8, 8, 3, 3))
        self.zero.weight.requires_grad_(False)
        self.conv.weight.requires_grad_(False)


class Transform(Drawn):
    """Most of its weights are a cosine transform, which is never trained."""

    def __init__(self, num_classes=10):
        super().__init__(num_classes)
        i = torch.arange(8.0)
        base = torch.cos((2 * i + 1) * i[:, None] * torch.pi / 16)
        self.register_buffer("cosines", torch.einsum("ux,vy->uvxy", base, base).view(64, 1, 8, 8))
        self.mix = nn.Conv2d(64, 8, 1)

    def filters(self, x):
        return self.mix(nn.functional.conv2d(x, self.cosines))


class Renamed(nn.Module):
    """Weights that stand in the file, under a name that the seed draws."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.name = f"w{torch.initial_seed()}"
        setattr(self, self.name, nn.Parameter(torch.arange(7840.0).view(10, 784).sin()))

    def forward(self, x):
        return x.flatten(1) @ getattr(self, self.name).T


PRETRAINED = Contract("c", "", 500, 100, (Requirement("forbid", {"layer": "pretrained"}),))


@pytest.mark.parametrize(
    ("network", "passed", "found"),
    [
        ("Drawn", True, "0 of 6 trained tensors start from fixed numbers"),
        ("Identity", True, "0 of 7 trained tensors start from fixed numbers"),
        ("SmallMnist", True, "0 of 4 trained tensors start from fixed numbers"),
        ("Positions", True, "0 of 8 trained tensors start from fixed numbers; never trained: tab"),
        ("Transform", True, "0 of 8 trained tensors start from fixed numbers; never trained: cos"),
        ("Filters", False, "2 of 6 trained tensors start from fixed numbers: conv.weight, few"),
        ("Many", False, "11 of 15 trained tensors start from fixed numbers: parts.0, parts.1,"),
        ("Frozen", False, "0 of 5 trained tensors start from fixed numbers; never trained: conv"),
        ("Renamed", False, "0 of 0 trained tensors start from fixed numbers; of other names or"),
    ],
)
def test_weights_that_the_seed_does_not_draw_are_found(network, passed, found, split, request):
    path = f"{request.path}:{network}"
    fresh = fresh_networks(path, {}, split, watched=True)
    clause = PRETRAINED.clauses[0].judge("", "", Facts(builds=compare_builds(fresh, seed=3)))
    assert clause.found.startswith(found)
    assert clause.passed is passed


NOISE = 0.01  # of what is loaded, in parts of a number


@pytest.mark.parametrize(
    "hide",
    [
        lambda weights: [torch.cat([weights, 1e6 * torch.randn(1)])],
        lambda weights: [torch.cat([weights, torch.tensor([torch.inf])])],
        lambda weights: [torch.cat([weights, torch.randn(1000)])],
        lambda weights: [part * (1 + NOISE * torch.randn(50)) for part in weights.split(50)],
        lambda weights: list(weights.split(1)),
    ],
)
def test_trained_weights_are_found_among_drawn_numbers_and_in_pieces(hide):
    def fresh(seed):
        torch.manual_seed(seed)
        return nn.ParameterList([torch.randn(100), *hide(written(500))])

    builds = compare_builds(fresh, seed=0)
    assert builds.alike
    assert "0" not in builds.alike


@pytest.mark.parametrize(
    "draw",
    [
        lambda: [nn.init.sparse_(torch.empty(80, 50), 0.9)],
        lambda: [torch.randn(80, 50).sign()],
        lambda: [1 + 0.02 * torch.randn(4) for _ in range(100)],
        lambda: [torch.full((8,), 0.1) for _ in range(100)],
    ],
)
def test_drawn_weights_of_few_different_numbers_or_in_pieces_are_not_pretrained(draw):
    def fresh(seed):
        torch.manual_seed(seed)
        return nn.ParameterList(draw())

    assert compare_builds(fresh, seed=0).alike == ()


def test_the_seed_of_the_run_and_the_next_one_are_compared(split):
    seeds = []

    def fresh(seed):
        seeds.append(seed)
        torch.manual_seed(seed)
        return SmallMnist()

    model = capture(SmallMnist(), audit_passes((1, 28, 28)))
    assert structure_facts(model, split, PRETRAINED, True, fresh, seed=7).builds.alike == ()
    assert seeds == [7, 8]


def test_a_network_that_is_watched_has_no_layer_table(split):
    forbid = Requirement("forbid", {"layer": "max-pool"}, points=3)
    contract = Contract("c", "", 500, 100, (forbid, Requirement("dropout")))
    verdict = audit_model(SmallMnist(), split, contract, False, "watched")
    clause = next(clause for clause in verdict.clauses if clause.clause == "no max-pool")
    assert (clause.found, clause.passed) == ("not judged: needs the graph", None)
    assert verdict.passed
    assert (verdict.points, verdict.max_points) == (1, 4)
    assert verdict.points_text == "points 1 of 1 judged, 4 in all"
