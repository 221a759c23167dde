"""The command `grade`, but for the grading itself: its options, and what it prints."""

import dataclasses
import re
import sys

import pytest

from featherweight.cli import main
from featherweight.errors import InputError
from featherweight.grading import grade as module
from featherweight.grading.markdown import Graded, report_text, unjudged
from featherweight.grading.table import to_answer
from featherweight.verdict import Clause, Verdict


def run(monkeypatch, *words):
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["featherweight", "grade", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("anna", "ben"):
        (tmp_path / "class" / name).mkdir(parents=True)
        (tmp_path / "class" / name / "net.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lost"], "lost: got no such file or folder, expected a folder with a folder or a file"),
        (["class.csv", "--badge", "a.svg"], "--badge with 2 submissions: expected one"),
        (["class", "--out", "class/g.csv"], "--out class/g.csv: got a table inside class"),
        (["class/ben", "--badge", "a.svg", "--out", "class/ben/g.csv"], "a table inside class/ben"),
        (["class", "--mean", "0.5"], "--mean 0.5, --std None: expected both"),
        (["class", "--mean", "0.5", "--std", "0"], "expected both, the second above 0"),
        (["class", "--workers", "0"], "--workers: got 0, expected 1 or more"),
        (["class", "--train", "slowly"], "recipe 'slowly': unknown"),
        (["class", "--handout", "lost.py"], "--handout lost.py: no such file"),
        (["class", "--data", "lost"], "--data lost: no such file"),
        (["class", "--ray", "auto", "--workers", "2"], "--workers with --ray ADDRESS: not used"),
        (["class", "--contract", "mine"], "contract 'mine': neither built in"),
    ],
)
def test_wrong_options_are_refused_in_a_line(workplace, monkeypatch, capsys, words, message):
    (workplace / "class.csv").write_text("name,path\nAnna,class/anna\nBen,class/ben\n")
    assert run(monkeypatch, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_with_an_option_for_one_submission_a_folder_is_one_students(workplace, monkeypatch):
    seen = []

    def judged(submission, contract):
        seen.append((submission.name, submission.weights.name))
        return to_answer(unjudged(submission, contract, InputError("failed")))

    monkeypatch.setattr(module, "LocalGraders", given(judged))
    assert run(monkeypatch, "class/anna", "--weights", "a.pth", "--badge", "a.svg") == 1
    assert seen == [("anna", "a.pth")]
    assert "NOT JUDGED" in (workplace / "a.svg").read_text()


def given(result):
    """Return graders that find the same of every submission, without judging any."""

    class Graders:
        def __init__(self, settings, workers):
            self.contract = settings.contract

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def digests(self, files):
            return set()

        def answers(self, tasks):
            for task in tasks:
                yield task, result(task.submission, self.contract)

    return Graders


def test_rows_are_printed_and_problems_are_shown_as_they_are(workplace, monkeypatch, capsys):
    def fails(submission, contract):
        error = InputError(f"[bold]{submission.name}\x1b[2J failed.", hint="do it again")
        return to_answer(unjudged(submission, contract, error))

    monkeypatch.setattr(module, "LocalGraders", given(fails))
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "class", "--out", "g.csv") == 1
    out, err = capsys.readouterr()
    assert "[bold]anna\\x1b[2J failed. To do: do it again" in " ".join(out.split())
    assert "anna: NOT JUDGED: [bold]anna\\x1b[2J failed. To do: do it again" in err
    assert "see g.csv and the reports in g-reports" in err
    assert re.search(r"^anna +NOT JUDGED +0/\d+ +\d+ points *$", out, re.MULTILINE)
    assert "2 NOT JUDGED." in out
    # The same again: nothing is judged twice.
    assert run(monkeypatch, "class", "--out", "g.csv") == 1
    assert "(as before)" in capsys.readouterr().err


def test_a_bug_shows_its_traceback_at_the_end_and_is_judged_again(workplace, monkeypatch, capsys):
    def bug(submission, contract):
        answer = to_answer(unjudged(submission, contract, InputError("failed")))
        return dataclasses.replace(answer, bug="Traceback: KeyError: 3")

    monkeypatch.setattr(module, "LocalGraders", given(bug))
    for _ in range(2):
        assert run(monkeypatch, "class", "--out", "g.csv") == 70
        err = capsys.readouterr().err
        assert "Traceback: KeyError: 3" in err
        assert "(as before)" not in err


def test_an_interrupt_says_how_to_continue(workplace, monkeypatch, capsys):
    def interrupted(submission, contract):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "LocalGraders", given(interrupted))
    assert run(monkeypatch, "class", "--out", "g.csv") == 130
    assert "run the same command again to continue" in capsys.readouterr().err


def test_the_clauses_that_fail_are_named(workplace, monkeypatch, capsys):
    def fails(submission, contract):
        wrong = Clause("dropout", "some", "none", "looked at", False, 0.0, 1.0)
        right = dataclasses.replace(wrong, clause="head", passed=True, points=1.0)
        verdict = Verdict("tiny", (right, wrong), 1234)
        graded = Graded(submission, contract, verdict=verdict)
        return to_answer(dataclasses.replace(graded, report=report_text(graded, None)))

    monkeypatch.setattr(module, "LocalGraders", given(fails))
    assert run(monkeypatch, "class/anna", "--gradescope", "results.json") == 1
    out, err = capsys.readouterr()
    assert "anna: FAIL, 1 of 2 points, 1,234 parameters; fails: dropout\n" in err
    assert "Clauses that fail\n- anna: dropout\n\n1 FAIL.\n" in out
