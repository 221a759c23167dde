"""Steps as CUDA graphs hold them, computed on the CPU: they equal those of `Trainer`."""

import dataclasses

import pytest
import torch

from featherweight.augment import Draws
from featherweight.bench import gpu
from featherweight.bench.graphs import Feed, GraphTrainer
from featherweight.bench.replicas import Replicas
from featherweight.data import Images, load_split
from featherweight.device import seed_everything
from featherweight.errors import InputError
from featherweight.evaluate import evaluate
from featherweight.pretrained import pretrained
from featherweight.recipe import Augmentation, find_recipe
from featherweight.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def few(split):
    """As many images as make three steps of 25 and 24 images."""
    train = Images(split.train.pixels[:73], split.train.labels[:73])
    return dataclasses.replace(split, train=train)


def _values(model):
    return [*model.parameters(), *model.buffers()]


def _assert_close(one, other):
    torch.testing.assert_close(_values(one), _values(other), atol=1e-6, rtol=1e-5)


def _train(recipe, split, seed):
    trainer = Trainer(recipe, gpu.initial(recipe, split, seed), split.train, split.mean_std)
    for epoch in range(recipe.epochs):
        list(trainer.steps(epoch, seed_everything(seed, epoch)))
    return trainer


@pytest.mark.parametrize("muon", [0.0, 0.2])
def test_a_graph_holds_what_the_trainer_computes(few, tiny_recipe, muon):
    recipe = dataclasses.replace(
        tiny_recipe,
        epochs=2,
        muon=muon,
        weight_decay=1e-3,
        resize=0.8,
        resize_until=0.5,
        augmentation=Augmentation(rotation=10, shift=1.2, scale=0.1, shear=5),
    )
    expected = _train(recipe, few, seed=3)
    # Another seed's weights, which `reset` replaces.
    trainer = GraphTrainer(recipe, gpu.initial(recipe, few, 4), few.train, few.mean_std)
    trainer.train_all([4])
    trainer.reset(gpu.initial(recipe, few, 3))
    trainer.train_all([3])
    _assert_close(trainer.model, expected.model)
    _assert_close(trainer.ema, expected.ema)


@pytest.mark.parametrize("muon", [0.0, 0.2])
def test_replicas_train_as_if_alone(few, tiny_recipe, muon):
    recipe = dataclasses.replace(
        tiny_recipe,
        epochs=1,
        muon=muon,
        weight_decay=1e-3,
        model_args={"layers": ["conv 4 m2", "sep 6", "conv 6 x2"], "dropout": 0.0, "dense": True},
        augmentation=Augmentation(rotation=10, shift=1.2),
    )
    seeds = (2, 0, 1)
    replicas = Replicas([gpu.initial(recipe, few, seed) for seed in seeds])
    trainer = GraphTrainer(recipe, replicas, few.train, few.mean_std)
    trainer.train_all(seeds)
    for model, average, seed in zip(
        trainer.model.unstack(), trainer.ema.unstack(), seeds, strict=True
    ):
        alone = _train(recipe, few, seed)
        torch.testing.assert_close(_values(model), _values(alone.model), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(_values(average), _values(alone.ema), atol=1e-5, rtol=1e-4)


def test_replicas_drop_different_activations(few, tiny_recipe):
    recipe = dataclasses.replace(
        tiny_recipe, model_args={"layers": ["conv 8 k6 s2 p2"], "dropout": 0.5}
    )
    replicas = Replicas([gpu.initial(recipe, few, 0)] * 2)
    images = few.normalise(few.train.pixels[:8])
    one, other = replicas(torch.cat([images, images])).unflatten(0, (2, 8))
    assert not torch.allclose(one, other)


def test_only_feather_networks_compute_side_by_side(few):
    with pytest.raises(InputError, match="got BaselineNet side by side, expected Feather"):
        Replicas([gpu.initial(find_recipe("baseline"), few, 0)])


@pytest.mark.parametrize("training", [True, False])
def test_replicas_compute_what_each_network_computes(few, training):
    recipe = dataclasses.replace(find_recipe("feather-8k"), epochs=1)  # conv, sep, padding, dense
    models = [gpu.initial(recipe, few, seed) for seed in range(3)]
    images = few.normalise(few.train.pixels[:6])
    for model in models:
        model.dropout.p = 0.0
    replicas = Replicas(models).train(training)
    with torch.no_grad():
        outputs = replicas(images).unflatten(0, (3, 2))
        for own, model, two in zip(outputs, models, images.split(2), strict=True):
            torch.testing.assert_close(own, model.train(training)(two), atol=1e-5, rtol=1e-4)
    for copied, model in zip(replicas.unstack(), models, strict=True):
        torch.testing.assert_close(copied.state_dict(), model.state_dict())


def test_the_feed_repeats_the_draws_of_a_trainer(few, tiny_recipe, monkeypatch):
    recipe = dataclasses.replace(tiny_recipe, augmentation=Augmentation(rotation=10))
    trainer = Trainer(recipe, gpu.initial(recipe, few, 0), few.train, few.mean_std)
    seen = []

    def backward(indices, draws, size):
        seen.append((indices, draws.uniform, trainer.lr))
        return torch.zeros(())

    monkeypatch.setattr(trainer, "backward", backward)
    list(trainer.steps(1, seed_everything(5, 1)))
    feed = Feed(recipe, len(few.train), 1, CPU)
    assert feed.lengths == [25, 24, 24]
    steps = range(3, 6)
    feed.draw(1, [5], [(recipe.lr_at(i, 12), trainer.ema_weight(i)) for i in steps])
    for _ in range(2):  # `send` starts the epoch again
        feed.send()
        for (indices, uniform, lr), length in zip(seen, feed.lengths, strict=True):
            batch, draws, fed_lr, _ = feed.next(length)
            assert isinstance(draws, Draws)
            assert torch.equal(batch, indices)
            assert torch.equal(draws.uniform, uniform)
            assert fed_lr == pytest.approx(lr)


@pytest.mark.parametrize(
    "change",
    [{"ghost_batch": 5}, {"weight_bits": 4}, {"augmentation": Augmentation(elastic=1)}],
)
def test_recipes_that_graphs_do_not_hold_are_refused(few, tiny_recipe, change):
    recipe = dataclasses.replace(tiny_recipe, **change)
    with pytest.raises(InputError, match="expected a recipe without, for CUDA graphs"):
        GraphTrainer(recipe, gpu.initial(recipe, few, 0), few.train, few.mean_std)


def test_whole_trainings_count_what_an_evaluation_counts(few, tiny_recipe):
    recipe = dataclasses.replace(
        tiny_recipe, epochs=2, model_args=tiny_recipe.model_args | {"dropout": 0.0}
    )
    counts = [
        evaluate(_train(recipe, few, seed).ema, few.val, few.mean_std).correct for seed in (0, 1)
    ]
    by_graphs = gpu.train_by_graphs(recipe, few, CPU, (0, 1), channels_last=True)
    assert (by_graphs.correct, by_graphs.total) == (counts, 100)
    assert len(by_graphs.seconds) == 2
    assert gpu.train_eagerly(recipe, few, CPU, 1).correct == counts[1:]
    stacked = gpu.train_stacked(recipe, few, CPU, (0, 1))
    assert stacked.correct == counts
    assert len(stacked.seconds) == 1


def test_bf16_computes_almost_the_same(few, tiny_recipe):
    trainers = [
        GraphTrainer(recipe, gpu.initial(recipe, few, 0), few.train, few.mean_std, bf16)
        for recipe in [dataclasses.replace(tiny_recipe, epochs=1, ema=0.0)]
        for bf16 in (False, True)
    ]
    for trainer in trainers:
        trainer.train_all([0])
    exact, rounded = (torch.cat([p.flatten() for p in t.model.parameters()]) for t in trainers)
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).norm() < 0.05 * exact.norm()


def test_arithmetic_is_restored():
    def state():
        return (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
        )

    before = state()
    with gpu.arithmetic_of("tf32"):
        assert state() == (True, True, True)
        with gpu.arithmetic_of("float32"):
            assert state() == (False, False, True)
    assert state() == before


def test_a_device_that_computes_the_same_agrees():
    name, split = "feather-1k", load_split(None, 50_000, 10_000)
    few = dataclasses.replace(split, val=Images(split.val.pixels[:200], split.val.labels[:200]))
    found = gpu.agreement(name, few, CPU, everything=False)
    assert found.name == name
    assert found.total == 200
    assert found.max_difference == 0
    assert found.differences == []
    assert 180 < found.correct <= 200


def test_a_device_that_computes_something_else_disagrees(monkeypatch):
    split = load_split(None, 50_000, 10_000)
    few = dataclasses.replace(split, val=Images(split.val.pixels[:200], split.val.labels[:200]))
    audits = []

    def audit(model, *arguments):
        if audits:
            with torch.no_grad():
                model.head.bias[0] += 100
        audits.append(model)
        return real(model, *arguments)

    real = gpu.audit_weights
    monkeypatch.setattr(gpu, "audit_weights", audit)
    found = gpu.agreement("feather-4k", few, CPU, everything=False)
    what = [line.split(":")[0] for line in found.differences]
    assert what == ["accuracy", "predictions", "probabilities"]


def test_cold_training_runs_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(gpu, "_COLD", "print('{device} {arithmetic}'.count('c') + 9940)")
    seconds, correct = gpu.train_cold(CPU, "tf32")
    assert correct == 9941
    assert 0 < seconds < 60


def test_ghost_batches_are_left_out():
    recipe = find_recipe("sprint")
    assert recipe.n_ghosts == 2
    assert gpu.without_ghosts(recipe) == dataclasses.replace(recipe, ghost_batch=0)
    assert set(pretrained()) >= {"sprint", "feather-20k"}
