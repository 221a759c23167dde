"""Look for a better recipe with Optuna (Akiba et al. 2019), on validation images alone.

    recipes = ["feather-8k"]            # one, and one seed
    [search]
    trials = 60
    [search.space]
    lr = {low = 0.03, high = 0.3, log = true}
    batch_size = [32, 64, 128]
    augmentation.rotation = {low = 5.0, high = 12.0}
    model_args.layers = ["conv 8", "conv 8..16 m2", "conv 16 p1", "sep 24..40", "?sep 32..48"]

A list is of values, but for the layers: each is there, or may be left out (?), and a width LOW..HIGH goes in steps
of 4. A candidate that breaks the contract as it stands, untrained, is never trained. The others are compared by the
validation loss, which is steadier than the count; one that is worse than the median, from a third of the epochs on,
is given up. The journal beside the table has every trial: the same command goes on.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ..audit import audit_model
from ..build import build
from ..contract import Contract
from ..data import Split
from ..errors import InputError
from ..recipe import Recipe
from ..run import Row as Epoch
from ..run import open_run
from ..train import check_recipe
from .plan import Plan, changed
from .study import Job, Row, Stopped, Workers, add_row, read_table, row_key, run_jobs

STARTUP = 5  # candidates trained to their end before one is given up
STEP = 4  # channels between the widths that are tried: half a vector of most CPUs
VAIN = (
    1000  # candidates in a row that break the contract, or were there, after which the search ends
)


def _fields(space: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of a recipe's fields, and what each may be."""
    for key, value in space.items():
        if isinstance(value, dict) and "low" not in value:
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@dataclasses.dataclass(frozen=True)
class _Layer:
    """One of `model_args.layers`: what is before and after its width, which is drawn, or before it alone."""

    before: str
    width: IntDistribution | None
    after: str
    optional: bool


def _layers(words: list[str]) -> dict[str, _Layer]:
    """By the name of what is drawn of each."""
    layers = {}
    for number, word in enumerate(words):
        rest = word.removeprefix("?")
        found = re.search(r"(\d+)\.\.(\d+)", rest)
        before, after = (
            (rest, "") if found is None else (rest[: found.start()], rest[found.end() :])
        )
        width = None if found is None else IntDistribution(int(found[1]), int(found[2]), step=STEP)
        layers[f"layer {number}"] = _Layer(before, width, after, word != rest)
    return layers


def distributions(space: dict[str, Any], where: str) -> dict[str, BaseDistribution]:
    """What Optuna draws from, by name. ValueError where the space can't be understood."""
    found: dict[str, BaseDistribution] = {}
    for name, value in _fields(space):
        try:
            if name in ("name", "epochs", "contract", "model"):
                raise InputError(
                    "is not searched: candidates are of one network and one number of epochs"
                )
            if name == "model_args.layers":
                for word, layer in _layers(value).items():
                    if layer.width is not None:
                        found[f"{word} width"] = layer.width
                    if layer.optional:
                        found[f"{word} there"] = CategoricalDistribution([True, False])
            elif isinstance(value, list):
                found[name] = CategoricalDistribution(value)
            elif isinstance(value, dict):
                whole = type(value["low"]) is int and type(value.get("high")) is int
                found[name] = IntDistribution(**value) if whole else FloatDistribution(**value)
            else:
                raise InputError(
                    "expected a list, or a table of low, high and perhaps log and step"
                )
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: {name}: got {value!r}: {error}") from error
    return found


def candidate(base: Recipe, space: dict[str, Any], drawn: dict[str, Any], name: str) -> Recipe:
    """The recipe with what was drawn. Raises ValueError where that is none."""
    values: dict[str, Any] = {"name": name}
    for field, value in _fields(space):
        if field == "model_args.layers":
            chosen: Any = [
                f"{layer.before}{drawn[f'{word} width'] if layer.width else ''}{layer.after}"
                for word, layer in _layers(value).items()
                if not layer.optional or drawn[f"{word} there"]
            ]
        else:
            chosen = drawn[field]
        table, _, key = field.rpartition(".")
        (values.setdefault(table, {}) if table else values)[key] = chosen
    return changed(base, values, "candidate")


def breaks(recipe: Recipe, contract: Contract, split: Split) -> str | None:
    """Why no training can make the recipe hold the contract, as far as its untrained network shows; else None."""
    if recipe.epochs >= contract.max_epochs:
        return f"epochs: {recipe.epochs}, required fewer than {contract.max_epochs}"
    try:
        model = build(recipe.model, recipe.model_args, split.num_classes, split.shape)
        check_recipe(recipe, split, model)
    except ValueError as error:
        return str(error)
    clauses = audit_model(model, split, contract, everything=False).clauses
    return (
        "; ".join(
            f"{clause.clause}: {clause.found}, required {clause.required}"
            for clause in clauses
            if clause.passed is False
        )
        or None
    )


def _storage(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))


def _pruner(epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=epochs // 3)


def _report(journal: Path, study_name: str, number: int, epochs: int, row: Epoch) -> None:
    """In the process that trains: note an epoch, and stop where it is not worth going on."""
    if not journal.exists():
        raise InputError(
            f"{journal}: not seen where a candidate is trained; a search on Ray needs storage that all "
            "nodes share"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _storage(journal)
    study = optuna.load_study(study_name=study_name, storage=storage, pruner=_pruner(epochs))
    trial = optuna.trial.Trial(
        study,
        storage.get_trial_id_from_study_id_trial_number(
            storage.get_study_id_from_name(study_name), number
        ),
    )
    if (
        row["epoch"] not in study.trials[number].intermediate_values
    ):  # a run that was lost reports anew
        trial.report(row["val_loss"], row["epoch"])
    if trial.should_prune():
        raise Stopped


class _Finder:
    """One search: its trials, which are in the journal, and the jobs that they are."""

    def __init__(self, plan: Plan, journal: Path, runs: Path) -> None:
        assert plan.search is not None
        self._task, self._search, self._journal, self._runs = (
            plan.tasks[0],
            plan.search,
            journal,
            runs,
        )
        self._drawn = distributions(self._search.space, "search")
        self._split = self._task.load_split()
        known = json.dumps([*self._task.key, self._search.space], sort_keys=True)
        name = hashlib.sha256(known.encode()).hexdigest()[:10]  # another space is another study
        self.study = optuna.create_study(
            study_name=name,
            storage=_storage(journal),
            load_if_exists=True,
            pruner=_pruner(self._task.recipe.epochs),
            direction="minimize",
        )
        # Another stream each time that it goes on, or the first candidates would come again.
        self.study.sampler = optuna.samplers.TPESampler(
            seed=1_000_003 * self._task.seed + len(self.study.trials)
        )

    def job(self, number: int, drawn: dict[str, Any]) -> Job:
        base = self._task.recipe
        recipe = candidate(base, self._search.space, drawn, f"{base.name}-t{number}")
        task = dataclasses.replace(self._task, recipe=recipe)
        return Job(
            task,
            task.folder(self._runs),
            partial(_report, self._journal, self.study.study_name, number, base.epochs),
        )

    def jobs(self, numbers: dict[Path, int]) -> Iterator[Job]:
        """Trials that were under way, then new ones, until there are enough; `numbers` gets each one's, by folder.

        Raises ValueError where no candidate can hold the contract."""
        trained = [trial for trial in self.study.trials if "untrained" not in trial.user_attrs]
        seen = {_same(self.job(trial.number, trial.params).task.recipe) for trial in trained}
        for trial in trained:
            if trial.state == TrialState.RUNNING:
                job = self.job(trial.number, trial.params)
                numbers[job.folder] = trial.number
                yield job
        count, vain = len(trained), 0
        while count < self._search.trials and vain < VAIN:
            asked = self.study.ask(self._drawn)
            job = self.job(asked.number, asked.params)
            same = _same(job.task.recipe)
            reason = (
                "trained before"
                if same in seen
                else breaks(job.task.recipe, job.task.contract, self._split)
            )
            if reason is None:
                seen.add(same)
                count, vain = count + 1, 0
                numbers[job.folder] = asked.number
                yield job
            else:
                asked.set_user_attr("untrained", reason)
                self.study.tell(asked, state=TrialState.PRUNED)  # so that it draws elsewhere
                vain += 1
                if vain == VAIN and not count:
                    raise InputError(
                        f"search: none of {VAIN:,} candidates can hold the contract: {reason}"
                    )


def _same(recipe: Recipe) -> str:
    return json.dumps(recipe.to_dict() | {"name": ""}, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to."""

    rows: list[Row]
    "Of the candidates trained to their end, the best first: those that meet the contract, by validation loss."
    best: Recipe | None
    "Of the first row; None where every candidate diverged."
    given_up: int
    untrained: dict[str, int]
    "How many candidates were not trained, by the first word of the reason."


def run_search(
    plan: Plan,
    table: Path,
    runs: Path,
    workers: Workers,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Found:
    """Train the candidates of the plan's search that its journal does not have, a row each in the table.

    Raises ValueError where the search can't be understood, another process is at it, or no candidate holds the
    contract untrained.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{table}.search.lock", timeout=0):
            finder, numbers = (
                _Finder(plan, table.with_suffix(".journal").absolute(), runs),
                dict[Path, int](),
            )
            with workers:
                for job, row in run_jobs(finder.jobs(numbers), workers):
                    _tell(finder.study, numbers[job.folder], job, row)
                    if row["verdict"] != "STOPPED":
                        add_row(table, row)
                    on_row(row)
            return _found(finder, table)
    except Timeout:
        raise InputError(f"{table}: another search is at it") from None


def _tell(study: optuna.Study, number: int, job: Job, row: Row) -> None:
    if row["verdict"] in ("PASS", "FAIL"):
        study.tell(number, open_run(job.folder).read_metrics()[-1]["val_loss"])
    else:
        study.tell(number, state=TrialState.PRUNED)


def _found(finder: _Finder, table: Path) -> Found:
    rows = {row_key(row): row for row in read_table(table)}
    trials, ends = finder.study.trials, []
    for trial in trials:
        task = finder.job(trial.number, trial.params).task
        if trial.state == TrialState.COMPLETE and task.key in rows:
            row = rows[task.key]
            ends.append((row["verdict"] != "PASS", trial.value, task.recipe, row))
    ends.sort(key=lambda end: end[:2])
    reasons = [trial.user_attrs["untrained"] for trial in trials if "untrained" in trial.user_attrs]
    return Found(
        [row for *_, row in ends],
        ends[0][2] if ends else None,
        sum(trial.state == TrialState.PRUNED for trial in trials) - len(reasons),
        dict(Counter(reason.partition(":")[0] for reason in reasons)),
    )
