"""CSV tables: what is written is read back, and anything else is refused."""

import csv

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featherweight.errors import InputError
from featherweight.tables import escape_cell, make_cells, read_table, write_table

COLUMNS = ("name", "count")
ROWS = [{"name": 'a "quoted", name', "count": "1"}, {"name": "Größe", "count": ""}]


def test_written_rows_are_read_back_by_this_and_by_pythons_csv(tmp_path):
    write_table(tmp_path / "a.csv", ROWS, COLUMNS)
    assert read_table(tmp_path / "a.csv", COLUMNS) == ROWS
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [list(COLUMNS), *(list(row.values()) for row in ROWS)]


def test_a_missing_table_is_empty_unless_it_must_exist(tmp_path):
    assert read_table(tmp_path / "a.csv", COLUMNS) == []
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "a.csv", COLUMNS, must_exist=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got columns none, expected name, count"),
        (b"name\na\n", "got columns name, expected name, count"),
        (b"count,name\n1,a\n", "got columns count, name"),
        (b"name,count\na,1\nb\n", "row 3: expected 2 values"),
        (b"name,count\na,1,2\n", "row 2: expected 2 values"),
        (b"name,count\n\xff,1\n", "not a CSV file in UTF-8"),
    ],
)
def test_another_file_is_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "a.csv", COLUMNS)


def test_a_row_that_cannot_be_written_leaves_the_old_table(tmp_path):
    write_table(tmp_path / "a.csv", ROWS, COLUMNS)
    with pytest.raises(ValueError, match="other"):
        write_table(tmp_path / "a.csv", [{"name": "a", "other": "b"}], COLUMNS)
    assert read_table(tmp_path / "a.csv", COLUMNS) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_cells_are_text_and_missing_values_are_empty():
    assert make_cells({"count": 0, "extra": 1}, COLUMNS) == {"name": "", "count": "0"}
    assert make_cells({"name": None, "count": 1.5}, COLUMNS) == {"name": "", "count": "1.5"}


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "'"])
def test_no_text_is_written_as_a_formula(tmp_path, first):
    text = f"{first}cmd|' /C calc'!A0"
    write_table(tmp_path / "a.csv", [{"name": text, "count": "-1.5"}], COLUMNS)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == ["'" + text, "-1.5"]
    assert read_table(tmp_path / "a.csv", COLUMNS)[0]["name"] == text


@pytest.mark.parametrize(
    "number", ["-1", "+1", "-0.25", "-1e-05", "1E+3", "-inf", "-nan", 3, -2.5, None, ""]
)
def test_numbers_stay_numbers(number):
    assert escape_cell(number) == ("" if number is None else str(number))


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("=+-@'\t\r\n1e,\"\0"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_is_read_back_exactly(tmp_path, text):
    write_table(tmp_path / "a.csv", [{"name": text, "count": text}], COLUMNS)
    assert read_table(tmp_path / "a.csv", COLUMNS) == [{"name": text, "count": text}]
