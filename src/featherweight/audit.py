"""Judge a network or a run against a contract, trusting no log.

    verdict = audit_model(model, split, contract)            # what forward passes show
    verdict, result = audit_weights(model, split, contract)  # that, and every validation image: trained elsewhere
    verdict, result = audit_run(open_run(path), split)       # that, and the epochs
    verdict.passed, verdict.not_judged, verdict.to_dict()

What an audit cannot see is whether the training really used the images it names: for that, train again with
the same seed on the same machine and compare the bits.
"""

import random
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from .build import forward, unchanged
from .contract import Contract
from .data import Split
from .errors import InputError
from .evaluate import BATCH, Evaluation, evaluate, normalise, percent
from .run import IncompatibleWeightsError, Run
from .trace import FREE, Trace
from .verdict import Clause, Verdict
from .weights import tensors

HEAD_NAMES = {"linear": "linear layer", "gap": "global average pooling", "other": "something else"}
PROBE = 64  # images of a structural pass: enough for the lightest dropout to drop some
HALF = PROBE // 2  # of them are looked at among others
LEAST = 1e-4  # of the outputs' deviation, by which dropout and batch norm must change one
LAST, TRUE_LOG = "the last epoch's", "tells what the weights give"  # what two clauses require


def _differ(one: Tensor, other: Tensor, tolerance: float) -> int:
    """Of how many images two outputs (n, classes) mean other probabilities."""
    return int(((one.softmax(1) - other.softmax(1)).abs().amax(1) > tolerance).sum())


def _moved(one: Tensor, other: Tensor) -> bool:
    """Whether some output of a second pass is another one, by more than a trace of a layer that hardly counts."""
    return bool((one - other).abs().max() > LEAST * one.std())


@torch.no_grad()
def _structure(
    model: nn.Module,
    split: Split,
    contract: Contract,
    everything: bool,
    mean_std: tuple[float, float] | None = None,
) -> tuple[list[Clause], int]:
    """The clauses that forward passes show, and the stored numbers they read. `everything` watches all validation
    images, for a network that reads other weights for other images. The network stays as it was."""
    with unchanged(model):
        return _watch(model, split, contract, everything, mean_std or split.mean_std)


def _watch(
    model: nn.Module,
    split: Split,
    contract: Contract,
    everything: bool,
    mean_std: tuple[float, float],
) -> tuple[list[Clause], int]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    probe = normalise(split.train.pixels[: 2 * PROBE].to(device), mean_std)
    images = probe[:PROBE]
    others = (
        torch.cat([images[:HALF], probe[-(len(images) - HALF) :]]) if len(images) > HALF else images
    )
    company = torch.cat([images[:HALF].flip(0), others[HALF:]])
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
    answer = output(images, 0)
    batch_norms, (dropped, possible) = trace.batch_norms(answer), trace.dropped(answer)
    # What runs must also matter: other draws, or other images beside them, must change outputs. Not those of every
    # image: behind a sign function a batch norm changes few.
    drop_matters = _moved(answer, output(images, 1))
    norm_matters = _moved(answer[:HALF], output(others, 0)[:HALF])
    model.eval()
    first = output(images, 0)
    unsteady = _differ(first, output(images, 1), 1e-6)
    # Rounding may change one or two of them: a sign function magnifies it.
    mixed = _differ(first[:HALF], output(company, 0)[:HALF].flip(0), 1e-3)
    watched = split.val.pixels if everything else split.val.pixels[:PROBE]
    for batch in watched.split(BATCH):
        out = output(normalise(batch.to(device), mean_std), 0)
    heads, seen = trace.head(out)
    numbers = trace.stored_numbers()

    total = "" if everything else f" of {len(split.val):,}"
    clauses = [
        Clause(
            "parameters",
            f"fewer than {contract.max_params:,}",
            f"{numbers:,}",
            f"stored numbers read by forward passes in both modes over {len(watched):,}{total} images; "
            f"batch-norm statistics and up to {FREE} constants free",
            numbers < contract.max_params,
        )
    ]
    if contract.batch_norm:
        clauses.append(
            Clause(
                "batch norm",
                "runs in training",
                f"{batch_norms} used",
                "a training pass; other images in the batch must change an output",
                batch_norms > 0 and norm_matters,
            )
        )
    if contract.dropout:
        clauses.append(
            Clause(
                "dropout",
                "runs in training, p > 0",
                f"{dropped:,} of {possible:,} activations dropped",
                "a training pass; another draw must change an output",
                dropped > 0 and drop_matters,
            )
        )
    clauses.append(
        Clause(
            "head",
            " or ".join(HEAD_NAMES[name] for name in contract.heads),
            " and ".join(HEAD_NAMES[name] for name in sorted(heads)),
            f"last before log-softmax: {seen}",
            heads <= set(contract.heads),
        )
    )
    if unsteady:
        found = (
            f"{unsteady} of {len(images)} outputs differ in a second pass: something random, such as dropout, "
            "runs in evaluation"
        )
    elif mixed > HALF // 16:
        found = f"{mixed} of {HALF} outputs change with the other images of the batch"
    else:
        found = "it does"
    clauses.append(
        Clause(
            "evaluation",
            "each output depends on its image alone",
            found,
            f"passes in evaluation mode over {len(images)} images: twice the same, and {HALF} of them "
            "among others",
            not unsteady and mixed <= HALF // 16,
        )
    )
    return clauses, numbers


def _unjudged(contract: Contract, weights: bool) -> list[Clause]:
    """The clauses that need a run and, without `weights`, those that need weights."""

    def missing(clause: str, required: str, what: str = "run") -> Clause:
        return Clause(
            clause,
            required,
            f"not judged: no {what}",
            f"needs {what}" if what == "weights" else "needs the folder of a run",
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
        missing("weights", LAST),
        missing("log", TRUE_LOG),
    ]


def audit_model(
    model: nn.Module, split: Split, contract: Contract, everything: bool = True
) -> Verdict:
    """The clauses that need no training: parameters, batch norm, dropout, head, evaluation. The others are there,
    not judged. `everything` watches all validation images, not a few."""
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
    """Judge a network with weights that were trained elsewhere: all but what only a run's folder tells.

    `mean_std` normalises the images in [0, 1] as that training did (None: by the training images'). Whatever
    `everything` is, every validation image is evaluated. Returns the verdict and that evaluation.
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
    """Recipe, log and optimiser state must tell of the same number of epochs, within the limit."""
    state, rows, planned = run.load_resume(), run.read_metrics(), run.recipe.epochs
    if state is None:
        raise InputError(f"{run.path}: incomplete: got no resume.pt, expected one")
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
    """Sizes, no image in both parts, and the images that the run, if there is one, was trained on."""
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
            else "what the weights were trained on is not known"
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
    """Of the evaluation of each of the last epochs, by its name."""
    missing = contract.consistent_epochs - len(results)
    found = "; ".join(
        f"{name}{percent(result.correct, result.total)}" for name, result in results.items()
    )
    total = next(iter(results.values())).total
    return Clause(
        "accuracy",
        _requires_accuracy(contract),
        found + (f"; weights of {missing} epochs are not there" if missing else ""),
        f"every one of {total:,} validation images evaluated anew{how}",
        not missing and all(r.accuracy >= contract.min_val_accuracy for r in results.values()),
    )


def _log_agrees(run: Run, epochs: dict[int, Evaluation]) -> Clause:
    """The log's count for each epoch whose weights are kept is what those weights give now."""
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
    """The headline's weights are the last ones the training saved."""
    state = run.load_resume()
    assert state is not None  # _epochs has refused that
    saved, final = state["averaged"], tensors(model)
    same = saved.keys() == final.keys() and all(
        torch.equal(saved[key], final[key].cpu()) for key in final
    )
    return Clause(
        "weights",
        LAST,
        LAST if same else "other weights",
        "model.safetensors against the saved training state, bit for bit",
        same,
    )


def audit_run(
    run: Run, split: Split, contract: Contract | None = None, device: torch.device | None = None
) -> tuple[Verdict, Evaluation | None]:
    """Rebuild the network, load its weights, watch it, and evaluate every validation image anew.

    Returns the verdict and that evaluation (None where the weights are not this network's). Raises
    ValueError for a run that is incomplete.
    """
    contract = contract or run.contract
    device = device or torch.device("cpu")
    epochs = _epochs(run, contract)
    try:
        model = run.load_model().to(device)
    except IncompatibleWeightsError as error:
        clause = Clause("weights", LAST, "another network's", str(error), False)
        return Verdict(contract.name, (clause,), None), None
    val, last = split.val.to(device), run.recipe.epochs
    results = {}
    for epoch in range(max(1, last - contract.consistent_epochs + 1), last):
        if (run.path / f"epoch-{epoch}.safetensors").is_file():
            try:
                earlier = run.load_model(f"epoch-{epoch}.safetensors").to(device)
            except IncompatibleWeightsError:
                continue  # its accuracy counts as missing below, which fails
            results[epoch] = evaluate(earlier, val, split.mean_std)
    results[last] = result = evaluate(model, val, split.mean_std)
    accuracy = _accuracy(
        {f"epoch {epoch}: ": result for epoch, result in results.items()}, contract
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
