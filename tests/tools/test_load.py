"""What the authors run: tools/. The command reference is tested with the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.slow
def test_the_server_answers_200_clients_without_an_error(model):
    done = subprocess.run(
        [sys.executable, TOOLS / "load.py", model.path, "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 clients, 1 s: ")
    assert "no error" in done.stdout


def test_the_list_of_tools_names_each():
    text = (TOOLS / "README.md").read_text(encoding="utf-8")
    for path in TOOLS.glob("*.py"):
        assert f"`{path.name}`" in text, path.name
