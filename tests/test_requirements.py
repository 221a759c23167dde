"""Requirements: how each kind is judged, on facts and on networks."""

import dataclasses

import pytest
import torch
from torch import nn

from featherweight.audit import judge, structure_facts, training_facts
from featherweight.capture import capture
from featherweight.contract import CONTRACTS
from featherweight.data import Images, Split, load_split
from featherweight.evaluate import evaluate
from featherweight.facts import Evaluated
from featherweight.passes import audit_passes
from featherweight.recipe import Recipe
from featherweight.splits import find_split

ORDER = "contract", "clause"


class SmallMnist(nn.Sequential):
    """All that the contracts about MNIST ask for, in 658 parameters."""

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
def test_each_clause_of_a_built_in_contract_is_met_and_missed(contract, graphs, splits):
    split = splits[contract.data]
    mnist = contract.data == "mnist"
    met = graphs(GOOD.get(contract.name, "small-mnist" if mnist else "batch"))
    missed = graphs("wrong-mnist" if mnist else "wrong-cifar")
    good = recipe(epochs=24, batch_size=512, warmup=5 / 24)
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
