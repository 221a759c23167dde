"""Contracts: what must be true of a network, as data, each requirement with its points.

Example:
    contract = load_contract("era-v3-s6")          # a built-in contract
    contract = load_contract("my-contract.toml")   # a TOML file
    contract.to_toml()                             # the text of such a file
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._files import check_name
from ._html import html_table, html_text
from .errors import InputError, did_you_mean
from .requirements import HEADS, KINDS, Requirement, shown

# The data sets that a contract may be about, each with the shape of its images and its classes.
DATA_SETS: dict[str, tuple[tuple[int, int, int], int] | None] = {
    "": None,
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "cifar-10": ((3, 32, 32), 10),
}
DATA_NAMES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar-10": "CIFAR-10"}
# Keys at the top of a contract that stand for clauses: the kind, and the limit for their value.
SHORTHAND = {
    "max_params": ("parameters", "fewer_than"),
    "max_epochs": ("epochs", "fewer_than"),
    "min_val_accuracy": ("accuracy", "at_least"),
    "consistent_epochs": ("accuracy", "last_epochs"),
    "heads": ("head", "accept"),
    "max_macs": ("macs", "fewer_than"),
    "views": ("views", "at_most"),
    "teacher": ("teacher", "accept"),
}
# Those that are true or false, and the clause that they stand for where they are true.
FLAGS = {"batch_norm": ("normalisation", {"norm": "batch"}), "dropout": ("dropout", {})}
# Kinds that every contract has: without them an accuracy measures nothing.
ALWAYS = ("evaluation", "split")
MAX_CLAUSES = 100
MAX_BYTES = 2**20  # of a file
EXAMPLE = "print an example with: featherweight contracts era-v3-s6"
ON_TOP = "keys of the whole contract stand above the first [[clause]]"
KEYS = ("name", "data", "train_size", "val_size", "clause", *SHORTHAND, *FLAGS)


@dataclass(frozen=True)
class Contract:
    """A data set, and what must be true of a network that is trained on it.

    Raises InputError if a value is of the wrong type or outside its range, or if two clauses can't
    both hold.
    """

    name: str
    "Name of the contract, as verdicts show it."
    data: str
    "Data set that the contract is about: mnist, fashion-mnist, cifar-10, or empty for any."
    train_size: int
    "Number of training images: the first ones of the training file."
    val_size: int
    "Number of validation images: the last ones of the training file."
    clauses: tuple[Requirement, ...] = field(default=())
    "What is required. That evaluation and split are sound is always required too."

    def __post_init__(self) -> None:
        check_name("contract name", self.name, in_paths=False)
        if not isinstance(self.data, str) or self.data not in DATA_SETS:
            raise InputError(
                f"contract data: got {self.data!r}, expected {', '.join(filter(None, DATA_SETS))}, "
                "or an empty text for any data"
            )
        for key in ("train_size", "val_size"):
            value = getattr(self, key)
            if type(value) is not int or value < 1:
                raise InputError(
                    f"contract {key}: got {value!r}, expected a whole number of at least 1"
                )
        object.__setattr__(self, "clauses", tuple(self.clauses))
        if not 0 < len(self.clauses) <= MAX_CLAUSES:
            raise InputError(
                f"contract: got {len(self.clauses)} clauses, expected 1 to {MAX_CLAUSES}"
            )
        firm = [clause for clause in self.clauses if not clause.bonus]
        for i, one in enumerate(firm):
            for other in firm[:i]:
                if (quantity := one.contradiction(other)) is not None:
                    raise InputError(
                        f"contract: got {other.title} ({other.required}) and {one.title} "
                        f"({one.required}), but the {quantity} can't meet both, expected clauses "
                        "that can hold together"
                    )
        for kind in ALWAYS:
            listed = [clause for clause in self.clauses if clause.kind == kind]
            if len(listed) > 1:
                raise InputError(f"contract: got two clauses {kind}, expected at most one")
            if listed and listed[0].bonus:
                raise InputError(f"contract: got {kind} as a bonus, expected it without")
        for i, one in enumerate(self.clauses):
            if any((one.kind, one.limits) == (each.kind, each.limits) for each in self.clauses[:i]):
                raise InputError(
                    f"contract: got the clause {one.kind} ({one.required}) twice, expected it once"
                )

    @property
    def rows(self) -> tuple[tuple[str, str, Requirement], ...]:
        """The rows of a verdict: the name of each, what is required, and the requirement.

        They stand in the order of `KINDS`, whatever the order of the clauses.
        """
        listed = {clause.kind for clause in self.clauses}
        others = [Requirement(kind, points=0) for kind in ALWAYS if kind not in listed]
        clauses = [*self.clauses, *others]
        order = list(KINDS)
        found: list[tuple[str, str, Requirement]] = []
        titles: dict[str, int] = {}
        for clause in sorted(clauses, key=lambda clause: order.index(clause.kind)):
            titles[clause.title] = titles.get(clause.title, 0) + 1
            number = titles[clause.title]
            title = clause.title if number == 1 else f"{clause.title} {number}"
            required = self._split if clause.kind == "split" else clause.required
            found.append((title, required, clause))
        return tuple(found)

    @property
    def _split(self) -> str:
        whose = f"{DATA_NAMES[self.data]}'s " if self.data else ""
        return f"{whose}{self.train_size:,} training, {self.val_size:,} validation, none alike"

    def _limits(self, kind: str, key: str, **others: Any) -> list[Any]:
        """Return the limits under a key of a kind's clauses that are no bonus."""
        return [
            clause.limits[key]
            for clause in self.clauses
            if clause.kind == kind and not clause.bonus and key in clause.limits
            if all(clause.limits.get(other) == value for other, value in others.items())
        ]

    def _below(self, kind: str, **others: Any) -> int | None:
        """Return the number that a whole number must be fewer than, the least of all clauses."""
        most = [limit + 1 for limit in self._limits(kind, "at_most", **others)]
        return min(most + self._limits(kind, "fewer_than", **others), default=None)

    @property
    def max_params(self) -> int | None:
        """The number that all parameters must be fewer than; None without such a clause."""
        return self._below("parameters", which=None)

    @property
    def max_epochs(self) -> int | None:
        """The number that the epochs must be fewer than; None without such a clause."""
        return self._below("epochs")

    @property
    def min_val_accuracy(self) -> float | None:
        """The validation accuracy that is required, a fraction; None without such a clause."""
        return self.min_accuracy("val")

    def min_accuracy(self, part: str) -> float | None:
        """Return the accuracy that is required on `val` or `train`, None without such a clause."""
        split = None if part == "val" else part  # which is the default
        least = self._limits("accuracy", "at_least", split=split)
        return max(least + self._limits("accuracy", "more_than", split=split), default=None)

    @property
    def consistent_epochs(self) -> int:
        """The number of last epochs whose weights are judged, at least 1."""
        return max(int(clause.limits.get("last_epochs", 1)) for clause in self.clauses)

    def needs(self, fact: str) -> bool:
        """Return whether a clause is judged on certain facts, such as `layers` or `train`."""
        return any(fact in clause.needs for clause in self.clauses)

    @property
    def built_in(self) -> "Contract | None":
        """The built-in contract of the same name, None if there is none."""
        return next((each for each in CONTRACTS if each.name == self.name), None)

    @property
    def is_built_in(self) -> bool:
        """Whether it is a built-in contract, in every value."""
        return self == self.built_in

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Return what differs from the built-in contract of the same name.

        Each is a key of the file, or the name of a clause, with its own value or what it requires,
        and the built-in's. Empty if all are equal, or there is no built-in contract of that name.
        What it asks for beyond the built-in contract is no difference: see `additions`.
        """
        found, expected = self._values(), (self.built_in or self)._values()
        return {
            key: (found.get(key, "no such clause"), expected.get(key, "no such clause"))
            for key in {**expected, **found}
            if found.get(key) != expected.get(key) and key not in self.additions()
        }

    def additions(self) -> tuple[str, ...]:
        """Return the names of clauses that the built-in contract of the same name does not have.

        A bonus is none of them."""
        expected = (self.built_in or self)._values()
        return tuple(
            title
            for title, _, clause in self.rows
            if title not in expected and clause.kind not in ALWAYS and not clause.bonus
        )

    def current(self) -> "Contract":
        """Return the built-in contract of the same name if what meets this one meets it too.

        Otherwise the contract itself. So a built-in contract may come to ask for less, or give
        other points, and what was judged before still counts; a failure then counts as one."""
        built_in = self.built_in
        if built_in is None or not built_in._firm() <= self._firm():
            return self
        return built_in

    def _firm(self) -> set[tuple[str, Any]]:
        """Return what decides whether a verdict passes: the images, and clauses without bonuses."""
        keys = ("data", "train_size", "val_size")
        clauses = ((title, required) for title, required, each in self.rows if not each.bonus)
        return {*((key, getattr(self, key)) for key in keys), *clauses}

    def _values(self) -> dict[str, Any]:
        values = {key: getattr(self, key) for key in ("data", "train_size", "val_size")}
        for title, required, clause in self.rows:
            if clause.kind != "split" or clause.points:  # else the keys above say it all
                worth = "" if clause.points == 1 else f", {float(clause.points):.15g} points"
                bands = f", bands {clause.limits['bands']}" if "bands" in clause.limits else ""
                values[title] = f"{required}{worth}{bands}"
        return values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Contract":
        """Return the contract with these values.

        Keys such as `max_params` stand for clauses, in older files for all of them. Without the
        key `data`, as in older files, it is about the data set of the built-in contract of that
        name, else about any. Raises InputError if a key is unknown or missing, or a value is wrong.
        """
        if unknown := [key for key in values if key not in KEYS]:
            raise InputError(
                f"contract: unknown key {shown(unknown[0])}, expected {', '.join(KEYS)}",
                hint=did_you_mean(unknown[0], KEYS),
            )
        tables = values.get("clause", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise InputError("contract clause: expected tables, each under [[clause]]")
        if missing := [key for key in ("name", "train_size", "val_size") if key not in values]:
            below = any(missing[0] in table and "kind" in table for table in tables)
            raise InputError(
                f"contract: missing key {missing[0]!r}, expected name, train_size and val_size",
                hint=ON_TOP if below else EXAMPLE,
            )
        clauses = _read_shorthand(values)
        kinds = {clause.kind for clause in clauses}
        for i, table in enumerate(tables, 1):
            try:
                clause = Requirement.from_dict(table)
            except InputError as error:
                # A schedule has a name, and dropout is a kind too.
                misplaced = table.keys() & set(KEYS) - {"name", "dropout"}
                hint = ON_TOP if misplaced else error.hint
                raise InputError(f"contract clause {i}: {error.message}", hint=hint) from error
            if clause.kind in kinds and not clause.bonus:
                keys = {**SHORTHAND, **FLAGS}.items()
                flat = next(key for key, (kind, _) in keys if key in values and kind == clause.kind)
                raise InputError(
                    f"contract clause {i}: got a clause {clause.kind} beside {flat}, which stands "
                    "for one, expected one of them"
                )
            clauses.append(clause)
        names = ("name", "data", "train_size", "val_size")
        fields = {key: values[key] for key in names if key in values}
        if "data" not in fields:
            same = next((each for each in CONTRACTS if each.name == values["name"]), None)
            fields["data"] = same.data if same is not None else ""
        return Contract(**fields, clauses=tuple(clauses))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back."""
        return {
            "name": self.name,
            "data": self.data,
            "train_size": self.train_size,
            "val_size": self.val_size,
            "clause": [clause.to_dict() for clause in self.clauses],
        }

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the clauses, and what they are worth."""
        about = DATA_NAMES.get(self.data, "any data")
        rows = [
            (title, required, f"{clause.points:g}" if clause.points else "")
            for title, required, clause in self.rows
        ]
        return f"<p>{html_text(self.name, bold=True)}{html_text(f': {about}')}</p>\n" + html_table(
            ["clause", "required", "points"], rows
        )

    def to_toml(self) -> str:
        """Return the text of a TOML file that `load_contract` reads back."""
        values = self.to_dict()
        tables = values.pop("clause")
        lines = [f"{key} = {_literal(value)}\n" for key, value in values.items()]
        for table in tables:
            lines.append("\n[[clause]]\n")
            lines += [f"{key} = {_literal(value)}\n" for key, value in table.items()]
        return "".join(lines)


def _literal(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _read_shorthand(values: Mapping[str, Any]) -> list[Requirement]:
    """Return the clauses for which keys at the top of a contract stand."""
    found: dict[str, dict[str, Any]] = {}
    for key, (kind, limit) in SHORTHAND.items():
        if key in values:
            about = KINDS[kind].keys[limit]
            if not about.accepts(values[key]):
                raise InputError(f"contract {key}: got {values[key]!r}, expected {about.expected}")
            found.setdefault(kind, {})[limit] = values[key]
    for key, (kind, limits) in FLAGS.items():
        if key in values:
            if type(values[key]) is not bool:
                raise InputError(f"contract {key}: got {values[key]!r}, expected true or false")
            if values[key]:
                found[kind] = dict(limits)
    if "consistent_epochs" in values and "min_val_accuracy" not in values:
        raise InputError("contract: got consistent_epochs, expected min_val_accuracy with it")
    order = list(KINDS)
    return [
        Requirement(kind, found[kind]) for kind in sorted(found, key=lambda each: order.index(each))
    ]


def _mnist(name: str, *clauses: Requirement) -> Contract:
    """Return a contract about MNIST: its first 50,000 training images, and the other 10,000."""
    return Contract(name, "mnist", 50_000, 10_000, clauses)


def _cifar(name: str, *clauses: Requirement) -> Contract:
    """Return a contract about CIFAR-10: its first 45,000 training images, and the other 5,000."""
    return Contract(name, "cifar-10", 45_000, 5_000, clauses)


# "In your last few epochs": three, the fewest that are a few. A group of one course asked for four.
FEW_EPOCHS = 3
# The layers that some contracts about MNIST ask for.
_BATCH_NORM = Requirement("normalisation", {"norm": "batch"})
_DROPOUT = Requirement("dropout")
_HEAD = Requirement("head", {"accept": list(HEADS)})
_GAP = Requirement("head", {"gap": True})


def _below(n: int, points: float = 1.0, bonus: bool = False) -> Requirement:
    return Requirement("parameters", {"fewer_than": n}, points, bonus)


def _reach(accuracy: float, last_epochs: int = 1) -> Requirement:
    return Requirement("accuracy", {"at_least": accuracy, "last_epochs": last_epochs})


def _fewer_epochs(n: int) -> Requirement:
    return Requirement("epochs", {"fewer_than": n})


def _epochs(n: int) -> Requirement:
    return Requirement("epochs", {"at_most": n})


def _s8(norm: str) -> Contract:
    """Return the contract of one of session 8's three networks, each of one normalisation.

    "Three versions, with BN, GN and LN" is read as one kind of normalisation in each. The layers
    that its text lists end in global average pooling and a 1x1 convolution."""
    return _cifar(
        {"batch": "era-s8-bn", "group": "era-s8-gn", "layer": "era-s8-ln"}[norm],
        _below(50_000),
        Requirement("normalisation", {"norm": norm, "only": True}),
        _GAP,
        _epochs(20),
        Requirement("accuracy", {"more_than": 0.7}),
    )


CONTRACTS = (
    # The assignment.
    _mnist(
        "era-v3-s6",
        *(_below(20_000), _BATCH_NORM, _DROPOUT, _HEAD, _fewer_epochs(20), _reach(0.994)),
    ),
    # Others of the same course. Session 5: one epoch, judged on the training images.
    _mnist(
        "era-s5",
        _below(25_000),
        _epochs(1),
        Requirement("accuracy", {"split": "train", "at_least": 0.95}),
    ),
    # Session 7. Its text asks for no certain layers: batch norm, dropout and the head are free. "At
    # most 15 epochs" is written as fewer than 16, as in runs from before there were clauses.
    _mnist("era-s7", _below(8_000), _fewer_epochs(16), _reach(0.994, FEW_EPOCHS)),
    # EVA's session 5. Its "extra marks" are read as one point.
    _mnist(
        "eva-10k",
        *(_below(10_000), _below(8_000, bonus=True), _epochs(15), _reach(0.994, FEW_EPOCHS)),
    ),
    _s8("batch"),
    _s8("group"),
    _s8("layer"),
    # Session 9, without its augmentation. "Dilated instead of stride 2: +200 points" is the only
    # number of points in its text.
    _cifar(
        "era-s9",
        _below(200_000),
        _GAP,
        Requirement("forbid", {"layer": "max-pool"}),
        Requirement("forbid", {"layer": "stride"}, points=200, bonus=True),
        Requirement("require", {"layer": "dilated", "at_least": 1}),
        Requirement("require", {"layer": "depthwise separable", "at_least": 1}),
        Requirement("receptive field", {"more_than": 44}),
        _reach(0.85),
    ),
    # Session 10, but for its layers and its augmentation.
    _cifar(
        "era-s10",
        _epochs(24),
        Requirement("batch size", {"exactly": 512}),
        Requirement("optimiser", {"accept": ["adam"]}),
        Requirement("schedule", {"name": "one-cycle", "peak_epoch": 5}),
        _reach(0.9),
    ),
    # Not an assignment: its training adds images to MNIST's.
    Contract(
        *("reader", "", 50_000, 10_000),
        (_below(20_000), _reach(0.9959)),
    ),
    # Not assignments: the limits that the feather recipes below 4,000 parameters were designed for.
    _mnist(
        "under-4k",
        *(_below(4_000), _BATCH_NORM, _DROPOUT, _HEAD, _fewer_epochs(20), _reach(0.9935)),
    ),
    _mnist(
        "under-2500",
        *(_below(2_500), _BATCH_NORM, _DROPOUT, _HEAD, _fewer_epochs(20), _reach(0.993)),
    ),
    _mnist(
        "under-2k",
        *(_below(2_000), _BATCH_NORM, _DROPOUT, _HEAD, _fewer_epochs(20), _reach(0.992)),
    ),
    _mnist(
        "under-1k",
        *(_below(1_000), _BATCH_NORM, _DROPOUT, _HEAD, _fewer_epochs(20), _reach(0.988)),
    ),
    # Not an assignment: the limits of the first one, on other images.
    Contract(
        *("fashion-20k", "fashion-mnist", 50_000, 10_000),
        (_below(20_000), _BATCH_NORM, _DROPOUT, _HEAD, _fewer_epochs(20), _reach(0.92)),
    ),
)


def load_contract(name_or_file: str) -> Contract:
    """Return a built-in contract by name, or read one from a TOML file.

    A built-in name takes precedence over a file. Raises InputError if `name_or_file` is neither, or
    the file is not a contract.
    """
    for contract in CONTRACTS:
        if contract.name == name_or_file:
            return contract
    path = Path(name_or_file)
    if not path.is_file():
        names = ", ".join(contract.name for contract in CONTRACTS)
        raise InputError(
            f"contract {shown(name_or_file)}: neither built in ({names}) nor a file",
            hint=did_you_mean(name_or_file, [contract.name for contract in CONTRACTS]),
        )
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(
            f"{path}: got {size:,} bytes, expected a contract of at most {MAX_BYTES:,}"
        )
    try:
        return Contract.from_dict(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error
    except (ValueError, RecursionError) as error:  # of tomllib, or of bytes that are no UTF-8
        raise InputError(f"{path}: not a TOML file: {error}") from error
