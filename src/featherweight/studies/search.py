"""Search for a better recipe with Optuna (Akiba et al. 2019), on validation images only.

    recipes = ["feather-8k"]            # one recipe and one seed
    [search]
    trials = 60
    [search.space]
    lr = {low = 0.03, high = 0.3, log = true}
    batch_size = [32, 64, 128]
    augmentation.rotation = {low = 5.0, high = 12.0}
    model_args.layers = ["conv 8", "conv 8..16 m2", "conv 16 p1", "sep 24..40", "?sep 32..48"]

A list holds the possible values of a field. `model_args.layers` is different: it holds the layers
themselves. A layer with `?` may be left out, and a width LOW..HIGH is searched in steps of 4.

A candidate that breaks the contract by its structure is never trained. The others are compared by
validation loss, which is less noisy than the number of correct images. From a third of the epochs
on, a candidate whose loss is above the median of the others is stopped. The journal beside the
table records every trial, so the same command continues an interrupted search.
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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

from ..audit import audit_model, training_facts
from ..build import build
from ..contract import Contract
from ..data import Split
from ..errors import InputError
from ..facts import Facts
from ..recipe import Recipe
from ..run import open_run
from ..tables import Row
from ..train import check_recipe
from ..verdict import Clause
from .plan import Plan, override_recipe
from .rows import Outcome, add_row, read_rows, row_key
from .workers import Job, StoppedError, Workers, run_jobs

LAYERS = "model_args.layers"  # the field whose list is the layers, not the possible values
FIXED_FIELDS = ("name", "epochs", "contract", "model")  # the same for all candidates
UNTRAINED = "untrained"  # user attribute of a trial: why its candidate was not trained
N_STARTUP_TRIALS = 5  # candidates trained to their last epoch before any is stopped
WIDTH_STEP = 4  # channels; half a vector register of most CPUs
MAX_REJECTED = 1000  # candidates rejected in a row, after which the search ends


def _flatten(space: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name of each field in the space, and its possible values."""
    for key, value in space.items():
        if isinstance(value, dict) and "low" not in value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer of the search space, such as "?conv 8..16 m2"."""

    before: str
    "Text before the searched width, or the whole layer if no width is searched."
    width: IntDistribution | None
    "Possible widths; None if the width is fixed."
    after: str
    "Text after the searched width."
    optional: bool
    "Whether the layer may be left out."


def _parse_layers(layers: list[str]) -> dict[str, _Layer]:
    """Return the layers by the prefix of their parameters in Optuna: layer 0, layer 1, ..."""
    parsed = {}
    for number, layer in enumerate(layers):
        text = layer.removeprefix("?")
        before, width, after = text, None, ""
        if (found := re.search(r"(\d+)\.\.(\d+)", text)) is not None:
            before, after = text[: found.start()], text[found.end() :]
            width = IntDistribution(int(found[1]), int(found[2]), step=WIDTH_STEP)
        parsed[f"layer {number}"] = _Layer(before, width, after, optional=text != layer)
    return parsed


def distributions(space: dict[str, Any], where: str) -> dict[str, BaseDistribution]:
    """Return the search space as Optuna's distributions, by parameter name.

    `where` begins the messages. Raises InputError if the space is not valid."""
    found: dict[str, BaseDistribution] = {}
    for name, value in _flatten(space):
        try:
            found |= _field_distributions(name, value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: {name}: got {value!r}: {error}") from error
    return found


def _field_distributions(name: str, value: Any) -> dict[str, BaseDistribution]:
    if name in FIXED_FIELDS:
        raise InputError("is not searched: all candidates share the network and the epochs")
    if name == LAYERS:
        found: dict[str, BaseDistribution] = {}
        for prefix, layer in _parse_layers(value).items():
            if layer.width is not None:
                found[f"{prefix} width"] = layer.width
            if layer.optional:
                found[f"{prefix} there"] = CategoricalDistribution([True, False])
        return found
    if isinstance(value, list):
        return {name: CategoricalDistribution(value)}
    if isinstance(value, dict):
        integers = type(value["low"]) is int and type(value.get("high")) is int
        return {name: IntDistribution(**value) if integers else FloatDistribution(**value)}
    raise InputError("expected a list, or a table with low, high and perhaps log or step")


def make_candidate(
    base: Recipe, space: dict[str, Any], params: dict[str, Any], name: str
) -> Recipe:
    """Return the base recipe with a trial's parameters, under another name.

    Raises InputError if the parameters do not make a valid recipe."""
    values: dict[str, Any] = {"name": name}
    for field, value in _flatten(space):
        if field == LAYERS:
            chosen: Any = [
                f"{layer.before}{params[f'{prefix} width'] if layer.width else ''}{layer.after}"
                for prefix, layer in _parse_layers(value).items()
                if not layer.optional or params[f"{prefix} there"]
            ]
        else:
            chosen = params[field]
        table, _, key = field.rpartition(".")
        (values.setdefault(table, {}) if table else values)[key] = chosen
    return override_recipe(base, values, "candidate")


def structural_violation(recipe: Recipe, contract: Contract, split: Split) -> str | None:
    """Return why no training can make the recipe meet the contract, or None.

    Judges what the recipe says of the training, and audits the untrained network."""
    epochs = range(1, recipe.epochs + 1)
    facts = Facts(training=training_facts(recipe, len(split.train), epochs, recipe.epochs))
    of_recipe = [row for row in contract.rows if row[2].needs == ("training",)]
    clauses = [each.judge(title, required, facts) for title, required, each in of_recipe]
    if broken := _broken(clauses):
        return broken
    try:
        model = build(recipe.model, recipe.model_args, split.num_classes, split.shape)
        check_recipe(recipe, split, model)
    except ValueError as error:
        return str(error)
    return _broken(audit_model(model, split, contract, everything=False).clauses)


def _broken(clauses: Iterable[Clause]) -> str | None:
    """Return the clauses that fail in words, None if none does."""
    failed = [f"{c.clause}: {c.found}, required {c.required}" for c in clauses if c.failed]
    return "; ".join(failed) or None


def _storage(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))


def _pruner(epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(
        n_startup_trials=N_STARTUP_TRIALS, n_warmup_steps=epochs // 3
    )


def _report_epoch(
    journal: Path, study_name: str, number: int, epochs: int, row: dict[str, Any]
) -> None:
    """Record an epoch of trial `number` in the journal; called in the process that trains.

    Raises StoppedError if the trial is not worth finishing, and InputError if the journal is not
    on this machine."""
    if not journal.exists():
        raise InputError(
            f"{journal}: not found on a worker; a search on Ray needs storage that all nodes share"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _storage(journal)
    study = optuna.load_study(study_name=study_name, storage=storage, pruner=_pruner(epochs))
    study_id = storage.get_study_id_from_name(study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    trial = optuna.trial.Trial(study, trial_id)
    # A run that was lost and resumed may report an epoch that is recorded already.
    if row["epoch"] not in study.trials[number].intermediate_values:
        trial.report(row["val_loss"], row["epoch"])
    if trial.should_prune():
        raise StoppedError


class _TrialSource:
    """The trials of one search, from the journal or drawn by Optuna, and the jobs to train them."""

    def __init__(self, plan: Plan, journal: Path, runs: Path) -> None:
        assert plan.search is not None
        self._task, self._search = plan.tasks[0], plan.search
        self._journal, self._runs = journal, runs
        self._distributions = distributions(self._search.space, "search")
        self._split = self._task.load_split()
        # Another task or another space is another study in the same journal.
        identity = json.dumps([*self._task.key, self._search.space], sort_keys=True)
        self.study = optuna.create_study(
            study_name=hashlib.sha256(identity.encode()).hexdigest()[:10],
            storage=_storage(journal),
            load_if_exists=True,
            pruner=_pruner(self._task.recipe.epochs),
            direction="minimize",
        )
        # With the same seed, a continued search would draw its first candidates again.
        self.study.sampler = optuna.samplers.TPESampler(
            seed=1_000_003 * self._task.seed + len(self.study.trials)
        )

    def make_job(self, number: int, params: dict[str, Any]) -> Job:
        """Return the job that trains the candidate of a trial."""
        base = self._task.recipe
        recipe = make_candidate(base, self._search.space, params, f"{base.name}-t{number}")
        task = dataclasses.replace(self._task, recipe=recipe)
        report = partial(_report_epoch, self._journal, self.study.study_name, number, base.epochs)
        return Job(task, task.folder(self._runs), report)

    def jobs(self, numbers: dict[Path, int]) -> Iterator[Job]:
        """Yield the jobs of interrupted trials, then of new ones, until there are enough.

        Stores each trial's number in `numbers` under its run folder. Raises InputError if every
        candidate breaks the contract."""
        trained = [trial for trial in self.study.trials if UNTRAINED not in trial.user_attrs]
        seen = {
            _identity(self.make_job(trial.number, trial.params).task.recipe) for trial in trained
        }
        for trial in trained:
            if trial.state == TrialState.RUNNING:
                job = self.make_job(trial.number, trial.params)
                numbers[job.folder] = trial.number
                yield job
        n_trained, n_rejected = len(trained), 0
        while n_trained < self._search.trials and n_rejected < MAX_REJECTED:
            new = self.study.ask(self._distributions)
            job = self.make_job(new.number, new.params)
            if (reason := self._reject(job, seen)) is None:
                seen.add(_identity(job.task.recipe))
                n_trained, n_rejected = n_trained + 1, 0
                numbers[job.folder] = new.number
                yield job
                continue
            new.set_user_attr(UNTRAINED, reason)
            self.study.tell(new, state=TrialState.PRUNED)  # so that the sampler avoids the region
            n_rejected += 1
            if n_rejected == MAX_REJECTED and not n_trained:
                raise InputError(
                    f"search: none of {MAX_REJECTED:,} candidates can meet the contract: {reason}"
                )

    def _reject(self, job: Job, seen: set[str]) -> str | None:
        """Return why a candidate is not trained, or None."""
        if _identity(job.task.recipe) in seen:
            return "trained before"
        return structural_violation(job.task.recipe, job.task.contract, self._split)


def _identity(recipe: Recipe) -> str:
    """Return the recipe as JSON, without its name."""
    return json.dumps(recipe.to_dict() | {"name": ""}, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Result of a search."""

    rows: list[Row]
    "Candidates trained to their last epoch: first those that meet the contract, by loss."
    best: Recipe | None
    "Recipe of the first row; None if no candidate was trained to its last epoch."
    stopped: int
    "Number of candidates that diverged or were stopped early."
    untrained: dict[str, int]
    "Number of candidates that were not trained, by the first word of the reason."


def run_search(
    plan: Plan,
    table: Path,
    runs: Path,
    workers: Workers,
    on_row: Callable[[Row], None] | None = None,
) -> SearchResult:
    """Train the candidates of a plan's search, with a row each in the table.

    The journal beside the table records the trials; recorded ones are not trained again. `on_row`
    is called with the row of each candidate, those of stopped ones included. Raises InputError if
    the space is not valid, another process is searching, or every candidate breaks the contract.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{table}.search.lock", timeout=0):
            trials = _TrialSource(plan, table.with_suffix(".journal").absolute(), runs)
            numbers: dict[Path, int] = {}  # trial numbers by run folder
            with workers:
                for job, row in run_jobs(trials.jobs(numbers), workers):
                    _record(trials.study, numbers[job.folder], job, row)
                    if row["verdict"] != Outcome.STOPPED:
                        add_row(table, row)
                    if on_row is not None:
                        on_row(row)
            return _collect(trials, table)
    except Timeout:
        raise InputError(f"{table}: another process is running this search") from None


def _record(study: optuna.Study, number: int, job: Job, row: Row) -> None:
    """Tell Optuna how a trial ended."""
    if row["verdict"] in (Outcome.PASS, Outcome.FAIL):
        study.tell(number, open_run(job.folder).read_metrics()[-1]["val_loss"])
    else:
        study.tell(number, state=TrialState.PRUNED)


def _collect(source: _TrialSource, table: Path) -> SearchResult:
    rows = {row_key(row): row for row in read_rows(table)}
    trials = source.study.trials
    finished = []
    for trial in trials:
        task = source.make_job(trial.number, trial.params).task
        if trial.state == TrialState.COMPLETE and task.key in rows:
            row = rows[task.key]
            finished.append((row["verdict"] != Outcome.PASS, trial.value, task.recipe, row))
    finished.sort(key=lambda each: each[:2])
    reasons = [trial.user_attrs[UNTRAINED] for trial in trials if UNTRAINED in trial.user_attrs]
    n_pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    return SearchResult(
        rows=[row for *_, row in finished],
        best=finished[0][2] if finished else None,
        stopped=n_pruned - len(reasons),
        untrained=dict(Counter(reason.partition(":")[0] for reason in reasons)),
    )
