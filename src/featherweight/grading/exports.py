"""Export the network of a submission by the fork server, in the ways that are tried for it.

found = export(submission, split, settings, start_forks())     # an Export
"""

import json
from dataclasses import asdict
from pathlib import Path

from ..build import build
from ..capture import capture
from ..data import Split
from ..errors import InputError
from ..passes import Pass, audit_passes
from ..recipe import RECIPES
from ..train import training_passes
from .digests import graph_digest
from .forks import Export, Forks
from .settings import Settings
from .submissions import Submission

SEED = 0  # of the initial weights, and of every training


def export(submission: Submission, split: Split, settings: Settings, forks: Forks) -> Export:
    """Export the network of a submission in a confined process.

    A `.py` file that can't be imported is tried again by what it defines."""
    if submission.file is None or submission.is_run:
        return Export()
    passes = audit_passes(split.shape)
    if settings.recipe is None or submission.weights is not None:
        found = _import(submission, split, passes, forks)
    else:
        trained = training_passes(settings.recipe, len(split.train), split.shape)
        found = _import(submission, split, trained, forks)
        if found.problem is not None:  # such as one for images of one size alone
            plain = _import(submission, split, passes, forks)
            if plain.problem is None:
                plain.untrained = found.problem
                found = plain
    if found.problem is None and settings.contract.needs("builds"):
        whole = not found.not_imported and not submission.is_notebook
        again = _export(submission, split, passes, forks, definitions=not whole, seed=SEED + 1)
        found.problem = again.problem
        found.again = again.networks[0][2] if again.networks else None
    return found


def _import(submission: Submission, split: Split, passes: list[Pass], forks: Forks) -> Export:
    """Export a network from its file as a whole or, where that fails, from what it defines."""
    assert submission.file is not None  # the caller has seen to it
    if submission.is_notebook:
        return _export(submission, split, passes, forks, definitions=True)
    if "\\udc" in ascii(str(submission.file.absolute())):  # torch.export can't name such a file
        found = _export(submission, split, passes, forks, definitions=True)
        found.not_imported = "its path is not in UTF-8"
        return found
    first = _export(submission, split, passes, forks, definitions=False)
    if first.imported or first.problem is None:
        return first
    second = _export(submission, split, passes, forks, definitions=True)
    why = first.problem.message
    if second.problem is not None and "SyntaxError" not in why:
        message = f"{second.problem.message}; as a whole: {why}"
        second.problem = InputError(message, second.problem.hint)
    second.not_imported = why
    return second


def _export(
    submission: Submission,
    split: Split,
    passes: list[Pass],
    forks: Forks,
    *,
    definitions: bool,
    everything: bool = False,
    seed: int = SEED,
) -> Export:
    assert submission.file is not None  # the caller has seen to it
    root = submission.root if submission.root.is_dir() else submission.root.parent
    found = forks.export(
        {
            "file": str(submission.file.absolute()),
            "folder": str(root.absolute()),
            "definitions": definitions,
            "network": submission.network,
            "seed": seed,
            "num_classes": split.num_classes,
            "passes": [asdict(each) for each in passes],
            "all": everything,
        }
    )
    if found.problem is None and not found.networks:
        found.problem = InputError(f"{submission.file.name}: got no network that can be exported")
    return found


def handed_out(file: Path, split: Split, forks: Forks) -> list[str]:
    """Return the digests of all networks of a file that the teacher has handed out."""
    submission = Submission(file.stem, file, file)
    found = _export(
        submission, split, audit_passes(split.shape), forks, definitions=True, everything=True
    )
    if found.problem is not None:
        raise found.problem
    return [graph_digest(network) for _, _, network in found.networks]


def built_in(split: Split) -> list[str]:
    """Return the digests of this package's networks of floats, for images like a split's."""
    found = []
    networks = {json.dumps([r.model, r.model_args]): r for r in RECIPES if not r.weight_bits}
    for recipe in networks.values():
        try:
            model = build(recipe.model, recipe.model_args, split.num_classes, split.shape)
            found.append(graph_digest(capture(model, audit_passes(split.shape))))
        except InputError:  # not made for such images
            continue
    return found
