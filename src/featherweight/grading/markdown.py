"""What was found of one submission, and its report in Markdown."""

import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .._files import reason
from .._html import markdown_text as text
from .._markdown import clause_table, code
from ..contract import Contract
from ..counts import percent
from ..errors import InputError
from ..verdict import Verdict
from .submissions import Submission

if TYPE_CHECKING:
    from ..evaluate import Evaluation
    from .forks import Export

N_MISTAKES = 10  # that a report shows
MAX_CLASSES = 26  # whose confusion matrix a report shows
MAX_MESSAGE = 2000  # characters of why it could not be judged: they may be a student's
PICTURE = "mistakes.png"
CLAUSE = "clause: "  # before the name of a clause, in a column's title
PASS, FAIL, NOT_JUDGED = "PASS", "FAIL", "NOT JUDGED"


@dataclass(frozen=True)
class Graded:
    """A submission that was judged, in part, or could not be."""

    submission: Submission
    contract: Contract
    problem: InputError | None = None
    "Why it could not be judged; with a verdict, why a part of it could not."
    network: str = ""
    "Name of the class."
    chosen: str = ""
    "How the class was chosen."
    verdict: Verdict | None = None
    layers: str = ""
    "Its layers, as a table in Markdown."
    result: "Evaluation | None" = None
    "The evaluation on the validation images, where there are weights."
    classes: tuple[str, ...] = ()
    "Names of the classes."
    trained: str = ""
    "The recipe by which it was trained to be judged."
    graph: str = ""
    "Digest of what it computes."
    weights: str = ""
    "Digest of its weights."
    report: str = ""
    "The report in Markdown, in which pictures have the names of `pictures`."
    pictures: dict[str, bytes] = field(default_factory=dict)
    "The pictures of the report, by name."

    @property
    def word(self) -> str:
        """`PASS` if every clause that could be judged holds, else `FAIL`; or `NOT JUDGED`."""
        if self.verdict is None:
            return NOT_JUDGED
        return PASS if self.verdict.passed else FAIL

    @property
    def points(self) -> tuple[float, float]:
        """Points, and the most there are; a submission that can't be judged has none."""
        if self.verdict is None:
            rows = self.contract.rows
            return 0, sum(each.points for _, _, each in rows if not each.bonus)
        return self.verdict.points, self.verdict.max_points

    @property
    def points_not_judged(self) -> float:
        """Points of the clauses that could not be judged, bonuses left out."""
        if self.verdict is None:
            return self.points[1]
        clauses = self.verdict.clauses
        return sum(c.max_points for c in clauses if c.points is None and not c.bonus)

    @property
    def evidence(self) -> str:
        """What the verdict rests on, in a word or two."""
        if self.verdict is None:
            return ""
        found = self.verdict.evidence
        return f"{found}, trained by {self.trained}" if self.trained else found

    @property
    def advice(self) -> str:
        """What could not be judged, and what to do about it, on one line."""
        if self.problem is None:
            return ""
        what = " ".join(self.problem.message.split()).rstrip(".")
        return f"{what}. To do: {self.problem.hint}" if self.problem.hint else what

    @property
    def clauses(self) -> dict[str, str]:
        """The result of each clause, by name; a second clause of a name gets its number."""
        found: dict[str, str] = {}
        for clause in self.verdict.clauses if self.verdict is not None else ():
            names = (clause.clause, *(f"{clause.clause} {n}" for n in range(2, 100)))
            name = next(name for name in names if name not in found)
            found[name] = f"{clause.result} {clause.score}".strip()
        return found


def unjudged(
    submission: Submission,
    contract: Contract,
    error: InputError | OSError,
    found: "Export | None" = None,
) -> Graded:
    """Return what is said of a submission that can't be judged."""
    problem = as_problem(error, submission, f"correct it, and try: {_trial(submission)}")
    graded = Graded(submission, contract, problem=problem)
    return replace(graded, report=report_text(graded, found))


def as_problem(
    error: InputError | OSError, submission: Submission, hint: str | None = None
) -> InputError:
    """Return an error as it is said: short, with paths as a student knows them, and with a hint.

    `hint` is what it says where the error has none."""
    if isinstance(error, OSError):
        error = InputError(reason(error))
    said = error.hint or hint
    return InputError(
        submission.shorten(error.message)[:MAX_MESSAGE],
        hint=said and submission.shorten(said)[:MAX_MESSAGE],
    )


def _trial(submission: Submission) -> str:
    """Return the command by which a student sees the same."""
    return f"featherweight grade {shlex.quote(submission.shown_file or submission.name)}"


def number(value: float) -> str:
    """Return points without needless digits."""
    return f"{round(value, 2):g}"


def points_text(points: str, most: str, not_judged: str) -> str:
    """Return points in words, such as `4 of 6 points, 2 not judged`."""
    return f"{points} of {most} points" + (f", {not_judged} not judged" * (not_judged != "0"))


def report_text(graded: Graded, found: "Export | None") -> str:
    """Return the report of a submission that was judged, or could not be.

    Args:
        graded: The submission.
        found: What came back from its confined process.
    """
    submission, verdict = graded.submission, graded.verdict
    points, most = graded.points
    of = points_text(number(points), number(most), number(graded.points_not_judged))
    parts = [
        f"# {text(submission.name)}",
        f"**{graded.word}**, {of}. Contract {code(graded.contract.name)}.",
        "\n".join(f"- {line}" for line in _about(graded, found)),
    ]
    if graded.problem is not None:
        what = "it" if verdict is None else "a part of it"
        parts += [f"## Why {what} could not be judged", text(graded.problem.message)]
        if graded.problem.hint:
            parts.append(f"To do: {text(graded.problem.hint)}.")
    if verdict is not None:
        parts += ["## Clauses", clause_table(verdict).rstrip()]
        parts.append(f"Evidence: {text(verdict.basis)}.")
    if graded.layers:
        parts += ["## Layers", graded.layers]
    if graded.result is not None:
        parts += _evaluation(graded.result, graded.classes)
        if PICTURE in graded.pictures:
            parts.append(f"![the most confident mistakes]({PICTURE})")
    return "\n\n".join(parts) + "\n"


def _about(graded: Graded, found: "Export | None") -> list[str]:
    """Return what was judged, one line each."""
    submission = graded.submission
    lines = []
    if submission.file is not None:
        chosen = f" ({text(submission.chosen)})" if submission.chosen else ""
        kind = "run folder" if submission.is_run else "file"
        lines.append(f"{kind}: {code(submission.shown_file)}{chosen}")
    if graded.network:
        lines.append(f"network: {code(graded.network)} ({text(graded.chosen)})")
    if submission.weights is not None:
        lines.append(f"weights: {code(submission.shown(submission.weights))}")
    if graded.trained:
        lines.append(f"trained by the recipe {code(graded.trained)} to be judged")
    if found is not None and found.not_imported:
        lines.append(
            "the file could not be imported, so only its imports, classes, functions and "
            f"constants were run: {text(submission.shorten(found.not_imported))}"
        )
    elif submission.is_notebook:
        lines.append("of the notebook, only imports, classes, functions and constants were run")
    commands = {} if found is None else found.skipped
    lines += [f"{code(name)}: {text(why)}" for name, why in commands.items() if name[:1] == "%"]
    return lines


def _evaluation(result: "Evaluation", classes: tuple[str, ...]) -> list[str]:
    """Return accuracy, confusion matrix and mistakes."""
    low, high = result.interval
    names = list(map(text, classes))
    parts = [
        "## Validation",
        f"**{percent(result.correct, result.total)}**, "
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson).",
    ]
    if len(names) <= MAX_CLASSES:
        rows = "\n".join(
            f"| **{name}** | " + " | ".join(str(n) if n else "." for n in counts) + " |"
            for name, counts in zip(names, result.confusion.tolist(), strict=True)
        )
        parts += [
            "Rows are true classes, columns predicted ones.",
            f"| true | {' | '.join(names)} |\n|{'---:|' * (len(names) + 1)}\n{rows}",
        ]
    wrong = result.mistakes[:N_MISTAKES].tolist()
    if wrong:
        lines = []
        for index in wrong:
            p, guess = result.probabilities[index].max(0)
            true, sure = names[int(result.labels[index])], f"{100 * float(p):.0f} %"
            lines.append(f"| {index:,} | {true} | {names[int(guess)]} | {sure} |")
        parts += [
            f"The {len(wrong)} most confident mistakes of {len(result.mistakes):,}:",
            "| validation image | true | predicted | probability |\n|---:|---:|---:|---:|\n"
            + "\n".join(lines),
        ]
    return parts
