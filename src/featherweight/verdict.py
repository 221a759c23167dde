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
from ._layers import LayerTable
from .errors import InputError

RESULTS = {True: "pass", False: "FAIL", None: "not judged"}
COLOURS = {True: GREEN, False: RED, None: GREY}
MAX_WIDTH = 100  # columns of a printed table
# Largest widths of a printed table's columns; with the result and the gaps a line fits 100.
TEXTS = ("clause", "required", "found", "how")  # of a clause
OWN_WORDS = ("name", "clause")  # values of a contract that are said in another way than the others
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
    points: float | None = None
    "Points that are reached, by bands also where it is not judged. None: no points can be given."
    max_points: float = 0.0
    "Points where it holds. 0: it only decides whether the verdict passes."
    bonus: bool = False
    "Whether it adds points on top; a verdict passes without it."

    @property
    def failed(self) -> bool:
        """Whether the clause makes the verdict fail."""
        return self.passed is False and not self.bonus

    @property
    def result(self) -> str:
        """`pass`, `FAIL`, `not judged`, or `missed` of a bonus."""
        return "missed" if self.bonus and self.passed is False else RESULTS[self.passed]

    @property
    def score(self) -> str:
        """The points as text, such as `1.5/2`; empty where it has none."""
        if not self.max_points:
            return ""
        reached = "-" if self.points is None else f"{round(self.points, 2):g}"
        return f"{reached}/{self.max_points:g}"

    @property
    def colour(self) -> str:
        """Colour of the result."""
        return GREY if self.passed is False and self.bonus else COLOURS[self.passed]


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
    layers: LayerTable | None = None
    "The layers of its graph. None: it was watched, or its weights do not fit."

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
        return tuple(clause for clause in self.clauses if clause.failed)

    @property
    def passed(self) -> bool:
        """Whether no clause failed. A bonus that was missed is none."""
        return not self.failed

    @property
    def points(self) -> float:
        """Points that the judged clauses reached, those of bonuses included."""
        return sum(clause.points or 0.0 for clause in self.clauses)

    @property
    def max_points(self) -> float:
        """Points of all clauses but bonuses, judged or not."""
        return sum(clause.max_points for clause in self.clauses if not clause.bonus)

    @property
    def weighted(self) -> bool:
        """Whether points say more than which clauses hold: some are worth more, or a bonus."""
        return any(clause.bonus or clause.max_points not in (0, 1) for clause in self.clauses)

    @property
    def points_text(self) -> str:
        """The points as text, such as `points 7 of 9 judged, 11 in all`."""
        judged = sum(c.max_points for c in self.clauses if c.points is not None and not c.bonus)
        bonus = sum(c.points or 0.0 for c in self.clauses if c.bonus)
        text = f"points {round(self.points - bonus, 2):g} of {judged:g}"
        if judged != self.max_points:
            text += f" judged, {self.max_points:g} in all"
        return text + (f"; {round(bonus, 2):g} of bonus" if bonus else "")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, as in a run folder's verdict.json."""
        return {
            "contract": self.contract,
            "passed": self.passed,
            "points": self.points,
            "max_points": self.max_points,
            "scope": self.scope,
            "evidence": self.evidence,
            "method": self.method,
            "confined": self.confined,
            "contract_values": self.values,
            "n_params": self.n_params,
            "not_judged": [clause.clause for clause in self.not_judged],
            "clauses": [asdict(clause) for clause in self.clauses],
            "layers": self.layers and self.layers.to_json(),
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
            used = values.get("contract_values", {})
            typed = type(used) is dict and all(type(text) is str for text in texts)
            if not typed or not all(
                (clause.passed is None or type(clause.passed) is bool)
                and type(clause.bonus) is bool
                and type(clause.max_points) in (int, float)
                and (clause.points is None or type(clause.points) in (int, float))
                for clause in clauses
            ):
                raise TypeError("another type than text, number, or true, false or null")
            return Verdict(
                values["contract"],
                clauses,
                values.get("n_params"),
                values.get("scope", "run"),
                values.get("evidence", "weights"),
                values.get("method", "watched"),
                dict(used),
                values.get("confined"),
                LayerTable.from_json(values["layers"]) if values.get("layers") else None,
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
    def layers_text(self) -> str:
        """The number of layers and their totals in a line."""
        if self.layers is None:
            return "not known: only a graph has a layer table"
        return f"{len(self.layers.layers)}; {self.layers.summary}"

    @property
    def contract_text(self) -> str:
        """The contract's name and its values, in words."""
        words = [
            "any data" if key == "data" and not value else f"{key} {_text(value)}"
            for key, value in self.values.items()
            if key not in OWN_WORDS
        ]
        tables = self.values.get("clause", [])
        for table in tables if isinstance(tables, list) else []:
            words.append(" ".join(_words(table)) if isinstance(table, dict) else str(table))
        return f"{self.contract}: {', '.join(words)}" if words else self.contract

    @property
    def summary(self) -> str:
        """How many clauses hold, how many were not judged, and the points where these say more."""
        firm = [clause for clause in self.judged if not clause.bonus]
        held = f"{len(firm) - len(self.failed)} of {len(firm)} clauses hold"
        if self.not_judged:
            held += f", {len(self.not_judged)} not judged"
        return held + (f", {self.points_text}" if self.weighted else "")

    def __str__(self) -> str:
        """Return a plain-text table that fits 100 columns."""
        rows = [list(COLUMN_WIDTHS)] + [
            [getattr(clause, name) for name in COLUMN_WIDTHS] for clause in self.clauses
        ]
        scores = [clause.score if self.weighted else "" for clause in self.clauses]
        results = ["result"] + [
            f"{clause.result} {score}" for clause, score in zip(self.clauses, scores, strict=True)
        ]
        cells = [
            [
                textwrap.wrap(cell, width) or [""]
                for cell, width in zip(row, COLUMN_WIDTHS.values(), strict=True)
            ]
            for row in rows
        ]
        widths = [max(len(line) for row in cells for line in row[i]) for i in range(len(cells[0]))]
        lines = [f"{'PASS' if self.passed else 'FAIL'}: contract {self.contract}; {self.summary}"]
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
        rest = html_text(f": contract {self.contract}; {self.summary}")
        columns = ["clause", "required", "found", "how", *(["points"] if self.weighted else [])]
        rows = [
            (c.clause, c.required, c.found, c.how, *([c.score] if self.weighted else []), c.result)
            for c in self.clauses
        ]
        return f"<p>{word}{rest}</p>\n" + html_table(
            [*columns, "result"], rows, colours=[clause.colour for clause in self.clauses]
        )


def _text(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    if all(isinstance(each, list) for each in value):  # bands of an accuracy
        return " to ".join(" for ".join(map(str, reversed(each))) for each in value)
    return " or ".join(map(str, value))


def _words(table: dict[str, Any]) -> list[str]:
    """Return the words of a clause of a contract: its kind, then its limits."""
    limits = [
        key if value is True else f"{key} {_text(value)}"
        for key, value in table.items()
        if key != "kind"
    ]
    return [str(table.get("kind", "")), *limits]
