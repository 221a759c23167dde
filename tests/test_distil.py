"""Distillation: what a teacher says is learned, and who taught is on record."""

import dataclasses
import importlib
import math

import pytest
import torch
from torch.nn import functional as F

from featherweight import distil
from featherweight.audit import audit_run
from featherweight.build import build
from featherweight.contract import Contract
from featherweight.data import load_split
from featherweight.device import seed_everything
from featherweight.distil import distillation_loss, load_teacher, teacher_title
from featherweight.errors import InputError
from featherweight.pretrained import Pretrained
from featherweight.retrain import retrain
from featherweight.run import create_run, open_run
from featherweight.train import check_recipe, train
from featherweight.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def taught(monkeypatch, model, tiny_recipe):
    """A recipe whose teacher is the run of `model`, as if that came with the package."""
    known = Pretrained("own", model.path.parent, 1_234, 0, 1, 0, 0, 0, 0, 0, "")
    monkeypatch.setattr(distil, "pretrained", lambda: {"own": known})
    monkeypatch.setattr(
        distil, "find_pretrained", lambda name: model.path.parent if name == "own" else None
    )
    return dataclasses.replace(tiny_recipe, epochs=2, teacher="own")


def test_the_loss_is_the_cross_entropy_of_softened_probabilities():
    outputs, taught = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    log_probabilities = [x - math.log(math.exp(1) + math.exp(0)) for x in (1, 0)]
    soft = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))]
    expected = -4 * sum(p * log for p, log in zip(soft, log_probabilities, strict=True))
    assert distillation_loss(outputs, taught, 2.0).item() == pytest.approx(expected, rel=1e-6)
    # Log-probabilities are logits that differ by a number for each image.
    same = distillation_loss(outputs.log_softmax(1), taught.log_softmax(1), 2.0)
    assert same.item() == pytest.approx(expected, rel=1e-6)


def test_a_network_that_says_what_its_teacher_says_has_no_gradient():
    outputs = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    distillation_loss(outputs, outputs.detach() + 3, 3.0).backward()
    torch.testing.assert_close(outputs.grad, torch.zeros(1, 3))


def test_a_step_learns_from_the_teacher_alone(split, taught):
    teacher = load_teacher("own", split)
    recipe = dataclasses.replace(taught, batch_size=500, ema=0.0)
    losses = []
    for labels in (split.train.labels, split.train.labels.flip(0)):
        seed_everything(0, -1)
        student = load_teacher("own", split).requires_grad_(True)
        train_images = dataclasses.replace(split.train, labels=labels)
        trainer = Trainer(recipe, student, train_images, split.mean_std, teacher=teacher)
        losses += trainer.steps(0, torch.Generator().manual_seed(0))
    assert torch.equal(*losses)
    taught_probabilities = F.softmax(teacher(split.normalise(split.train.pixels)) / 3, 1)
    entropy = -(taught_probabilities * taught_probabilities.log()).sum(1).mean()
    assert losses[0].item() > 9 * entropy.item()  # dropout and batch statistics are the student's


def test_a_taught_run_says_who_taught_it_and_is_trained_again_to_the_same_bits(
    tmp_path, split, taught, tiny_contract
):
    contract = Contract.from_dict(tiny_contract.to_dict() | {"teacher": ["none"]})
    run = create_run(str(tmp_path / "run"), taught, contract, split, 0, CPU, "", threads=1)
    train(run, split, CPU)
    title = teacher_title("own")
    assert title.startswith("own, 1,234 parameters, 1 epochs, weights ")
    assert open_run(run.path).environment["teacher"] == title
    verdict, _ = audit_run(open_run(run.path), split)
    (clause,) = (clause for clause in verdict.clauses if clause.clause == "teacher")
    assert (clause.required, clause.found, clause.passed) == ("none", title, False)
    assert retrain(open_run(run.path), split).passed


def test_a_run_goes_on_with_the_teacher_it_was_begun_with(
    tmp_path, split, taught, tiny_contract, monkeypatch
):
    run = create_run(str(tmp_path / "run"), taught, tiny_contract, split, 0, CPU, "", threads=1)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, split, CPU, on_epoch=stop)
    module = importlib.import_module("featherweight.train")  # not the function of that name
    monkeypatch.setattr(module, "teacher_title", lambda name: "own, other weights")
    with pytest.raises(InputError, match=r"begun with the teacher own, 1,234 .*; got own, other"):
        train(open_run(run.path), split, CPU)


def test_the_teacher_must_come_with_the_package_and_know_the_same_images(digits, split, taught):
    with pytest.raises(InputError, match="teacher 'nobody': does not come with the package, exp"):
        load_teacher("nobody", split)
    with pytest.raises(InputError, match="teacher own: was trained on other images"):
        load_teacher("own", load_split(str(digits), 400, 100))


def test_a_recipe_is_checked_with_its_teacher(split, taught, monkeypatch):
    network = build(taught.model, taught.model_args, 10)
    asked = []
    teacher = load_teacher("own", split)
    teacher.register_forward_hook(lambda *_: asked.append(1))
    module = importlib.import_module("featherweight.train")
    monkeypatch.setattr(module, "load_teacher", lambda name, split: teacher)
    check_recipe(taught, split, network)
    assert asked
    monkeypatch.undo()
    with pytest.raises(InputError, match="teacher 'nobody': does not come with the package"):
        check_recipe(dataclasses.replace(taught, teacher="nobody"), split, network)


def test_a_teacher_looks_once(split, taught, monkeypatch):
    images = split.normalise(split.val.pixels[:10])
    run = open_run(distil.find_pretrained("own"))
    once = run.load_model()(images)
    arguments = run.recipe.model_args | {"views": [[10, 1], [-10, 0.9]], "dense": True}
    vars(run)["recipe"] = dataclasses.replace(run.recipe, model_args=arguments)
    monkeypatch.setattr(distil, "open_run", lambda folder: run)
    torch.testing.assert_close(load_teacher("own", split)(images), once)
    assert not torch.allclose(run.load_model()(images), once)


def test_training_again_with_another_teacher_names_it(
    tmp_path, split, taught, tiny_contract, monkeypatch
):
    run = create_run(str(tmp_path / "run"), taught, tiny_contract, split, 0, CPU, "", threads=1)
    train(run, split, CPU)
    other = load_teacher("own", split)
    with torch.no_grad():
        next(other.parameters()).mul_(-1)
    module = importlib.import_module("featherweight.train")
    monkeypatch.setattr(module, "load_teacher", lambda name, split: other)
    monkeypatch.setattr(module, "teacher_title", lambda name: "own, other weights")
    clause = retrain(open_run(run.path), split)
    assert not clause.passed
    assert "teacher here own, other weights, there own, 1,234 parameters" in clause.found
