"""HTML fragments: every cell escaped, the last one coloured on request."""

import pytest

from featherweight._html import GREEN, html_table, html_text, markdown_text


def test_every_heading_and_cell_is_escaped() -> None:
    table = html_table(["<b>"], [["<script>"], [1 < 2]])
    assert "<script>" not in table
    assert "&lt;script&gt;" in table
    assert "<th" in table
    assert "&lt;b&gt;" in table
    assert table.count("<tr>") == 3


def test_colours_apply_to_the_last_cell_of_their_row() -> None:
    table = html_table(["clause", "result"], [["head", "pass"], ["log", "?"]], [GREEN, None])
    assert table.count(GREEN) == 1
    assert f"color: {GREEN}" in table.splitlines()[2]


def test_text_without_style_has_no_span() -> None:
    assert html_text("a & b") == "a &amp; b"
    assert html_text("PASS", GREEN, bold=True).startswith('<span style="color: ')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a](b) <b> `c` *d* $e$", r"\[a\](b) \<b\> \`c\` \*d\* \$e\$"),
        ("see https://a.example and WWW.b.example", r"see https\://a.example and WWW\.b.example"),
        ("# PASS", r"\# PASS"),
        ("- PASS", r"\- PASS"),
        ("---", r"\---"),
        ("12. PASS", r"12\. PASS"),
        ("-3.5, #1, a_b, 2.5 %", "-3.5, #1, a_b, 2.5 %"),
    ],
)
def test_markdown_shows_a_strangers_text_as_it_is(text, shown):
    assert markdown_text(text) == shown
