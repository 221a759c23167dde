"""Judge one submission: its verdict, and what of it a table, a report and a badge show.

graded = judge(submission, export(submission, split, settings, start_forks()), split, settings,
               Path("run"))
graded.points, graded.report
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .._html import markdown_text as text
from ..audit import audit_model, audit_run, audit_weights, run_network
from ..build import check_model
from ..data import Split, normalise
from ..errors import InputError
from ..evaluate import Evaluation
from ..exported import Exported
from ..layers import layer_table
from ..passes import N_PROBE
from ..report import mistakes, picture, report
from ..run import GRAPH, Run, create_run, open_run
from ..train import DivergedError, check_recipe, train
from ..verdict import Clause, Verdict
from ..weights import load_weights, read_weights
from .digests import graph_digest, weights_digest
from .exports import SEED
from .forks import Export
from .markdown import N_MISTAKES, PICTURE, Graded, as_problem, report_text, unjudged
from .settings import Settings
from .submissions import Submission

WEIGHTS_HINT = "hand in the network's weights: torch.save(model.state_dict(), 'model.pth')"


def judge(
    submission: Submission, found: Export, split: Split, settings: Settings, work: Path
) -> Graded:
    """Judge a submission, given what came back from its confined process.

    Args:
        submission: What was handed in.
        found: Its network.
        split: The images.
        settings: The contract, and how.
        work: Folder of a run, if the network is trained; it is resumed if it exists.
    """
    try:
        if submission.problem:
            raise InputError(submission.problem, hint=submission.hint)
        if submission.file is None:
            missing = not submission.root.exists()
            raise InputError(
                f"got no {'such file or folder' if missing else '.py or .ipynb file, nor a run'}, "
                "expected a network",
                hint="hand in a file that defines it as a class of torch.nn.Module",
            )
        if submission.is_run:
            return _judge_run(submission, open_run(submission.file), split, settings)
        if found.problem is not None:
            raise found.problem
        return _judge_network(submission, found, split, settings, work)
    except (InputError, OSError) as error:  # OSError: a file that can't be read
        return unjudged(submission, settings.contract, error, found)


def _judge_network(
    submission: Submission, found: Export, split: Split, settings: Settings, work: Path
) -> Graded:
    name, chosen, network = found.networks[0]
    mean_std = submission.mean_std or settings.mean_std
    verdict, result, trained, weights, problem, fresh = None, None, "", "", None, None
    if found.again is not None:
        built = copy.deepcopy(network), found.again
        fresh = built.__getitem__
    few = normalise(split.train.pixels[:N_PROBE], mean_std or split.mean_std)
    check_model(network, few, split.num_classes)
    if submission.weights is not None:
        loaded = copy.deepcopy(network)
        try:
            state = read_weights(submission.weights)
            weights = weights_digest(state)
            _load(loaded, state, submission.shown(submission.weights), name)
            check_model(loaded, few, split.num_classes)
            verdict, result = audit_weights(loaded, split, settings.contract, mean_std, fresh=fresh)
        except (InputError, OSError) as error:
            problem = as_problem(error, submission, WEIGHTS_HINT)
    elif settings.recipe is not None:
        try:
            if found.untrained is not None:
                raise found.untrained
            verdict, result = _train(submission, name, network, split, settings, work, fresh)
            trained = settings.recipe.name
        except InputError as error:
            hint = f"{error.hint}, or {WEIGHTS_HINT}" if error.hint else WEIGHTS_HINT
            problem = as_problem(InputError(f"not trained: {error.message}", hint), submission)
    if verdict is None:
        verdict = audit_model(network, split, settings.contract, fresh=fresh)
    if submission.weights is not None and problem is not None:
        refused = Clause("weights", "the network's own", "refused", problem.message, False)
        kept = (refused if clause.clause == "weights" else clause for clause in verdict.clauses)
        verdict = replace(verdict, clauses=tuple(kept))
    return _graded(
        Graded(
            submission,
            settings.contract,
            problem=problem,
            network=name,
            chosen=chosen,
            verdict=verdict,
            result=result,
            trained=trained,
            graph=graph_digest(network),
            weights=weights,
        ),
        split,
        found,
        network,
    )


def _load(network: Exported, state: Mapping[str, Tensor], file: str, name: str) -> None:
    """Load weights into a network. Raises InputError if they are another's."""
    try:
        load_weights(network, state)
    except InputError as error:
        raise InputError(f"weights {file}: not those of {name}: {error.message}") from error


def _judge_run(submission: Submission, run: Run, split: Split, settings: Settings) -> Graded:
    """Judge a run folder, without running code of it in this process."""
    if split.sha256 != run.config["data"]["sha256"]:
        raise InputError(
            f"{submission.shown_file}: trained on other images than those it is judged on",
            hint="train it with the data set and the split of the contract",
        )
    network = run_network(run, split, "graph")
    verdict, result = audit_run(run, split, settings.contract)
    weights = run.path / "model.safetensors"
    return _graded(
        Graded(
            submission,
            settings.contract,
            network=run.recipe.model.rpartition(":")[2],
            chosen="the run's",
            verdict=verdict,
            result=result,
            graph=graph_digest(network) if isinstance(network, Exported) else "",
            weights=weights_digest(read_weights(weights)),
        ),
        split,
        None,
        network if isinstance(network, Exported) else None,
    )


def _train(
    submission: Submission,
    name: str,
    network: Exported,
    split: Split,
    settings: Settings,
    work: Path,
    fresh: Callable[[int], nn.Module] | None,
) -> tuple[Verdict, Evaluation | None]:
    """Train a network's graph in a run folder, or finish the run that is there, and audit it."""
    recipe, device = settings.recipe, torch.device("cpu")
    assert recipe is not None  # the caller has seen to it
    assert submission.file is not None
    if not network.faithful or recipe.weight_bits:
        raise InputError(
            f"{name}: has a gradient of its own, or {recipe.name} trains layers of this package, "
            "expected a network that is trained by its graph"
        )
    if not work.exists():
        own = replace(recipe, model=f"{submission.file.name}:{name}", model_args={})
        check_recipe(own, split, network)
        command = f"featherweight grade --train {recipe.name}"
        create_run(
            str(work), own, settings.contract, split, SEED, device, command, 1, graph=network
        )
    run = open_run(work)
    if run.read(GRAPH) != network.to_bytes():
        raise InputError(
            f"{work}: got a run of another network, expected this submission's",
            hint="remove the folder to have it trained again",
        )
    with run.lock():
        try:
            train(run, split, device)
        except DivergedError as error:
            raise InputError(f"{name}: its training diverged: {error}") from error
        verdict, result = audit_run(run, split, fresh=fresh)
        run.write_json("verdict.json", verdict.to_dict())
        if result is not None:
            report(run, result, split, verdict.to_dict())
    return verdict, result


def _graded(graded: Graded, split: Split, found: Export | None, network: Exported | None) -> Graded:
    """Return a judged submission with its report and its pictures."""
    pictures = {}
    if graded.result is not None and len(graded.result.mistakes):
        title = f"{graded.submission.name}, validation"
        drawn = mistakes(graded.result, split.val.pixels, title, split.kind, N_MISTAKES)
        pictures[PICTURE] = picture(drawn, ".png")
    layers = "" if network is None else _layers(network)
    graded = replace(graded, pictures=pictures, layers=layers, classes=split.kind.classes)
    return replace(graded, report=report_text(graded, found))


def _layers(network: Exported) -> str:
    """Return a network's layers in Markdown; nothing where a table can't show them."""
    try:
        return layer_table(network).to_markdown()
    except InputError as error:
        return f"No table: {text(error.message)}."
