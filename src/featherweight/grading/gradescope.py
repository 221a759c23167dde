"""Gradescope's results.json: the points of one submission, a test for each clause.

    results = to_gradescope(row, *read_report(table, row))
    Path("/autograder/results/results.json").write_text(json.dumps(results))

Gradescope reads `score`, `output`, and of each of `tests` its name, score, max_score, status and
output. The points of all tests are the score.
"""

from typing import Any

from ..tables import Row
from ..verdict import Verdict

STATUS = {True: "passed", False: "failed"}


def to_gradescope(row: Row, verdict: dict[str, Any] | None, report: str) -> dict[str, Any]:
    """Return the content of results.json for a submission, judged or not.

    Args:
        row: Its row of the table.
        verdict: As `Verdict.to_dict` returns it. None: it could not be judged.
        report: Its report in Markdown.
    """
    if verdict is None:
        tests = [_test("NOT JUDGED", 0, float(row["max points"]), row["problem"], False)]
    else:
        tests = [
            _test(
                clause.clause if clause.passed is not None else f"{clause.clause} (not judged)",
                clause.points or 0,
                0 if clause.bonus else clause.max_points,
                f"required: {clause.required}\nfound: {clause.found}\n({clause.how})",
                clause.passed,
            )
            for clause in Verdict.from_dict(verdict).clauses
        ]
    return {
        "score": float(row["points"]),
        "output": report,
        "output_format": "md",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def _test(
    name: str, score: float, max_score: float, output: str, passed: bool | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": name,
        "score": score,
        "max_score": max_score,
        "output": output,
        "output_format": "text",
        "visibility": "visible",
    }
    # A clause that is not judged has neither status.
    return values if passed is None else values | {"status": STATUS[passed]}
