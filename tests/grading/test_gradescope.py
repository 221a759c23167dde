import pytest

from featherweight.grading.gradescope import to_gradescope
from featherweight.verdict import Clause, Verdict


@pytest.mark.parametrize(("passed", "name"), [(None, "epochs (not judged)"), (True, "epochs")])
def test_gradescope_shows_what_was_not_judged(passed, name):
    points = None if passed is None else 1.0
    clause = Clause("epochs", "fewer than 20", "not judged: no run", "", passed, points, 1.0)
    verdict = Verdict("tiny", (clause,), 1234).to_dict()
    (test,) = to_gradescope({"points": "1"}, verdict, "report")["tests"]
    assert (test["name"], test["max_score"], "status" in test) == (name, 1.0, passed is True)
    row = {"points": "0", "max points": "6", "problem": "got a cat. To do: hand in a network"}
    (test,) = to_gradescope(row, None, "report")["tests"]
    assert (test["name"], test["status"], test["max_score"]) == ("NOT JUDGED", "failed", 6.0)
    assert test["output"] == row["problem"]
