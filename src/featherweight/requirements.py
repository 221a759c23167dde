"""The kinds of requirements that a contract may have: their keys, their words, and their judges.

    requirement = Requirement("parameters", {"fewer_than": 20_000}, points=2)
    requirement.required                        # "fewer than 20,000"
    requirement.judge("parameters", facts)      # a Clause of a verdict

To add a kind, write one class and name it in `KINDS`. A judge sees facts, plain data, so nothing
here imports PyTorch.
"""

import copy
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .counts import percent
from .errors import InputError
from .facts import MIN_DROPOUT, Effect, Evaluated, Facts, Structure
from .verdict import Clause

Limits = Mapping[str, Any]
# What a requirement allows of one quantity: its least and greatest value, or its values.
Allowed = tuple[float, float] | frozenset[str]
HEADS = {"linear": "linear layer", "gap": "global average pooling"}
NORMS = ("batch", "group", "layer")
OPTIMISERS = ("sgd", "muon", "adam")
SCHEDULES = ("one-cycle", "constant")
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "fewer_than": operator.lt,
    "at_most": operator.le,
    "at_least": operator.ge,
    "more_than": operator.gt,
}
# By the facts that are missing: what a clause then says was found, and how.
MISSING = {
    "layers": ("not judged: needs the graph", "the module was watched"),
    "builds": ("not judged: no class", "needs the network's class, to build it with two seeds"),
    "training": ("not judged: no run", "needs the training state"),
    "split": ("not judged: no weights", "needs weights"),
    "val": ("not judged: no weights", "needs weights"),
    "train": ("not judged: no weights", "needs weights"),
}


@dataclass(frozen=True)
class Key:
    """What may stand under a key of a clause."""

    expected: str
    "The values in words, such as `a whole number of at least 1`."
    accepts: Callable[[Any], bool]
    "Whether a value is one of them."
    default: Any = None
    "The value of a clause without the key."
    tidy: Callable[[Any], Any] = copy.deepcopy
    "Returns a copy of a value in the form in which equal values are equal."


def _number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _whole(least: int) -> Key:
    return Key(
        f"a whole number of at least {least}", lambda value: type(value) is int and value >= least
    )


def _one_of(names: Sequence[str], default: str | None = None) -> Key:
    return Key(" or ".join(names), lambda value: value in names, default)


def _some_of(names: Sequence[str]) -> Key:
    return Key(
        f"a list of some of {', '.join(names)}",
        lambda value: (
            isinstance(value, (list, tuple)) and bool(value) and all(v in names for v in value)
        ),
        tidy=lambda value: [name for name in names if name in value],
    )


WHOLE = _whole(1)
FRACTION = Key(
    "a fraction such as 0.994, from 0 to 1", lambda value: _number(value) and 0 <= value <= 1
)
RATE = Key("a fraction between 0 and 1", lambda value: _number(value) and 0 < value < 1)
FLAG = Key("true or false", lambda value: type(value) is bool, default=False)
BANDS = Key(
    "a list of [accuracy, points] of which both rise, such as [[0.9, 0], [0.994, 4]]",
    lambda value: (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(band, list) and len(band) == 2 for band in value)
        and all(FRACTION.accepts(band[0]) and _number(band[1]) for band in value)
        and value[0][1] >= 0
        and all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(value))
        and value[0][1] < value[-1][1]
    ),
)


def _holds(limits: Limits, value: float) -> bool:
    return all(holds(value, limits[key]) for key, holds in COMPARISONS.items() if key in limits)


def _words(limits: Limits, text: Callable[[Any], str] = "{:,}".format) -> str:
    return " and ".join(
        f"{key.replace('_', ' ')} {text(limits[key])}" for key in COMPARISONS if key in limits
    )


def _range(limits: Limits) -> tuple[float, float]:
    """Return the least and the greatest whole number that is within limits."""
    least = max(limits.get("at_least", 0), limits.get("more_than", -1) + 1)
    most = min(limits.get("at_most", math.inf), limits.get("fewer_than", math.inf) - 1)
    return least, most


def _exactly_one(limits: Limits, *keys: str) -> None:
    if len(given := [key for key in keys if key in limits]) != 1:
        raise InputError(f"got {' and '.join(given) or 'neither'}, expected {' or '.join(keys)}")


def _percentage(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


@dataclass(frozen=True)
class Finding:
    """What the judge of a kind found."""

    found: str
    "What was found."
    how: str
    "How it was found."
    passed: bool | None
    "Whether the requirement holds. None: it can't be judged on these facts."
    points: float | None = None
    "Points that are reached. None: all or none of them."


class Kind:
    """A kind of requirement. Its methods get limits whose values are of the right types."""

    name: ClassVar[str]
    "The kind in a contract's file."
    keys: ClassVar[dict[str, Key]] = {}
    "The keys that its clauses may have, beside kind, points and bonus."

    def check(self, limits: Limits) -> None:
        """Raise InputError where limits do not fit together."""

    def title(self, limits: Limits) -> str:
        """Return the name of the verdict's clause."""
        return self.name

    def required(self, limits: Limits) -> str:
        """Return what is required, in words."""
        raise NotImplementedError

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Return the facts without which it is not judged."""
        return ("structure",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Return what is found of the facts that it needs."""
        raise NotImplementedError

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return which values of named quantities it allows, to find contradictions."""
        return {}


class Parameters(Kind):
    """Stored numbers that the network reads, all of them or the trainable ones."""

    name = "parameters"
    keys: ClassVar = {
        "fewer_than": WHOLE,
        "at_most": WHOLE,
        "which": _one_of(("all", "trainable"), default="all"),
    }

    def check(self, limits: Limits) -> None:
        """Check that there is one limit."""
        _exactly_one(limits, "fewer_than", "at_most")

    def required(self, limits: Limits) -> str:
        """Return the limit, and which numbers are meant."""
        which = " trainable" if limits.get("which") == "trainable" else ""
        return f"{_words(limits)}{which}"

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the count."""
        found = _structure(facts)
        trainable = limits.get("which") == "trainable"
        number = found.n_trainable if trainable else found.n_params
        unread = f" ({found.declared:,} declared)" if found.declared > found.n_params else ""
        only = "; of these the parameters with a gradient" if trainable else ""
        return Finding(
            f"{number:,}{unread}", f"{found.counted}{only}", passed=_holds(limits, number)
        )


class Normalisation(Kind):
    """Batch, group or layer normalisation, perhaps as the only one."""

    name = "normalisation"
    keys: ClassVar = {"norm": _one_of(NORMS), "only": FLAG}

    def check(self, limits: Limits) -> None:
        """Check that it is named."""
        _exactly_one(limits, "norm")

    def title(self, limits: Limits) -> str:
        """Return the name of the normalisation."""
        return f"{limits['norm']} norm"

    def required(self, limits: Limits) -> str:
        """Return where it must run."""
        runs = "runs in training" if limits["norm"] == "batch" else "at least one"
        return f"{runs}, and no other normalisation" if limits.get("only") else runs

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Batch norm alone is seen without a layer table."""
        batch = limits["norm"] == "batch"
        return ("structure", "layers") if limits.get("only") or not batch else ("structure",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Look for the layers, and with `only` for others."""
        norm = limits["norm"]
        kinds = [] if facts.layers is None else facts.layers.kinds
        others = sorted({each for each in kinds if each.endswith(" norm")} - {f"{norm} norm"})
        if norm == "batch":
            finding = _effect("batch norm", facts)
        else:
            number = kinds.count(f"{norm} norm")
            how = "layers of the graph; a group norm of one group is a layer norm"
            finding = Finding(f"{number} used", how, passed=number > 0)
        if limits.get("only") and others:
            found = f"{finding.found}; also {' and '.join(others)}"
            return Finding(found, finding.how, passed=False)
        return finding

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """With `only` there is no other."""
        there = {f"{limits['norm']} norm": frozenset({"there"})}
        only = {f"{norm} norm": frozenset({"not there"}) for norm in NORMS}
        return {**(only if limits.get("only") else {}), **there}


class Dropout(Kind):
    """Dropout in training, perhaps of certain rates and after all layers but some."""

    name = "dropout"
    keys: ClassVar = {"least": RATE, "greatest": RATE, "all_but": _whole(0)}

    def check(self, limits: Limits) -> None:
        """Check that some rate is allowed."""
        if limits.get("least", 0) > limits.get("greatest", 1):
            raise InputError(
                f"got least {limits['least']} above greatest {limits['greatest']}, expected "
                "at most that"
            )

    def required(self, limits: Limits) -> str:
        """Return the rates, and after how many layers."""
        words = f"runs in training, p at least {limits.get('least', MIN_DROPOUT)}"
        if "greatest" in limits:
            words += f" and at most {limits['greatest']}"
        if "all_but" in limits:
            words += f", after all but {limits['all_but']} layers"
        return words

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Take the number of layers from the layer table."""
        return ("structure", "layers") if "all_but" in limits else ("structure",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Look for dropouts that work, then at their rates, then at the layers without one."""
        finding, rates = _effect("dropout", facts), _structure(facts).rates
        faults = []
        for rate, uncertainty in sorted(set(rates)):
            low, high = limits.get("least", 0), limits.get("greatest", 1)
            if not low - uncertainty <= rate <= high + uncertainty:
                faults.append(f"p {rate:.3g}")
        if "all_but" in limits and facts.layers is not None:
            without = _without_dropout(facts.layers.kinds)
            if without > limits["all_but"]:
                faults.append(f"none after {without} layers")
        if {"least", "greatest"} & limits.keys():
            measured = any(uncertainty for _, uncertainty in rates)
            seen = " (measured, give or take 4 standard deviations)" if measured else ""
            finding = Finding(
                finding.found, f"{finding.how}; p as the operations say{seen}", finding.passed
            )
        if finding.passed and faults:
            return Finding(f"{finding.found}; {', '.join(faults)}", finding.how, passed=False)
        return finding

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Every dropout has one of these rates."""
        return {"dropout p": (limits.get("least", 0), limits.get("greatest", 1))}


class Head(Kind):
    """What stands last, and whether there is global average pooling."""

    name = "head"
    keys: ClassVar = {"accept": _some_of(tuple(HEADS)), "gap": FLAG}

    def check(self, limits: Limits) -> None:
        """Check that something is asked for, in one way."""
        _exactly_one(limits, "accept", "gap")

    def required(self, limits: Limits) -> str:
        """Return the accepted heads."""
        if limits.get("gap"):
            return "global average pooling, then at most linear layers"
        return " or ".join(HEADS[name] for name in limits["accept"])

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare what stands last, and look what is before linear layers."""
        found = _structure(facts)
        names = {**HEADS, "other": "something else"}
        seen = " and ".join(names[name] for name in sorted(found.heads))
        how = f"last before log-softmax: {found.head_seen}"
        if not limits.get("gap"):
            return Finding(seen, how, found.heads <= set(limits["accept"]))
        if found.heads == {"gap"} or "other" in found.heads:
            return Finding(seen, how, found.heads == {"gap"})
        if facts.layers is None:
            missing, why = MISSING["layers"]
            return Finding(missing, why, passed=None)
        pooled = "global average pool" in facts.layers.kinds
        after = " after global average pooling" if pooled else ", no global average pooling"
        return Finding(f"{seen}{after}", f"{how}; layers of the graph", pooled)

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return the accepted heads."""
        return {} if limits.get("gap") else {"last layer": frozenset(limits["accept"])}


class Forbid(Kind):
    """What the network must not have."""

    name = "forbid"
    keys: ClassVar = {"layer": _one_of(("max-pool", "linear", "stride", "pretrained"))}

    def check(self, limits: Limits) -> None:
        """Check that it is named."""
        _exactly_one(limits, "layer")

    def title(self, limits: Limits) -> str:
        """Return what must not be."""
        return f"no {limits['layer']}"

    def required(self, limits: Limits) -> str:
        """Return what must not be, in words."""
        return {
            "max-pool": "no max-pool layer",
            "linear": "no fully connected layer",
            "stride": "no convolution with a stride above 1",
            "pretrained": "initial weights that the seed draws",
        }[limits["layer"]]

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Weights are seen in builds, layers in the table."""
        return ("builds",) if limits["layer"] == "pretrained" else ("layers",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Count such layers, or weights that don't depend on the seed."""
        if limits["layer"] == "pretrained":
            builds = facts.builds
            assert builds is not None
            found = f"{len(builds.alike)} of {builds.tensors} weight tensors the same for two seeds"
            named = f": {', '.join(builds.alike[:3])}" if builds.alike else ""
            how = (
                "the class built with two seeds; weights that do not depend on the seed were "
                "loaded or written down, those that do may still have been"
            )
            return Finding(f"{found}{named}", how, not builds.alike)
        layers = facts.layers
        assert layers is not None
        number = {
            "max-pool": layers.kinds.count("max pool"),
            "linear": layers.kinds.count("linear"),
            "stride": layers.strided,
        }[limits["layer"]]
        return Finding(str(number), "layers of the graph", number == 0)

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """There are none."""
        return {f"layers with a {limits['layer']}": (0, 0)}


class Require(Kind):
    """How many layers of a sort the network must have."""

    name = "require"
    keys: ClassVar = {
        "layer": _one_of(("dilated", "depthwise separable", "stride")),
        "at_least": WHOLE,
    }

    def check(self, limits: Limits) -> None:
        """Check that sort and number are there."""
        _exactly_one(limits, "layer")
        _exactly_one(limits, "at_least")

    def title(self, limits: Limits) -> str:
        """Return the sort of layers."""
        return str(limits["layer"])

    def required(self, limits: Limits) -> str:
        """Return number and sort."""
        return f"{_words(limits)}"

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Layers are in the table."""
        return ("layers",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Count such layers."""
        layers = facts.layers
        assert layers is not None
        number, which = {
            "dilated": (layers.dilated, "with a dilation above 1"),
            "depthwise separable": (
                layers.depthwise_separable,
                "of a group for each channel, before a pointwise one",
            ),
            "stride": (layers.strided, "with a stride above 1"),
        }[limits["layer"]]
        return Finding(
            str(number), f"convolutions of the graph {which}", number >= limits["at_least"]
        )

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """There are so many."""
        return {f"layers with a {limits['layer']}": (limits["at_least"], math.inf)}


class ReceptiveField(Kind):
    """How many pixels along a side an output sees."""

    name = "receptive field"
    keys: ClassVar = {"more_than": WHOLE, "at_least": WHOLE}

    def check(self, limits: Limits) -> None:
        """Check that there is one limit."""
        _exactly_one(limits, "more_than", "at_least")

    def required(self, limits: Limits) -> str:
        """Return the limit."""
        return f"{_words(limits)} pixels"

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Take it from the layer table."""
        return ("layers",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the receptive field before the head."""
        layers = facts.layers
        assert layers is not None
        return Finding(
            str(layers.receptive_field),
            "kernels, strides and dilations of the graph's layers before the head",
            _holds(limits, layers.receptive_field),
        )


class Macs(Kind):
    """Multiply-accumulates for an image."""

    name = "macs"
    keys: ClassVar = {"at_most": WHOLE, "fewer_than": WHOLE}

    def check(self, limits: Limits) -> None:
        """Check that there is one limit."""
        _exactly_one(limits, "at_most", "fewer_than")

    def required(self, limits: Limits) -> str:
        """Return the limit."""
        return _words(limits)

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """They are in the layer table."""
        return ("layers",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the sum over all layers."""
        layers = facts.layers
        assert layers is not None
        how = "multiply-accumulates of the graph's layers for an image"
        return Finding(f"{layers.macs:,}", how, _holds(limits, layers.macs))


class EvaluationMode(Kind):
    """Whether an output depends on its image alone, of which every accuracy is a consequence."""

    name = "evaluation"

    def required(self, limits: Limits) -> str:
        """Return on what an output may depend."""
        return "each output depends on its image alone"

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Say on what else it depends."""
        found = _structure(facts)
        return Finding(found.dependence or "it does", found.evaluated, not found.dependence)


class Epochs(Kind):
    """Epochs of the training."""

    name = "epochs"
    keys: ClassVar = {"fewer_than": WHOLE, "at_most": WHOLE}

    def check(self, limits: Limits) -> None:
        """Check that there is one limit."""
        _exactly_one(limits, "fewer_than", "at_most")

    def required(self, limits: Limits) -> str:
        """Return the limit."""
        return _words(limits)

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """They are a run's."""
        return ("training",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare recipe, log and state with each other, and with the limit."""
        run = facts.training
        assert run is not None
        different = f"recipe {run.epochs}, log {run.logged}, state {run.saved}"
        return Finding(
            str(run.epochs) if run.agree else different,
            "recipe, every row of the log and the saved state agree",
            run.agree and _holds(limits, run.epochs),
        )

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """There is at least one epoch."""
        least, most = _range(limits)
        return {"epochs": (max(1, least), most)}


class _OfRecipe(Kind):
    """What the recipe of a run says."""

    how = "the run's recipe, which only --retrain shows to be what was done"

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Take it from a run."""
        return ("training",)


class BatchSize(_OfRecipe):
    """Images in a training batch."""

    name = "batch size"
    keys: ClassVar = {"exactly": WHOLE, "at_least": WHOLE, "at_most": WHOLE}

    def check(self, limits: Limits) -> None:
        """Check that there is a number or a range."""
        if "exactly" in limits or not limits:
            _exactly_one(limits, *self.keys)
        if limits.get("at_least", 1) > limits.get("at_most", math.inf):
            raise InputError(
                f"got at_least {limits['at_least']} above at_most {limits['at_most']}, expected "
                "at most that"
            )

    def required(self, limits: Limits) -> str:
        """Return number or range."""
        return f"{limits['exactly']:,}" if "exactly" in limits else _words(limits)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the recipe's."""
        assert facts.training is not None
        size = facts.training.batch_size
        fits = _holds(limits, size) and size == limits.get("exactly", size)
        return Finding(f"{size:,}", self.how, fits)

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return number or range."""
        exactly = limits.get("exactly")
        return {"batch size": _range(limits) if exactly is None else (exactly, exactly)}


class Optimiser(_OfRecipe):
    """The optimiser of the training."""

    name = "optimiser"
    keys: ClassVar = {"accept": _some_of(OPTIMISERS)}

    def check(self, limits: Limits) -> None:
        """Check that one is named."""
        _exactly_one(limits, "accept")

    def required(self, limits: Limits) -> str:
        """Return the accepted ones."""
        return " or ".join(limits["accept"])

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the recipe's, of which there may be several for different weights."""
        assert facts.training is not None
        used = facts.training.optimisers
        return Finding(" and ".join(used), self.how, set(used) <= set(limits["accept"]))

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return the accepted ones."""
        return {"optimiser": frozenset(limits["accept"])}


class Schedule(_OfRecipe):
    """The schedule of the learning rate."""

    name = "schedule"
    keys: ClassVar = {"name": _one_of(SCHEDULES), "peak_epoch": WHOLE}

    def check(self, limits: Limits) -> None:
        """Check that it is named, and that a peak is that of one cycle."""
        _exactly_one(limits, "name")
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


class SplitKind(Kind):
    """The contract's data set and sizes, which stand at the top of its file."""

    name = "split"

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Look at the images where there are weights."""
        return ("split",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Say what is wrong with the images."""
        split = facts.split
        assert split is not None
        sizes = f"{split.train:,} training, {split.val:,} validation"
        found = "; ".join(split.faults) or f"{sizes}, none alike"
        return Finding(found, split.how, not split.faults)


class Accuracy(Kind):
    """Accuracy on the validation or the training images, in each of the last epochs."""

    name = "accuracy"
    keys: ClassVar = {
        "split": _one_of(("val", "train"), default="val"),
        "at_least": FRACTION,
        "more_than": FRACTION,
        "last_epochs": Key(WHOLE.expected, WHOLE.accepts, default=1),
        "bands": BANDS,
    }

    def check(self, limits: Limits) -> None:
        """Check that there is one limit."""
        _exactly_one(limits, "at_least", "more_than")

    def title(self, limits: Limits) -> str:
        """Return which accuracy it is."""
        return "training accuracy" if limits.get("split") == "train" else "accuracy"

    def required(self, limits: Limits) -> str:
        """Return the limit, and in how many epochs."""
        last = limits.get("last_epochs", 1)
        several = f" in each of the last {last} epochs" if last > 1 else ""
        return f"{_words(limits, _percentage)}{several}"

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Take it from an evaluation of weights."""
        return (limits.get("split", "val"),)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the accuracy of each of the last epochs; the lowest one decides the points."""
        part = limits.get("split", "val")
        evaluated: Evaluated = facts.accuracies[part]
        last = limits.get("last_epochs", 1)
        # Oldest first.
        counts = {
            before: evaluated.counts[before]
            for before in reversed(range(last))
            if before in evaluated.counts
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
        fits = _holds(limits, lowest)
        if missing:
            found += f"; weights of {missing} epochs are missing"
            if fits and epochs is None:
                how = "not judged: needs the weights of several epochs"
                return Finding(found, how, passed=None)
            return Finding(found, how, passed=False)
        return Finding(found, how, fits, _points(limits.get("bands"), lowest))

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


def _structure(facts: Facts) -> Structure:
    assert facts.structure is not None
    return facts.structure


def _effect(name: str, facts: Facts) -> Finding:
    """Return what is found of batch norms or dropouts: whether they run, and matter."""
    structure = _structure(facts)
    each: Effect = structure.batch_norm if name == "batch norm" else structure.dropout
    where = "beside the path" if each.bypassed else "on every path"
    seen = f"{where} from images to outputs, with an effect of {100 * each.effect:.2g} %"
    return Finding(
        each.done if each.works or not each.count else f"{each.done}, {seen}",
        f"a training pass; {structure.changed[name]} must change the outputs by more than "
        f"{100 * each.least_effect:.1g} % of their deviation; it is {seen}",
        each.works,
    )


def _without_dropout(kinds: Sequence[str]) -> int:
    """Return after how many convolutions and linear layers no dropout comes before the next one."""
    without, pending = 0, False
    for kind in (*kinds, "conv"):
        if kind in ("conv", "linear"):
            without, pending = without + pending, True
        elif kind == "dropout":
            pending = False
    return without


# In the order of a verdict's rows.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(Parameters(), Normalisation(), Dropout(), Head(), Forbid(), Require()),
        *(ReceptiveField(), Macs(), EvaluationMode(), Epochs(), BatchSize(), Optimiser()),
        *(Schedule(), SplitKind(), Accuracy()),
    )
}


@dataclass(frozen=True)
class Requirement:
    """One thing that a contract requires, and what it is worth.

    Raises InputError for an unknown kind or key, and for limits that are wrong.
    """

    kind: str
    "What is required: one of `KINDS`."
    limits: Limits = field(default_factory=dict, hash=False)
    "Its keys and values; those that are the default may be left out."
    points: float = 1.0
    "Points where it holds. 0: it only decides whether the verdict passes."
    bonus: bool = False
    "Whether it adds points on top; a verdict passes without it."

    def __post_init__(self) -> None:
        kind = KINDS.get(self.kind) if isinstance(self.kind, str) else None
        if kind is None:
            raise InputError(f"kind: got {self.kind!r}, expected {', '.join(KINDS)}")
        for key, value in self.limits.items():
            if key not in kind.keys:
                known = ", ".join([*kind.keys, "points", "bonus"])
                raise InputError(f"{self.kind}: unknown key {key!r}, expected {known}")
            if not kind.keys[key].accepts(value):
                expected = kind.keys[key].expected
                raise InputError(f"{self.kind} {key}: got {value!r}, expected {expected}")
        # Defaults are left out, so that equal requirements are equal.
        limits = {
            key: about.tidy(self.limits[key])
            for key, about in kind.keys.items()
            if key in self.limits and self.limits[key] != about.default
        }
        object.__setattr__(self, "limits", limits)
        if not _number(self.points) or self.points < 0:
            raise InputError(f"{self.kind} points: got {self.points!r}, expected 0 or more")
        if type(self.bonus) is not bool:
            raise InputError(f"{self.kind} bonus: got {self.bonus!r}, expected true or false")
        if self.bonus and not self.points:
            raise InputError(f"{self.kind}: got a bonus of no points, expected points above 0")
        try:
            kind.check(limits)
        except InputError as error:
            raise InputError(f"{self.kind}: {error.message}") from error
        most = limits["bands"][-1][1] if "bands" in limits else self.points
        if self.points != most:
            raise InputError(
                f"{self.kind} points: got {self.points:g}, expected the last band's {most:g}"
            )

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Requirement":
        """Return the requirement of a table `[[clause]]`.

        Raises InputError if a key is missing or unknown, or a value is wrong."""
        if "kind" not in values:
            raise InputError(f"got no kind, expected one of {', '.join(KINDS)}")
        limits = {k: v for k, v in values.items() if k not in ("kind", "points", "bonus")}
        points, bonus = values.get("points"), values.get("bonus", False)
        if points is None:
            if bonus:
                raise InputError(f"{values['kind']}: got a bonus without points, expected points")
            bands: Any = limits.get("bands")
            points = bands[-1][1] if BANDS.accepts(bands) else 1.0
        return Requirement(values["kind"], limits, points, bonus)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back."""
        values = {"kind": self.kind, **copy.deepcopy(dict(self.limits))}
        if (self.points != 1 and "bands" not in self.limits) or self.bonus:
            values["points"] = self.points
        return values | ({"bonus": True} if self.bonus else {})

    @property
    def title(self) -> str:
        """Name of the verdict's clause."""
        return KINDS[self.kind].title(self.limits) + (" (bonus)" if self.bonus else "")

    @property
    def required(self) -> str:
        """What is required, in words."""
        return KINDS[self.kind].required(self.limits)

    @property
    def needs(self) -> tuple[str, ...]:
        """Facts without which it is not judged."""
        return KINDS[self.kind].needs(self.limits)

    def contradiction(self, other: "Requirement") -> str | None:
        """Return what this and another requirement can't both allow, None if they can hold both."""
        one, two = (KINDS[each.kind].allows(each.limits) for each in (self, other))
        for quantity in one.keys() & two.keys():
            a, b = one[quantity], two[quantity]
            if isinstance(a, frozenset) and isinstance(b, frozenset):
                apart = not a & b
            else:
                apart = max(a[0], b[0]) > min(a[1], b[1])  # type: ignore[index]
            if apart:
                return quantity
        return None

    def judge(self, title: str, required: str, facts: Facts) -> Clause:
        """Return the verdict's clause, which is not judged where its facts are missing."""
        kind = KINDS[self.kind]
        missing = [name for name in kind.needs(self.limits) if not facts.has(name)]
        if missing:
            finding = Finding(*MISSING[missing[0]], passed=None)
        else:
            finding = kind.judge(self.limits, facts)
        points = finding.points
        if finding.passed is None:
            points = None
        elif points is None:
            points = self.points if finding.passed else 0.0
        return Clause(
            title,
            required,
            finding.found,
            finding.how,
            finding.passed,
            points,
            self.points,
            self.bonus,
        )
