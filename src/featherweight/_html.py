"""HTML fragments for notebooks, and texts for Markdown. Every cell is escaped.

Example:
    html = html_table(["clause", "found"], [["parameters", "18,746"], ["head", "linear layer"]])
"""

import re
from collections.abc import Iterable, Sequence
from html import escape

GREEN, RED, GREY = "#1a7f37", "#c0392b", "#888888"


def html_text(text: object, colour: str | None = None, bold: bool = False) -> str:
    """Return `text` escaped, in a span if it has a colour or is bold."""
    styles = [f"color: {colour}"] if colour else []
    styles += ["font-weight: bold"] if bold else []
    return (
        f'<span style="{"; ".join(styles)}">{escape(str(text))}</span>'
        if styles
        else escape(str(text))
    )


def html_table(
    headings: Sequence[object],
    rows: Iterable[Sequence[object]],
    colours: Sequence[str | None] | None = None,
) -> str:
    """Return a table with one heading row.

    Args:
        headings: Column headings.
        rows: Cells of each row; any object, shown as its escaped `str`.
        colours: Optional text colour of each row's last cell, None for the default.
    """
    left = ' style="text-align: left"'
    lines = ["<tr>" + "".join(f"<th{left}>{escape(str(h))}</th>" for h in headings) + "</tr>"]
    for number, row in enumerate(rows):
        cells = [html_text(cell) for cell in row]
        if colours is not None and cells:
            cells[-1] = html_text(row[-1], colours[number], bold=True)
        lines.append("<tr>" + "".join(f"<td{left}>{cell}</td>" for cell in cells) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


# What Markdown obeys: marks, GitHub's links without any, and the start of a heading or a list.
MARKS = r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)"
OBEYED = rf"{MARKS}|(?<=[a-z]):(?=//)|(?<=www)\.|^[-+=#](?=[-=#\s]|$)"


def markdown_text(value: object) -> str:
    """Return a stranger's text for Markdown, which shows it as it is, on one line."""
    line = " ".join(str(value).split())
    line = re.sub(OBEYED, r"\\\g<0>", line, flags=re.IGNORECASE)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)
