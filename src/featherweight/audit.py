"""Judge a network or a run against a contract, without trusting any log.

    verdict = audit_model(model, split, contract)            # a class: its structure
    verdict, result = audit_weights(model, split, contract)  # and weights trained elsewhere
    verdict, result = audit_run(open_run(path), split)       # a run folder: every clause
    verdict.passed, verdict.not_judged, verdict.to_dict()

An audit can't see whether the training really used the images that it names. To check that, train
again with the same seed on the same machine and compare the weights bit for bit.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from .build import forward, unchanged
from .contract import Contract
from .data import Split, normalise
from .errors import InputError
from .evaluate import EVAL_BATCH_SIZE, Evaluation, evaluate, percent
from .run import IncompatibleWeightsError, Run
from .trace import MAX_FREE_CONSTANTS, Trace
from .verdict import Clause, Verdict
from .weights import tensors

HEAD_NAMES = {"linear": "linear layer", "gap": "global average pooling", "other": "something else"}
# Images of a pass that looks at the structure: enough for even a weak dropout to zero some
# activations.
N_PROBE = 64
# So many of them are looked at again in a batch with other images.
N_COMPARED = N_PROBE // 2
# Outputs that may change with the other images: a sign function magnifies float rounding.
MAX_MIXED = N_COMPARED // 16
# Dropout and batch norm must change an output by this fraction of the outputs' deviation: a layer
# without effect does not count.
MIN_EFFECT = 1e-4
# What the clauses `weights` and `log` require.
LAST_WEIGHTS, TRUE_LOG = "the last epoch's", "agrees with the weights"


def _n_different(one: Tensor, other: Tensor, tolerance: float) -> int:
    """Return for how many images two outputs (n, classes) give different probabilities."""
    return int(((one.softmax(1) - other.softmax(1)).abs().amax(1) > tolerance).sum())


def _has_effect(one: Tensor, other: Tensor) -> bool:
    """Return whether two outputs (n, classes) differ for some image by more than `MIN_EFFECT`."""
    return bool((one - other).abs().max() > MIN_EFFECT * one.std())


@dataclass(frozen=True)
class _Structure:
    """What forward passes show about a network."""

    n_params: int
    "Stored numbers that the passes read."
    watched: str
    "How many images were watched, as text."
    batch_norms: int
    "Batch norms that run in training."
    norm_matters: bool
    "Whether other images in the batch change an output in training."
    dropped: tuple[int, int]
    "Activations that dropout zeroed in a training pass, and how many it could have zeroed."
    dropout_matters: bool
    "Whether other random numbers change an output in training."
    heads: set[str]
    "Last layers before log-softmax: linear, gap, other."
    head_seen: str
    "How the heads were recognised."
    n_images: int
    "Images of each pass that looks at the structure."
    unsteady: int
    "Outputs that differ between two equal passes in evaluation mode."
    mixed: int
    "Outputs that change with the other images of the batch in evaluation mode."


@torch.no_grad()
def _structure(
    model: nn.Module,
    split: Split,
    contract: Contract,
    everything: bool,
    mean_std: tuple[float, float] | None = None,
) -> tuple[list[Clause], int]:
    """Return the clauses that forward passes can judge, and the number of stored numbers read.

    `everything` watches all validation images, to find weights that are read for some images only.
    The network stays unchanged.
    """
    with unchanged(model):
        found = _watch(model, split, everything, mean_std or split.mean_std)
    return _structure_clauses(found, contract), found.n_params


def _watch(
    model: nn.Module, split: Split, everything: bool, mean_std: tuple[float, float]
) -> _Structure:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    probe = normalise(split.train.pixels[: 2 * N_PROBE].to(device), mean_std)
    images = probe[:N_PROBE]
    # The first half of the images with another second half.
    others = (
        torch.cat([images[:N_COMPARED], probe[-(len(images) - N_COMPARED) :]])
        if len(images) > N_COMPARED
        else images
    )
    # The same, with the first half in reverse order.
    reordered = torch.cat([images[:N_COMPARED].flip(0), others[N_COMPARED:]])
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
    batch_norms, dropped = trace.batch_norms(trained), trace.dropped(trained)
    # A layer that runs must also matter: other random numbers, or other images in the batch, must
    # change an output. One is enough: behind a sign function a batch norm changes few.
    dropout_matters = _has_effect(trained, output(images, 1))
    norm_matters = _has_effect(trained[:N_COMPARED], output(others, 0)[:N_COMPARED])
    model.eval()
    first = output(images, 0)
    unsteady = _n_different(first, output(images, 1), 1e-6)
    # A larger tolerance, because another place in the batch changes float rounding.
    mixed = _n_different(first[:N_COMPARED], output(reordered, 0)[:N_COMPARED].flip(0), 1e-3)
    watched = split.val.pixels if everything else split.val.pixels[:N_PROBE]
    for batch in watched.split(EVAL_BATCH_SIZE):
        out = output(normalise(batch.to(device), mean_std), 0)
    heads, head_seen = trace.head(out)
    return _Structure(
        n_params=trace.stored_numbers(),
        watched=f"{len(watched):,}{'' if everything else f' of {len(split.val):,}'}",
        batch_norms=batch_norms,
        norm_matters=norm_matters,
        dropped=dropped,
        dropout_matters=dropout_matters,
        heads=heads,
        head_seen=head_seen,
        n_images=len(images),
        unsteady=unsteady,
        mixed=mixed,
    )


def _structure_clauses(found: _Structure, contract: Contract) -> list[Clause]:
    clauses = [
        Clause(
            "parameters",
            f"fewer than {contract.max_params:,}",
            f"{found.n_params:,}",
            f"stored numbers read by forward passes in both modes over {found.watched} images; "
            f"batch-norm statistics and up to {MAX_FREE_CONSTANTS} constants are free",
            found.n_params < contract.max_params,
        )
    ]
    if contract.batch_norm:
        clauses.append(
            Clause(
                "batch norm",
                "runs in training",
                f"{found.batch_norms} used",
                "a training pass; other images in the batch must change an output",
                found.batch_norms > 0 and found.norm_matters,
            )
        )
    if contract.dropout:
        dropped, possible = found.dropped
        clauses.append(
            Clause(
                "dropout",
                "runs in training, p > 0",
                f"{dropped:,} of {possible:,} activations dropped",
                "a training pass; other random numbers must change an output",
                dropped > 0 and found.dropout_matters,
            )
        )
    clauses.append(
        Clause(
            "head",
            " or ".join(HEAD_NAMES[name] for name in contract.heads),
            " and ".join(HEAD_NAMES[name] for name in sorted(found.heads)),
            f"last before log-softmax: {found.head_seen}",
            found.heads <= set(contract.heads),
        )
    )
    if found.unsteady:
        seen = (
            f"{found.unsteady} of {found.n_images} outputs differ in a second pass: something "
            "random, such as dropout, runs in evaluation"
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
            f"passes in evaluation mode over {found.n_images} images: twice the same, and once "
            f"{N_COMPARED} of them among others",
            not found.unsteady and found.mixed <= MAX_MIXED,
        )
    )
    return clauses


def _unjudged(contract: Contract, weights: bool) -> list[Clause]:
    """Return the clauses that need a run and, without `weights`, those that need weights."""

    def missing(clause: str, required: str, what: str = "run") -> Clause:
        return Clause(
            clause,
            required,
            f"not judged: no {what}",
            f"needs {what}" if what == "weights" else "needs the training state",
            None,
        )

    needs_weights = (
        []
        if weights
        else [
            missing("split", _requires_split(contract), "weights"),
            missing("accuracy", _requires_accuracy(contract), "weights"),
        ]
    )
    return [
        missing("epochs", f"fewer than {contract.max_epochs}"),
        *needs_weights,
        missing("weights", LAST_WEIGHTS),
        missing("log", TRUE_LOG),
    ]


def audit_model(
    model: nn.Module, split: Split, contract: Contract, everything: bool = True
) -> Verdict:
    """Judge the structure of a network: parameters, batch norm, dropout, head and evaluation.

    The other clauses are listed as not judged. The network stays unchanged.

    Args:
        model: The network, trained or not.
        split: Images to watch the network on.
        contract: The requirements.
        everything: Watch all validation images, not only 64 of them.

    Raises InputError if the network fails on the images.
    """
    clauses, n_params = _structure(model, split, contract, everything)
    return Verdict(
        contract.name, (*clauses, *_unjudged(contract, weights=False)), n_params, "structure"
    )


def audit_weights(
    model: nn.Module,
    split: Split,
    contract: Contract,
    mean_std: tuple[float, float] | None = None,
    everything: bool = True,
) -> tuple[Verdict, Evaluation]:
    """Judge a network with weights that were trained elsewhere.

    Every clause is judged except those that need a run folder. The network stays unchanged.

    Args:
        model: The network with its weights.
        split: The images; every validation image is evaluated.
        contract: The requirements.
        mean_std: Mean and standard deviation of pixels in [0, 1] by which that training normalised
            images. None: those of the training images.
        everything: Watch all validation images for the structure, not only 64 of them.

    Returns the verdict and the evaluation on the validation images. Raises InputError if the
    network fails on the images.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    structure, n_params = _structure(model, split, contract, everything, mean_std)
    mean, std = mean_std or split.mean_std
    result = evaluate(model, split.val.to(device), (mean, std))
    whose = "as given" if mean_std else "those of the training images"
    accuracy = _accuracy(
        {"": result}, contract, f"; normalised with mean {mean:.4f} and std {std:.4f}, {whose}"
    )
    if accuracy.passed is False and result.accuracy >= contract.min_val_accuracy:
        accuracy = replace(
            accuracy, passed=None, how="not judged: needs the weights of several epochs"
        )
    epochs, *others = _unjudged(contract, weights=True)
    clauses = [*structure, epochs, _split(split, contract), accuracy, *others]
    return Verdict(contract.name, tuple(clauses), n_params, "weights"), result


def _epochs(run: Run, contract: Contract) -> Clause:
    """Check that recipe, log and saved state agree on a number of epochs within the limit."""
    state, rows, planned = run.load_resume(), run.read_metrics(), run.recipe.epochs
    if state is None:
        raise InputError(f"{run.path}: incomplete run: got no resume.pt, expected one")
    logged = [row.get("epoch") for row in rows]
    agree = logged == list(range(1, planned + 1)) and state["epoch"] == planned
    found = str(planned) if agree else f"recipe {planned}, log {len(rows)}, state {state['epoch']}"
    return Clause(
        "epochs",
        f"fewer than {contract.max_epochs}",
        found,
        "recipe, every row of the log and the saved state agree",
        agree and planned < contract.max_epochs,
    )


def _requires_split(contract: Contract) -> str:
    return f"{contract.train_size:,} training, {contract.val_size:,} validation, none in both"


def _split(split: Split, contract: Contract, run: Run | None = None) -> Clause:
    """Check the sizes, that no image is in both parts, and that these are the run's images."""
    train, val = split.train.digests(), split.val.digests()
    seen = set(train)
    overlap = sum(digest in seen for digest in val)
    same = run is None or split.sha256 == run.config["data"]["sha256"]
    sizes = f"{len(train):,} training, {len(val):,} validation"
    return Clause(
        "split",
        _requires_split(contract),
        f"{sizes}, {overlap:,} in both" + ("" if same else ", not the run's images"),
        "a hash of every image; "
        + (
            "the split's hash is the run's"
            if run
            else "the images that the weights were trained on are unknown"
        ),
        (len(train), len(val)) == (contract.train_size, contract.val_size)
        and overlap == 0
        and same,
    )


def _requires_accuracy(contract: Contract) -> str:
    several = (
        f" in each of the last {contract.consistent_epochs} epochs"
        if contract.consistent_epochs > 1
        else ""
    )
    return f"at least {100 * contract.min_val_accuracy:.2f} %{several}"


def _accuracy(results: dict[str, Evaluation], contract: Contract, how: str = "") -> Clause:
    """Check the accuracy of each of the last epochs; `results` holds evaluations by name."""
    missing = contract.consistent_epochs - len(results)
    found = "; ".join(
        f"{name}{percent(result.correct, result.total)}" for name, result in results.items()
    )
    total = next(iter(results.values())).total
    return Clause(
        "accuracy",
        _requires_accuracy(contract),
        found + (f"; weights of {missing} epochs are missing" if missing else ""),
        f"every one of {total:,} validation images evaluated again{how}",
        not missing and all(r.accuracy >= contract.min_val_accuracy for r in results.values()),
    )


def _log_agrees(run: Run, epochs: dict[int, Evaluation]) -> Clause:
    """Check the log's count of each epoch whose weights are kept against those weights."""
    rows = {row.get("epoch"): row for row in run.read_metrics()}
    differ = [
        f"epoch {epoch}: log {rows.get(epoch, {}).get('val_correct')}, weights {result.correct}"
        for epoch, result in epochs.items()
        if rows.get(epoch, {}).get("val_correct") != result.correct
        or rows[epoch].get("val_total") != result.total
    ]
    return Clause(
        "log",
        TRUE_LOG,
        "; ".join(differ) or "agrees",
        f"counts of epoch {', '.join(map(str, epochs))} against the evaluation",
        not differ,
    )


def _weights(run: Run, model: nn.Module) -> Clause:
    """Check that the run's weights are those that training saved after its last epoch."""
    state = run.load_resume()
    assert state is not None  # _epochs has raised otherwise
    # Early runs keep the evaluated network under the key `averaged`.
    saved = state["evaluated" if "evaluated" in state else "averaged"]
    final = tensors(model)
    same = saved.keys() == final.keys() and all(
        torch.equal(saved[key], final[key].cpu()) for key in final
    )
    return Clause(
        "weights",
        LAST_WEIGHTS,
        LAST_WEIGHTS if same else "other weights",
        "model.safetensors against the saved training state, bit for bit",
        same,
    )


def audit_run(
    run: Run, split: Split, contract: Contract | None = None, device: torch.device | None = None
) -> tuple[Verdict, Evaluation | None]:
    """Judge a finished run: rebuild the network, load its weights, watch and evaluate it.

    Args:
        run: The run folder.
        split: The run's images.
        contract: The requirements. None: the run's own contract.
        device: Where to evaluate. None: the CPU.

    Returns the verdict and the evaluation on the validation images, or None for the evaluation if
    the weights are not this network's. Raises InputError if the run is incomplete.
    """
    contract = contract or run.contract
    device = device or torch.device("cpu")
    epochs = _epochs(run, contract)
    try:
        model = run.load_model().to(device)
    except IncompatibleWeightsError as error:
        clause = Clause("weights", LAST_WEIGHTS, "another network's", str(error), False)
        return Verdict(contract.name, (clause,), None), None
    # Evaluate each of the last epochs that the contract names.
    val, last = split.val.to(device), run.recipe.epochs
    results = {}
    for epoch in range(max(1, last - contract.consistent_epochs + 1), last):
        if (run.path / f"epoch-{epoch}.safetensors").is_file():
            try:
                earlier = run.load_model(f"epoch-{epoch}.safetensors").to(device)
            except IncompatibleWeightsError:
                continue  # its accuracy counts as missing, which fails
            results[epoch] = evaluate(earlier, val, split.mean_std)
    results[last] = result = evaluate(model, val, split.mean_std)
    accuracy = _accuracy(
        {f"epoch {epoch}: ": evaluation for epoch, evaluation in results.items()}, contract
    )
    structure, n_params = _structure(model, split, contract, everything=True)
    clauses = [
        *structure,
        epochs,
        _split(split, contract, run),
        accuracy,
        _weights(run, model),
        _log_agrees(run, results),
    ]
    return Verdict(contract.name, tuple(clauses), n_params), result
