"""Recipes: JSON, presets, learning rates, and refused values."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featherweight.recipe import RECIPES, SYNTHETIC_EDITION, Recipe, find_recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_json_and_back(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert find_recipe(recipe.name) == recipe
    assert hash(find_recipe(recipe.name)) == hash(recipe)
    assert recipe.epochs < 20 or recipe.name.startswith("cifar")  # whose contracts allow more


@given(st.integers(2, 5000), st.floats(0, 0.9))
def test_one_cycle_rises_to_its_peak_and_falls_to_about_zero(n_steps, warmup):
    recipe = dataclasses.replace(find_recipe("feather-20k"), warmup=warmup)
    rates = [recipe.lr_at(step, n_steps) for step in range(n_steps)]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(recipe.lr, rel=2 / max(2, (1 - warmup) * n_steps))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    falling = max(1, n_steps - max(1, round(warmup * n_steps)))
    assert 0 < rates[-1] <= recipe.lr / falling * (1 + 1e-9)


@given(st.integers(1, 5000), st.floats(0, 0.999))
def test_no_rate_is_outside_of_zero_and_the_peak(n_steps, warmup):
    recipe = dataclasses.replace(find_recipe("feather-20k"), warmup=warmup)
    assert all(0 < recipe.lr_at(step, n_steps) <= recipe.lr for step in range(n_steps))


def test_one_cycle_by_hand():
    recipe = dataclasses.replace(find_recipe("feather-20k"), lr=0.8, warmup=0.4)
    assert [recipe.lr_at(step, 10) for step in range(10)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 2 / 3, 1.6 / 3, 0.4, 0.8 / 3, 0.4 / 3]
    )


@pytest.mark.parametrize(("n_steps", "warmup"), [(100, 0.3), (7, 0.5), (30, 0.2)])
def test_cosine_annealing_is_the_one_cycle_of_pytorch(n_steps, warmup):
    recipe = dataclasses.replace(find_recipe("baseline"), schedule="one-cycle", lr=0.4)
    recipe = dataclasses.replace(recipe, warmup=warmup, annealing="cosine")
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    # Theirs may peak between two steps, ours peaks at one.
    peak = (recipe.peak_step(n_steps) + 1) / n_steps
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, n_steps, pct_start=peak)
    for step in range(n_steps):
        assert recipe.lr_at(step, n_steps) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        if step < n_steps - 1:
            theirs.step()


@given(st.integers(1, 5000), st.floats(0, 0.999))
def test_cosine_annealing_stays_between_zero_and_its_peak(n_steps, warmup):
    recipe = dataclasses.replace(find_recipe("feather-20k"), warmup=warmup, annealing="cosine")
    rates = [recipe.lr_at(step, n_steps) for step in range(n_steps)]
    assert 0 < min(rates) <= max(rates) == pytest.approx(recipe.lr)


def test_steps_divide_the_rate_by_ten():
    recipe = dataclasses.replace(
        find_recipe("baseline"), schedule="step", step_epochs=2, epochs=5, lr=3.0
    )
    assert [recipe.lr_at(step, 15) for step in range(15)] == pytest.approx(
        [3.0] * 6 + [0.3] * 6 + [0.03] * 3
    )


@pytest.mark.parametrize(
    "later",
    [
        {"synthetic": 0.4, "synthetic_edition": SYNTHETIC_EDITION},
        {"annealing": "cosine"},
        {"step_epochs": 3},
    ],
)
def test_a_recipe_without_a_later_field_has_the_json_from_before_there_was_it(later):
    recipe = find_recipe("feather-20k")
    assert not later.keys() & recipe.to_dict().keys()
    more = dataclasses.replace(recipe, **later)
    assert more.to_dict() == recipe.to_dict() | later
    assert Recipe.from_dict(more.to_dict()) == more


def test_synthetic_images_make_an_epoch_longer():
    recipe = find_recipe("feather-20k")
    more = dataclasses.replace(recipe, synthetic=0.4)
    assert (recipe.n_images(500), more.n_images(500)) == (500, 700)


def test_json_without_an_edition_of_its_synthetic_images_is_of_the_first():
    today = find_recipe("reader")
    values = today.to_dict()
    del values["synthetic_edition"]
    old = Recipe.from_dict(values)
    assert (old.synthetic_edition, today.synthetic_edition) == (1, SYNTHETIC_EDITION)
    assert old != today  # so that a study's rows of the old images don't count for today's
    assert Recipe.from_dict(old.to_dict()) == old


def test_the_baseline_keeps_its_rate():
    assert {find_recipe("baseline").lr_at(step, 100) for step in range(100)} == {0.1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 2.0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"ghost_batch": 1}, "ghost_batch: got 1, expected 0, or a whole number from 2"),
        ({"ghost_batch": -64}, "ghost_batch"),
        ({"ghost_batch": 32.0}, "ghost_batch"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"schedule": "cosine"}, "schedule: got 'cosine', expected one of one-cycle, step, const"),
        ({"annealing": "cos"}, "annealing: got 'cos', expected linear or cosine"),
        ({"schedule": "step"}, "step_epochs: got 0 with step, expected a whole number of at least"),
        ({"schedule": "step", "step_epochs": 2.0}, "step_epochs"),
        ({"step_epochs": -1}, "step_epochs"),
        ({"optimiser": "newton"}, "optimiser: got 'newton', expected sgd or adam"),
        ({"optimiser": "adam", "nesterov": True}, "nesterov: got true with adam"),
        ({"ema": 1.0}, "ema"),
        ({"momentum": -0.1}, "momentum"),
        ({"warmup": 1}, "warmup"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"muon": -1.0}, "muon"),
        ({"muon": float("inf")}, "muon"),
        ({"label_smoothing": 1}, "label_smoothing"),
        ({"resize": 0}, "resize"),
        ({"resize": 1.1}, "resize"),
        ({"resize_until": 1}, "resize_until"),
        ({"weight_bits": 3}, "weight_bits"),
        ({"quantise_from": 1}, "quantise_from"),
        ({"synthetic": -0.1}, "synthetic: got -0.1, expected 0 to 4"),
        ({"synthetic": float("nan")}, "synthetic"),
        ({"muon_depthwise": 1}, "muon_depthwise: got 1, expected true or false"),
        ({"teacher": None}, "teacher: got None, expected a network's name, or none"),
        ({"teacher": "me", "label_smoothing": 0.1}, "teacher: got one with synthetic images or l"),
        ({"temperature": 0}, "temperature: got 0, expected more than 0"),
        ({"synthetic_edition": 99}, "synthetic_edition: got 99, expected 1 to"),
    ],
)
def test_a_wrong_value_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RECIPES[0], **change)


def test_unknown_names_and_keys():
    with pytest.raises(ValueError, match=r"feather-20k, .*baseline"):
        find_recipe("nope")
    with pytest.raises(ValueError, match="colour"):
        Recipe.from_dict(RECIPES[0].to_dict() | {"colour": 1})
    for key in ("model", "augmentation"):
        values = RECIPES[0].to_dict()
        del values[key]
        with pytest.raises(ValueError, match=key):
            Recipe.from_dict(values)
    with pytest.raises(ValueError, match="colour"):
        Recipe.from_dict(RECIPES[0].to_dict() | {"augmentation": {"colour": 1}})


def test_a_preset_cannot_be_changed_through_a_copy():
    copy = find_recipe("feather-20k")
    copy.model_args["dropout"] = 0.9
    dataclasses.replace(copy).model_args["layers"].append("conv 8")
    assert find_recipe("feather-20k").model_args["dropout"] == 0.02
    assert copy.model_args["layers"] == find_recipe("feather-20k").model_args["layers"]
