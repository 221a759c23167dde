"""Muon against a closed form, and in training."""

import dataclasses

import pytest
import torch

from featherweight.build import build
from featherweight.device import seed_everything
from featherweight.muon import Muon, orthogonalised
from featherweight.trainer import Trainer


@pytest.mark.parametrize("shape", [(24, 216), (216, 24), (8, 9), (5, 5), (1, 7)])
def test_every_direction_is_stepped_alike(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    (step,) = orthogonalised([matrix])
    values = torch.linalg.svdvals(step)
    assert 0.5 < values.min() <= values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert (step * (u @ v)).sum() / (step.norm() * (u @ v).norm()) > 0.97


def test_matrices_of_many_shapes_are_done_at_once():
    generator = torch.Generator().manual_seed(4)
    matrices = [
        torch.randn(*shape, generator=generator)
        for shape in ((3, 9), (16, 72), (30, 5), (16, 72), (1, 1))
    ]
    for step, matrix in zip(orthogonalised(matrices), matrices, strict=True):
        torch.testing.assert_close(step, orthogonalised([matrix])[0])


def test_a_step_by_hand():
    weight = torch.nn.Parameter(torch.zeros(2, 1, 1, 2))
    optimizer = Muon([weight], lr=0.1, momentum=0.5)
    for gradient, ahead in (
        (torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 0.75),
        (torch.zeros(2, 2), 0.125),
    ):
        before = weight.detach().clone()
        weight.grad = gradient.reshape(weight.shape)
        optimizer.step()
        # The momentum is half of the new gradient; Nesterov adds half of it to half the gradient.
        (expected,) = orthogonalised([ahead * torch.tensor([[1.0, 2.0], [3.0, 4.0]])])
        torch.testing.assert_close((before - weight.detach()).reshape(2, 2) / 0.1, expected)


def test_no_gradient_no_step_and_zeros_stay_finite():
    untouched, zero = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    zero.grad = torch.zeros(2, 2)
    Muon([untouched, zero], lr=1.0, momentum=0.9).step()
    assert (untouched == 1).all()
    assert (zero == 1).all()


def test_it_updates_the_convolutions_and_sgd_the_rest(split, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, muon=0.2)
    trainer = Trainer(
        recipe, build(recipe.model, recipe.model_args, 10), split.train, split.mean_std
    )
    dimensions = {
        name: sorted({p.ndim for group in optimizer.param_groups for p in group["params"]})
        for name, (optimizer, _) in trainer.optimizers.items()
    }
    assert dimensions == {"muon": [4], "sgd": [1, 2]}
    for loss in trainer.steps(0, seed_everything(0, 0)):
        assert loss.isfinite()
    rates = {
        name: optimizer.param_groups[0]["lr"] for name, (optimizer, _) in trainer.optimizers.items()
    }
    assert rates["muon"] == pytest.approx(0.2 * rates["sgd"])


def test_it_leaves_depthwise_convolutions_to_sgd(split, tiny_recipe):
    recipe = dataclasses.replace(tiny_recipe, muon=0.2, muon_depthwise=False)
    network = build(recipe.model, {"layers": ["conv 4", "sep 6", "conv 5"]}, 10)
    muon, _ = Trainer(recipe, network, split.train, split.mean_std).optimizers["muon"]
    shapes = [tuple(p.shape) for p in muon.param_groups[0]["params"]]
    assert shapes == [(4, 1, 3, 3), (6, 4, 1, 1), (5, 6, 3, 3)]
