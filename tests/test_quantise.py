"""Quantised weights: rounding, gradients, and a whole run."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.audit import audit_run
from featherweight.build import build
from featherweight.device import seed_everything
from featherweight.evaluate import evaluate
from featherweight.model import Block
from featherweight.quantise import convolutions, max_integer, quantise, quantised, round_filters
from featherweight.recipe import BITS
from featherweight.run import create_run, open_run
from featherweight.train import Trainer, train

CPU = torch.device("cpu")
LAYERS = ["conv 8 k5 m2", "sep 8", "conv 8 p1 x2"]


def feather(seed=0):
    torch.manual_seed(seed)
    return build("featherweight.model:Feather", {"layers": LAYERS, "dense": True}, 10).eval()


@settings(deadline=None)
@given(bits=st.sampled_from(BITS), seed=st.integers(0, 2**32 - 1), spread=st.floats(1e-6, 1e6))
def test_rounding_is_to_few_integers_and_done_once(bits, seed, spread):
    weight = spread * torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    integers, scale = round_filters(weight, bits)
    assert set(integers.unique().tolist()) <= set(range(-max_integer(bits), max_integer(bits) + 1))
    rounded = integers * scale[:, None, None, None]
    again, same = round_filters(rounded, bits)
    assert torch.equal(again, integers)
    torch.testing.assert_close(same, scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_no_other_cut_is_nearer(bits):
    weight = torch.randn(4, 50, generator=torch.Generator().manual_seed(1)).double()
    integers, scale = round_filters(weight, bits)
    error = (integers * scale[:, None] - weight).square().sum(1)
    for row, found in zip(weight.numpy(), error, strict=True):
        for cut in np.arange(1, 2.65, 0.1):
            other = abs(row).max() / (max_integer(bits) * cut)
            nearest = np.clip(np.round(row / other), -max_integer(bits), max_integer(bits)) * other
            assert found <= ((nearest - row) ** 2).sum() * (1 + 1e-5)


def test_a_filter_of_zeros_stays():
    integers, scale = round_filters(torch.zeros(2, 9), 4)
    assert not integers.any()
    assert scale.isfinite().all()


@pytest.mark.parametrize("bits", BITS)
def test_a_network_has_so_many_values_a_filter(bits):
    model = feather()
    quantise(model, bits)
    for block in (module for module in model.modules() if isinstance(module, Block)):
        first, *behind = convolutions(block)
        scale = torch.ones(1)
        for convolution in (first, *behind):
            # Pointwise weights are multiples of one number after folding in the depthwise scales.
            for row in (convolution.weight * scale[:, None, None]).flatten(1):
                steps = row.abs().unique()
                steps = steps[steps > 1e-9]
                unit = row.abs().max() / max_integer(bits)
                torch.testing.assert_close(steps / unit, (steps / unit).round(), rtol=0, atol=1e-3)
            scale = round_filters(first.weight, bits)[1]


@torch.no_grad()
def test_eight_bits_change_little_and_four_more():
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    exact, change = feather()(images), []
    for bits in (8, 4, 2):
        model = feather()
        quantise(model, bits)
        change.append(float((model(images) - exact).abs().max() / exact.abs().max()))
    assert change[0] < 0.05
    assert change[0] < change[1] < change[2]


def test_the_floats_come_back_even_after_an_error():
    model = feather()
    before = [weight.clone() for weight in model.parameters()]

    def interrupted():
        with quantised(model, 2):
            assert len(convolutions(model.features[0])[0].weight[0].unique()) <= 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_the_gradient_of_the_quantised_weights_is_applied_to_the_floats(split, tiny_recipe):
    recipe = dataclasses.replace(
        tiny_recipe,
        weight_bits=4,
        quantise_from=0.5,
        ema=0.0,
        muon=0.0,
        weight_decay=0.0,
        momentum=0.0,
        nesterov=False,
        epochs=2,
        model_args={"layers": LAYERS},
    )
    model = build(recipe.model, recipe.model_args, 10)
    trainer = Trainer(recipe, model, split.train, split.mean_std)
    weight = convolutions(model.features[0])[0].weight
    values = []
    model.register_forward_pre_hook(lambda model, images: values.append(len(weight[0].unique())))
    before = weight.detach().clone()
    steps = trainer.steps(1, seed_everything(0, 1))  # the second of two epochs
    next(steps)
    torch.testing.assert_close(weight.detach(), before - trainer.lr * weight.grad)
    assert len(weight[0].unique()) == 25
    list(steps)
    assert max(values) <= 15
    values.clear()
    list(trainer.steps(0, seed_everything(0, 0)))
    assert min(values) == 25


def test_a_runs_weights_are_quantised_and_audited(tmp_path, split, tiny_recipe, tiny_contract):
    recipe = dataclasses.replace(
        tiny_recipe, weight_bits=4, model_args={"layers": LAYERS, "dropout": 0.05}
    )
    whole, stopped = (
        create_run(str(tmp_path / name), recipe, tiny_contract, split, 0, CPU, "")
        for name in ("whole", "stopped")
    )
    train(whole, split, CPU)
    model = whole.load_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    quantise(model, 4)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-6, atol=1e-9)
    assert (
        whole.read_metrics()[-1]["val_correct"]
        == evaluate(whole.load_model(), split.val, split.mean_std).correct
    )
    verdict, _ = audit_run(whole, split)
    assert {clause.clause for clause in verdict.clauses if not clause.passed} <= {"accuracy"}

    def stop(row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, split, CPU, on_epoch=stop)
    train(open_run(stopped.path), split, CPU)
    files = [(run.path / "model.safetensors").read_bytes() for run in (whole, stopped)]
    assert files[0] == files[1]


def test_a_network_that_cannot_be_quantised_is_refused(tmp_path, split, tiny_recipe, tiny_contract):
    recipe = dataclasses.replace(
        tiny_recipe, weight_bits=4, model="featherweight.model:BaselineNet", model_args={}
    )
    run = create_run(str(tmp_path / "run"), recipe, tiny_contract, split, 0, CPU, "")
    with pytest.raises(ValueError, match="weight_bits: got 4 for featherweight"):
        train(run, split, CPU)
