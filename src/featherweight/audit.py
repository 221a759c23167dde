"""Judge a network or a run against a contract, without trusting any log.

    verdict = audit_model(model, split, contract)            # a class: its structure
    verdict, result = audit_weights(model, split, contract)  # and weights trained elsewhere
    verdict, result = audit_run(open_run(path), split)       # a run folder: every clause
    verdict.passed, verdict.not_judged, verdict.to_dict()

A network is judged by its exported graph, which holds no code; or it is watched while it runs. That
a training made the weights is only shown by training again: see retrain.py.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from .apart import capture_apart
from .capture import capture
from .contract import Contract
from .data import Split
from .errors import InputError
from .evaluate import Evaluation, evaluate, percent
from .exported import Exported
from .passes import audit_passes
from .run import IncompatibleWeightsError, Run
from .splits import MNIST_SPLIT, split_faults
from .structure import structure
from .verdict import Clause, Verdict
from .weights import tensors

# What the clauses `weights` and `log` require.
LAST_WEIGHTS, TRUE_LOG = "the last epoch's", "agrees with the weights"
Evidence = Literal["graph", "watched"]


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


def as_graph(model: nn.Module, shape: Sequence[int], evidence: Evidence) -> nn.Module:
    """Return what is judged: the network's graph, or with `watched` the module itself.

    Raises InputError if it can't be exported."""
    if evidence == "watched" or isinstance(model, Exported):
        return model
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type == "cpu":
        return capture(model, audit_passes(shape))
    return capture(copy.deepcopy(model).cpu(), audit_passes(shape)).to(device)


def _verdict(
    contract: Contract,
    clauses: Sequence[Clause],
    n_params: int | None,
    scope: str,
    model: nn.Module,
    evidence: str | None = None,
) -> Verdict:
    """Return a verdict that says what it rests on."""
    watched = not isinstance(model, Exported)
    differences = contract.differences()
    if contract.built_in is not None:
        found = "; ".join(
            f"{key} {found}, built in {expected}" for key, (found, expected) in differences.items()
        )
        clauses = [
            *clauses,
            Clause(
                "contract",
                f"the built-in {contract.name}",
                found or "it is",
                "each of its values against the built-in contract's",
                not differences,
            ),
        ]
    return Verdict(
        contract.name,
        tuple(clauses),
        n_params,
        scope,
        evidence=evidence or ("structure" if scope == "structure" else "weights"),
        method="watched" if watched else "graph",
        values=contract.to_dict(),
        confined=model.confined if isinstance(model, Exported) else None,
    )


def audit_model(
    model: nn.Module,
    split: Split,
    contract: Contract,
    everything: bool = True,
    evidence: Evidence = "graph",
) -> Verdict:
    """Judge the structure of a network: parameters, batch norm, dropout, head and evaluation.

    The other clauses are listed as not judged. The network stays unchanged.

    Args:
        model: The network, trained or not.
        split: Images to look at the network with.
        contract: The requirements.
        everything: Watch all validation images, not only 64 of them; a graph needs no watching.
        evidence: Judge the network's graph, or watch the module while it runs.

    Raises InputError if the network has no graph, or fails on the images.
    """
    judged = as_graph(model, split.shape, evidence)
    clauses, n_params = structure(judged, split, contract, everything, trained=False)
    clauses += _unjudged(contract, weights=False)
    return _verdict(contract, clauses, n_params, "structure", judged)


def audit_weights(
    model: nn.Module,
    split: Split,
    contract: Contract,
    mean_std: tuple[float, float] | None = None,
    everything: bool = True,
    evidence: Evidence = "graph",
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
        evidence: Judge the network's graph, or watch the module while it runs.

    Returns the verdict and the evaluation on the validation images. Raises InputError if the
    network has no graph, or fails on the images.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    judged = as_graph(model, split.shape, evidence)
    found, n_params = structure(judged, split, contract, everything, mean_std)
    mean, std = mean_std or split.mean_std
    result = evaluate(judged, split.val.to(device), (mean, std))
    whose = "as given" if mean_std else "those of the training images"
    accuracy = _accuracy(
        {"": result}, contract, f"; normalised with mean {mean:.4f} and std {std:.4f}, {whose}"
    )
    if accuracy.passed is False and result.accuracy >= contract.min_val_accuracy:
        accuracy = replace(
            accuracy, passed=None, how="not judged: needs the weights of several epochs"
        )
    epochs, *others = _unjudged(contract, weights=True)
    clauses = [*found, epochs, _split(split, contract), accuracy, *others]
    return _verdict(contract, clauses, n_params, "weights", judged), result


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
    whose = "MNIST's " if contract.data == "mnist" else ""
    return f"{whose}{contract.train_size:,} training, {contract.val_size:,} validation, none alike"


def _split(split: Split, contract: Contract, run: Run | None = None) -> Clause:
    """Check the images for the contract, and that these are the run's images."""
    faults = split_faults(split, contract)
    if run is not None and split.sha256 != run.config["data"]["sha256"]:
        faults.append("not the run's images")
    sizes = f"{len(split.train):,} training, {len(split.val):,} validation"
    return Clause(
        "split",
        _requires_split(contract),
        "; ".join(faults) or f"{sizes}, none alike",
        (
            "the hash is that of MNIST's own"
            if split.sha256 == MNIST_SPLIT
            else "every validation image against every training image"
        )
        + "; "
        + (
            "the split's hash is the run's"
            if run
            else "the images that the weights were trained on are unknown"
        ),
        not faults,
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
    run: Run,
    split: Split,
    contract: Contract | None = None,
    device: torch.device | None = None,
    evidence: Evidence = "graph",
    retrained: Clause | None = None,
) -> tuple[Verdict, Evaluation | None]:
    """Judge a finished run: load the graph of its network and its weights, and evaluate it.

    Args:
        run: The run folder.
        split: The run's images.
        contract: The requirements. None: the run's own contract.
        device: Where to evaluate. None: the CPU.
        evidence: Judge the network's graph, or watch the module while it runs.
        retrained: The clause of `retrain.retrain`, where the run was trained again.

    Returns the verdict and the evaluation on the validation images, or None for the evaluation if
    the weights are not this network's. Raises InputError if the run is incomplete, or its network
    has no graph.
    """
    contract = contract or run.contract
    device = device or torch.device("cpu")
    epochs = _epochs(run, contract)
    network = run_network(run, split, evidence)
    try:
        run.load_weights(network)
    except IncompatibleWeightsError as error:
        clause = Clause("weights", LAST_WEIGHTS, "another network's", str(error), False)
        return _verdict(contract, [clause], None, "run", network), None
    # Evaluate each of the last epochs that the contract names.
    val, last = split.val.to(device), run.recipe.epochs
    results = {}
    for epoch in range(max(1, last - contract.consistent_epochs + 1), last):
        if (run.path / f"epoch-{epoch}.safetensors").is_file():
            earlier = copy.deepcopy(network)
            try:
                run.load_weights(earlier, f"epoch-{epoch}.safetensors")
            except IncompatibleWeightsError:
                continue  # its accuracy counts as missing, which fails
            results[epoch] = evaluate(earlier.to(device), val, split.mean_std)
    model = network.to(device)
    results[last] = result = evaluate(model, val, split.mean_std)
    accuracy = _accuracy(
        {f"epoch {epoch}: ": evaluation for epoch, evaluation in results.items()}, contract
    )
    found, n_params = structure(model, split, contract, everything=True)
    clauses = [
        *found,
        epochs,
        _split(split, contract, run),
        accuracy,
        _weights(run, model),
        _log_agrees(run, results),
    ]
    proof = None
    if retrained is not None:
        clauses.append(retrained)
        proof = retrained.clause if retrained.passed else None
    return _verdict(contract, clauses, n_params, "run", model, proof), result


def run_network(run: Run, split: Split, evidence: Evidence) -> nn.Module:
    """Return a run's network as what is judged, without its weights.

    Code that is not this package's runs only to be watched, or apart."""
    if evidence == "graph" and run.needs_code:
        return capture_apart(
            run.model_path,
            run.recipe.model_args,
            split.num_classes,
            audit_passes(split.shape),
            run.seed,
        )
    graph = run.load_graph() if evidence == "graph" else None
    return graph or as_graph(run.build_module(), split.shape, evidence).eval()
