"""Training again: an honest run comes out to the bit, and no other."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_forge import CPU, FORGERIES, copy, edit_config

from featherweight import retrain as retraining
from featherweight.api import audit
from featherweight.audit import audit_run
from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.exported import load_exported
from featherweight.pretrained import find_pretrained
from featherweight.retrain import retrain, retrain_epochs
from featherweight.run import PLACE_KEYS, create_run, open_run
from featherweight.train import export_network, train
from featherweight.weights import tensors

pytestmark = pytest.mark.slow
EPOCHS = 3
SOURCE = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(1, 8, 6, stride=2, padding=2), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Dropout(0.05), nn.Flatten(), nn.Linear(8 * 196, num_classes))

class Learned(Net):
    # Its constructor loads weights that are trained already.
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.load_state_dict(torch.load(__file__.replace("own_net.py", "learned.pt")))
"""


def trained(folder, recipe, contract, split, model=None, keep_states=False):
    """Train a run as the command does: a network of a file as a graph."""
    if model is not None:
        recipe = dataclasses.replace(recipe, model=model, model_args={})
    graph = export_network(recipe, split, 0)
    assert (graph is None) == (model is None)
    run = create_run(str(folder), recipe, contract, split, 0, CPU, "", graph=graph)
    train(run, split, CPU, keep_states=keep_states)
    return run


@pytest.fixture(scope="module")
def recipe(tiny_recipe):
    return dataclasses.replace(tiny_recipe, epochs=EPOCHS)


@pytest.fixture(scope="module")
def images(digits):
    return load_split(str(digits), 500, 100)


@pytest.fixture(scope="module")
def honest(tmp_path_factory, recipe, tiny_contract, images):
    """A run of a network of this package, with the state after each epoch."""
    path = tmp_path_factory.mktemp("honest") / "run"
    return trained(path, recipe, tiny_contract, images, keep_states=True)


@pytest.fixture(scope="module")
def own(tmp_path_factory, recipe, tiny_contract, images):
    """A run of a network of a file, with the state after each epoch."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_net.py").write_text(SOURCE)
    model = f"{folder / 'own_net.py'}:Net"
    return trained(folder / "run", recipe, tiny_contract, images, model, keep_states=True)


@pytest.fixture
def run(honest, tmp_path):
    return copy(honest, tmp_path / "run")


@pytest.fixture(params=["honest", "own"])
def either(request, tmp_path):
    """A copy of each of both."""
    return copy(request.getfixturevalue(request.param), tmp_path / "run")


def test_an_honest_run_comes_out_to_the_bit(either, images):
    run = either
    clause = retrain(run, images, workers=1)
    assert clause.passed, clause
    assert clause.clause == "retrained"
    assert clause.found == f"the same in all {EPOCHS} epochs"
    verdict, _ = audit_run(run, images, retrained=clause)
    assert verdict.passed, verdict
    assert verdict.evidence == "retrained"
    assert "came out of training again" in verdict.basis
    assert clause in verdict.clauses


def test_any_number_of_workers_gives_the_same_bits(tmp_path, recipe, tiny_contract, images):
    ghosts = dataclasses.replace(recipe, ghost_batch=13)
    run = trained(tmp_path / "run", ghosts, tiny_contract, images)
    assert ghosts.n_ghosts == 2
    for workers in (1, 2):
        assert retrain(run, images, workers).passed


def test_the_source_is_what_is_trained_again(own, images, tmp_path):
    """Where it has moved or changed, there is nothing to train, or something else."""
    run = copy(own, tmp_path / "run")
    other = tmp_path / "own_net.py"
    other.write_text(SOURCE.replace("nn.Dropout(0.05)", "nn.Dropout(0.06)"))
    changed = edit_config(run, lambda config: config["recipe"].update(model=f"{other}:Net"))
    clause = retrain(changed, images, workers=1)
    assert clause.passed is False
    assert "another network, or other initial weights" in clause.found
    other.unlink()
    with pytest.raises(InputError, match="got no file"):
        retrain(changed, images, workers=1)


@pytest.fixture(scope="module")
def forged(honest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forged")
    short = honest.recipe
    assert short.epochs == EPOCHS
    return {forge.__name__: forge(honest, folder) for forge in FORGERIES}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("fewer_epochs", "epoch 1: log"),
        ("trained_on_validation", f"epoch {EPOCHS}: log"),
        ("gutted_contract", None),
        ("near_copies", None),
        ("trivial_data", None),
    ],
)
def test_a_forged_run_fails(forged, name, fault):
    """Three are trained as they say: their verdicts fail by the contract or the images."""
    run = open_run(forged[name])
    clause = retrain(run, run.load_split(), workers=1)
    verdict, _ = audit_run(run, run.load_split(), retrained=clause)
    assert not verdict.passed
    failed = {each.clause: each.found for each in verdict.failed}
    if fault is None:
        assert clause.passed, clause
        assert failed.keys() & {"contract", "split"}
        assert "retrained" not in failed
    else:
        assert fault in clause.found
        assert "other weights" in clause.found
        assert "retrained" in failed
        assert verdict.evidence == "weights"


def test_a_replaced_graph_fails(own, images, tmp_path):
    """Another network of the same weights' names and shapes, without its dropout."""
    run = copy(own, tmp_path / "run")
    graph = load_exported(run.read("graph.safetensors"))
    for each in graph.graphs:
        for operation in each.operations:
            if "dropout" in operation.target:
                operation.args[1] = 0.5
    run.write("graph.safetensors", graph.to_bytes())
    clause = retrain(open_run(run.path), images, workers=1)
    assert clause.passed is False
    assert clause.found.startswith("another network, or other initial weights, than ")


def test_replaced_initial_weights_fail(own, images, tmp_path):
    run = copy(own, tmp_path / "run")
    graph = load_exported(run.read("graph.safetensors"))
    with torch.no_grad():
        graph.get_parameter("5.bias")[0] += 1e-7
    run.write("graph.safetensors", graph.to_bytes())
    clause = retrain(open_run(run.path), images, workers=1)
    assert clause.passed is False
    assert clause.found == f"another network, or other initial weights, than {run.recipe.model}"


def test_a_constructor_that_has_learned_the_digits_fails(
    own, recipe, tiny_contract, images, tmp_path
):
    """Everything comes out to the bit, from weights that no training of the recipe has made."""
    (tmp_path / "own_net.py").write_text(SOURCE)
    learned = own.load_model()
    torch.save(tensors(learned), tmp_path / "learned.pt")
    model = f"{tmp_path / 'own_net.py'}:Learned"
    run = trained(tmp_path / "run", recipe, tiny_contract, images, model)
    clause = retrain(run, images, workers=1)
    assert clause.passed is False
    assert re.fullmatch(r"the initial weights, before any training, are right for .*", clause.found)


@pytest.mark.parametrize("key", ["val_correct", "val_loss", "train_loss", "lr"])
def test_a_log_of_which_one_epoch_is_edited_fails(run, images, key):
    rows = run.read_metrics()
    rows[1][key] += 1
    run.write_metrics(rows)
    clause = retrain(run, images, workers=1)
    assert clause.passed is False
    assert clause.found.startswith("epoch 2: log")
    assert "other weights" not in clause.found


def test_the_seconds_of_a_log_may_be_others(run, images):
    run.write_metrics([row | {"seconds": 1000.0} for row in run.read_metrics()])
    assert retrain(run, images, workers=1).passed


def test_one_other_bit_of_the_weights_fails(either, images):
    run = either
    state = safetensors.torch.load(run.read("model.safetensors"))
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name].view(-1).view(torch.int32)[0] ^= 1
    run.save_weights(state)
    clause = retrain(run, images, workers=1)
    assert clause.passed is False
    assert clause.found == "other weights"


def test_another_machine_is_named_where_the_bits_differ(run, images):
    values = dict(run.environment) | {"cpu": "another processor", "gpu": "another GPU"}
    run.write_json("environment.json", values)
    run = open_run(run.path)
    assert retrain(run, images, workers=1).passed  # not where they are the same
    run.write_metrics([row | {"val_loss": 9.0} for row in run.read_metrics()])
    clause = retrain(run, images, workers=1)
    assert "there another processor; gpu here None, there another GPU" in clause.found


def test_a_run_that_was_resumed_elsewhere_says_where(run, images):
    place = {key: run.environment[key] for key in PLACE_KEYS} | {"epoch": 2, "torch": "1.0"}
    run.write_json("environment.json", run.environment | {"resumed": [place]})
    run = open_run(run.path)
    assert retrain(run, images, workers=1).passed
    run.write_metrics([row | {"val_loss": 9.0} for row in run.read_metrics()])
    found = retrain(run, images, workers=1).found
    assert f"torch here {torch.__version__}, there {torch.__version__}, then 1.0" in found


# --- Some epochs ---


def test_an_epoch_is_trained_again_on_the_device_that_it_was_trained_on(run, images, monkeypatch):
    place = {key: run.environment[key] for key in PLACE_KEYS} | {"epoch": 2, "device": "mine"}
    run.write_json("environment.json", run.environment | {"resumed": [place]})
    asked = []
    monkeypatch.setattr(retraining, "pick_device", lambda name: asked.append(name) or CPU)
    assert retrain_epochs(open_run(run.path), images, EPOCHS, workers=1).passed
    assert asked == ["cpu", "cpu"] + ["mine"] * (EPOCHS - 2)


def test_places_that_did_not_train_an_epoch_are_no_excuse_for_it(run, images, monkeypatch):
    place = {key: run.environment[key] for key in PLACE_KEYS} | {"epoch": 2, "torch": "1.0"}
    run.write_json("environment.json", run.environment | {"resumed": [place]})
    monkeypatch.setattr(retraining, "_same", lambda one, other: isinstance(one, list))
    found = retrain_epochs(open_run(run.path), images, EPOCHS, workers=1).found
    assert found == "epoch 1: another state"


@pytest.mark.parametrize("k", range(1, EPOCHS + 1))
def test_some_epochs_come_out_to_the_bit(run, images, k):
    clause = retrain_epochs(run, images, k, workers=1)
    assert clause.passed, clause
    assert clause.clause == f"retrained-epochs {k}"
    verdict, _ = audit_run(run, images, retrained=clause)
    assert verdict.evidence == f"retrained-epochs {k}"
    assert len(re.findall(r"\d+", clause.found)) == k


def test_every_epoch_is_drawn(honest, images, monkeypatch):
    def noted(run, split, graph, folder, before, until, *_):
        seen.append(until)
        return run

    seen = []
    monkeypatch.setattr(retraining, "_train_again", noted)
    monkeypatch.setattr(retraining, "_same", lambda *_: True)
    for _ in range(60):
        retrain_epochs(honest, images, 1)
    assert {1, 2, 3} == set(seen)
    seen.clear()
    retrain_epochs(honest, images, 2)
    assert len(set(seen)) == 2


def test_a_state_that_was_changed_fails(run, images):
    """With the log and all later states as they were: the epoch after it comes out otherwise."""
    state = run.load_state(2)
    name = next(name for name, value in state["model"].items() if value.is_floating_point())
    state["model"][name].view(-1)[0] += 0.5
    buffer = run.path / "changed"
    torch.save(state, buffer)
    run.write("state-2.pt", buffer.read_bytes())
    clause = retrain_epochs(run, images, EPOCHS, workers=1)
    assert clause.passed is False
    assert clause.found.startswith("epoch 2: another state")
    verdict, _ = audit_run(run, images, retrained=clause)
    assert verdict.evidence == "weights"
    assert not verdict.passed


def test_a_log_that_was_changed_with_its_states_fails(run, images):
    """The rows of the log are in every state after them."""
    rows = run.read_metrics()
    rows[0]["val_correct"] += 1
    states = [run.load_state(epoch) for epoch in range(1, EPOCHS + 1)]
    for epoch, state in enumerate(states, 1):
        state["rows"][0]["val_correct"] += 1
        run.save_epoch(state, rows[:epoch] if epoch < EPOCHS else rows, keep=True)
    assert open_run(run.path).read_metrics() == rows
    clause = retrain_epochs(run, images, EPOCHS, workers=1)
    assert clause.passed is False
    assert clause.found.startswith("epoch 1: another state")


def test_the_log_is_compared_with_the_states(run, images):
    """A log that was changed alone."""
    rows = run.read_metrics()
    rows[0]["val_correct"] += 1
    run.write_metrics(rows)
    assert retrain_epochs(run, images, EPOCHS, workers=1).passed is False


def test_a_run_without_states_is_refused(run, images):
    for file in run.path.glob("state-*.pt"):
        file.unlink()
    with pytest.raises(InputError, match=r"got no state-[12]\.pt, expected the state after each"):
        retrain_epochs(run, images, 2, workers=1)


@pytest.mark.parametrize("k", [0, -1, EPOCHS + 1])
def test_a_wrong_number_of_epochs_is_refused(honest, images, k):
    with pytest.raises(InputError, match=f"got {k}, expected 1 to {EPOCHS}"):
        retrain_epochs(honest, images, k)


# --- By the function that everybody calls ---


def test_an_audit_trains_again_where_it_is_asked_to(honest, own, capsys):
    assert audit(honest).evidence == "weights"
    assert audit(honest, retrain=True, workers=1).evidence == "retrained"
    assert audit(own, retrain=True, workers=1).evidence == "retrained"
    assert audit(own, retrain_epochs=2, workers=1).evidence == "retrained-epochs 2"
    assert capsys.readouterr().out == ""


def test_what_has_no_training_is_refused(honest, tmp_path):
    for given in ({"retrain": True}, {"retrain_epochs": 1}):
        with pytest.raises(InputError, match="expected a run with the state of its training"):
            audit("feather-8k", **given)
        with pytest.raises(InputError, match="expected a run"):
            audit("featherweight.model:Feather", **given)
    with pytest.raises(InputError, match="expected one of them"):
        audit(honest, retrain=True, retrain_epochs=1)
    assert find_pretrained("feather-8k") is not None


def test_a_network_with_a_gradient_of_its_own_is_refused(tmp_path, recipe, tiny_contract, images):
    source = SOURCE + (
        "class Own(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, x): return x * 1.0\n"
        "    @staticmethod\n"
        "    def backward(ctx, gradient): return 2 * gradient\n"
        "class Straight(Net):\n"
        "    def forward(self, x): return super().forward(Own.apply(x.clone())) + 0 * "
        "Own.apply(self[0].bias.sum()) + Own.apply(self[5].bias)\n"
    )
    (tmp_path / "own_net.py").write_text(source)
    path = f"{tmp_path / 'own_net.py'}:Straight"
    few = dataclasses.replace(recipe, epochs=1)
    run = trained(tmp_path / "run", few, tiny_contract, images, path)
    assert run.load_graph().faithful is False
    with pytest.raises(InputError, match="has a gradient of its own, which its graph does not"):
        retrain(run, images, workers=1)


def test_nothing_is_left_in_the_folder(either, images, tmp_path, monkeypatch):
    run = either
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    retrain(run, images, workers=1)
    retrain_epochs(run, images, 1, workers=1)
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert before == after
    assert not Path("runs").exists()
    assert json.loads(before[run.path / "config.json"]) == run.config
    shutil.rmtree(run.path)
