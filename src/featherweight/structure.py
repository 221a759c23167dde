"""Find out the structure of a network: parameters, batch norm, dropout, head and evaluation.

    found = structure(model, split, everything=False)       # facts.Structure

Passes over some images are recorded, of a graph or of a module that is watched.
"""

import random
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from .build import count_parameters, forward, unchanged
from .data import Split, normalise
from .evaluate import EVAL_BATCH_SIZE
from .exported import Exported
from .facts import MIN_DROPOUT, Effect, Structure
from .passes import N_PROBE
from .trace import MAX_FREE_CONSTANTS, Trace

# So many of the images of a pass are looked at again in a batch with other images.
N_COMPARED = N_PROBE // 2
# Contrast of the other images, so that a batch with them has quite other statistics.
CONTRAST = 4
# Outputs that may change with the other images: a sign function magnifies float rounding.
MAX_MIXED = N_COMPARED // 16
# Deviation of the noise that an untrained network's parameters get before its layers' effects are
# looked at again: a factor that starts at 0 hides them.
TRIAL_NOISE = 0.1


def _n_different(one: Tensor, other: Tensor, tolerance: float) -> int:
    """Return for how many images two outputs (n, classes) give different probabilities."""
    return int(((one.softmax(1) - other.softmax(1)).abs().amax(1) > tolerance).sum())


def _effect(one: Tensor, other: Tensor) -> float:
    """Return how much outputs (n, classes) differ, as a fraction of their deviation.

    It is 0 where only a few images differ at all."""
    squares = (one - other).square().mean(1)
    deviation = one.std().clamp_min(1e-12)
    if int((squares > 0).sum()) <= MAX_MIXED:
        return 0.0
    return float(squares.mean().sqrt() / deviation)


@torch.no_grad()
def structure(
    model: nn.Module,
    split: Split,
    everything: bool,
    mean_std: tuple[float, float] | None = None,
    trained: bool = True,
) -> Structure:
    """Return what the network's passes show about it.

    `model` is a graph, or a module that is watched: then `everything` watches all validation
    images, to find weights that are read for some images only. The network stays unchanged.
    """
    with unchanged(model):
        found = _watch(model, split, everything, mean_std or split.mean_std)
    if not trained and not (found.batch_norm.works and found.dropout.works):
        # A branch may begin with the factor 0, which training changes.
        with unchanged(model):
            generator = torch.Generator().manual_seed(0)
            for parameter in filter(_trained, model.parameters()):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_(noise.to(parameter), alpha=TRIAL_NOISE)
            tried = _watch(model, split, False, mean_std or split.mean_std)
        found = replace(
            found, batch_norm=tried.batch_norm, dropout=tried.dropout, rates=tried.rates
        )
    return found


def _trained(parameter: Tensor) -> bool:
    return parameter.requires_grad


def _watch(
    model: nn.Module, split: Split, everything: bool, mean_std: tuple[float, float]
) -> Structure:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    probe = normalise(split.train.pixels[: 2 * N_PROBE].to(device), mean_std)
    images = probe[:N_PROBE]
    # Half of the images, the compared ones, among others; and in reverse order. They are drawn, so
    # that no grouping of a batch keeps them apart from the others.
    generator = torch.Generator().manual_seed(0)
    compared = torch.randperm(len(images), generator=generator)[: len(images) // 2].sort().values
    others = CONTRAST * probe[len(probe) - len(images) :]
    others[compared] = images[compared]
    reordered = others.clone()
    reordered[compared] = images[compared.flip(0)]
    # A batch as large as those of the evaluation.
    many = normalise(split.train.pixels[:EVAL_BATCH_SIZE].to(device), mean_std)
    trace = Trace()

    def output(batch: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        batch = batch.clone()  # a network may write over its images
        with trace.watch(batch):
            out = forward(model, batch)
        assert isinstance(out, Tensor)
        return out

    model.train()
    trained = output(images, 0)
    norms, dropouts = trace.batch_norms(trained), trace.dropouts(trained, MIN_DROPOUT)
    rates = trace.rates(dropouts)
    bypassed = trace.bypassed(trained, norms), trace.bypassed(trained, set(dropouts))
    # A layer that runs must also matter: other images in the batch must change an output, and other
    # random numbers.
    norm_effect = _effect(trained[compared], output(others, 0)[compared])
    dropout_effect = _effect(trained, output(images, 1))
    model.eval()
    first = output(images, 0)
    drawn = trace.random(first)
    unsteady = _n_different(first, output(images, 1), 1e-6)
    # A larger tolerance, because another place in the batch changes float rounding.
    of_many = output(many, 0)
    pairs = (
        (of_many[: len(first)], first),
        (of_many, output(many.flip(0), 0).flip(0)),
        (first[compared], output(reordered, 0)[compared].flip(0)),
        (first[compared], output(images[compared], 0)),
    )
    mixed, among = max((_n_different(one, other, 1e-3), len(one)) for one, other in pairs)
    if not isinstance(model, Exported):
        watched = split.val.pixels if everything else split.val.pixels[:N_PROBE]
        for batch in watched.split(EVAL_BATCH_SIZE):
            first = output(normalise(batch.to(device), mean_std), 0)
        of = "" if everything else f" of {len(split.val):,}"
        how = f"read by forward passes in both modes over {len(watched):,}{of} images"
    else:
        first = output(images, 0)
        how = "in the graphs of both modes"
    heads, head_seen = trace.head(first)
    n_literals = model.n_literals() if isinstance(model, Exported) else None
    literals = "" if n_literals is None else f", here {n_literals}"
    declared = count_parameters(model) if not isinstance(model, Exported) else model.declared
    if drawn or unsteady:
        dependence = (
            f"random in evaluation: {', '.join(sorted(drawn)) or 'something'}; "
            f"{unsteady} of {len(images)} outputs differ in a second pass"
        )
    elif mixed > MAX_MIXED:
        dependence = f"{mixed} of {among} outputs change with the other images of the batch"
    else:
        dependence = ""
    return Structure(
        n_params=trace.stored_numbers(n_literals),
        n_trainable=trace.trainable_numbers(),
        declared=declared,
        counted=f"stored numbers {how}, of {declared:,} declared; batch-norm statistics, up to "
        f"{MAX_FREE_CONSTANTS} constants and as many numbers in the code{literals} are free",
        batch_norm=Effect(len(norms), bypassed[0], norm_effect, f"{len(norms)} used"),
        dropout=Effect(
            len(dropouts),
            bypassed[1],
            dropout_effect,
            f"{sum(zeros for zeros, _ in dropouts.values()):,} of "
            f"{sum(possible for _, possible in dropouts.values()):,} activations dropped",
        ),
        changed={
            "batch norm": f"other images of {CONTRAST} times the contrast",
            "dropout": "other random numbers",
        },
        rates=rates,
        heads=heads,
        head_seen=head_seen,
        dependence=dependence,
        evaluated=f"passes in evaluation mode over {len(images)} images: twice the same, "
        f"{N_COMPARED} of them among others and fewer, and {len(many)} in reverse order",
    )
