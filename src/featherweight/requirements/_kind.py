"""What a kind of requirement is: keys with their values, words, and a judge."""

import copy
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from .._layers import LayerTable
from ..errors import InputError
from ..facts import Facts

Limits = Mapping[str, Any]
MAX_SHOWN = 80  # characters of a value in a message
# What a requirement allows of one quantity: its least and greatest value, or its values.
Allowed = tuple[float, float] | frozenset[str]
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "fewer_than": operator.lt,
    "at_most": operator.le,
    "at_least": operator.ge,
    "more_than": operator.gt,
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


def shown(value: object) -> str:
    """Return a value as a message shows it, shortened."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def whole(least: int) -> Key:
    """Return the key of a whole number."""
    return Key(
        f"a whole number of at least {least}", lambda value: type(value) is int and value >= least
    )


def one_of(names: Sequence[str], default: str | None = None) -> Key:
    """Return the key of one of some texts."""
    return Key(" or ".join(names), lambda value: value in names, default)


def some_of(names: Sequence[str]) -> Key:
    """Return the key of a list of some texts, in whatever order."""
    return Key(
        f"a list of some of {', '.join(names)}",
        lambda value: (
            isinstance(value, (list, tuple)) and bool(value) and all(v in names for v in value)
        ),
        tidy=lambda value: [name for name in names if name in value],
    )


WHOLE = whole(1)
FRACTION = Key(
    "a fraction such as 0.994, from 0 to 1", lambda value: number(value) and 0 <= value <= 1
)
LESS_THAN_ALL = Key(
    "a fraction such as 0.7, from 0 to below 1", lambda value: number(value) and 0 <= value < 1
)
RATE = Key("a fraction between 0 and 1", lambda value: number(value) and 0 < value < 1)
FLAG = Key("true or false", lambda value: type(value) is bool, default=False)
BANDS = Key(
    "a list of [accuracy, points] of which both rise, such as [[0.9, 0], [0.994, 4]]",
    lambda value: (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(band, list) and len(band) == 2 for band in value)
        and all(FRACTION.accepts(band[0]) and number(band[1]) for band in value)
        and value[0][1] >= 0
        and all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(value))
        and value[0][1] < value[-1][1]
    ),
)


def holds(limits: Limits, value: float) -> bool:
    """Return whether a value is within limits such as `at_most`."""
    return all(within(value, limits[key]) for key, within in COMPARISONS.items() if key in limits)


def words(limits: Limits, text: Callable[[Any], str] = "{:,}".format) -> str:
    """Return limits in words, such as `at most 20,000`."""
    return " and ".join(
        f"{key.replace('_', ' ')} {text(limits[key])}" for key in COMPARISONS if key in limits
    )


def whole_range(limits: Limits) -> tuple[float, float]:
    """Return the least and the greatest whole number that is within limits."""
    least = max(limits.get("at_least", 0), limits.get("more_than", -1) + 1)
    most = min(limits.get("at_most", math.inf), limits.get("fewer_than", math.inf) - 1)
    return least, most


def percentage(fraction: float) -> str:
    """Return a fraction as text, such as `99.40 %`: with more digits where it has them."""
    percents = 100 * Decimal(str(float(fraction)))
    return f"{percents:.2f} %" if percents == round(percents, 2) else f"{percents.normalize():f} %"


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
    exactly_one: ClassVar[tuple[tuple[str, ...], ...]] = ()
    "Groups of keys; of each a clause must have one key, and no other."
    facts: ClassVar[tuple[str, ...]] = ("structure",)
    "Fields of the facts without which it is not judged."

    def check(self, limits: Limits) -> None:
        """Raise InputError where limits do not fit together."""
        for keys in self.exactly_one:
            given = [key for key in keys if key in limits]
            if not given:
                raise InputError(f"missing key, expected {' or '.join(keys)}")
            if len(given) > 1:
                raise InputError(f"got {' and '.join(given)}, expected one of them")

    def title(self, limits: Limits) -> str:
        """Return the name of the verdict's clause."""
        return self.name

    def required(self, limits: Limits) -> str:
        """Return what is required, in words."""
        raise NotImplementedError

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Return the facts without which it is not judged with these limits."""
        return self.facts

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Return what is found of the facts that it needs."""
        raise NotImplementedError

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """Return which values of named quantities it allows, to find contradictions."""
        return {}


def layers_of(facts: Facts) -> LayerTable:
    """Return the layer table of facts that have one."""
    assert facts.layers is not None
    return facts.layers
