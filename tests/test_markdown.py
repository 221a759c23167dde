"""Strangers' texts as code in Markdown, which ends where it should."""

import pytest

from featherweight._markdown import MAX_BLOCK, block, code


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Net", "`Net`"),
        ("a`b", "`` a`b ``"),
        ("a\n# PASS", "`a # PASS`"),
        ("a\x1b[1m", r"`a\x1b[1m`"),
    ],
)
def test_code_is_one_line(text, shown):
    assert code(text) == shown


@pytest.mark.parametrize("text", ["one\ntwo", "```\n# PASS\n", "`````", ""])
def test_nothing_in_a_block_ends_it(text):
    fence, *lines, last = block(text).strip("\n").splitlines()
    assert last == fence
    assert set(fence) == {"`"}
    assert not any(line.startswith(fence) for line in lines)
    assert "\n".join(lines).rstrip("\n") == text.rstrip("\n")


def test_a_long_block_is_cut_to_its_end():
    assert len(block("x" * 3 * MAX_BLOCK)) < 2 * MAX_BLOCK
    assert "the end" in block("x" * 3 * MAX_BLOCK + "the end")
