"""Forged runs: folders in which everything agrees, and that no such training has made.

Each function of `FORGERIES` makes one from an honest run, with its digests computed again, as a
forger would. What reads nothing but the folder cannot tell them from honest runs, except by the
contract and the images; training again does.
"""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import make_contract

from featherweight.audit import audit_run
from featherweight.contract import Contract, load_contract
from featherweight.data import Images, Split, load_split
from featherweight.evaluate import evaluate
from featherweight.run import create_run, open_run
from featherweight.splits import split_faults
from featherweight.train import train
from featherweight.weights import tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def honest(tmp_path_factory, digits, tiny_recipe, tiny_contract):
    """A finished run of four epochs."""
    split = load_split(str(digits), 500, 100)
    path = tmp_path_factory.mktemp("honest") / "run"
    run = create_run(str(path), tiny_recipe, tiny_contract, split, 0, CPU, "featherweight train")
    train(run, split, CPU)
    return run


def copy(run, path):
    return open_run(shutil.copytree(run.path, path))


def edit_config(run, change):
    """Change the run's config.json in place, and return the run with it."""
    config = json.loads(json.dumps(run.config))
    change(config)
    run.write_json("config.json", config)
    return open_run(run.path)


def save_split(split, path):
    """Write a split as an npz file, from which a run can be audited later."""
    arrays = {}
    for name, part in (("train", split.train), ("val", split.val), ("test", split.val)):
        arrays |= {f"{name}_images": part.pixels[:, 0].numpy(), f"{name}_labels": part.labels}
    np.savez(path, **arrays)
    return load_split(str(path), len(split.train), len(split.val))


def fewer_epochs(honest, folder):
    """A run of four epochs that says it had two."""
    run = copy(honest, folder / "fewer-epochs")
    run = edit_config(run, lambda config: config["recipe"].update(epochs=2))
    rows = run.read_metrics()
    rows = [rows[0], rows[-1] | {"epoch": 2}]
    run.save_epoch(run.load_resume() | {"epoch": 2, "rows": rows}, rows)
    return run.path


def trained_on_validation(honest, folder):
    """A run whose weights were trained on the validation images."""
    run = copy(honest, folder / "trained-on-validation")
    split = run.load_split()
    torch.manual_seed(0)
    model = run.build_model().train()
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    images = split.normalise(split.val.pixels)
    for _ in range(200):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), split.val.labels).backward()
        optimiser.step()
    for module in model.modules():  # batch norm's statistics of all validation images
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model(images)
    result, state = evaluate(model, split.val, split.mean_std), run.load_resume()
    assert result.accuracy > 0.95
    found = tensors(model.eval())
    rows = run.read_metrics()
    rows[-1] |= {"val_correct": result.correct, "val_loss": result.loss}
    run.save_epoch(state | {"model": found, "evaluated": found, "rows": rows}, rows)
    run.save_weights(found)
    return run.path


def gutted_contract(honest, folder):
    """A run whose contract asks for nothing, under the name of a built-in one."""
    run = copy(honest, folder / "gutted-contract")
    limits = {"min_val_accuracy": 0.0, "max_params": 10**9, "max_epochs": 10**6}
    contract = make_contract(name="era-v3-s6", data="", **limits)
    return edit_config(run, lambda config: config.update(contract=contract.to_dict())).path


def near_copies(honest, folder):
    """A run whose validation images are training images with one grey level changed."""
    split = honest.load_split()
    pixels = split.train.pixels[:100].clone()
    pixels[:, 0, 0, 0] ^= 1
    leaky = Split(None, split.train, Images(pixels, split.train.labels[:100]), 10)
    leaky = save_split(leaky, folder / "near-copies.npz")
    path = folder / "near-copies"
    run = create_run(str(path), honest.recipe, honest.contract, leaky, 0, CPU, "")
    train(run, leaky, CPU)
    return path


def trivial_data(honest, folder):
    """A run on images of one label, but for one, under the name and limits of a built-in one."""
    split = honest.load_split()
    labels = torch.ones(500, dtype=torch.long)
    labels[0], labels[101] = 9, 0  # data sets count from 0
    easy = Split(
        None, Images(split.train.pixels, labels), Images(split.val.pixels, labels[1:101]), 10
    )
    easy = save_split(easy, folder / "trivial-data.npz")
    contract = dataclasses.replace(
        load_contract("era-v3-s6"), train_size=500, val_size=100, data=""
    )
    path = folder / "trivial-data"
    run = create_run(str(path), honest.recipe, contract, easy, 0, CPU, "")
    train(run, easy, CPU)
    return path


FORGERIES = (fewer_epochs, trained_on_validation, gutted_contract, near_copies, trivial_data)


@pytest.fixture(scope="module")
def forged(honest, tmp_path_factory):
    """The folder of each forged run, by the name of the function that made it."""
    folder = tmp_path_factory.mktemp("forged")
    return {forge.__name__: forge(honest, folder) for forge in FORGERIES}


@pytest.mark.parametrize("name", [forge.__name__ for forge in FORGERIES])
def test_the_folder_of_a_forged_run_is_consistent(forged, name):
    """The digests agree, and so do recipe, log, state and weights: by these it would pass."""
    run = open_run(forged[name])
    for line in (run.path / "SHA256SUMS").read_text().splitlines():
        digest, file = line.split("  ")
        assert hashlib.sha256((run.path / file).read_bytes()).hexdigest() == digest
        run.read(file)
    split = run.load_split()
    own = Contract.from_dict(run.contract.to_dict() | {"name": "own", "data": ""})
    loose = dataclasses.replace(own, train_size=500, val_size=100)
    verdict, _ = audit_run(run, split, loose)
    judged = {clause.clause: clause.passed for clause in verdict.clauses}
    assert all(judged[clause] for clause in ("epochs", "accuracy", "weights", "log")), verdict


def test_a_gutted_contract_differs_from_the_built_in(forged, honest):
    contract = open_run(forged["gutted_contract"]).contract
    assert not contract.is_built_in
    assert contract.differences().keys() >= {"accuracy", "parameters", "epochs", "data"}
    assert not honest.contract.differences()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("near_copies", "100 of 100 validation images are training images with small changes"),
        ("trivial_data", "one label is right for 100.00 %"),
    ],
)
def test_data_that_measure_nothing_are_found(forged, honest, name, fault):
    run = open_run(forged[name])
    faults = split_faults(run.load_split(), run.contract)
    assert any(each.startswith(fault) for each in faults), faults
    assert split_faults(honest.load_split(), honest.contract) == []


def test_images_of_ones_own_are_not_the_data_set_of_a_built_in_contract(forged):
    run = open_run(forged["trivial_data"])
    about = dataclasses.replace(run.contract, data="mnist")
    assert "not MNIST's images" in split_faults(run.load_split(), about)[0]
