"""The table of times on boards: worked examples, and the page has today's."""

import make_boards
import pytest
from make_boards import Board

from featherweight.export.firmware import FIRMWARE_COLUMNS
from featherweight.tables import make_cells, read_table


def row(recipe, m0, m4, bits=4):
    values = {"recipe": recipe, "bits": bits, "instructions_m0": m0, "instructions_m4": m4}
    return make_cells(values, FIRMWARE_COLUMNS)


def test_instructions_are_means_over_seeds():
    rows = [row("a", 1, 10), row("a", 7, 30), row("b", 5, 6), row("a", 1, 20), row("a", 9, 9, 8)]
    assert make_boards.count_instructions([*rows, row("c", None, None)]) == {
        "a, 4 bits": {"m0": 3, "m4": 20},
        "b, 4 bits": {"m0": 5, "m4": 6},
        "a, 8 bits": {"m0": 9, "m4": 9},
    }


def test_a_time_is_instructions_over_the_clock(monkeypatch):
    """32 million at 16 MHz are 2 s, and those at 5 mA and 3 V are 30 mJ."""
    boards = (Board("slow", "m0", 16, milliamperes=5), Board("fast", "m4", 100))
    monkeypatch.setattr(make_boards, "BOARDS", boards)
    table = make_boards.make_table({"a": {"m0": 32_000_000, "m4": 1_250_000}})
    assert table.splitlines() == [
        "| network | instructions, M0 and M4 | slow: time and energy | fast |",
        "| --- | --- | --- | --- |",
        "| a | 32 and 1.25 million | 2,000 ms, 30.0 mJ | 12.5 ms |",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(8131.0, "8,131"), (107.3, "107"), (26.05, "26.1"), (1.234, "1.23")]
)
def test_numbers_have_three_digits(value, text):
    assert make_boards.format_number(value) == text


def test_the_page_has_the_table_of_the_results():
    page = make_boards.PAGE.read_text()
    counts = make_boards.count_instructions(read_table(make_boards.TABLE, FIRMWARE_COLUMNS))
    assert len(counts) >= 4
    assert make_boards.put_table(page, make_boards.make_table(counts)) == page
    with pytest.raises(ValueError, match=r"microcontrollers\.md: expected the lines <!-- The"):
        make_boards.put_table(page.replace(make_boards.END, ""), "")
