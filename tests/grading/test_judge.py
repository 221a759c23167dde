import dataclasses
import shutil

import pytest
import torch

from featherweight.build import build
from featherweight.capture import capture
from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.exported import load_exported
from featherweight.grading import judge as module
from featherweight.grading.forks import Export
from featherweight.grading.judge import judge
from featherweight.grading.settings import Settings
from featherweight.grading.submissions import Submission
from featherweight.grading.table import to_answer
from featherweight.run import create_run, open_run
from featherweight.train import train, training_passes

CPU = torch.device("cpu")


@pytest.fixture
def recipe(tiny_recipe):
    return dataclasses.replace(tiny_recipe, epochs=2)


@pytest.fixture
def settings(monkeypatch, recipe, tiny_contract, digits):
    monkeypatch.setattr(Settings, "recipe", recipe)
    return Settings(tiny_contract, str(digits), train="tiny")


@pytest.fixture
def handed_in(tmp_path, recipe, split):
    """A submission without weights, and a function that exports it."""
    file = tmp_path / "anna.py"
    file.write_text("")

    def found():
        torch.manual_seed(0)
        passes = training_passes(recipe, len(split.train), split.shape)
        graph = capture(build(recipe.model, recipe.model_args, 10, split.shape), passes)
        return Export([("Net", "the only network", load_exported(graph.to_bytes()))])

    return Submission("Anna", file, file), found


def test_a_network_without_weights_is_trained_and_its_run_is_kept(
    handed_in, split, settings, tmp_path
):
    submission, found = handed_in
    graded = judge(submission, found(), split, settings, tmp_path / "run")
    assert graded.evidence == "weights, trained by tiny"
    assert {"parameters", "accuracy", "epochs"} <= graded.clauses.keys()
    assert graded.result.total == 100
    assert (tmp_path / "run/verdict.json").is_file()
    assert to_answer(graded).cells["accuracy"] == f"{graded.result.accuracy:.4f}"
    assert "trained by the recipe `tiny`" in graded.report


def test_an_interrupted_training_is_finished_to_the_same_bits(
    handed_in, split, settings, tmp_path, monkeypatch
):
    submission, found = handed_in
    judge(submission, found(), split, settings, tmp_path / "whole")

    def interrupt(row):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", lambda *given: train(*given, interrupt))
    with pytest.raises(KeyboardInterrupt):
        judge(submission, found(), split, settings, tmp_path / "run")
    assert not open_run(tmp_path / "run").complete
    monkeypatch.setattr(module, "train", train)
    judge(submission, found(), split, settings, tmp_path / "run")
    weights = [open_run(tmp_path / name).read_weights() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_what_can_not_be_trained_is_judged_by_its_structure_and_says_so(
    handed_in, split, settings, tmp_path
):
    submission, found = handed_in
    export = found()
    export.networks[0][2].faithful = False
    graded = judge(submission, export, split, settings, tmp_path / "run")
    assert (graded.evidence, graded.word) == ("structure", "PASS")
    assert graded.advice.startswith("not trained: Net: has a gradient of its own")
    assert f". To do: {module.WEIGHTS_HINT}" in graded.advice
    assert "## Why a part of it could not be judged" in graded.report
    assert not (tmp_path / "run").exists()


def test_why_nothing_is_trained_keeps_what_to_do_about_it(handed_in, split, settings, tmp_path):
    submission, found = handed_in
    export = dataclasses.replace(found(), untrained=InputError("it fails", hint="flatten it"))
    graded = judge(submission, export, split, settings, tmp_path / "run")
    assert graded.advice == f"not trained: it fails. To do: flatten it, or {module.WEIGHTS_HINT}"


@pytest.fixture
def run(recipe, tiny_contract, split, tmp_path):
    made = create_run(str(tmp_path / "run"), recipe, tiny_contract, split, 0, CPU, "test")
    train(made, split, CPU)
    return made


def test_a_run_folder_is_judged_with_every_clause(run, split, settings, tmp_path):
    submission = Submission("Ben", run.path, run.path, is_run=True)
    graded = judge(submission, Export(), split, settings, tmp_path / "work")
    assert graded.problem is None
    assert "not judged" not in graded.clauses.values()
    assert (len(graded.graph), len(graded.weights)) == (16, 16)
    assert "run folder: `run`" in graded.report
    copy = shutil.copytree(run.path, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"x")
    damaged = judge(
        Submission("Cleo", copy, copy, is_run=True), Export(), split, settings, tmp_path / "work"
    )
    assert "damaged" in damaged.advice


def test_a_run_on_other_images_is_not_judged(run, settings, digits, tmp_path):
    other = load_split(str(digits), 400, 100)
    submission = Submission("Ben", run.path, run.path, is_run=True)
    graded = judge(submission, Export(), other, settings, tmp_path / "work")
    assert "trained on other images" in graded.advice


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"x", "got a damaged file"), (None, "got no such file")],
)
def test_weights_that_can_not_be_read_cost_only_the_points_that_need_them(
    handed_in, split, settings, tmp_path, content, said
):
    submission, found = handed_in
    file = tmp_path / "anna.pth"
    if content is not None:
        file.write_bytes(content)
    submission = dataclasses.replace(submission, weights=file)
    graded = judge(submission, found(), split, settings, tmp_path / "run")
    assert graded.advice.startswith(f"weights anna.pth: {said}")
    assert str(tmp_path) not in graded.report
    assert graded.word == "FAIL"
    assert 0 < graded.points[0] == graded.points[1] - graded.points_not_judged


def test_weights_that_are_no_numbers_cost_only_the_points_that_need_them(
    handed_in, split, settings, tmp_path
):
    submission, found = handed_in
    export = found()
    state = export.networks[0][2].state_dict()
    torch.save(
        {
            name: torch.full_like(value, torch.nan)
            for name, value in state.items()
            if value.is_floating_point()
        }
        | {n: v for n, v in state.items() if not v.is_floating_point()},
        tmp_path / "anna.pth",
    )
    submission = dataclasses.replace(submission, weights=tmp_path / "anna.pth")
    graded = judge(submission, export, split, settings, tmp_path / "run")
    assert "returns NaN" in graded.advice
    assert (graded.word, graded.evidence) == ("FAIL", "structure")
    assert graded.points[0] > 0
