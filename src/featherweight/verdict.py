"""What an audit says: a clause of the contract each, and whether the contract holds.

verdict.passed, [clause.clause for clause in verdict.failed], verdict.to_dict()
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Clause:
    """One requirement: what was asked, what was found, and how."""

    clause: str
    required: str
    found: str
    how: str
    passed: bool | None
    "None: not judged, for want of weights or of a run."


@dataclass(frozen=True)
class Verdict:
    """The contract holds where every clause that could be judged does."""

    contract: str
    clauses: tuple[Clause, ...]
    n_params: int | None
    "Stored numbers that the network reads; None where the weights are not the network's."
    scope: str = "run"
    "What was there to judge: structure (a class), weights (a class and weights trained elsewhere), or run."

    @property
    def judged(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.clauses if clause.passed is not None)

    @property
    def not_judged(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.clauses if clause.passed is None)

    @property
    def failed(self) -> tuple[Clause, ...]:
        return tuple(clause for clause in self.clauses if clause.passed is False)

    @property
    def passed(self) -> bool:
        return not self.failed

    def to_dict(self) -> dict[str, Any]:
        return {
            "contract": self.contract,
            "passed": self.passed,
            "scope": self.scope,
            "not_judged": [clause.clause for clause in self.not_judged],
            "clauses": [asdict(clause) for clause in self.clauses],
        }
