"""The kinds of requirements that a contract may have: their keys, their words, and their judges.

    requirement = Requirement("parameters", {"fewer_than": 20_000}, points=2)
    requirement.required                        # "fewer than 20,000"
    requirement.judge("parameters", requirement.required, Facts())      # a Clause of a verdict

To add a kind, write one class and name it in `KINDS`. A judge sees facts, plain data, so nothing
here imports PyTorch.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, did_you_mean
from ..facts import Facts
from ..verdict import Clause
from ._kind import BANDS, Allowed, Finding, Kind, Limits, number
from ._kind import shown as shown
from ._layers import Forbid, Macs, ReceptiveField, Require, Views
from ._structure import HEADS as HEADS
from ._structure import Dropout, EvaluationMode, Head, Normalisation, Parameters
from ._training import Accuracy, BatchSize, Epochs, Optimiser, Schedule, SplitKind, Teacher

MAX_POINTS = 1_000_000
# By the facts that are missing: what a clause then says was found, and how.
MISSING = {
    "layers": ("not judged: needs the graph", "the module was watched"),
    "training_layers": ("not judged: needs the graph", "the module was watched"),
    "builds": ("not judged: no class", "needs the network's class, to build it with two seeds"),
    "training": ("not judged: no run", "needs the training state"),
    "split": ("not judged: no weights", "needs weights"),
    "val": ("not judged: no weights", "needs weights"),
    "train": ("not judged: no weights", "needs weights"),
}


# In the order of a verdict's rows.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(Parameters(), Normalisation(), Dropout(), Head(), Forbid(), Require()),
        *(ReceptiveField(), Macs(), Views(), EvaluationMode(), Epochs(), BatchSize()),
        *(Optimiser(), Schedule(), Teacher(), SplitKind(), Accuracy()),
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
            raise InputError(
                f"kind: got {shown(self.kind)}, expected {', '.join(KINDS)}",
                hint=did_you_mean(self.kind, KINDS),
            )
        for key, value in self.limits.items():
            if key not in kind.keys:
                known = [*kind.keys, "points", "bonus"]
                raise InputError(
                    f"{self.kind}: unknown key {shown(key)}, expected {', '.join(known)}",
                    hint=did_you_mean(key, known),
                )
            if not kind.keys[key].accepts(value):
                expected = kind.keys[key].expected
                raise InputError(f"{self.kind} {key}: got {shown(value)}, expected {expected}")
        # Defaults are left out, so that equal requirements are equal.
        limits = {
            key: about.tidy(self.limits[key])
            for key, about in kind.keys.items()
            if key in self.limits and self.limits[key] != about.default
        }
        object.__setattr__(self, "limits", limits)
        if not number(self.points) or not 0 <= self.points <= MAX_POINTS:
            raise InputError(
                f"{self.kind} points: got {shown(self.points)}, expected 0 to {MAX_POINTS:,}"
            )
        if type(self.bonus) is not bool:
            raise InputError(f"{self.kind} bonus: got {shown(self.bonus)}, expected true or false")
        if self.bonus and not self.points:
            raise InputError(f"{self.kind}: got a bonus of no points, expected points above 0")
        try:
            kind.check(limits)
        except InputError as error:
            raise InputError(f"{self.kind}: {error.message}") from error
        for quantity, allowed in kind.allows(limits).items():
            if _is_empty(allowed):
                raise InputError(
                    f"{self.kind}: got {kind.required(limits)}, which no {quantity} meets, "
                    "expected limits that one can meet"
                )
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
            whole = float(self.points).is_integer()
            values["points"] = int(self.points) if whole else self.points
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
            if _is_empty(_both(one[quantity], two[quantity])):
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
        if points is None and finding.passed is not None:
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


def _both(one: Allowed, other: Allowed) -> Allowed:
    """Return what two requirements allow together of one quantity."""
    if isinstance(one, frozenset) or isinstance(other, frozenset):
        assert isinstance(one, frozenset)  # each quantity has values of one sort
        assert isinstance(other, frozenset)
        return one & other
    return max(one[0], other[0]), min(one[1], other[1])


def _is_empty(allowed: Allowed) -> bool:
    """Return whether no value is allowed."""
    if isinstance(allowed, frozenset):
        return not allowed
    return allowed[0] > allowed[1]
