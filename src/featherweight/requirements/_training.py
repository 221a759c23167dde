"""Requirements of a training, its images and its accuracy."""

import itertools
import math
from typing import ClassVar

from ..counts import percent
from ..errors import InputError
from ..facts import Evaluated, Facts
from ._kind import (
    BANDS,
    FRACTION,
    LESS_THAN_ALL,
    WHOLE,
    Allowed,
    Finding,
    Key,
    Kind,
    Limits,
    holds,
    one_of,
    percentage,
    some_of,
    whole,
    whole_range,
    words,
)

OPTIMISERS = ("sgd", "muon", "adam")
SCHEDULES = ("one-cycle", "step", "constant")
TEACHERS = ("none", "network")


class Epochs(Kind):
    """Epochs of the training."""

    name = "epochs"
    facts: ClassVar = ("training",)
    keys: ClassVar = {"fewer_than": whole(2), "at_most": WHOLE}
    exactly_one: ClassVar = (("fewer_than", "at_most"),)

    def required(self, limits: Limits) -> str:
        """Return the limit."""
        return words(limits)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare recipe, log and state with each other, and with the limit."""
        run = facts.training
        assert run is not None
        different = f"recipe {run.epochs}, log {run.logged}, state {run.saved}"
        return Finding(
            str(run.epochs) if run.agree else different,
            "recipe, every row of the log and the saved state agree",
            run.agree and holds(limits, run.epochs),
        )

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return the numbers of epochs."""
        return {"epochs": whole_range(limits)}


class _OfRecipe(Kind):
    """What the recipe of a run says."""

    facts: ClassVar = ("training",)
    how = "the run's recipe, which only --retrain shows to be what was done"


class BatchSize(_OfRecipe):
    """Images in a training batch."""

    name = "batch size"
    keys: ClassVar = {"exactly": whole(2), "at_least": whole(2), "at_most": whole(2)}

    def check(self, limits: Limits) -> None:
        """Check that there is a number or a range."""
        if not limits:
            raise InputError(f"missing key, expected {' or '.join(self.keys)}")
        if "exactly" in limits and len(limits) > 1:
            raise InputError(f"got {' and '.join(limits)}, expected exactly alone")

    def required(self, limits: Limits) -> str:
        """Return number or range."""
        return f"{limits['exactly']:,}" if "exactly" in limits else words(limits)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the recipe's."""
        assert facts.training is not None
        size = facts.training.batch_size
        fits = holds(limits, size) and size == limits.get("exactly", size)
        return Finding(f"{size:,}", self.how, fits)

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return number or range."""
        exactly = limits.get("exactly")
        return {"batch size": whole_range(limits) if exactly is None else (exactly, exactly)}


class Optimiser(_OfRecipe):
    """The optimiser of the training."""

    name = "optimiser"
    keys: ClassVar = {"accept": some_of(OPTIMISERS)}
    exactly_one: ClassVar = (("accept",),)

    def required(self, limits: Limits) -> str:
        """Return the accepted ones."""
        return " or ".join(limits["accept"])

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the recipe's, of which there may be several for different weights."""
        assert facts.training is not None
        used = facts.training.optimisers
        return Finding(" and ".join(used), self.how, set(used) <= set(limits["accept"]))

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return the accepted ones without muon, which never trains all weights."""
        return {"optimiser beside muon": frozenset(limits["accept"]) - {"muon"}}


class Schedule(_OfRecipe):
    """The schedule of the learning rate."""

    name = "schedule"
    keys: ClassVar = {"name": one_of(SCHEDULES), "peak_epoch": WHOLE}

    exactly_one: ClassVar = (("name",),)

    def check(self, limits: Limits) -> None:
        """Check that it is named, and that a peak is that of one cycle."""
        super().check(limits)
        if "peak_epoch" in limits and limits["name"] != "one-cycle":
            raise InputError(f"got peak_epoch with {limits['name']}, expected one-cycle")

    def required(self, limits: Limits) -> str:
        """Return name and peak."""
        peak = f", highest in epoch {limits['peak_epoch']}" if "peak_epoch" in limits else ""
        return f"{limits['name']}{peak}"

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the recipe's; the highest rate may be anywhere in the epoch."""
        run = facts.training
        assert run is not None
        rises = run.schedule == "one-cycle"
        found = run.schedule + (f", highest after {run.peak_epoch:.3g} epochs" if rises else "")
        peak = limits.get("peak_epoch")
        fits = peak is None or peak - 1 < run.peak_epoch <= peak
        return Finding(found, self.how, run.schedule == limits["name"] and fits)

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """There are at least as many epochs as until the peak."""
        return {
            "schedule": frozenset({limits["name"]}),
            "epochs": (limits.get("peak_epoch", 1), math.inf),
            "peak": (limits.get("peak_epoch", 0), limits.get("peak_epoch", math.inf)),
        }


class Teacher(_OfRecipe):
    """Whether another network taught this one: distillation."""

    name = "teacher"
    keys: ClassVar = {"accept": some_of(TEACHERS)}
    exactly_one: ClassVar = (("accept",),)

    def required(self, limits: Limits) -> str:
        """Return the accepted ones."""
        return " or ".join(limits["accept"])

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the recipe's; a network is stated with its cost."""
        assert facts.training is not None
        found = facts.training.teacher
        kind = "network" if found else "none"
        return Finding(found or "none", self.how, kind in limits["accept"])

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return the accepted ones."""
        return {"teacher": frozenset(limits["accept"])}


class SplitKind(Kind):
    """The contract's data set and sizes, which stand at the top of its file."""

    name = "split"
    facts: ClassVar = ("split",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Say what is wrong with the images."""
        split = facts.split
        assert split is not None
        sizes = f"{split.train:,} training, {split.val:,} validation"
        added = f", {split.synthetic:,} synthetic ones added" if split.synthetic else ""
        found = "; ".join(split.faults) or f"{sizes}, none alike{added}"
        return Finding(found, split.how, not split.faults)


class Accuracy(Kind):
    """Accuracy on the validation or the training images, in each of the last epochs."""

    name = "accuracy"
    keys: ClassVar = {
        "split": one_of(("val", "train"), default="val"),
        "at_least": FRACTION,
        "more_than": LESS_THAN_ALL,
        "last_epochs": Key(WHOLE.expected, WHOLE.accepts, default=1),
        "bands": BANDS,
    }
    exactly_one: ClassVar = (("at_least", "more_than"),)

    def title(self, limits: Limits) -> str:
        """Return which accuracy it is."""
        return "training accuracy" if limits.get("split") == "train" else "accuracy"

    def required(self, limits: Limits) -> str:
        """Return the limit, and in how many epochs."""
        last = limits.get("last_epochs", 1)
        several = f" in each of the last {last} epochs" if last > 1 else ""
        return f"{words(limits, percentage)}{several}"

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Take it from an evaluation of weights."""
        return (limits.get("split", "val"),)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the accuracy of each of the last epochs; the lowest one decides the points.

        Weights of one epoch alone can miss an accuracy in several epochs, but not show it: then the
        bands give the points of what there is.
        """
        part = limits.get("split", "val")
        evaluated: Evaluated = facts.accuracies[part]
        last = limits.get("last_epochs", 1)
        # Oldest first.
        counts = {
            before: evaluated.counts[before]
            for before in sorted(evaluated.counts, reverse=True)
            if before < last
        }
        missing = last - len(counts)
        lowest = min(correct / total for correct, total in counts.values())
        total = counts[0][1]
        which = "training" if part == "train" else "validation"
        epochs = evaluated.epochs
        found = "; ".join(
            ("" if epochs is None else f"epoch {epochs - before}: ") + percent(*count)
            for before, count in counts.items()
        )
        how = f"every one of {total:,} {which} images evaluated again{evaluated.how}"
        points = _points(limits.get("bands"), lowest)
        passed: bool | None = holds(limits, lowest)
        if missing:
            found += f"; weights of {missing} epoch{'s' if missing > 1 else ''} are missing"
            if passed and epochs is None:
                how += "; not judged: needs the weights of several epochs"
                passed = None
            else:
                passed = False
            if points is not None:
                how += "; points of the bands for the accuracy that was evaluated"
        return Finding(found, how, passed, points)

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """There are at least as many epochs."""
        return {"epochs": (limits.get("last_epochs", 1), math.inf)}


def _points(bands: list[list[float]] | None, accuracy: float) -> float | None:
    """Return the points of an accuracy, linear between bands; None without bands."""
    if bands is None:
        return None
    if accuracy < bands[0][0]:
        return 0.0
    for (low, fewer), (high, more) in itertools.pairwise(bands):
        if accuracy < high:
            return fewer + (more - fewer) * (accuracy - low) / (high - low)
    return bands[-1][1]
