"""Verdicts and strangers' texts as Markdown."""

import re

from ._files import visible
from ._html import markdown_text
from .verdict import Clause, Verdict

MAX_BLOCK = 20_000  # characters of a block of code that are shown, the last ones
CLAUSE = ("clause", "required", "found", "how")


def code(value: object) -> str:
    """Return a text as code in Markdown, between more backticks than it has in a row."""
    line = " ".join(visible(str(value)).split())
    fence = "`" * (1 + _longest_fence(line))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def block(value: object) -> str:
    """Return a text of several lines as a block of code in Markdown, which nothing in it ends."""
    text = visible(str(value)[-MAX_BLOCK:]).rstrip("\n")
    fence = "`" * max(3, 1 + _longest_fence(text))
    return f"\n{fence}\n{text}\n{fence}\n"


def _longest_fence(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def clause_table(verdict: Verdict) -> str:
    """Return the clauses of a verdict as a table, with points where these say more."""
    rows = "\n".join(
        f"| {' | '.join(markdown_text(getattr(clause, key)) for key in CLAUSE)} | {result} |"
        for clause in verdict.clauses
        for result in [_result(clause, verdict.weighted)]
    )
    return f"""| clause | required | found | how | verdict |
|---|---|---|---|---|
{rows}
"""


def _result(clause: Clause, weighted: bool) -> str:
    result = f"**{clause.result}**" if clause.failed else clause.result
    return f"{result} {clause.score}".strip() if weighted else result
