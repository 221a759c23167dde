"""The requirements a network must meet, as data.

contract = load_contract("era-v3-s6")          # built in
contract = load_contract("my-contract.toml")   # or a file with the same keys
"""

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .errors import InputError

HEADS = ("linear", "gap")


@dataclass(frozen=True)
class Contract:
    """One budget. Limits are exclusive, as assignments word them: "fewer than".

    Raises ValueError where a value is outside what it can mean.
    """

    name: str
    "What the verdict calls it."
    max_params: int
    "The network stores fewer numbers than this."
    max_epochs: int
    "It is trained for fewer epochs than this."
    min_val_accuracy: float
    "Fraction of the validation images it reads right, at least."
    consistent_epochs: int
    "How many last epochs must each reach that accuracy."
    train_size: int
    "Training images: the first ones of the training file."
    val_size: int
    "Validation images: the last ones of the training file."
    batch_norm: bool
    "Whether batch normalisation must run."
    dropout: bool
    "Whether dropout must run."
    heads: tuple[str, ...]
    "What may stand last before log-softmax: linear, gap (global average pooling)."

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
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"contract name: got {self.name!r}, expected a text")
        if (
            not isinstance(self.heads, (list, tuple))
            or not self.heads
            or set(self.heads) - set(HEADS)
        ):
            raise InputError(
                f"contract heads: got {self.heads!r}, expected some of {', '.join(HEADS)}"
            )
        object.__setattr__(self, "heads", tuple(self.heads))
        if self.consistent_epochs >= self.max_epochs:
            raise InputError(
                f"contract consistent_epochs: got {self.consistent_epochs}, "
                f"expected fewer than max_epochs ({self.max_epochs})"
            )

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Contract":
        """The contract with exactly these keys; ValueError names one that is unknown or missing."""
        known = {field.name for field in fields(Contract)}
        if unknown := sorted(values.keys() - known):
            raise InputError(
                f"contract: unknown key {unknown[0]!r}, expected {', '.join(sorted(known))}"
            )
        if missing := sorted(known - values.keys()):
            raise InputError(f"contract: missing key {missing[0]!r}")
        return Contract(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"heads": list(self.heads)}

    def to_toml(self) -> str:
        """The file that `load_contract` reads back."""

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


CONTRACTS = (
    Contract("era-v3-s6", 20_000, 20, 0.994, 1, 50_000, 10_000, True, True, HEADS),
    Contract("era-s7", 8_000, 16, 0.994, 3, 50_000, 10_000, True, True, HEADS),
    # Nobody's assignment: the limits that feather-4k and feather-1k are made for.
    Contract("under-4k", 4_000, 20, 0.9935, 1, 50_000, 10_000, True, True, HEADS),
    Contract("under-1k", 1_000, 20, 0.988, 1, 50_000, 10_000, True, True, HEADS),
)


def load_contract(name_or_file: str) -> Contract:
    """A built-in contract by name, or one read from a TOML file. ValueError says what is wrong."""
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
