"""Strangers' texts and verdicts as Markdown."""

import re
from typing import Any

CLAUSE = ("clause", "required", "found", "how")
VERDICTS = {True: "pass", False: "**FAIL**", None: "not judged"}


def text(value: object) -> str:
    """Return a stranger's text for Markdown, which shows it as it is, on one line."""
    line = " ".join(str(value).split())
    return re.sub(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def code(value: object) -> str:
    """Return a text as code in Markdown, between more backticks than it has in a row."""
    line = " ".join(str(value).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"


def clause_table(clauses: list[dict[str, Any]]) -> str:
    """Return the clauses of a verdict, as `Verdict.to_dict` holds them, as a table."""
    rows = "\n".join(
        f"| {' | '.join(text(c[key]) for key in CLAUSE)} | {VERDICTS[c['passed']]} |"
        for c in clauses
    )
    return f"""| clause | required | found | how | verdict |
|---|---|---|---|---|
{rows}
"""
