"""Contracts: the requirements that a network must meet, as data.

Example:
    contract = load_contract("era-v3-s6")          # a built-in contract
    contract = load_contract("my-contract.toml")   # a TOML file with the same keys
"""

import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ._files import check_name
from .errors import InputError

HEADS = ("linear", "gap")
DATA_SETS = ("", "mnist")


@dataclass(frozen=True)
class Contract:
    """A budget and what must be true of a network that meets it.

    Limits are exclusive, as assignments word them: "fewer than". Raises InputError if a value is
    of the wrong type or outside its range.
    """

    name: str
    "Name of the contract, as verdicts show it."
    max_params: int
    "Exclusive limit: the network must store fewer numbers than this."
    max_epochs: int
    "Exclusive limit: the network must be trained for fewer epochs than this."
    min_val_accuracy: float
    "Smallest accepted validation accuracy, as a fraction."
    consistent_epochs: int
    "Number of last epochs that must each reach that accuracy."
    train_size: int
    "Number of training images: the first ones of the training file."
    val_size: int
    "Number of validation images: the last ones of the training file."
    batch_norm: bool
    "Whether batch normalisation is required in training."
    dropout: bool
    "Whether dropout is required in training."
    heads: tuple[str, ...]
    "Layers accepted last before log-softmax: linear, gap (global average pooling)."
    data: str = ""
    "Data set that the contract is about: mnist, or empty for any."

    def __post_init__(self) -> None:
        for key in ("max_params", "max_epochs", "consistent_epochs", "train_size", "val_size"):
            value = getattr(self, key)
            if type(value) is not int or value < 1:
                raise InputError(
                    f"contract {key}: got {value!r}, expected a whole number of at least 1"
                )
        for key in ("batch_norm", "dropout"):
            if type(getattr(self, key)) is not bool:
                raise InputError(
                    f"contract {key}: got {getattr(self, key)!r}, expected true or false"
                )
        accuracy = self.min_val_accuracy
        if type(accuracy) not in (int, float) or not 0 <= accuracy <= 1:
            raise InputError(
                f"contract min_val_accuracy: got {accuracy!r}, expected a fraction such as 0.994"
            )
        check_name("contract name", self.name, in_paths=False)
        if (
            not isinstance(self.heads, (list, tuple))
            or not self.heads
            or set(self.heads) - set(HEADS)
        ):
            raise InputError(
                f"contract heads: got {self.heads!r}, expected some of {', '.join(HEADS)}"
            )
        object.__setattr__(self, "heads", tuple(self.heads))
        if self.data not in DATA_SETS:
            raise InputError(
                f"contract data: got {self.data!r}, expected mnist, or an empty text for any data"
            )
        if self.consistent_epochs >= self.max_epochs:
            raise InputError(
                f"contract consistent_epochs: got {self.consistent_epochs}, "
                f"expected fewer than max_epochs ({self.max_epochs})"
            )

    @property
    def built_in(self) -> "Contract | None":
        """Return the built-in contract of the same name, None if there is none."""
        return next((each for each in CONTRACTS if each.name == self.name), None)

    @property
    def is_built_in(self) -> bool:
        """Return whether it is a built-in contract, in every value."""
        return self == self.built_in

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ from the built-in contract of the same name.

        Each has its own value and the built-in's. Empty if all are equal, or there is no built-in
        contract of that name.
        """
        built_in = self.built_in or self
        found, expected = self.to_dict(), built_in.to_dict()
        return {key: (found[key], expected[key]) for key in found if found[key] != expected[key]}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Contract":
        """Return the contract with these values.

        Without the key `data`, as in older files, it is about the data set of the built-in contract
        of that name, else about any. Raises InputError if a key is unknown or missing, or a value
        is wrong.
        """
        known = {field.name for field in fields(Contract)}
        if unknown := sorted(values.keys() - known):
            raise InputError(
                f"contract: unknown key {unknown[0]!r}, expected {', '.join(sorted(known))}"
            )
        if missing := sorted(known - values.keys() - {"data"}):
            raise InputError(f"contract: missing key {missing[0]!r}")
        contract = Contract(**values)
        if "data" not in values and contract.built_in is not None:
            return replace(contract, data=contract.built_in.data)
        return contract

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back."""
        return asdict(self) | {"heads": list(self.heads)}

    def to_toml(self) -> str:
        """Return the text of a TOML file that `load_contract` reads back."""

        def literal(value: object) -> str:
            if isinstance(value, bool):
                return str(value).lower()
            if isinstance(value, str):
                escaped = value.replace("\\", "\\\\").replace('"', '\\"')
                return f'"{escaped}"'
            if isinstance(value, list):
                return "[" + ", ".join(map(literal, value)) + "]"
            return repr(value)

        return "".join(f"{key} = {literal(value)}\n" for key, value in self.to_dict().items())


# All built-in contracts: MNIST, its usual split, the required layers, and the accepted heads.
SHARED: dict[str, Any] = {
    "train_size": 50_000,
    "val_size": 10_000,
    "batch_norm": True,
    "dropout": True,
    "heads": HEADS,
    "data": "mnist",
}

CONTRACTS = (
    # The assignment.
    Contract(
        name="era-v3-s6",
        max_params=20_000,
        max_epochs=20,
        min_val_accuracy=0.994,
        consistent_epochs=1,
        **SHARED,
    ),
    # A stricter assignment: fewer parameters and epochs, and three epochs in a row.
    Contract(
        name="era-s7",
        max_params=8_000,
        max_epochs=16,
        min_val_accuracy=0.994,
        consistent_epochs=3,
        **SHARED,
    ),
    # Not assignments: the limits that feather-4k and feather-1k were designed for.
    Contract(
        name="under-4k",
        max_params=4_000,
        max_epochs=20,
        min_val_accuracy=0.9935,
        consistent_epochs=1,
        **SHARED,
    ),
    Contract(
        name="under-1k",
        max_params=1_000,
        max_epochs=20,
        min_val_accuracy=0.988,
        consistent_epochs=1,
        **SHARED,
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
        raise InputError(f"contract {name_or_file!r}: neither built in ({names}) nor a file")
    try:
        return Contract.from_dict(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
