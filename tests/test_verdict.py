"""A verdict as JSON, as plain text and as HTML."""

import json
from dataclasses import replace

import pytest
from helpers import VERDICT

from featherweight._html import GREEN, GREY, RED
from featherweight._layers import LayerTable
from featherweight.errors import InputError
from featherweight.verdict import Clause, Verdict

LONG = Clause(
    "accuracy",
    "at least 99.40 % in each of the last 3 epochs",
    "; ".join(f"epoch {e}: 99.52 % (48 wrong of 10,000)" for e in (13, 14, 15)),
    "every one of 10,000 validation images evaluated again",
    True,
)


def test_json_and_back():
    verdict = Verdict("tiny", (LONG, Clause("head", "a", "b", "c", None)), 123, "weights")
    values = json.loads(json.dumps(verdict.to_dict()))
    assert Verdict.from_dict(values) == verdict
    assert values["not_judged"] == ["head"]
    assert verdict.layers_text.startswith("not known")
    shown = replace(verdict, layers=LayerTable((), (1, 28, 28)))
    assert Verdict.from_dict(json.loads(json.dumps(shown.to_dict()))) == shown
    assert shown.layers_text.startswith("0; 0 parameters; 0 multiply-accumulates for one image of")


def test_a_number_is_no_result():
    values = json.loads(json.dumps(Verdict("tiny", (LONG,), 1).to_dict()))
    assert values["clauses"][0]["passed"] is True
    for passed in (0, 1, "yes"):
        values["clauses"][0]["passed"] = passed
        with pytest.raises(InputError, match="expected the keys contract and clauses"):
            Verdict.from_dict(values)


@pytest.mark.parametrize(("data", "words"), [("", "any data, "), ("mnist", "data mnist, ")])
def test_the_contract_in_words_names_its_data(data, words):
    verdict = Verdict("mine", (LONG,), 1, values={"name": "mine", "data": data, "train_size": 5})
    assert verdict.contract_text == f"mine: {words}train_size 5"


def graded(passed, points, most, bonus=False):
    """A clause with points."""
    return Clause("accuracy", "a", "b", "c", passed, points, most, bonus)


@pytest.mark.parametrize(
    ("clauses", "points", "most", "text", "passed"),
    [
        ([graded(True, 1, 1), graded(True, 2, 2)], 3, 3, "points 3 of 3", True),
        ([graded(False, 1.23456, 5), graded(True, 2, 2)], 3.23456, 7, "points 3.23 of 7", False),
        (
            [graded(True, 7, 9), graded(None, None, 2)],
            7,
            11,
            "points 7 of 9 judged, 11 in all",
            True,
        ),
        (
            [graded(True, 2, 2), graded(True, 200, 200, True)],
            202,
            2,
            "points 2 of 2; 200 of bonus",
            True,
        ),
        ([graded(True, 2, 2), graded(False, 0, 200, True)], 2, 2, "points 2 of 2", True),
        ([graded(True, 2, 2), graded(None, None, 9, True)], 2, 2, "points 2 of 2", True),
    ],
)
def test_points_add_up_and_a_bonus_comes_on_top(clauses, points, most, text, passed):
    verdict = Verdict("graded", tuple(clauses), 5)
    assert (verdict.points, verdict.max_points, verdict.passed) == (points, most, passed)
    assert verdict.points_text == text
    values = json.loads(json.dumps(verdict.to_dict()))
    assert (values["points"], values["max_points"]) == (points, most)
    assert Verdict.from_dict(values) == verdict


def test_the_values_of_a_contract_are_said_in_words():
    bands = [[0.5, 0], [0.9, 7]]
    table = {"kind": "accuracy", "at_least": 0.9, "bands": bands, "points": 7, "bonus": True}
    head = {"kind": "head", "accept": ["linear", "gap"]}
    values = {"name": "a", "data": "mnist", "clause": [table, head]}
    assert Verdict("a", (), None, values=values).contract_text == (
        "a: data mnist, accuracy at_least 0.9 bands 0 for 0.5 to 7 for 0.9 points 7 bonus, "
        "head accept linear or gap"
    )
    old = {"name": "a", "max_params": 9, "heads": ["linear", "gap"]}
    assert Verdict("a", (), None, values=old).contract_text == (
        "a: max_params 9, heads linear or gap"
    )


def test_points_are_shown_where_they_say_more_than_the_clauses():
    plain = Verdict("plain", (graded(True, 1, 1), graded(False, 0, 1)), 5)
    assert "points" not in str(plain)
    assert "points" not in plain._repr_html_()
    bonus = graded(False, 0, 1, True)
    weighted = Verdict("w", (graded(True, 2.5, 5), bonus, graded(None, None, 3), LONG), 5)
    lines = str(weighted).splitlines()
    assert lines[0] == (
        "PASS: contract w; 2 of 2 clauses hold, 1 not judged, points 2.5 of 5 judged, 8 in all"
    )
    assert [line.split()[-2:] for line in lines[2:4]] == [["pass", "2.5/5"], ["missed", "0/1"]]
    assert lines[4].endswith("not judged -/3")
    assert max(map(len, lines)) <= 100
    html = weighted._repr_html_()
    assert '<th style="text-align: left">points</th>' in html
    assert "2.5/5" in html
    assert RED not in html  # a missed bonus is no failure


def test_older_files_lack_some_keys():
    verdict = Verdict.from_dict(VERDICT)
    assert (verdict.points, verdict.max_points, verdict.weighted) == (0, 0, False)
    assert (verdict.scope, verdict.n_params) == ("run", None)
    assert [clause.clause for clause in verdict.failed] == ["head"]
    assert [clause.clause for clause in verdict.not_judged] == ["accuracy"]


@pytest.mark.parametrize(
    "values",
    [
        *({}, [], {"contract": "a"}, VERDICT | {"clauses": [{"a": 1}]}),
        VERDICT | {"contract_values": "tiny"},
    ],
)
def test_what_is_no_verdict_is_refused(values):
    with pytest.raises(ValueError, match="verdict: got"):
        Verdict.from_dict(values)


def test_the_printed_table_fits_100_columns():
    verdict = Verdict("tiny", (*Verdict.from_dict(VERDICT).clauses, LONG), None)
    lines = str(verdict).splitlines()
    assert lines[0] == "FAIL: contract tiny; 2 of 3 clauses hold, 1 not judged"
    assert lines[1].split() == ["clause", "required", "found", "result"]
    assert lines[2].split() == ["parameters", "fewer", "than", "9", "7", "pass"]
    assert max(map(len, lines)) <= 100
    assert str(verdict).count("99.52 %") == 3
    assert repr(verdict) == str(verdict)


def test_a_notebook_shows_a_coloured_escaped_table():
    clause = Clause("head", "<b>", "found", "how", True)
    html = Verdict("<i>", (*Verdict.from_dict(VERDICT).clauses, clause), None)._repr_html_()
    assert "<b>" not in html
    assert "<i>" not in html
    assert [html.count(colour) for colour in (GREEN, RED, GREY)] == [2, 2, 1]  # one RED: FAIL


def test_control_characters_are_shown_and_not_obeyed():
    clause = Clause("head", "\x1b[31mred", "<b>[red]x[/]</b>\u202e", "seen", passed=True)
    verdict = Verdict("\x1b]0;title\x07", (clause,), 5)
    assert r"\x1b[31mred" in str(verdict)
    assert r"contract \x1b]0;title\x07" in str(verdict)
    assert "[red]x[/]" in str(verdict)
    assert not set("\x1b\x07\u202e") & set(str(verdict))
    assert "&lt;b&gt;" in verdict._repr_html_()
    assert "<b>" not in verdict._repr_html_()


@pytest.mark.parametrize(
    "change",
    [
        *({"found": 5}, {"how": None}, {"passed": "yes"}, {"clause": ["a"]}, {"extra": 1}),
        *({"points": "5"}, {"max_points": None}, {"bonus": 1}),
    ],
)
def test_a_damaged_clause_is_refused(change):
    clause = {"clause": "a", "required": "b", "found": "c", "how": "d", "passed": True}
    Verdict.from_dict({"contract": "x", "clauses": [clause]})
    with pytest.raises(InputError, match="verdict: got"):
        Verdict.from_dict({"contract": "x", "clauses": [clause | change]})
