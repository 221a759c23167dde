"""What the authors run: tools/. The command reference is tested with the command line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.slow
def test_one_command_prints_what_the_server_answers(model):
    done = subprocess.run(
        [
            *(sys.executable, TOOLS / "load.py", model.path),
            *("--seconds", "0.3", "--requests", "300", "--clients", "20"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *lines, memory = done.stdout.splitlines()
    number = r"[\d,.]+"
    for line, name in zip(
        lines,
        (
            *("raw 28x28, 1 clients", "raw 28x28, 64 clients", "PNG 280x280, 1 clients"),
            *("PNG 280x280, 64 clients", "PNG 280x280, 20 clients"),
        ),
        strict=True,
    ):
        assert re.fullmatch(
            rf"{name}: {number} answers a second; p50 {number} ms, p99 {number} ms; an answer took "
            rf"{number} ms of the server's processor time and {number} of the clients' \(\d+ %\)",
            line,
        )
    assert re.fullmatch(rf"memory: {number} MB after 30 answers, {number} MB after 300", memory)


def test_the_list_of_tools_names_each():
    text = (TOOLS / "README.md").read_text(encoding="utf-8")
    for path in TOOLS.glob("*.py"):
        assert f"`{path.name}`" in text, path.name
