"""Training, evaluation, audit and the exported graph keep their tensors on one device.

Fake tensors have a device but no values, so no GPU is needed: an operation on tensors of two
devices raises. PyTorch without CUDA can compute no gradients of fake tensors on CUDA; there they
lie on a lazy device, which mixes with the CPU as little. Values decide nothing here: whatever asks
for one gets a fixed number. What stays untested is which kernels a GPU has.
"""

import dataclasses
import sys

import pytest
import torch
from helpers import MNIST_RECIPES
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from featherweight import augment, trace
from featherweight.audit import audit_model
from featherweight.bench.gpu import without_ghosts
from featherweight.bench.graphs import GraphTrainer
from featherweight.bench.replicas import Replicas
from featherweight.contract import load_contract
from featherweight.data import Images, Split
from featherweight.errors import InputError
from featherweight.evaluate import evaluate
from featherweight.export.graph import _Shipped, fold_batch_norm
from featherweight.locate import find_class
from featherweight.recipe import Augmentation, find_recipe
from featherweight.trainer import Trainer

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "lazy:0")
MEAN_STD = 0.13, 0.31
MIX = "on the same device"


class Answers(TorchDispatchMode):
    """Answer what asks for a value with a fixed number, since fake tensors have none.

    Also raise for a mix of devices in operations on lists, which fake tensors let pass.
    """

    def __init__(self, number):
        super().__init__()
        self.number = number

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
            return float(self.number) if args[0].is_floating_point() else self.number
        if func in (torch.ops.aten.equal.default, torch.ops.aten.is_nonzero.default):
            return True
        name = func._schema.name
        if name.startswith(("aten::_foreach", "aten::_fused")) and "copy" not in name:
            leaves = tree_leaves((args, kwargs))
            devices = {leaf.device for leaf in leaves if isinstance(leaf, torch.Tensor)}
            if len(devices) > 1:
                raise RuntimeError(f"{name}: expected all tensors on the same device: {devices}")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fake(monkeypatch):
    """Fake tensors inside the test, and fused SGD on them, which PyTorch has no fake kernel for."""
    kinds = ["cpu", DEVICE.type]
    optimizer = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: kinds)
    # A copy of a fake tensor belongs to the same mode.
    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)
    # Memory is recognised by its address or its content, and a fake tensor has neither.
    monkeypatch.setattr(trace, "_storage", lambda tensor: tensor.untyped_storage()._cdata)
    monkeypatch.setattr(trace, "_content", lambda tensor: b"")
    with torch.library._scoped_library("aten", "IMPL") as library:
        for name in ("_fused_sgd_", "_fused_sgd_.tensor_lr"):
            library.impl(name, lambda *args, **options: None, "Meta")
        # torch.tensor makes a real tensor under another mode, such as an audit's.
        with FakeTensorMode(allow_non_fake_inputs=True), Answers(1):
            yield


def _network(recipe):
    with DEVICE:
        return find_class(recipe.model)(**recipe.model_args)


def _images(n, device):
    return Images(
        torch.zeros(n, 1, 28, 28, dtype=torch.uint8, device=device),
        torch.zeros(n, dtype=torch.int64, device=device),
    )


def _train(recipe, n=130):
    trainer = Trainer(recipe, _network(recipe), _images(n, DEVICE), MEAN_STD)
    losses = list(trainer.steps(0, torch.Generator().manual_seed(0)))
    assert {loss.device for loss in losses} == {DEVICE}
    return trainer


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("ghost_batch", [0, 16])
@pytest.mark.parametrize("recipe", MNIST_RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_trains_and_is_evaluated_on_one_device(recipe, ghost_batch):
    recipe = dataclasses.replace(recipe, ghost_batch=ghost_batch, quantise_from=0.0)
    trainer = _train(recipe)
    network = trainer.evaluated_network()
    assert {value.device for value in network.state_dict().values()} == {DEVICE}
    result = trainer.evaluate(network, _images(600, DEVICE), 10)
    assert result.probabilities.device.type == "cpu"
    assert tuple(result.probabilities.shape) == (600, 10)


def _audit(recipe):
    split = Split(None, _images(200, "cpu"), _images(600, "cpu"), 10)
    vars(split)["mean_std"] = MEAN_STD  # which needs values
    contract = load_contract(recipe.contract)
    return audit_model(_network(recipe), split, contract, evidence="watched")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("recipe", MNIST_RECIPES, ids=lambda recipe: recipe.name)
def test_an_audit_watches_on_the_device_of_the_network(recipe):
    verdict = _audit(recipe)
    assert verdict.n_params == sum(p.numel() for p in _network(recipe).parameters())


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("recipe", MNIST_RECIPES, ids=lambda recipe: recipe.name)
def test_the_exported_graph_computes_on_one_device(recipe):
    with Answers(0):  # no scale of a batch norm is negative, so all are folded
        network = fold_batch_norm(_network(recipe))
    outputs = _Shipped(network, MEAN_STD)(_images(3, DEVICE).pixels[:, 0])
    assert {output.device for output in outputs} == {DEVICE}


@pytest.mark.usefixtures("fake")
def test_steps_for_cuda_graphs_compute_on_one_device():
    recipe = without_ghosts(find_recipe("feather-20k"))
    for network in (_network(recipe), Replicas([_network(recipe), _network(recipe)])):
        trainer = GraphTrainer(recipe, network, _images(130, DEVICE), MEAN_STD)
        loss = trainer.compute(44, 1.0)
        assert loss.device == DEVICE


@pytest.mark.usefixtures("fake")
def test_every_augmentation_computes_on_one_device():
    strengths = Augmentation(
        rotation=10,
        shift=1,
        scale=0.1,
        shear=5,
        elastic=1,
        thickness=0.5,
        blur_kernel=3,
        brightness=0.2,
        contrast=0.2,
        crop=2,
        flip=0.5,
        cutout=3,
    )
    draws = augment.draw(strengths, 4, torch.Generator().manual_seed(0))
    images = _images(4, DEVICE).pixels.float()
    assert augment.augment(images, strengths, draws).device == DEVICE
    drawn = {field.name: getattr(draws, field.name) for field in dataclasses.fields(draws)}
    on_device = augment.Draws(**{name: tensor.to(DEVICE) for name, tensor in drawn.items()})
    assert augment.augment(images, strengths, on_device).device == DEVICE


@pytest.mark.usefixtures("fake")
def test_a_mix_of_devices_in_training_is_found(monkeypatch):
    # Without this conversion the draws stay on the CPU.
    monkeypatch.setattr(
        "featherweight.trainer.augment",
        lambda images, strengths, draws, mean: images * draws.uniform[0][:, None, None, None],
    )
    with pytest.raises(RuntimeError, match=MIX):
        _train(find_recipe("sprint"))


@pytest.mark.usefixtures("fake")
def test_a_mix_of_devices_in_the_network_is_found(monkeypatch):
    normalise = torch.nn.BatchNorm2d.forward
    monkeypatch.setattr(
        torch.nn.BatchNorm2d,
        "forward",
        lambda self, x: normalise(self, x) + torch.ones(x.shape[-1]),
    )
    recipe = find_recipe("sprint")
    with pytest.raises(InputError, match=MIX):
        evaluate(_network(recipe), _images(4, DEVICE), MEAN_STD)
    with pytest.raises(InputError, match=MIX):
        _train(recipe)


@pytest.mark.usefixtures("fake")
def test_a_mix_of_devices_in_the_audit_is_found(monkeypatch):
    monkeypatch.setattr(
        "featherweight.structure.normalise", lambda pixels, mean_std: pixels.cpu() / 255
    )
    with pytest.raises(InputError, match=MIX):
        _audit(find_recipe("sprint"))


@pytest.mark.usefixtures("fake")
def test_a_mix_of_devices_in_the_optimiser_is_found():
    trainer = _train(find_recipe("feather-4k"))
    optimizer, _ = trainer.optimizers["sgd"]
    state = next(iter(optimizer.state.values()))
    state["momentum_buffer"] = state["momentum_buffer"].cpu()
    with pytest.raises(RuntimeError, match=MIX):
        list(trainer.steps(0, torch.Generator().manual_seed(0)))


@pytest.mark.usefixtures("fake")
def test_a_mix_of_devices_in_the_ema_is_found():
    trainer = _train(find_recipe("sprint"))
    trainer.float_pairs[0][0] = trainer.float_pairs[0][0].cpu()
    with pytest.raises(RuntimeError, match=MIX):
        trainer.update_ema(0)
