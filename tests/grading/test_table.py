"""What a table holds of texts that students have chosen, and of those who hand in the same."""

from pathlib import Path

from featherweight.errors import InputError
from featherweight.grading.markdown import Graded, unjudged
from featherweight.grading.submissions import Submission
from featherweight.grading.table import (
    MAX_STEM,
    file_names,
    has_report,
    mark_copies,
    read_grades,
    read_report,
    to_answer,
    write_grades,
    write_report,
)

ANNA = Submission("Anna", Path("anna"), Path("anna/model.py"))


def written(tmp_path, graded):
    """Return the row of a submission as it is read again."""
    row = to_answer(graded).cells | {"report": "", "hash": "1", "same as": ""}
    write_grades(tmp_path / "grades.csv", [row])
    (read,) = read_grades(tmp_path / "grades.csv")
    return read


def test_long_or_odd_texts_leave_a_table_that_can_be_read(tmp_path, tiny_contract):
    long = written(tmp_path, Graded(ANNA, tiny_contract, network=200_000 * "N"))
    assert long["class"].startswith("NNN")
    assert len(long["class"]) < 10_000
    odd = written(tmp_path, Graded(ANNA, tiny_contract, network="Net\n\x1b[1m\udce9"))
    assert odd["class"] == r"Net \x1b[1m\udce9"
    problem = InputError(f"weights: got a dict of {200_000 * 'k'}")
    assert len(written(tmp_path, unjudged(ANNA, tiny_contract, problem))["problem"]) < 10_000


def test_a_report_with_any_text_can_be_written(tmp_path, tiny_contract):
    answer = to_answer(unjudged(ANNA, tiny_contract, InputError("ren\udce9.py: failed")))
    assert r"ren\udce9.py: failed" in write_report(answer, tmp_path, "anna").read_text()


def test_every_problem_says_what_to_do(tiny_contract):
    graded = unjudged(ANNA, tiny_contract, InputError("model.py: failed"))
    said = "model.py: failed. To do: correct it, and try: featherweight grade model.py"
    assert graded.advice == said
    assert "To do: correct it" in graded.report
    own = unjudged(ANNA, tiny_contract, InputError("model.py: failed", hint="mend it"))
    assert own.advice == "model.py: failed. To do: mend it"


def test_of_many_copies_a_row_names_some_and_their_number():
    rows = [{"name": f"s{n}", "weights": "", "graph": "g", "same as": ""} for n in range(9)]
    assert mark_copies(rows, set()) == ["g"]
    assert rows[0]["same as"] == "the same network as s1, s2, s3, s4, s5, 3 others; 9 students"
    mark_copies(rows, {"g"})
    assert {row["same as"] for row in rows} == {""}


def test_names_of_files_fit_and_those_that_are_there_stay():
    assert file_names(["Anna B."], ["anna-b"]) == {"Anna B.": "Anna-B-2"}
    (long,) = file_names([300 * "日"]).values()
    assert 0 < len(long.encode()) <= MAX_STEM


def test_a_report_that_was_edited_in_another_encoding_is_there(tmp_path):
    (tmp_path / "a.json").write_text("null")
    (tmp_path / "a.md").write_bytes("for Müller".encode("cp1252"))
    row = {"report": "a.md"}
    assert has_report(tmp_path / "grades.csv", row)
    assert read_report(tmp_path / "grades.csv", row) == (None, "for M\N{REPLACEMENT CHARACTER}ller")
