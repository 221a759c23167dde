"""Judge a network or a run against a contract, without trusting any log.

    verdict = audit_model(model, split, contract)            # a class: its structure
    verdict, result = audit_weights(model, split, contract)  # and weights trained elsewhere
    verdict, result = audit_run(open_run(path), split)       # a run folder: every clause
    verdict.passed, verdict.not_judged, verdict.to_dict()

A network is judged by its exported graph, which holds no code; or it is watched while it runs. That
a training made the weights is only shown by training again: see retrain.py.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from .apart import capture_apart
from .capture import capture
from .contract import Contract
from .data import Split, normalise
from .errors import InputError
from .evaluate import Evaluation, evaluate
from .exported import Exported
from .facts import Evaluated, Facts, Training
from .fresh import Fresh, compare_builds, fresh_networks
from .layers import layer_table
from .passes import N_PROBE, audit_passes
from .recipe import Recipe
from .requirements import MISSING
from .run import IncompatibleWeightsError, Run
from .splits import find_split
from .structure import structure
from .verdict import Clause, Verdict
from .weights import tensors

# What the clauses `weights` and `log` require.
LAST_WEIGHTS, TRUE_LOG = "the last epoch's", "agrees with the weights"
Evidence = Literal["graph", "watched"]


def _needs_run() -> list[Clause]:
    """Return the clauses beside the contract's that need a run, not judged."""
    missing = MISSING["training"]
    return [
        Clause("weights", LAST_WEIGHTS, *missing, None),
        Clause("log", TRUE_LOG, *missing, None),
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
    facts: Facts,
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
        if more := contract.additions():
            found = f"{found or 'it is'}; asks for more: {', '.join(more)}"
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
        facts.n_params,
        scope,
        evidence=evidence or ("structure" if scope == "structure" else "weights"),
        method="watched" if watched else "graph",
        values=contract.to_dict(),
        confined=model.confined if isinstance(model, Exported) else None,
        layers=facts.layers,
    )


def judge(contract: Contract, facts: Facts) -> list[Clause]:
    """Return the contract's clauses.

    Where outputs depend on more than their image, or the split is faulty, an accuracy measures
    nothing, and no points are given for it."""
    clauses = [
        requirement.judge(title, required, facts) for title, required, requirement in contract.rows
    ]
    unsound = [c.clause for c in clauses if c.clause in ("evaluation", "split") and c.failed]
    return [
        replace(clause, points=0.0, how=f"{clause.how}; no points, as {unsound[0]} fails")
        if unsound and clause.points and requirement.kind == "accuracy"
        else clause
        for clause, (_, _, requirement) in zip(clauses, contract.rows, strict=True)
    ]


def structure_facts(
    model: nn.Module,
    split: Split,
    contract: Contract,
    everything: bool,
    fresh: Fresh | None,
    mean_std: tuple[float, float] | None = None,
    trained: bool = True,
    seed: int = 0,
) -> Facts:
    """Return the facts that need no weights; `seed` is that of the network's initial weights."""
    facts = Facts(structure=structure(model, split, everything, mean_std, trained))
    if isinstance(model, Exported):
        images = normalise(split.train.pixels[:N_PROBE], mean_std or split.mean_std)
        device = next((p.device for p in model.parameters()), images.device)
        graph = model if device == images.device else copy.deepcopy(model).cpu()
        facts.layers = layer_table(graph, trained=trained, images=images)
        if contract.needs("training_layers"):
            facts.training_layers = layer_table(graph, True, trained, images)
    if fresh is not None and contract.needs("builds"):
        facts.builds = compare_builds(fresh, seed)
    return facts


def audit_model(
    model: nn.Module,
    split: Split,
    contract: Contract,
    everything: bool = True,
    evidence: Evidence = "graph",
    fresh: Fresh | None = None,
) -> Verdict:
    """Judge the structure of a network: parameters, batch norm, dropout, head and evaluation.

    The other clauses are listed as not judged. The network stays unchanged.

    Args:
        model: The network, trained or not.
        split: Images to look at the network with.
        contract: The requirements.
        everything: Watch all validation images, not only 64 of them; a graph needs no watching.
        evidence: Judge the network's graph, or watch the module while it runs.
        fresh: Builds the network of a seed, for a contract that forbids pretrained weights.

    Raises InputError if the network has no graph, or fails on the images.
    """
    judged = as_graph(model, split.shape, evidence)
    facts = structure_facts(judged, split, contract, everything, fresh, trained=False)
    clauses = [*judge(contract, facts), *_needs_run()]
    return _verdict(contract, clauses, facts, "structure", judged)


def audit_weights(
    model: nn.Module,
    split: Split,
    contract: Contract,
    mean_std: tuple[float, float] | None = None,
    everything: bool = True,
    evidence: Evidence = "graph",
    fresh: Fresh | None = None,
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
        fresh: As for `audit_model`.

    Returns the verdict and the evaluation on the validation images. Raises InputError if the
    network has no graph, or fails on the images.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    judged = as_graph(model, split.shape, evidence)
    facts = structure_facts(judged, split, contract, everything, fresh, mean_std)
    facts.split = find_split(split, contract, own=None)
    mean, std = mean_std or split.mean_std
    whose = "as given" if mean_std else "those of the training images"
    how = f"; normalised with mean {mean:.4f} and std {std:.4f}, {whose}"
    result = evaluate(judged, split.val.to(device), (mean, std))
    results = {"val": result}
    if contract.needs("train"):
        results["train"] = evaluate(judged, split.train.to(device), (mean, std))
    facts.accuracies = {
        part: Evaluated({0: (found.correct, found.total)}, how=how)
        for part, found in results.items()
    }
    clauses = [*judge(contract, facts), *_needs_run()]
    return _verdict(contract, clauses, facts, "weights", judged), result


def training_facts(recipe: Recipe, n_train: int, logged: Sequence[object], saved: int) -> Training:
    """Return what is found of a training.

    Args:
        recipe: How it was trained, as the run says.
        n_train: Number of training images.
        logged: The epochs of the log's rows.
        saved: The epoch of the saved state.
    """
    counted = len(logged) == recipe.epochs and list(logged) == list(range(1, len(logged) + 1))
    steps = math.ceil(recipe.n_images(n_train) / recipe.batch_size) * recipe.epochs
    return Training(
        epochs=recipe.epochs,
        logged=len(logged),
        saved=saved,
        agree=counted and saved == recipe.epochs,
        batch_size=recipe.batch_size,
        optimisers=("muon", recipe.optimiser) if recipe.muon else (recipe.optimiser,),
        schedule=recipe.schedule,
        peak_epoch=round((recipe.peak_step(steps) + 1) * recipe.epochs / steps, 6),
        teacher=recipe.teacher,
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
    assert state is not None  # audit_run has raised otherwise
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
    fresh: Fresh | None = None,
) -> tuple[Verdict, Evaluation | None]:
    """Judge a finished run: load the graph of its network and its weights, and evaluate it.

    Args:
        run: The run folder.
        split: The run's images.
        contract: The requirements. None: the run's own contract.
        device: Where to evaluate. None: the CPU.
        evidence: Judge the network's graph, or watch the module while it runs.
        retrained: The clause of `retrain.retrain`, where the run was trained again.
        fresh: As for `audit_model`. None: as its recipe says.

    Returns the verdict and the evaluation on the validation images, or None for the evaluation if
    the weights are not this network's. Raises InputError if the run is incomplete, or its network
    has no graph.
    """
    contract = contract or run.contract
    device = device or torch.device("cpu")
    state = run.load_resume()
    if state is None:
        raise InputError(f"{run.path}: incomplete run: got no resume.pt, expected one")
    logged = [row.get("epoch") for row in run.read_metrics()]
    training = training_facts(run.recipe, len(split.train), logged, state["epoch"])
    if training.teacher:
        title = run.environment.get("teacher", training.teacher)
        training = replace(training, teacher=title)
    network = run_network(run, split, evidence)
    try:
        run.load_weights(network)
    except IncompatibleWeightsError as error:
        clause = Clause("weights", LAST_WEIGHTS, "another network's", str(error), False)
        missing = MISSING["val"]
        clauses = [
            *(Clause(t, r, *missing, None, None, c.points, c.bonus) for t, r, c in contract.rows),
            clause,
        ]
        return _verdict(contract, clauses, Facts(), "run", network), None
    weights = _weights(run, network)  # before a pass: a network may count its passes in a buffer
    # Evaluate each of the last epochs that the contract names.
    last, networks = run.recipe.epochs, {}
    for epoch in range(max(1, last - contract.consistent_epochs + 1), last):
        if (run.path / f"epoch-{epoch}.safetensors").is_file():
            earlier = copy.deepcopy(network)
            try:
                run.load_weights(earlier, f"epoch-{epoch}.safetensors")
            except IncompatibleWeightsError:
                continue  # its accuracy counts as missing, which fails
            networks[epoch] = earlier.to(device)
    networks[last] = model = network.to(device)
    if fresh is None:
        path, arguments = run.model_path, run.recipe.model_args
        fresh = fresh_networks(path, arguments, split, evidence == "watched")
    facts = structure_facts(model, split, contract, True, fresh, seed=run.seed)
    facts.training = training
    own = split.sha256 == run.config["data"]["sha256"]
    facts.split = find_split(split, contract, own, run.recipe.n_synthetic(len(split.train)))
    parts = {"val": split.val.to(device)}
    if contract.needs("train"):
        parts["train"] = split.train.to(device)
    results = {
        part: {epoch: evaluate(each, images, split.mean_std) for epoch, each in networks.items()}
        for part, images in parts.items()
    }
    facts.accuracies = {
        part: Evaluated({last - epoch: (r.correct, r.total) for epoch, r in found.items()}, last)
        for part, found in results.items()
    }
    clauses = [*judge(contract, facts), weights, _log_agrees(run, results["val"])]
    proof = None
    if retrained is not None:
        clauses.append(retrained)
        proof = retrained.clause if retrained.passed else None
    verdict = _verdict(contract, clauses, facts, "run", model, proof)
    return verdict, results["val"][last]


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
