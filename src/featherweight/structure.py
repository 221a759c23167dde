"""Judge the structure of a network: parameters, batch norm, dropout, head and evaluation.

    clauses, n_params = structure(model, split, contract, everything=False)

Passes over some images are recorded, of a graph or of a module that is watched.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from .build import count_parameters, forward, unchanged
from .contract import Contract
from .data import Split, normalise
from .evaluate import EVAL_BATCH_SIZE
from .exported import Exported
from .passes import N_PROBE
from .trace import MAX_FREE_CONSTANTS, Trace
from .verdict import Clause

HEAD_NAMES = {"linear": "linear layer", "gap": "global average pooling", "other": "something else"}
# So many of the images of a pass are looked at again in a batch with other images.
N_COMPARED = N_PROBE // 2
# Contrast of the other images, so that a batch with them has quite other statistics.
CONTRAST = 4
# Outputs that may change with the other images: a sign function magnifies float rounding.
MAX_MIXED = N_COMPARED // 16
# The smallest fraction of activations that a dropout must zero.
MIN_DROPOUT = 1e-3
# Dropout and batch norm must change the outputs by this fraction of their deviation: where all
# paths from the images lead through such a layer, and where some paths avoid it.
MIN_EFFECT, MIN_BYPASSED_EFFECT = 1e-3, 1e-2
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


@dataclass(frozen=True)
class _Layer:
    """What is found of batch norms, or of dropouts."""

    count: int
    "How many of them the output depends on."
    bypassed: bool
    "Whether some paths from the images avoid all of them."
    effect: float
    "Change of the outputs, as a fraction of their deviation, with other images or random numbers."
    done: str
    "What they did, as text."

    @property
    def works(self) -> bool:
        """Whether there is such a layer, with an effect."""
        return self.count > 0 and self.effect > self.least_effect

    @property
    def least_effect(self) -> float:
        """The effect that is too small."""
        return MIN_BYPASSED_EFFECT if self.bypassed else MIN_EFFECT

    def clause(self, name: str, required: str, change: str) -> Clause:
        """Return the verdict's clause; `change` is what was changed in a second pass."""
        where = "beside the path" if self.bypassed else "on every path"
        seen = f"{where} from images to outputs, with an effect of {100 * self.effect:.2g} %"
        return Clause(
            name,
            required,
            self.done if self.works or not self.count else f"{self.done}, {seen}",
            f"a training pass; {change} must change the outputs by more than "
            f"{100 * self.least_effect:.1g} % of their deviation; it is {seen}",
            self.works,
        )


@dataclass(frozen=True)
class Structure:
    """What a network's graph, or its forward passes, show about it."""

    n_params: int
    "Stored numbers that the passes read."
    declared: int
    "Elements of the parameters that the module declares."
    n_literals: int | None
    "Numbers in the code, None if they are unknown."
    counted: str
    "How the numbers were counted."
    batch_norm: _Layer
    "Batch norms that run in training."
    dropout: _Layer
    "Dropouts that run in training."
    heads: set[str]
    "Last layers before log-softmax: linear, gap, other."
    head_seen: str
    "How the heads were recognised."
    n_images: int
    "Images of each pass that looks at the structure."
    random: set[str]
    "Random operations in evaluation mode."
    unsteady: int
    "Outputs that differ between two equal passes in evaluation mode."
    mixed: int
    "Outputs that change with the other images of the batch in evaluation mode."


@torch.no_grad()
def structure(
    model: nn.Module,
    split: Split,
    contract: Contract,
    everything: bool,
    mean_std: tuple[float, float] | None = None,
    trained: bool = True,
) -> tuple[list[Clause], int]:
    """Return the clauses about the structure, and the number of stored numbers read.

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
        found = replace(found, batch_norm=tried.batch_norm, dropout=tried.dropout)
    return _clauses(found, contract), found.n_params


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
    mixed = max(
        _n_different(of_many[: len(first)], first, 1e-3),
        _n_different(of_many, output(many.flip(0), 0).flip(0), 1e-3),
        _n_different(first[compared], output(reordered, 0)[compared].flip(0), 1e-3),
        _n_different(first[compared], output(images[compared], 0), 1e-3),
    )
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
    return Structure(
        n_params=trace.stored_numbers(n_literals),
        declared=count_parameters(model) if not isinstance(model, Exported) else model.declared,
        n_literals=n_literals,
        counted=how,
        batch_norm=_Layer(len(norms), bypassed[0], norm_effect, f"{len(norms)} used"),
        dropout=_Layer(
            len(dropouts),
            bypassed[1],
            dropout_effect,
            f"{sum(zeros for zeros, _ in dropouts.values()):,} of "
            f"{sum(possible for _, possible in dropouts.values()):,} activations dropped",
        ),
        heads=heads,
        head_seen=head_seen,
        n_images=len(images),
        random=drawn,
        unsteady=unsteady,
        mixed=mixed,
    )


def _clauses(found: Structure, contract: Contract) -> list[Clause]:
    declared = f"{found.declared:,} declared"
    unread = f" ({declared})" if found.declared > found.n_params else ""
    literals = "" if found.n_literals is None else f", here {found.n_literals}"
    clauses = [
        Clause(
            "parameters",
            f"fewer than {contract.max_params:,}",
            f"{found.n_params:,}{unread}",
            f"stored numbers {found.counted}, of {declared}; batch-norm statistics, up to "
            f"{MAX_FREE_CONSTANTS} constants and as many numbers in the code{literals} are free",
            found.n_params < contract.max_params,
        )
    ]
    if contract.batch_norm:
        change = f"other images of {CONTRAST} times the contrast"
        clauses.append(found.batch_norm.clause("batch norm", "runs in training", change))
    if contract.dropout:
        required = f"runs in training, p at least {MIN_DROPOUT}"
        clauses.append(found.dropout.clause("dropout", required, "other random numbers"))
    clauses.append(
        Clause(
            "head",
            " or ".join(HEAD_NAMES[name] for name in contract.heads),
            " and ".join(HEAD_NAMES[name] for name in sorted(found.heads)),
            f"last before log-softmax: {found.head_seen}",
            found.heads <= set(contract.heads),
        )
    )
    if found.random or found.unsteady:
        seen = (
            f"random in evaluation: {', '.join(sorted(found.random)) or 'something'}; "
            f"{found.unsteady} of {found.n_images} outputs differ in a second pass"
        )
    elif found.mixed > MAX_MIXED:
        seen = f"{found.mixed} of {N_COMPARED} outputs change with the other images of the batch"
    else:
        seen = "it does"
    clauses.append(
        Clause(
            "evaluation",
            "each output depends on its image alone",
            seen,
            f"passes in evaluation mode over {found.n_images} images: twice the same, and "
            f"{N_COMPARED} of them among others and fewer",
            seen == "it does",
        )
    )
    return clauses
