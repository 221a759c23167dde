"""The result of an audit: one clause per requirement of the contract.

Example:
    verdict.passed, [clause.clause for clause in verdict.failed], verdict.to_dict()
    print(verdict)                                     # a table; a notebook shows it as HTML
    Verdict.from_dict(json.loads(text)) == verdict     # text: the run folder's verdict.json
"""

import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

from ._files import visible
from ._html import GREEN, GREY, RED, html_table, html_text
from .errors import InputError

RESULTS = {True: "pass", False: "FAIL", None: "not judged"}
COLOURS = {True: GREEN, False: RED, None: GREY}
MAX_WIDTH = 100  # columns of a printed table
# Largest widths of a printed table's columns; with the result and the gaps a line fits 100.
TEXTS = ("clause", "required", "found", "how")  # of a clause
COLUMN_WIDTHS = {"clause": 12, "required": 38, "found": 32}


@dataclass(frozen=True)
class Clause:
    """One requirement: what the contract requires, what was found, and how it was measured."""

    clause: str
    "Name of the requirement, such as `parameters`."
    required: str
    "What the contract requires."
    found: str
    "What the audit found."
    how: str
    "How the audit found it."
    passed: bool | None
    "Whether the clause holds. None: not judged, because weights or a run are missing."


@dataclass(frozen=True, repr=False)
class Verdict:
    """All clauses of a contract; it passes if every clause that could be judged holds."""

    contract: str
    "Name of the contract."
    clauses: tuple[Clause, ...]
    "One clause per requirement, judged or not."
    n_params: int | None
    "Stored numbers that the network reads. None: the weights do not belong to the network."
    scope: str = "run"
    "What was audited: structure (a class), weights (a class and weights), or run (a run folder)."
    evidence: str = "weights"
    "What it rests on: structure, weights, retrained, or retrained-epochs and their number."
    method: str = "graph"
    "What was judged: graph, the exported graph, or watched, the module while it ran."
    values: dict[str, Any] = field(default_factory=dict)
    "The contract's values that were used."
    confined: bool | None = None
    "Whether the network's code ran without a network and without writing; None: in this process."

    @property
    def judged(self) -> tuple[Clause, ...]:
        """The clauses that hold or fail."""
        return tuple(clause for clause in self.clauses if clause.passed is not None)

    @property
    def not_judged(self) -> tuple[Clause, ...]:
        """The clauses that could not be judged."""
        return tuple(clause for clause in self.clauses if clause.passed is None)

    @property
    def failed(self) -> tuple[Clause, ...]:
        """The clauses that do not hold."""
        return tuple(clause for clause in self.clauses if clause.passed is False)

    @property
    def passed(self) -> bool:
        """Whether no clause failed."""
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, as in a run folder's verdict.json."""
        return {
            "contract": self.contract,
            "passed": self.passed,
            "scope": self.scope,
            "evidence": self.evidence,
            "method": self.method,
            "confined": self.confined,
            "contract_values": self.values,
            "n_params": self.n_params,
            "not_judged": [clause.clause for clause in self.not_judged],
            "clauses": [asdict(clause) for clause in self.clauses],
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Verdict":
        """Return the verdict that `to_dict` wrote.

        Older files lack some keys: their scope is a run that was watched, and `n_params` is None.
        Raises InputError if `values` is not a verdict.
        """
        try:
            clauses = tuple(Clause(**clause) for clause in values["clauses"])
            texts = [values["contract"], *(getattr(c, key) for c in clauses for key in TEXTS)]
            if not all(type(text) is str for text in texts) or not all(
                clause.passed in (True, False, None) for clause in clauses
            ):
                raise TypeError("another type than text, or passed other than true, false or null")
            return Verdict(
                values["contract"],
                clauses,
                values.get("n_params"),
                values.get("scope", "run"),
                values.get("evidence", "weights"),
                values.get("method", "watched"),
                dict(values.get("contract_values", {})),
                values.get("confined"),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"verdict: got {error!r}, expected the keys contract and clauses"
            ) from error

    @property
    def basis(self) -> str:
        """What the verdict rests on, and what was judged, in words."""
        what = {
            "structure": "the structure alone",
            "weights": "the weights; not that a certain training made them",
            "retrained": "the same weights came out of training again",
        }.get(self.evidence, "the same states came out of training single epochs again")
        how = "the module was watched" if self.method == "watched" else "the graph was judged"
        if self.confined is not None:
            kept = "without network or writing" if self.confined else "with limits alone"
            how += f", exported apart {kept}"
        return f"{self.evidence} ({what}); {how}"

    @property
    def contract_text(self) -> str:
        """The contract's name and its values, in words."""
        values = ", ".join(
            f"{key} {' or '.join(value) if isinstance(value, list) else value}"
            for key, value in self.values.items()
            if key != "name"
        )
        return f"{self.contract}: {values}" if values else self.contract

    def _summary(self) -> str:
        held = f"{len(self.judged) - len(self.failed)} of {len(self.judged)} clauses hold"
        return held + (f", {len(self.not_judged)} not judged" if self.not_judged else "")

    def __str__(self) -> str:
        """Return a plain-text table that fits 100 columns."""
        rows = [list(COLUMN_WIDTHS)] + [
            [getattr(clause, name) for name in COLUMN_WIDTHS] for clause in self.clauses
        ]
        results = ["result", *(RESULTS[clause.passed] for clause in self.clauses)]
        cells = [
            [
                textwrap.wrap(cell, width) or [""]
                for cell, width in zip(row, COLUMN_WIDTHS.values(), strict=True)
            ]
            for row in rows
        ]
        widths = [max(len(line) for row in cells for line in row[i]) for i in range(len(cells[0]))]
        lines = [
            f"{'PASS' if self.passed else 'FAIL'}: contract {self.contract}; {self._summary()}"
        ]
        for row, result in zip(cells, results, strict=True):
            for n in range(max(map(len, row))):
                texts = [cell[n] if n < len(cell) else "" for cell in row]
                padded = [text.ljust(width) for text, width in zip(texts, widths, strict=True)]
                lines.append("  ".join([*padded, "" if n else result]).rstrip())
        lines += textwrap.wrap(f"evidence: {self.basis}", MAX_WIDTH)
        return visible("\n".join(lines))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        word = html_text(
            "PASS" if self.passed else "FAIL", GREEN if self.passed else RED, bold=True
        )
        rest = html_text(f": contract {self.contract}; {self._summary()}")
        return f"<p>{word}{rest}</p>\n" + html_table(
            ["clause", "required", "found", "how", "result"],
            [(c.clause, c.required, c.found, c.how, RESULTS[c.passed]) for c in self.clauses],
            colours=[COLOURS[c.passed] for c in self.clauses],
        )
