"""Verdicts and strangers' texts as Markdown."""

import re

from ._html import markdown_text
from .verdict import Clause, Verdict

CLAUSE = ("clause", "required", "found", "how")


def code(value: object) -> str:
    """Return a text as code in Markdown, between more backticks than it has in a row."""
    line = " ".join(str(value).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


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
