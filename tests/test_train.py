"""The training loop: seeds, resuming, EMA, divergence."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_contract

import featherweight
from featherweight.audit import audit_run
from featherweight.augment import resized
from featherweight.build import build
from featherweight.data import Images, load_split
from featherweight.device import pick_device, seed_everything
from featherweight.errors import InputError
from featherweight.evaluate import evaluate
from featherweight.recipe import Augmentation, Recipe
from featherweight.run import PLACE_KEYS, create_run, open_run
from featherweight.studies.rows import Outcome, make_row
from featherweight.synthetic import NO_DIGIT
from featherweight.train import DivergedError, export_network, train
from featherweight.trainer import Trainer, probabilities

CPU = torch.device("cpu")


@pytest.fixture
def make(tmp_path, split, tiny_recipe, tiny_contract):
    def make(name, recipe=tiny_recipe, contract=tiny_contract, seed=0):
        return create_run(str(tmp_path / name), recipe, contract, split, seed, CPU, "")

    return make


def weights(run):
    return (run.path / "model.safetensors").read_bytes()


def test_it_learns_and_logs_every_epoch(make, split, tiny_recipe):
    run, told = make("run"), []
    train(run, split, CPU, on_epoch=told.append)
    rows = run.read_metrics()
    assert rows == told
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == {
        "epoch",
        "seconds",
        "lr",
        "train_loss",
        "val_loss",
        "val_correct",
        "val_total",
    }
    assert rows[-1]["val_correct"] > 50
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_colour_images_are_trained_audited_and_opened_again(tmp_path, tiny_recipe, tiny_contract):
    """Of two classes, which only the colour tells apart."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 90, (600, 9, 8, 3), np.uint8), np.arange(600) % 2
    images[labels == 1, ..., 0] += 100
    images[labels == 0, ..., 2] += 100
    parts = {"train": slice(500), "val": slice(500, 600)}
    arrays = {f"{part}_images": images[where] for part, where in parts.items()}
    arrays |= {f"{part}_labels": labels[where] for part, where in parts.items()}
    np.savez(tmp_path / "colour.npz", **arrays, classes=["blue", "red"])
    split = load_split(str(tmp_path / "colour.npz"), 500, 100)
    recipe = dataclasses.replace(
        tiny_recipe,
        epochs=2,
        batch_size=50,
        ghost_batch=25,
        model_args={"layers": ["conv 8 s2", "sep 8 p2 d2"], "dropout": 0.05},
        augmentation=Augmentation(rotation=5, crop=1, flip=0.5, cutout=3),
    )
    run = create_run(str(tmp_path / "run"), recipe, tiny_contract, split, 0, CPU, "")
    train(run, split, CPU)
    verdict, result = audit_run(run, split)
    assert verdict.passed, verdict
    assert result.correct == 100
    opened = open_run(run.path)
    assert opened.config["data"]["kind"] == split.kind.to_dict()
    assert opened.load_model()(torch.zeros(1, 3, 9, 8)).shape == (1, 2)


def test_a_seed_means_the_same_bits_and_another_does_not(make, split):
    runs = [make(f"run{i}", seed=seed) for i, seed in enumerate((0, 0, 1))]
    for run in runs:
        train(run, split, CPU)
    assert weights(runs[0]) == weights(runs[1]) != weights(runs[2])


def test_images_are_small_in_the_first_steps_alone(split, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, resize=0.8, resize_until=0.6)
    model = build(recipe.model, recipe.model_args, 10)
    sides = []
    model.register_forward_pre_hook(lambda model, images: sides.append(tuple(images[0].shape[2:])))
    trainer = Trainer(recipe, model, split.train, split.mean_std)
    for epoch in range(recipe.epochs):
        list(trainer.steps(epoch, seed_everything(0, epoch)))
    assert sides == [(22, 22)] * 48 + [(28, 28)] * 32


def test_smaller_images_keep_their_mean_and_place():
    images = torch.zeros(1, 1, 28, 28)
    images[..., 7:21, 10:24] = 1
    small = resized(images, 0.5)
    torch.testing.assert_close(small.mean(), images.mean(), atol=1e-3, rtol=0)
    columns = (small.sum(2).flatten() * (torch.arange(14) + 0.5)).sum() / small.sum()
    assert columns.item() == pytest.approx(17 / 2, abs=0.02)


def test_a_network_that_cannot_take_the_smaller_images_is_refused_at_once(make, tiny_recipe, split):
    run = make("run", dataclasses.replace(tiny_recipe, resize=0.1, resize_until=0.5))
    with pytest.raises(
        ValueError,
        match=r"fails on images \(8, 1, 3, 3\).*first steps are smaller.*does not resize",
    ):
        train(run, split, CPU)


@pytest.mark.parametrize("weight_bits", [0, 4])
def test_a_run_with_the_keys_of_early_runs_resumes_and_is_audited(
    make, split, tiny_recipe, weight_bits
):
    recipe = dataclasses.replace(tiny_recipe, weight_bits=weight_bits)
    whole, early = make("whole", recipe), make("early", recipe)
    train(whole, split, CPU)

    def rename_keys(run):
        state = run.load_resume()
        ema, evaluated = state.pop("ema"), state.pop("evaluated")
        state |= {"averaged": evaluated} | ({"unrounded": ema} if weight_bits else {})
        run.save_resume(state)

    def stop(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(early, split, CPU, on_epoch=stop)
    rename_keys(early)
    train(open_run(early.path), split, CPU)
    assert weights(early) == weights(whole)
    rename_keys(early)
    verdict, _ = audit_run(open_run(early.path), split)
    assert "weights" in {clause.clause for clause in verdict.clauses if clause.passed}


@pytest.mark.parametrize("muon", [0.0, 0.2])
@pytest.mark.parametrize("stop_at", [(1, 7), (3, 1), (4, 20)])
def test_a_stopped_run_resumes_to_the_same_bits(make, split, tiny_recipe, stop_at, muon):
    recipe = dataclasses.replace(tiny_recipe, muon=muon)
    whole, stopped = make("whole", recipe), make("stopped", recipe)
    train(whole, split, CPU)

    def stop(epoch, step, n_steps, loss):
        if (epoch, step) >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, split, CPU, on_batch=stop)
    assert not stopped.complete
    train(open_run(stopped.path), split, CPU)
    assert weights(stopped) == weights(whole)
    losses = [[row["val_loss"] for row in run.read_metrics()] for run in (whole, stopped)]
    assert losses[0] == losses[1]


def test_steps_take_the_threads_that_the_run_says_and_evaluation_those_there_are(
    split, tiny_recipe, tiny_contract, tmp_path
):
    run = create_run(
        str(tmp_path / "run"), tiny_recipe, tiny_contract, split, 0, CPU, "", threads=2
    )
    seen = {"steps": set(), "epochs": set()}
    train(
        open_run(run.path),
        split,
        CPU,
        on_batch=lambda *_: seen["steps"].add(torch.get_num_threads()),
        on_epoch=lambda _: seen["epochs"].add(torch.get_num_threads()),
    )
    assert seen == {"steps": {2}, "epochs": {1}}


def test_a_run_stopped_between_epochs_resumes_to_the_same_bits(make, split):
    whole, stopped = make("whole"), make("stopped")
    train(whole, split, CPU)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, split, CPU, on_epoch=stop)
    assert [row["epoch"] for row in stopped.read_metrics()] == [1]
    rest = []
    train(open_run(stopped.path), split, CPU, on_epoch=rest.append)
    assert [row["epoch"] for row in rest] == [2, 3, 4]
    assert weights(stopped) == weights(whole)


def test_a_run_that_goes_on_in_another_place_says_where(make, split):
    run = make("run")

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, split, CPU, on_epoch=stop)
    here = {key: run.environment[key] for key in PLACE_KEYS}
    there = {"torch": "1.0", "device": "cuda:0", "gpu": "a GPU", "python": "3.0", "commit": None}
    run.write_json("environment.json", run.environment | there)
    with pytest.raises(KeyboardInterrupt):
        train(open_run(run.path), split, CPU, on_epoch=stop)
    train(open_run(run.path), split, CPU)  # once more, in the same place
    run = open_run(run.path)
    assert run.environment["resumed"] == [{"epoch": 1} | here]
    begun, then = run.places
    assert (begun["epoch"], begun["torch"], begun["gpu"]) == (0, "1.0", "a GPU")
    assert (then["epoch"], then["torch"], then["gpu"]) == (1, torch.__version__, None)
    assert then["threads"] == begun["threads"]
    row = make_row(run, Outcome.PASS, 1)
    assert (row["torch"], row["device"]) == (f"1.0; {torch.__version__}", "cuda:0; cpu")
    assert row["python"] == f"3.0; {here['python']}"
    assert row["cpu"] == here["cpu"]
    assert row["commit"] == (here["commit"] or "")  # what is not known is left out
    # A finished run is not trained any further, wherever it is opened.
    run.write_json("environment.json", run.environment | there | {"resumed": []})
    train(open_run(run.path), split, CPU)
    assert open_run(run.path).environment["resumed"] == []


def test_a_place_where_no_epoch_was_finished_is_left_out(make, split):
    run = make("run")
    here = dict(run.environment)

    def stop(row):
        raise KeyboardInterrupt

    def places():
        return [(place["epoch"], place["torch"]) for place in open_run(run.path).places]

    # Begun elsewhere, and killed before an epoch was finished.
    run.write_json("environment.json", here | {"torch": "1.0"})
    with pytest.raises(KeyboardInterrupt):
        train(run, split, CPU, on_epoch=stop)  # which has read another environment before
    assert places() == [(0, torch.__version__)]
    # On from there in yet another place, which was killed too.
    elsewhere = {key: here[key] for key in PLACE_KEYS} | {"epoch": 1, "torch": "2.0"}
    run.write_json("environment.json", here | {"resumed": [elsewhere]})
    assert places() == [(0, torch.__version__), (1, "2.0")]
    train(run, split, CPU)
    assert places() == [(0, torch.__version__)]


def test_what_another_process_wrote_is_not_lost(make, split):
    run = make("run")
    assert "note" not in run.environment
    open_run(run.path).write_json("environment.json", run.environment | {"note": "kept"})
    train(run, split, CPU)
    assert open_run(run.path).environment["note"] == "kept"


@pytest.mark.parametrize(
    "resumed",
    [3, ["x"], [{"epoch": 1}], *([dict.fromkeys(PLACE_KEYS) | e] for e in ({}, {"epoch": "1"}))],
)
def test_a_place_that_is_none_is_damage(make, resumed):
    run = make("run")
    run.write_json("environment.json", run.environment | {"resumed": resumed})
    with pytest.raises(InputError, match="damaged, or not a run's"):
        _ = open_run(run.path).environment


KILLED = """
import os, signal, sys, torch
from featherweight.run import open_run
from featherweight.train import train
torch.set_num_threads(1)
run = open_run(sys.argv[1])
def kill(epoch, step, n_steps, loss):
    if (epoch, step) == (2, 10):  # of 20 steps
        os.kill(os.getpid(), signal.SIGKILL)
train(run, run.load_split(), torch.device("cpu"), on_batch=kill)
"""


def test_a_killed_run_resumes_to_the_same_bits(make, split):
    whole, killed = make("whole"), make("killed")
    train(whole, split, CPU)
    source = str(Path(featherweight.__file__).parents[1])
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(killed.path)],
        check=False,
        env=os.environ | {"PYTHONPATH": source},
    )
    assert process.returncode == -signal.SIGKILL
    assert [row["epoch"] for row in killed.read_metrics()] == [1]
    assert not killed.complete
    train(open_run(killed.path), split, CPU)
    assert weights(killed) == weights(whole)


NETS = """
from torch import nn
class Logits(nn.Sequential):
    def __init__(self, *last): super().__init__(nn.Flatten(), nn.Linear(784, 10), *last)
class LogProbabilities(Logits):
    def __init__(self): super().__init__(nn.LogSoftmax(1))
"""


def test_a_strangers_logits_and_log_probabilities_train_alike(
    make, split, tiny_recipe, tmp_path, monkeypatch
):
    (tmp_path / "trained_nets_of_a_stranger.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    rows = []
    for name in ("Logits", "LogProbabilities"):
        run = make(
            name,
            dataclasses.replace(
                tiny_recipe,
                model=f"trained_nets_of_a_stranger:{name}",
                model_args={},
                epochs=2,
                lr=0.01,
            ),
        )
        train(run, split, CPU)
        rows.append(run.read_metrics())
    for one, other in zip(*rows, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)
    assert rows[1][-1]["val_correct"] > 50


def test_an_epoch_holds_each_image_once(split, tiny_recipe, monkeypatch):
    recipe = dataclasses.replace(tiny_recipe, batch_size=47)
    run_batches = []
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    trainer = Trainer(recipe, model, split.train, (0, 1))
    original = torch.Tensor.tensor_split

    def spy(order, n):
        batches = original(order, n)
        run_batches.extend(batches)
        return batches

    monkeypatch.setattr(torch.Tensor, "tensor_split", spy)
    assert len(list(trainer.steps(0, seed_everything(0, 0)))) == trainer.steps_per_epoch == 11
    assert torch.cat(run_batches).sort().values.tolist() == list(range(500))
    assert {len(batch) for batch in run_batches} == {45, 46}


def test_synthetic_images_are_added_and_every_class_is_as_probable_where_there_is_no_digit(
    split, tiny_recipe
):
    recipe = dataclasses.replace(tiny_recipe, batch_size=47, synthetic=0.1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    trainer = Trainer(recipe, model, split.train, (0, 1))
    assert len(trainer.train) == 550
    assert torch.equal(trainer.train.pixels[:500], split.train.pixels)
    assert trainer.steps_per_epoch == 12
    labels = trainer.train.labels[500:]
    no_digit = labels == NO_DIGIT
    assert 0 < int(no_digit.sum()) < 50
    targets = probabilities(labels, 10)
    assert (targets[no_digit] == 0.1).all()
    assert torch.equal(targets[~no_digit].argmax(1), labels[~no_digit])
    assert (targets[~no_digit].amax(1) == 1).all()
    for loss in trainer.steps(0, seed_everything(0, 0)):
        assert loss.isfinite()


def test_synthetic_digits_are_added_to_nothing_but_digits(split, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, synthetic=0.1)
    colour = Images(split.train.pixels.expand(-1, 3, -1, -1), split.train.labels)
    more = Images(split.train.pixels, split.train.labels + 1)
    for images in (colour, more):
        with pytest.raises(
            InputError, match=r"synthetic: got images .*expected digits, \(1, 28, 28"
        ):
            Trainer(recipe, torch.nn.Linear(1, 1), images, (0, 1))


def test_synthetic_images_of_an_earlier_edition_cannot_be_trained_on(split, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, synthetic=0.1, synthetic_edition=1)
    with pytest.raises(InputError, match="synthetic_edition: got 1, expected"):
        Trainer(recipe, torch.nn.Linear(1, 1), split.train, (0, 1))


def test_the_average_is_over_weights_and_batch_norm_buffers(split, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, ema=0.5)
    model = torch.nn.Sequential(
        torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(784, 10)
    )
    trainer = Trainer(recipe, model, split.train, split.mean_std)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step, _ in zip(range(9), trainer.steps(0, seed_everything(0, 0)), strict=False):
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    averaged = trainer.ema.state_dict()
    assert not torch.equal(averaged["0.running_mean"], model.state_dict()["0.running_mean"])
    for name in ("0.running_mean", "0.running_var", "0.weight", "2.weight"):
        torch.testing.assert_close(averaged[name], expected[name])


def test_weights_decay_and_biases_do_not(split, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, weight_decay=0.01)
    model = torch.nn.Sequential(
        torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(784, 10)
    )
    groups = Trainer(recipe, model, split.train, split.mean_std).optimizers["sgd"][0].param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [
        (0.01, 1),
        (0.0, 3),
    ]


def test_adam_learns_and_resumes_to_the_same_bits(make, split, tiny_recipe):
    recipe = dataclasses.replace(
        tiny_recipe, optimiser="adam", lr=0.02, nesterov=False, momentum=0.8, weight_decay=0.01
    )
    whole, stopped = make("whole", recipe), make("stopped", recipe)
    train(whole, split, CPU)
    assert whole.read_metrics()[-1]["val_correct"] > 50

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, split, CPU, on_epoch=stop)
    train(open_run(stopped.path), split, CPU)
    assert weights(stopped) == weights(whole)
    trainer = Trainer(recipe, whole.build_model(), split.train, split.mean_std)
    ((optimizer, factor),) = trainer.optimizers.values()
    assert (type(optimizer), factor) == (torch.optim.Adam, 1.0)
    assert optimizer.defaults["betas"] == (0.8, 0.999)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]


def test_a_diverged_run_stops_and_keeps_its_log(make, split, tiny_recipe):
    run = make("run", dataclasses.replace(tiny_recipe, lr=1e30))
    with pytest.raises(DivergedError, match="epoch 1"):
        train(run, split, CPU)
    assert run.read_metrics() == []
    assert not run.complete


def test_a_run_that_diverges_later_keeps_its_finished_epochs(make, split, monkeypatch):
    run = make("run")
    monkeypatch.setattr(Recipe, "lr_at", lambda self, step, n_steps: 0.1 if step < 40 else 1e30)
    with pytest.raises(DivergedError, match="epoch 3"):
        train(run, split, CPU)
    assert [row["epoch"] for row in run.read_metrics()] == [1, 2]
    assert not run.complete


def test_the_last_epochs_weights_are_kept_for_a_contract_on_several(make, split, tiny_contract):
    run = make("run", contract=make_contract(consistent_epochs=3))
    train(run, split, CPU)
    assert sorted(path.name for path in run.path.glob("epoch-*")) == [
        "epoch-2.safetensors",
        "epoch-3.safetensors",
    ]
    for row in run.read_metrics()[1:]:
        name = "model.safetensors" if row["epoch"] == 4 else f"epoch-{row['epoch']}.safetensors"
        result = evaluate(run.load_model(name), split.val, split.mean_std)
        assert (result.correct, result.loss) == (row["val_correct"], row["val_loss"])


@pytest.mark.parametrize(
    ("cuda", "mps", "auto"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_is_the_fastest_device_that_is_there(cuda, mps, auto, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto") == torch.device(auto)
    assert pick_device("cpu") == CPU
    for name, is_there in (("cuda", cuda), ("cuda:0", cuda), ("mps", mps)):
        if not is_there:
            with pytest.raises(
                ValueError, match=f"device '{name}': PyTorch finds no (CUDA|Apple) GPU here"
            ):
                pick_device(name)
    for name in ("abacus", "cuda:x", "meta", ""):
        with pytest.raises(ValueError, match="expected cpu, cuda, mps or auto"):
            pick_device(name)


def test_a_network_of_one_size_says_that_the_recipe_resizes(split, tiny_recipe, tmp_path):
    (tmp_path / "one_size.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    recipe = dataclasses.replace(
        tiny_recipe,
        model=f"{tmp_path}/one_size.py:Net",
        model_args={},
        resize=0.8,
        resize_until=0.5,
    )
    with pytest.raises(InputError) as caught:
        export_network(recipe, split, 0)
    assert "for images (n, 1, 22, 22): tiny resizes the images" in caught.value.message
    assert "feather-20k" in str(caught.value.hint)
