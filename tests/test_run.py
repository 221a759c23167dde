import dataclasses
import json
import os

import pytest
import torch
from torch import nn

from featherweight.audit import audit_run
from featherweight.data import Images, Split
from featherweight.run import IncompatibleWeightsError, create_run, open_run, write_atomic
from featherweight.train import train

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_recipe, tiny_contract, split):
    monkeypatch.chdir(tmp_path)
    return create_run(None, tiny_recipe, tiny_contract, split, 5, CPU, "featherweight train")


def test_a_run_says_what_it_was_made_from(run, tiny_recipe, tiny_contract, split):
    again = open_run(run.path)
    assert (again.recipe, again.contract, again.seed) == (tiny_recipe, tiny_contract, 5)
    assert again.load_split().sha256 == split.sha256
    assert not again.complete
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["command"] == "featherweight train"


def test_folders_are_numbered_and_never_overwritten(run, tiny_recipe, tiny_contract, split):
    second = create_run(None, tiny_recipe, tiny_contract, split, 5, CPU, "")
    assert [run.path.name, second.path.name] == ["tiny-s5-1", "tiny-s5-2"]
    with pytest.raises(ValueError, match="exists"):
        create_run(str(run.path), tiny_recipe, tiny_contract, split, 5, CPU, "")
    assert {path.name for path in run.path.parent.iterdir()} == {"tiny-s5-1", "tiny-s5-2"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.unlink(), "not a run folder"),
        (lambda c: c.write_text("{"), "damaged"),
        (lambda c: c.write_text("[]"), "damaged"),
        (lambda c: c.write_text("[" * 200_000), "damaged"),
        (lambda c: c.write_text(" " * 1_000_001), "got over 1,000,000 bytes"),
        (
            lambda c: c.write_text(c.read_text().replace('"format": 1', '"format": 2')),
            "version 2, expected version 1",
        ),
        (lambda c: c.write_text(c.read_text().replace('"epochs": 4', '"epochs": 0')), "epochs"),
        (
            lambda c: c.write_text(c.read_text().replace('"max_params"', '"most_params"')),
            "most_params",
        ),
        (lambda c: c.write_text(json.dumps({"format": 1})), "incomplete"),
    ],
)
def test_what_is_no_run_is_refused(run, spoil, message):
    spoil(run.path / "config.json")
    with pytest.raises(ValueError, match=message):
        open_run(run.path)


def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_atomic(file, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_weights_come_back_and_another_networks_do_not(run):
    with pytest.raises(ValueError, match="finished run"):
        run.load_model()
    model = run.build_model()
    run.save_weights(model.state_dict())
    assert run.complete
    loaded = run.load_model().state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    run.save_weights(nn.Linear(3, 4).state_dict())
    with pytest.raises(IncompatibleWeightsError):
        run.load_model()
    (run.path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(IncompatibleWeightsError):
        run.load_model()


TIED = """
from torch import nn
class Tied(nn.Sequential):
    def __init__(self):
        layer = nn.Linear(10, 10)
        super().__init__(nn.Flatten(), nn.Linear(784, 10), layer, layer)
"""


def test_layers_that_share_memory_are_saved_and_still_share_it(
    run, tmp_path, tiny_recipe, tiny_contract, split
):
    (tmp_path / "tied_net_of_a_stranger.py").write_text(TIED)
    recipe = dataclasses.replace(tiny_recipe, model="tied_net_of_a_stranger:Tied", model_args={})
    run = create_run("tied", recipe, tiny_contract, split, 0, CPU, "")
    model = run.build_model()
    run.save_weights(model.state_dict())
    loaded = run.load_model()
    assert loaded[2] is loaded[3]
    assert torch.equal(loaded[2].weight, model[3].weight)


EXTRA = """
from torch import nn
class Extra(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(784, 10))
    def get_extra_state(self): return {"version": object()}
    def set_extra_state(self, state): assert set(state) == {"version"}
"""


def test_a_network_with_extra_state_is_trained_resumed_and_audited(
    run, tmp_path, tiny_recipe, tiny_contract, split
):
    (tmp_path / "extra_net.py").write_text(EXTRA)
    recipe = dataclasses.replace(tiny_recipe, model="extra_net.py:Extra", model_args={}, epochs=3)
    run = create_run("extra", recipe, tiny_contract, split, 0, CPU, "")

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, split, CPU, on_epoch=stop)
    train(open_run("extra"), split, CPU)
    verdict, _ = audit_run(open_run("extra"), split)
    assert {clause.clause for clause in verdict.failed} <= {"batch norm", "dropout", "accuracy"}


LAZY = """
from torch import nn
class Lazy(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.LazyLinear(10))
"""


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_runs_network_is_built_for_its_images(run, tmp_path, tiny_recipe, tiny_contract, split):
    (tmp_path / "lazy_net.py").write_text(LAZY)
    train, val = (
        Images(part.pixels[..., :20, :18].clone(), part.labels) for part in (split.train, split.val)
    )
    small = Split(None, train, val, split.num_classes)
    recipe = dataclasses.replace(tiny_recipe, model="lazy_net.py:Lazy", model_args={})
    run = create_run("lazy", recipe, tiny_contract, small, 0, CPU, "")
    assert run.build_model()[1].weight.shape == (10, 20 * 18)


def test_metrics_come_back(run):
    rows = [{"epoch": 1, "val_loss": 0.1}, {"epoch": 2, "val_loss": 1e-9}]
    run.write_metrics(rows)
    assert run.read_metrics() == rows
    (run.path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(ValueError, match="unreadable"):
        run.read_metrics()


def test_a_damaged_state_is_refused(run):
    assert run.load_resume() is None
    (run.path / "resume.pt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        run.load_resume()


def test_other_images_than_the_runs_are_refused(run, tmp_path, digits):
    from helpers import make_digits, write_idx, write_mnist

    other = write_mnist(tmp_path / "other")
    images, _ = make_digits(600, 99)
    write_idx(other / "train-images-idx3-ubyte.gz", images)
    with pytest.raises(ValueError, match="expected the run's"):
        run.load_split(str(other))
