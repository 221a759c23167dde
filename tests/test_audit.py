"""Networks that cheat must fail an audit, and unusual but honest networks must pass it."""

import dataclasses
import json
import re
import threading

import pytest
import torch
from helpers import make_contract
from torch import nn
from torch.nn import functional as F

from featherweight.audit import audit_model, audit_run, audit_weights
from featherweight.data import Images, Split
from featherweight.errors import InputError
from featherweight.model import BaselineNet, Feather
from featherweight.passes import N_PROBE
from featherweight.run import create_run, open_run
from featherweight.train import train

CPU = torch.device("cpu")


def failed(model, split, contract):
    return {clause.clause for clause in audit_model(model, split, contract).failed}


class Net(nn.Module):
    """An honest network with 618 parameters; subclasses add one cheat each."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 5, stride=3)  # 416
        self.norm = nn.BatchNorm2d(16)  # 32
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(16, 10)  # 170

    def body(self, x):
        return self.drop(F.relu(self.norm(self.conv(x))))

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


NET = 416 + 32 + 170


class ZeroDropout(Net):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.0)


class DropoutInEvalMode(Net):
    def train(self, mode=True):
        super().train(mode)
        self.drop.eval()
        return self


class DropoutThrownAway(Net):
    def body(self, x):
        x = F.relu(self.norm(self.conv(x)))
        self.drop(x)
        return x


class DropoutTimesZero(Net):
    def body(self, x):
        x = F.relu(self.norm(self.conv(x)))
        return x + 0 * self.drop(x)


class NormNeverCalled(Net):
    def body(self, x):
        return self.drop(F.relu(self.conv(x)))


class NormThrownAway(Net):
    def body(self, x):
        x = self.conv(x)
        self.norm(x)
        return self.drop(F.relu(x))


class NormInEvalMode(Net):
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


class InstanceNorm(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(16, affine=True)


class PooledInTheMiddle(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x):
        x = self.body(x)
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        return self.head(x).amax((2, 3))


class ReluLast(Net):
    def forward(self, x):
        return F.relu(super().forward(x))


@pytest.mark.parametrize(
    ("net", "clause"),
    [
        (ZeroDropout, "dropout"),
        (DropoutInEvalMode, "dropout"),
        (DropoutThrownAway, "dropout"),
        (DropoutTimesZero, "dropout"),
        (NormNeverCalled, "batch norm"),
        (NormThrownAway, "batch norm"),
        (NormInEvalMode, "batch norm"),
        (InstanceNorm, "batch norm"),
        (PooledInTheMiddle, "head"),
        (ReluLast, "head"),
    ],
)
def test_cheats_in_the_layers_fail(net, clause, split, tiny_contract):
    assert failed(net(), split, tiny_contract) == {clause}


class InBuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.randn(16, 1300))

    def forward(self, x):
        return super().forward(x) + (self.body(x).mean((2, 3)) @ self.hidden).mean(1, keepdim=True)


class InPlainTensor(InBuffer):
    def __init__(self):
        Net.__init__(self)
        self.hidden = torch.randn(16, 1300)


class InPythonList(Net):
    def __init__(self):
        super().__init__()
        self.hidden = [nn.Linear(16, 1300, bias=False)]

    def forward(self, x):
        return super().forward(x) + self.hidden[0](self.body(x).mean((2, 3))).mean(1, keepdim=True)


class InListOfNumbers(InBuffer):
    def __init__(self):
        Net.__init__(self)
        self.numbers = torch.randn(16, 1300).tolist()

    @property
    def hidden(self):
        return torch.tensor(self.numbers)


class InNumpy(InListOfNumbers):
    def __init__(self):
        Net.__init__(self)
        self.array = torch.randn(16, 1300).numpy()

    @property
    def hidden(self):
        return torch.from_numpy(self.array)


class Frozen(InPythonList):
    def __init__(self):
        super().__init__()
        self.hidden[0].requires_grad_(False)


class InSmallPieces(Net):
    def __init__(self):
        super().__init__()
        self.pieces = [torch.randn(16, 4) for _ in range(325)]

    def forward(self, x):
        pooled = self.body(x).mean((2, 3))
        products = torch.cat([pooled @ piece for piece in self.pieces], 1)
        return super().forward(x) + products.mean(1, keepdim=True)


class OnlyForSomeImages(InPythonList):
    """A network that reads its hidden weights for one validation image only."""

    def __init__(self, trigger):
        super().__init__()
        self.trigger = trigger

    def forward(self, x):
        found = (x[:, 0, 0, 0] == self.trigger).any()
        return super().forward(x) if found else Net.forward(self, x)


class LessTheFirst(Net):
    def forward(self, x):
        out = super().forward(x)
        return out - out[:1]


def test_outputs_that_change_with_their_batch_are_counted_among_those_compared(
    split, tiny_contract
):
    verdict = audit_model(LessTheFirst(), split, tiny_contract)
    (clause,) = (clause for clause in verdict.clauses if clause.clause == "evaluation")
    changed, among = map(int, re.match(r"(\d+) of (\d+) outputs change", clause.found).groups())
    assert N_PROBE <= changed <= among


@pytest.mark.parametrize(
    "net", [InBuffer, InPlainTensor, InPythonList, InListOfNumbers, InNumpy, Frozen, InSmallPieces]
)
def test_hidden_weights_are_counted_once(net, split, tiny_contract):
    verdict = audit_model(net(), split, tiny_contract)
    parameters = next(clause for clause in verdict.clauses if clause.clause == "parameters")
    assert parameters.found == f"{NET + 16 * 1300:,}"
    assert not parameters.passed


def test_weights_read_for_one_image_are_counted(split, tiny_contract):
    pixels = split.val.pixels.clone()
    pixels[:, 0, 0, 0] = 0
    pixels[-1, 0, 0, 0] = 255
    marked = Split(None, split.train, Images(pixels, split.val.labels), split.num_classes)
    mean, std = marked.mean_std
    trigger = (torch.tensor(255.0) - 255 * mean) / (255 * std)
    train_corner = split.train.pixels[:128, 0, 0, 0]
    assert (train_corner != 255).all()
    model = OnlyForSomeImages(trigger.item())
    verdict = audit_model(model, marked, tiny_contract, True, "watched")
    assert "parameters" in {clause.clause for clause in verdict.failed}
    with pytest.raises(InputError, match="needs the values of a tensor as numbers"):
        audit_model(model, marked, tiny_contract)


class Functional(Net):
    def body(self, x):
        n = self.norm
        x = F.batch_norm(
            self.conv(x), n.running_mean, n.running_var, n.weight, n.bias, self.training, 0.1
        )
        return F.dropout(F.relu(x), 0.2, self.training)


class Shared(Net):
    """A network that applies one layer three times."""

    def __init__(self):
        super().__init__()
        self.again = nn.Conv2d(16, 16, 1, bias=False)  # 256

    def body(self, x):
        x = super().body(x)
        for _ in range(3):
            x = F.relu(self.again(x))
        return x


class PoolingLast(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x):
        return F.adaptive_avg_pool2d(self.head(self.body(x)), 1).flatten(1).log_softmax(1)


class AveragePoolOfTheMap(PoolingLast):
    def forward(self, x):
        x = self.head(self.body(x))
        return F.avg_pool2d(x, x.shape[-1]).squeeze((2, 3))


class MatrixProduct(Net):
    def forward(self, x):
        logits = self.body(x).mean((2, 3)) @ self.head.weight.t() + self.head.bias
        return logits - logits.logsumexp(1, keepdim=True)


class ConvOnPooled(PoolingLast):
    def forward(self, x):
        return self.head(self.body(x).mean((2, 3), keepdim=True)).flatten(1)


class ConvOverTheMap(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(16, 10, 8)

    def forward(self, x):
        return self.head(self.body(x)).view(-1, 10)


@pytest.mark.parametrize(
    ("net", "numbers"),
    [
        (Net, NET),
        (Functional, NET),
        (Shared, NET + 256),
        (PoolingLast, NET),
        (AveragePoolOfTheMap, NET),
        (MatrixProduct, NET),
        (ConvOnPooled, NET),
        (ConvOverTheMap, NET - 160 + 16 * 640),
        (BaselineNet, 18_746),
        (lambda: Feather(["conv 8", "pool", "conv 8 x3"]), 72 + 16 + 576 + 48 + 90),
        (lambda: Feather(["conv 8 k5", "sep 12"]), 200 + 16 + 72 + 96 + 24 + 130),
    ],
)
def test_honest_networks_pass(net, numbers, split, tiny_contract):
    verdict = audit_model(net(), split, tiny_contract)
    assert verdict.passed, verdict
    assert verdict.clauses[0].found == f"{numbers:,}"


class NeverInEvalMode(Net):
    def eval(self):
        return self


@pytest.mark.parametrize("evidence", ["graph", "watched"])
def test_a_network_whose_eval_does_nothing_fails(evidence, split, tiny_contract):
    clauses = audit_model(NeverInEvalMode(), split, tiny_contract, evidence=evidence).failed
    assert "evaluation" in {clause.clause for clause in clauses}


def test_a_head_that_the_contract_does_not_take_fails(split, tiny_contract):
    assert failed(Net(), split, make_contract(heads=("gap",))) == {"head"}


class Decoy(Net):
    """A network whose copies are another network."""

    def __init__(self):
        super().__init__()
        self.large = nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.Linear(30, 10))

    def __deepcopy__(self, memo):
        return Net().train(self.training)

    def forward(self, x):
        return self.large(x)


class CannotBeCopied(Net):
    def __init__(self):
        super().__init__()
        self.lock, self.calls = threading.Lock(), 0

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def test_the_network_itself_is_judged_not_a_copy(split, tiny_contract):
    assert failed(Decoy(), split, tiny_contract) == {"parameters", "batch norm", "dropout"}
    assert audit_model(CannotBeCopied(), split, tiny_contract).passed


UNJUDGED = ["epochs", "split", "accuracy", "weights", "log"]


def test_a_class_is_judged_by_its_structure_alone(split, tiny_contract):
    verdict = audit_model(Net(), split, tiny_contract)
    assert [clause.clause for clause in verdict.judged] == [
        "parameters",
        "batch norm",
        "dropout",
        "head",
        "evaluation",
    ]
    assert [clause.clause for clause in verdict.not_judged] == UNJUDGED
    assert all(clause.found.startswith("not judged: no ") for clause in verdict.not_judged)
    assert (verdict.passed, verdict.failed, verdict.scope) == (True, (), "structure")
    values = json.loads(json.dumps(verdict.to_dict()))
    assert (values["passed"], values["not_judged"]) == (True, UNJUDGED)
    assert [each["passed"] for each in values["clauses"]] == [True] * 5 + [None] * 5
    spoiled = audit_model(ZeroDropout(), split, tiny_contract)
    assert (spoiled.passed, len(spoiled.failed)) == (False, 1)


def test_fewer_images_may_be_watched(split, tiny_contract):
    how = audit_model(Net(), split, tiny_contract, False, "watched").clauses[0].how
    assert "over 64 of 100 images" in how
    how = audit_model(Net(), split, tiny_contract, True, "watched").clauses[0].how
    assert "over 100 images" in how


class Flat(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16 * 8 * 8, 10)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def learnt(split, mean, std):
    """A network trained on images with another normalisation than the project's."""
    torch.manual_seed(0)
    model = Flat()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    images = (split.train.pixels.float() / 255 - mean) / std
    for _ in range(4):
        for batch in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), split.train.labels[batch]).backward()
            optimizer.step()
    return model.eval()


def test_weights_trained_elsewhere_are_judged_on_all_but_the_run(split, tiny_contract):
    model = learnt(split, -3.0, 0.25)
    with torch.no_grad():
        expected = int(
            (model((split.val.pixels.float() / 255 + 3) / 0.25).argmax(1) == split.val.labels).sum()
        )
    verdict, result = audit_weights(model, split, tiny_contract, (-3.0, 0.25))
    found = {clause.clause: clause for clause in verdict.clauses}
    assert list(found) == ["parameters", "batch norm", "dropout", "head", "evaluation", *UNJUDGED]
    assert [clause.clause for clause in verdict.not_judged] == ["epochs", "weights", "log"]
    assert (verdict.passed, verdict.scope, result.correct) == (True, "weights", expected)
    assert expected > 80
    assert found["accuracy"].found == f"{expected:.2f} % ({100 - expected} wrong of 100)"
    assert "mean -3.0000 and std 0.2500, as given" in found["accuracy"].how
    wrong, worse = audit_weights(model, split, tiny_contract)
    assert (
        "those of the training images"
        in next(c for c in wrong.clauses if c.clause == "accuracy").how
    )
    assert worse.correct < expected - 20
    assert [clause.clause for clause in wrong.failed] == ["accuracy"]


def test_one_epochs_weights_cannot_show_three_epochs(split, tiny_contract):
    three = make_contract(consistent_epochs=3)
    model = learnt(split, 0.0, 1.0)
    verdict, _ = audit_weights(model, split, three, (0.0, 1.0))
    accuracy = next(clause for clause in verdict.clauses if clause.clause == "accuracy")
    assert (accuracy.passed, verdict.passed) == (None, True)
    assert "weights of 2 epochs are missing" in accuracy.found
    verdict, _ = audit_weights(
        model, split, make_contract(consistent_epochs=3, min_val_accuracy=1.0), (5.0, 1.0)
    )
    assert [clause.clause for clause in verdict.failed] == ["accuracy"]


def test_images_among_the_training_images_fail_without_a_run_too(split, tiny_contract):
    pixels = split.val.pixels.clone()
    pixels[3] = split.train.pixels[17]
    overlapping = Split(None, split.train, Images(pixels, split.val.labels), split.num_classes)
    verdict, _ = audit_weights(learnt(split, 0.0, 1.0), overlapping, tiny_contract, (0.0, 1.0))
    assert [clause.clause for clause in verdict.failed] == ["split"]


def test_an_audit_leaves_the_network_as_it_was(split, tiny_contract):
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    audit_model(net, split, tiny_contract)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training


@pytest.fixture
def trained(tmp_path, split, tiny_recipe, tiny_contract):
    run = create_run(str(tmp_path / "run"), tiny_recipe, tiny_contract, split, 0, CPU, "test")
    train(run, split, CPU)
    return run


def run_failures(run, split, contract=None):
    verdict, _ = audit_run(open_run(run.path), split, contract)
    return {clause.clause for clause in verdict.clauses if not clause.passed}


def test_an_honest_run_passes(trained, split):
    assert run_failures(trained, split) == set()


COUNTS = """
import torch
from torch import nn
class Counts(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.BatchNorm1d(784), nn.Dropout(0.1), nn.Linear(784, 10))
        self.register_buffer("passes", torch.tensor(0))
    def forward(self, x):
        self.passes += 1
        return super().forward(x)
"""


def test_a_network_that_counts_its_passes_has_its_own_weights(
    tmp_path, split, tiny_recipe, tiny_contract
):
    (tmp_path / "counts.py").write_text(COUNTS)
    recipe = dataclasses.replace(
        tiny_recipe, model=f"{tmp_path}/counts.py:Counts", model_args={}, epochs=1
    )
    run = create_run(str(tmp_path / "run"), recipe, tiny_contract, split, 0, CPU, "test")
    train(run, split, CPU)
    verdict, _ = audit_run(open_run(run.path), split, evidence="watched")
    assert next(clause for clause in verdict.clauses if clause.clause == "weights").passed


def test_a_log_edited_to_look_better_fails(trained, split):
    rows = trained.read_metrics()
    rows[-1]["val_correct"] += 1
    trained.write_metrics(rows)
    assert run_failures(trained, split) == {"log"}


def test_a_log_with_an_epoch_too_few_fails(trained, split):
    trained.write_metrics(trained.read_metrics()[:-1])
    assert run_failures(trained, split) == {"epochs", "log"}


def test_weights_of_another_network_fail(trained, split):
    trained.save_weights(BaselineNet().state_dict())
    verdict, result = audit_run(open_run(trained.path), split)
    assert result is None
    assert [clause.clause for clause in verdict.failed] == ["weights"]
    # The contract's clauses are there, with the points that can't be reached.
    rows = [title for title, _, _ in trained.contract.rows]
    assert [clause.clause for clause in verdict.not_judged] == rows
    assert (verdict.points, verdict.max_points) == (0, 6)


def test_weights_of_another_training_fail(trained, split):
    model = trained.load_model()
    with torch.no_grad():
        model.head.bias.add_(torch.arange(10.0))
    trained.save_weights(model.state_dict())
    assert {"weights", "log"} <= run_failures(trained, split)


def test_twenty_epochs_fail_and_nineteen_pass(tmp_path, split, tiny_recipe, tiny_contract):
    for epochs, expected in ((19, set()), (20, {"epochs"})):
        recipe = dataclasses.replace(tiny_recipe, epochs=epochs)
        run = create_run(str(tmp_path / str(epochs)), recipe, tiny_contract, split, 0, CPU, "test")
        train(run, split, CPU)
        assert run_failures(run, split) == expected


def test_too_low_an_accuracy_fails(trained, split, tiny_contract):
    impossible = make_contract(min_val_accuracy=1.0)
    val = Images(split.val.pixels, (split.val.labels + 1) % 10)
    wrong = Split(split.source, split.train, val, split.num_classes)
    assert "accuracy" in run_failures(trained, wrong, impossible)


def test_every_one_of_the_last_epochs_is_evaluated_again(
    tmp_path, split, tiny_recipe, tiny_contract
):
    three = make_contract(consistent_epochs=3)
    recipe = dataclasses.replace(tiny_recipe, epochs=8)
    run = create_run(str(tmp_path / "run"), recipe, three, split, 0, CPU, "test")
    train(run, split, CPU)
    assert run_failures(run, split) == set()
    (run.path / "epoch-6.safetensors").unlink()
    assert run_failures(run, split) == {"accuracy"}


def test_validation_images_among_the_training_images_fail(
    tmp_path, split, tiny_recipe, tiny_contract
):
    pixels = split.val.pixels.clone()
    pixels[3] = split.train.pixels[17]
    overlapping = Split(
        split.source, split.train, Images(pixels, split.val.labels), split.num_classes
    )
    run = create_run(str(tmp_path / "run"), tiny_recipe, tiny_contract, overlapping, 0, CPU, "test")
    train(run, overlapping, CPU)
    assert run_failures(run, overlapping) == {"split"}


def test_the_split_of_another_size_fails(trained, split):
    assert "split" in run_failures(
        trained, split, make_contract(data="mnist", min_val_accuracy=0.0)
    )


def test_a_verdict_goes_to_json(trained, split):
    verdict, _ = audit_run(trained, split)
    assert json.loads(json.dumps(verdict.to_dict()))["passed"] is True
