"""A class of made submissions, graded once; the tests look at the table and the reports."""

import dataclasses
import json
import os
import re
import shutil
import signal

import pytest
import torch

from featherweight.errors import InputError
from featherweight.grading.grade import LocalGraders, grade, report_folder
from featherweight.grading.markdown import Graded, report_text, unjudged
from featherweight.grading.settings import Settings
from featherweight.grading.submissions import find_submissions
from featherweight.grading.table import file_names, read_grades, read_report, to_answer
from featherweight.recipe import find_recipe

pytestmark = [pytest.mark.apart, pytest.mark.slow]

NET = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, {width}, 5, stride=2, bias=False)
        self.norm = nn.BatchNorm2d({width})
        self.drop = nn.Dropout(0.1)
        self.head = nn.Conv2d({width}, 10, 1)

    def forward(self, x):
        x = self.drop(F.relu(self.norm(self.conv(x))))
        return F.log_softmax(self.head(x).mean((2, 3)), 1)
"""
HONEST = NET.format(width=6)
# Each of these would change how the next submission is judged, if anything of it stayed.
MEDDLER = (
    NET.format(width=7)
    + """
import builtins, os, sys
import featherweight.capture, featherweight.exported

nn.Dropout = nn.Identity
nn.BatchNorm2d.forward = lambda self, x: x
torch.set_default_dtype(torch.float64)
featherweight.capture.capture = None
builtins.isinstance = lambda *args: True
sys.path.clear()
os.chdir("/")
for number in range(3, 64):
    if number != 3:
        try:
            os.close(number)
        except OSError:
            pass
"""
)


RECIPE = find_recipe("feather-1k")
FEATHER = f"""
from featherweight.model import Feather


class Net(Feather):
    def __init__(self):
        super().__init__(**{RECIPE.model_args!r}, num_classes=10)
"""
SPY = (
    NET.format(width=8)
    + """
import gc

gc.unfreeze()
found = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.numel() > 100_000]
if found:
    raise ValueError("there are images")
"""
)


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    texts = {
        "01-honest": HONEST,
        "02-meddler": MEDDLER,
        "03-copy": re.sub(r"\bx\b", "maps", HONEST.replace("conv", "c1").replace("Net", "Mine")),
        "04-spy": SPY,
        "05-trains": NET.format(width=9) + "\nNet()\nraise RuntimeError('no data')\n",
        "06-syntax": HONEST.replace("self, x):", "self, x:"),
        "07-nothing": "x = 1\n",
        "08-exits": NET.format(width=9) + "\nimport os\nos._exit(3)\n",
        "09-arguments": HONEST.replace("__init__(self)", "__init__(self, width)"),
        "10-colour": HONEST.replace("Conv2d(1,", "Conv2d(3,"),
        "11-values": HONEST.replace("x = self.drop", "assert x.sum() < 9\n        x = self.drop"),
    }
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(text)
    (folder / "12-empty").mkdir()
    code = {"cell_type": "code", "source": "!pip install x\n" + NET.format(width=10)}
    cells = [code, {"cell_type": "code", "source": "while True:\n    Net()\n"}]
    (folder / "13-notebook.ipynb").write_text(json.dumps({"cells": cells}))
    scope = {}
    exec(NET.format(width=11), scope)
    for name, seed in (("14-weights", 0), ("15-same-weights", 0), ("16-wrong-weights", 1)):
        torch.manual_seed(seed)
        (folder / f"{name}.py").write_text(NET.format(width=11 + seed))
        torch.save(scope["Net"]().state_dict(), folder / f"{name}.pth")
    for name in ("17-handed-out", "18-handed-out"):
        (folder / f"{name}.py").write_text(NET.format(width=13))
    breaks = "import featherweight.capture\n\nfeatherweight.capture._capture = None\n"
    (folder / "21-breaks.py").write_text(HONEST + breaks)
    for name in ("19-feather", "20-feather"):
        (folder / f"{name}.py").write_text(FEATHER)
    return folder


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    file = tmp_path_factory.mktemp("handout") / "start.ipynb"
    text = NET.format(width=12).replace("Net", "First") + NET.format(width=13)
    file.write_text(json.dumps({"cells": [{"cell_type": "code", "source": text}]}))
    return file


@pytest.fixture(scope="module")
def settings(tiny_contract, digits):
    return Settings(tiny_contract, str(digits))


@pytest.fixture(scope="module")
def graded(submissions, settings, handout, tmp_path_factory):
    """The table's path and its rows by name."""
    table = tmp_path_factory.mktemp("grades") / "grades.csv"
    with LocalGraders(settings, 1) as graders:
        grade(find_submissions(str(submissions)), settings, table, graders, handout)
    return table, {row["name"]: row for row in read_grades(table)}


def test_every_submission_has_a_row_and_a_report(graded, submissions):
    table, rows = graded
    assert list(rows) == sorted(
        path.stem if path.is_file() else path.name
        for path in submissions.iterdir()
        if path.suffix != ".pth"
    )
    for row in rows.values():
        assert (table.parent / row["report"]).read_text().startswith(f"# {row['name']}\n")
        assert row["problem"] or row["parameters"]


def test_what_is_honest_passes_with_its_points(graded):
    table, rows = graded
    row = rows["01-honest"]
    assert (row["class"], row["chosen"], row["file"]) == ("Net", "the only network", "model.py")
    assert (row["verdict"], row["parameters"], row["evidence"]) == ("PASS", "232", "structure")
    points, most, rest = (int(row[key]) for key in ("points", "max points", "points not judged"))
    assert points + rest == most > rest > 0
    assert row["clause: dropout"].startswith("pass")
    assert row["clause: accuracy"].startswith("not judged")
    verdict, report = read_report(table, row)
    assert verdict["n_params"] == 232
    assert "## Layers" in report
    assert "| conv | conv 5x5 s2 |" in report


def test_what_a_file_changes_in_its_process_is_its_own_problem(graded):
    table, rows = graded
    assert "its code ends the process with exit code 1" in rows["02-meddler"]["problem"]
    assert rows["21-breaks"]["problem"].startswith("exporting it failed: TypeError: 'NoneType'")
    assert "Traceback" in read_report(table, rows["21-breaks"])[1]
    assert rows["21-breaks"]["hash"]


@pytest.mark.parametrize("name", ["04-spy", "05-trains", "08-exits", "13-notebook"])
def test_what_else_a_file_does_has_no_effect(graded, name):
    _, rows = graded
    row = rows[name]
    assert (row["problem"], row["verdict"]) == ("", "PASS")


def test_a_file_that_can_not_be_imported_is_judged_by_its_definitions_and_says_so(graded):
    table, rows = graded
    _, report = read_report(table, rows["05-trains"])
    assert "could not be imported" in report
    assert "RuntimeError: no data" in report
    assert "could not be imported" not in read_report(table, rows["01-honest"])[1]
    # It raises if it finds images in the memory of its process.
    assert "could not be imported" not in read_report(table, rows["04-spy"])[1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("06-syntax", r"model.py: SyntaxError.*line 15.*To do: correct the line"),
        ("07-nothing", "got no network in it.*To do: write the network as class Net"),
        ("09-arguments", "missing 1 required positional argument.*To do: give every argument"),
        ("10-colour", r"3 channels.*To do: write it for images of shape \(n, 1, 28, 28\)"),
        ("11-values", r"at line 16, `assert x.sum\(\) < 9`.*To do: write torch.where"),
        ("12-empty", "got no .py or .ipynb file, nor a run.*To do: hand in a file"),
    ],
)
def test_what_can_not_be_judged_says_why_and_what_to_do_in_one_line(graded, name, said):
    table, rows = graded
    row = rows[name]
    assert re.search(said, row["problem"])
    assert "\n" not in row["problem"]
    assert (row["points"], row["verdict"]) == ("0", "NOT JUDGED")
    assert row["points not judged"] == row["max points"] == rows["01-honest"]["max points"]
    verdict, report = read_report(table, row)
    assert verdict is None
    assert "NOT JUDGED" in report


def test_weights_of_another_network_cost_only_the_points_that_need_weights(graded):
    table, rows = graded
    row, honest = rows["16-wrong-weights"], rows["01-honest"]
    assert (row["verdict"], row["evidence"], row["accuracy"]) == ("FAIL", "structure", "")
    for column in ("points", "points not judged", "clause: dropout", "clause: accuracy"):
        assert row[column] == honest[column]
    said = r"weights 16-wrong-weights.pth: not those of Net: .*To do: hand in the network's weights"
    assert re.match(said, row["problem"])
    report = read_report(table, row)[1]
    assert "## Why a part of it could not be judged\n\nweights 16-wrong-weights.pth" in report
    assert "| weights | the network's own | refused |" in report


def test_copies_are_said_in_each_row_with_their_number(graded):
    _, rows = graded
    assert rows["01-honest"]["same as"] == "the same network as 03-copy; 2 students"
    assert rows["03-copy"]["same as"] == "the same network as 01-honest; 2 students"
    assert rows["14-weights"]["same as"] == "the same weights as 15-same-weights; 2 students"
    assert rows["05-trains"]["same as"] == "the same network as 08-exits; 2 students"
    assert rows["04-spy"]["same as"] == ""
    # Those of the file that was handed out, and of this package, are no copies.
    assert rows["17-handed-out"]["same as"] == rows["18-handed-out"]["same as"] == ""
    assert rows["19-feather"]["graph"] == rows["20-feather"]["graph"] != ""
    assert rows["19-feather"]["same as"] == rows["20-feather"]["same as"] == ""


def test_weights_are_evaluated_with_confusion_and_mistakes(graded):
    table, rows = graded
    row = rows["14-weights"]
    assert (row["evidence"], row["verdict"]) == ("weights", "FAIL")
    report = (table.parent / row["report"]).read_text()
    assert "| **9** |" in report
    assert "The 10 most confident mistakes of" in report
    picture = re.search(r"!\[.*\]\((.*)\)", report)[1]
    assert (report_folder(table) / picture).read_bytes().startswith(b"\x89PNG")


class NoGraders:
    """Graders that must not be asked."""

    def digests(self, files):
        raise AssertionError

    def answers(self, tasks):
        assert not tasks
        return iter(())


class Half(NoGraders):
    """Graders that are interrupted after three submissions, of which none could be judged."""

    def __init__(self, contract):
        self.contract = contract

    def answers(self, tasks):
        for task in tasks[:3]:
            error = InputError("got one", hint="try again")
            yield task, to_answer(unjudged(task.submission, self.contract, error))
        raise KeyboardInterrupt


def test_what_is_in_the_table_is_kept_until_something_changes(
    graded, submissions, settings, tmp_path
):
    table, rows = graded
    kept = tmp_path / "grades.csv"
    kept.write_bytes(table.read_bytes())
    shutil.copytree(report_folder(table), report_folder(kept))
    found = find_submissions(str(submissions))
    seen = []
    again = grade(found, settings, kept, NoGraders(), on_answer=lambda *each: seen.append(each))
    assert again == list(rows.values())
    assert [answer for _, answer in seen] == [None] * len(found)
    assert kept.read_bytes() == table.read_bytes()
    others = Settings(settings.contract, settings.data, mean_std=(0.5, 0.5))
    for changed in ((find_submissions(str(submissions), "Net"), settings), (found, others)):
        with pytest.raises(AssertionError):
            grade(*changed, kept, NoGraders())
        hashes = [row["hash"] for row in read_grades(kept)]  # the rows stay meanwhile
        assert hashes == [row["hash"] for row in rows.values()]


@pytest.mark.parametrize("suffix", [".md", ".json", "-mistakes.png"])
def test_a_row_whose_report_is_not_all_there_is_judged_again(
    graded, submissions, settings, tmp_path, suffix
):
    table, _ = graded
    kept = tmp_path / "grades.csv"
    kept.write_bytes(table.read_bytes())
    shutil.copytree(report_folder(table), report_folder(kept))
    (report_folder(kept) / f"14-weights{suffix}").unlink()
    judged = []

    class Some(Same):
        def answers(self, tasks):
            judged.extend(task.submission.name for task in tasks)
            return super().answers(tasks)

    rows = grade(
        find_submissions(str(submissions)), settings, kept, Some(settings.contract, own=True)
    )
    assert judged == ["14-weights"]
    for row in rows:
        read_report(kept, row)


def test_an_interrupted_regrade_keeps_the_rows_that_it_did_not_reach(
    submissions, settings, tmp_path
):
    found, table = find_submissions(str(submissions))[:5], tmp_path / "grades.csv"
    before = grade(found, settings, table, Same(settings.contract, own=True))
    others = Settings(dataclasses.replace(settings.contract, name="later"), settings.data)
    with pytest.raises(KeyboardInterrupt):
        grade(found, others, table, Half(others.contract))
    after = read_grades(table)
    assert [row["name"] for row in after] == [each.name for each in found]
    assert after[3:] == before[3:]
    assert not {row["hash"] for row in after[:3]} & {row["hash"] for row in before}
    seen = []
    graders = Same(others.contract, own=True)
    grade(found, others, table, graders, on_answer=lambda *each: seen.append(each[1]))
    assert [answer is None for answer in seen] == [True] * 3 + [False] * 2


def test_an_interrupt_loses_no_row(submissions, settings, tmp_path):
    found, table = find_submissions(str(submissions)), tmp_path / "grades.csv"
    names = [each.name for each in found]
    for some, expected in ((found, names[:3]), (found, names[:6]), (found[6:], names[:9])):
        with pytest.raises(KeyboardInterrupt):
            grade(some, settings, table, Half(settings.contract))
        # Rows of others than those that are graded stay in the table.
        assert {row["name"] for row in read_grades(table)} == set(expected)


class Same(NoGraders):
    """Graders that find the same graph in all submissions, one of this package's if it says so."""

    def __init__(self, contract, *, interrupted=False, own=False):
        self.contract, self.interrupted, self.own = contract, interrupted, own

    def digests(self, files):
        if self.interrupted:
            raise KeyboardInterrupt
        return {"same"} if self.own else set()

    def answers(self, tasks):
        for task in tasks:
            graded = Graded(task.submission, self.contract, graph="same")
            yield task, to_answer(dataclasses.replace(graded, report=report_text(graded, None)))


@pytest.mark.parametrize(("own", "n_copies"), [(True, 0), (False, 2)])
def test_an_interrupt_at_the_end_accuses_nobody_and_the_next_time_says_the_copies(
    submissions, settings, tmp_path, own, n_copies
):
    found, table = find_submissions(str(submissions))[:2], tmp_path / "grades.csv"
    with pytest.raises(KeyboardInterrupt):
        grade(found, settings, table, Same(settings.contract, interrupted=True))
    assert [row["same as"] for row in read_grades(table)] == ["", ""]
    rows = grade(found, settings, table, Same(settings.contract, own=own))
    assert sum(bool(row["same as"]) for row in rows) == n_copies
    assert read_grades(table) == rows


def test_what_a_lost_process_has_cost_is_judged_the_next_time(submissions, settings, tmp_path):
    found, table = find_submissions(str(submissions))[:1], tmp_path / "grades.csv"

    class Lost(Same):
        def answers(self, tasks):
            for task, answer in super().answers(tasks):
                yield task, dataclasses.replace(answer, again=True)

    grade(found, settings, table, Lost(settings.contract))
    seen = []
    for _ in range(2):
        graders = Same(settings.contract)
        grade(found, settings, table, graders, on_answer=lambda *each: seen.append(each[1]))
    assert seen[0] is not None
    assert seen[1] is None


def test_a_late_submission_leaves_the_reports_of_others(settings, tmp_path):
    table = tmp_path / "grades.csv"
    for name in ("Anna B", "Anna-B"):
        (tmp_path / name / "class" / name).mkdir(parents=True)
        found = find_submissions(str(tmp_path / name / "class"))
        rows = grade(found, settings, table, Same(settings.contract))
        assert (tmp_path / rows[0]["report"]).read_text().startswith(f"# {name}\n")
    reports = {row["name"]: row["report"] for row in read_grades(table)}
    assert reports == {"Anna B": "grades-reports/Anna-B.md", "Anna-B": "grades-reports/Anna-B-2.md"}
    assert (tmp_path / reports["Anna B"]).read_text().startswith("# Anna B\n")


def test_a_report_that_is_kept_is_not_written_over_by_a_later_one_of_a_similar_name(
    settings, tmp_path
):
    table = tmp_path / "grades.csv"
    for names in (["Anna-B"], ["Anna B", "Anna-B"]):
        for name in names:
            (tmp_path / "class" / name).mkdir(parents=True, exist_ok=True)
        found = find_submissions(str(tmp_path / "class"))
        rows = grade(found, settings, table, Same(settings.contract))
    for row in rows:
        assert (tmp_path / row["report"]).read_text().startswith(f"# {row['name']}\n")


def test_a_table_has_one_writer_at_a_time(submissions, settings, tmp_path):
    table, found = tmp_path / "grades.csv", find_submissions(str(submissions))

    class Second(NoGraders):
        def answers(self, tasks):
            with pytest.raises(InputError, match="another process writes this table"):
                grade(found, settings, table, NoGraders())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grade(found, settings, table, Second())


def test_another_table_is_not_written_over(submissions, settings, tmp_path):
    table = tmp_path / "grades.csv"
    table.write_text("name,points\nAnna,3\n")
    with pytest.raises(InputError, match="got columns name, points, expected"):
        grade(find_submissions(str(submissions)), settings, table, NoGraders())
    assert table.read_text() == "name,points\nAnna,3\n"


def test_a_judging_process_that_is_killed_costs_one_row(submissions, settings, tmp_path):
    names = ["01-honest", "03-copy", "12-empty"]
    found = [each for each in find_submissions(str(submissions)) if each.name in names]
    table = tmp_path / "grades.csv"
    with LocalGraders(settings, 1) as graders:

        def kill_first(row, answer):
            if row["name"] == "01-honest":
                os.kill(graders._started[0].process.pid, signal.SIGKILL)

        rows = grade(found, settings, table, graders, on_answer=kill_first)
    by_name = {row["name"]: row for row in rows}
    assert by_name["01-honest"]["verdict"] == "PASS"
    lost = by_name["03-copy"]["problem"]
    assert "the process that judges was ended by SIGKILL" in lost
    assert by_name["12-empty"]["problem"].startswith("got no .py")


def test_names_of_files_are_plain_and_different():
    found = file_names(["Anna B.", "Anna-B", "anna b", "../x", "日本", "..."])
    assert found == {
        "Anna B.": "Anna-B",
        "Anna-B": "Anna-B-2",
        "anna b": "anna-b-3",
        "../x": "x",
        "日本": "日本",
        "...": "unnamed",
    }
