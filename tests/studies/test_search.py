"""Searches: the space, which candidates are trained, and what survives a kill."""

import dataclasses
import signal
import subprocess
import sys
import time

import optuna
import pytest
import torch
from helpers import make_contract
from optuna.trial import TrialState

from featherweight.recipe import find_recipe
from featherweight.studies import search
from featherweight.studies.plan import load_plan, to_plan
from featherweight.studies.rows import read_rows
from featherweight.studies.search import (
    distributions,
    make_candidate,
    run_search,
    structural_violation,
)
from featherweight.studies.workers import StoppedError, run_task

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PLAN = """
recipes = ["feather-1k"]
seeds = [3]
contract = "{contract}"
[[overrides]]
epochs = {epochs}
model_args.views = []
model_args.head = "linear"
ema = 0.8
[search]
trials = {trials}
[search.space]
lr = {{low = 0.05, high = 0.4, log = true}}
batch_size = [25, 50]
augmentation.rotation = {{low = 0, high = 6, step = 3}}
model_args.layers = ["conv 8..24 k6 s2 p2", "?conv 8", "conv 8..16"]
"""
SPACE = {
    "lr": {"low": 0.1, "high": 0.2},
    "augmentation": {"rotation": [1, 2]},
    "model_args": {"layers": ["conv 8", "conv 8..16 m2", "?sep 16..24", "?pool"]},
}


class Here:
    """Workers that run jobs in this process, two at a time."""

    slots = 2

    def __init__(self):
        self.waiting, self.done = [], []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, job, *, block):
        self.waiting.append(job)

    def wait(self):
        job = self.waiting.pop(0)
        self.done.append(job)
        return [
            (
                job,
                run_task(
                    job.task,
                    job.task.load_split(),
                    job.folder,
                    CPU,
                    block=True,
                    on_epoch=job.on_epoch,
                ),
            )
        ]


def write(folder, contract, trials=5, epochs=3):
    (folder / "tiny.toml").write_text(make_contract(max_params=2000).to_toml())
    (folder / "plan.toml").write_text(
        PLAN.format(contract=folder / "tiny.toml", trials=trials, epochs=epochs)
    )
    return folder / "plan.toml"


def go(folder, digits, workers=None):
    plan = load_plan(folder / "plan.toml", str(digits))
    return run_search(plan, folder / "rows.csv", folder / "runs", workers or Here())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_contract, digits):
    folder = tmp_path_factory.mktemp("search")
    write(folder, tiny_contract)
    return folder, go(folder, digits)


def test_parameters_of_the_space_become_a_recipe():
    base = find_recipe("feather-4k")
    drawn = distributions(SPACE, "search")
    assert list(drawn) == [
        "lr",
        "augmentation.rotation",
        "layer 1 width",
        "layer 2 width",
        "layer 2 there",
        "layer 3 there",
    ]
    assert (
        drawn["layer 2 width"].low,
        drawn["layer 2 width"].high,
        drawn["layer 2 width"].step,
    ) == (16, 24, 4)
    values = {
        "lr": 0.15,
        "augmentation.rotation": 2,
        "layer 1 width": 12,
        "layer 2 width": 20,
        "layer 2 there": True,
        "layer 3 there": False,
    }
    found = make_candidate(base, SPACE, values, "new")
    assert found.model_args == base.model_args | {"layers": ["conv 8", "conv 12 m2", "sep 20"]}
    assert (found.name, found.lr, found.augmentation.rotation) == ("new", 0.15, 2)
    assert found.augmentation.shift == base.augmentation.shift
    left_out = make_candidate(
        base, SPACE, values | {"layer 2 there": False, "layer 3 there": True}, "new"
    )
    assert left_out.model_args["layers"] == ["conv 8", "conv 12 m2", "pool"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"epochs": [5, 6]}, "epochs: .*not searched"),
        ({"lr": 0.1}, "lr: got 0.1"),
        ({"lr": {"low": 1.0}}, "lr"),
        ({"lr": {"low": 2.0, "high": 1.0}}, "lr"),
        ({"lr": {"low": 0.0, "high": 1.0, "log": True}}, "lr"),
        ({"speed": [1, 2]}, "speed"),
        ({"augmentation": {"spin": [1, 2]}}, "spin"),
        ({"lr": []}, "lr"),
        ({"model_args": {"layers": 7}}, "layers"),
        ({"model_args": {"layers": ["conv 16..8"]}}, "layers"),
    ],
)
def test_a_wrong_space_says_what_is_wrong(space, message, tmp_path, tiny_contract, digits):
    plan = load_plan(write(tmp_path, tiny_contract), str(digits))
    plan = dataclasses.replace(plan, search=dataclasses.replace(plan.search, space=space))
    with pytest.raises(ValueError, match=message):
        run_search(plan, tmp_path / "rows.csv", tmp_path / "runs", Here())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds = [3]", "seeds = 2"), "one seed"),
        (("seeds", "test = true\nseeds"), "no test images"),
        (("trials = 5", "trials = 0"), "trials"),
        (("trials = 5", "tries = 5"), "tries"),
        (("[search]", ""), "search"),
    ],
)
def test_a_wrong_search_is_refused_with_its_plan(change, message, tmp_path, tiny_contract, digits):
    file = write(tmp_path, tiny_contract)
    file.write_text(file.read_text().replace(*change, 1))
    with pytest.raises(ValueError, match=message):
        load_plan(file, str(digits))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"epochs": 20}, "epochs: 20"),
        ({"model_args": {"layers": ["conv 48", "conv 48"]}}, "parameters: "),
        ({"model_args": {"layers": ["conv 8", "conv 8"], "dropout": 0.0}}, "dropout: 0"),
        ({"model_args": {"layers": ["conv 8 s27", "conv 8"]}}, "fails on images"),
        ({"model_args": {"layers": ["conv 8 x3"]}}, "conv 8 x3"),
    ],
)
def test_a_structural_violation_is_found_without_training(
    change, reason, tiny_recipe, tiny_contract, split
):
    found = structural_violation(dataclasses.replace(tiny_recipe, **change), tiny_contract, split)
    assert found is None if reason is None else reason in found


def test_what_the_recipe_says_of_the_training_is_judged_first(tiny_recipe, split):
    contract = make_contract(clause=[{"kind": "batch size", "exactly": 512}])
    found = structural_violation(tiny_recipe, contract, split)
    assert found == "batch size: 25, required 512"


def test_a_search_trains_only_what_can_meet_the_contract(finished):
    folder, found = finished
    rows = read_rows(folder / "rows.csv")
    assert len(rows) == len(found.rows)
    assert len(rows) + found.stopped == 5
    assert len(list((folder / "runs").glob("*/config.json"))) == 5
    assert found.untrained["parameters"] > 0
    assert all(int(row["n_params"]) < 2000 for row in rows)
    assert all(row["test_correct"] == "" for row in rows)
    verdicts = [row["verdict"] for row in found.rows]
    assert verdicts == sorted(verdicts, reverse=True)  # those that pass first
    assert found.best.name == found.rows[0]["recipe"]


def test_the_printed_plan_trains_the_best_recipe(finished, digits):
    folder, found = finished
    text = to_plan(found.best, "feather-1k", str(folder / "tiny.toml"))
    (folder / "pasted.toml").write_text(text)
    tasks = load_plan(folder / "pasted.toml", str(digits)).tasks
    assert [task.recipe for task in tasks] == [found.best] * 10


def test_a_finished_search_trains_nothing_and_more_trials_continue_it(
    finished, digits, tiny_contract
):
    folder, found = finished
    nobody = Here()
    assert go(folder, digits, nobody) == found
    assert nobody.done == []
    write(folder, tiny_contract, trials=6)
    one = Here()
    go(folder, digits, one)
    assert len(one.done) == 1
    assert len({job.folder for job in one.done} | set((folder / "runs").glob("*-t*[!k]"))) == 6


def test_a_search_in_which_nothing_can_meet_the_contract_ends(
    tmp_path, digits, tiny_contract, monkeypatch
):
    write(tmp_path, make_contract(max_params=2000))
    (tmp_path / "tiny.toml").write_text(make_contract(max_params=100).to_toml())
    monkeypatch.setattr(search, "MAX_REJECTED", 20)
    with pytest.raises(ValueError, match="none of 20 candidates can meet the contract: parameters"):
        go(tmp_path, digits)


def test_a_candidate_worse_than_the_median_validation_loss_is_stopped(tmp_path):
    journal = tmp_path / "search.journal"
    study = optuna.create_study(
        study_name="x", storage=search._storage(journal), direction="minimize"
    )
    space = {"lr": optuna.distributions.FloatDistribution(0, 1)}
    for _ in range(search.N_STARTUP_TRIALS):
        trial = study.ask(space)
        for epoch in range(1, 10):
            search._report_epoch(
                journal,
                "x",
                trial.number,
                9,
                {"epoch": epoch, "val_loss": 1 / epoch, "train_loss": 9.0},
            )
        study.tell(trial, 1 / 9)
    good, bad = study.ask(space).number, study.ask(space).number
    for epoch in (1, 2, 3, 4):
        search._report_epoch(
            journal, "x", good, 9, {"epoch": epoch, "val_loss": 0.9 / epoch, "train_loss": 99.0}
        )
    for epoch in (1, 2):  # the first third says little
        search._report_epoch(
            journal, "x", bad, 9, {"epoch": epoch, "val_loss": 5.0, "train_loss": 0.0}
        )
    with pytest.raises(StoppedError):
        search._report_epoch(journal, "x", bad, 9, {"epoch": 3, "val_loss": 5.0, "train_loss": 0.0})


def test_a_killed_search_resumes_its_interrupted_trials(tmp_path, digits, tiny_contract):
    plan = write(tmp_path, tiny_contract, trials=3, epochs=4)
    command = [
        sys.executable,
        "-c",
        "from featherweight.cli import main; main()",
        "study",
        plan,
        "--results",
        tmp_path / "rows.csv",
        "--runs",
        tmp_path / "runs",
        "--data",
        digits,
        "--workers",
        "2",
    ]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 90
    while not list((tmp_path / "runs").glob("*/resume.pt")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name for path in (tmp_path / "runs").glob("*-t*") if path.is_dir()}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.startswith('recipes = ["feather-1k"]')
    study = optuna.load_study(study_name=None, storage=search._storage(tmp_path / "rows.journal"))
    states = [trial.state for trial in study.trials if "untrained" not in trial.user_attrs]
    assert len(states) == 3
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    after = {path.name for path in (tmp_path / "runs").glob("*-t*") if path.is_dir()}
    assert before <= after
    assert len(after) == 3
