"""What README says can be typed, and every file it lists is there."""

import re
from pathlib import Path

import pytest

from featherweight.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^featherweight (.+?)(?:\s+#.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command):
    app.parse_args(command, exit_on_error=False, print_error=False)


def test_there_are_commands_to_test():
    assert len(COMMANDS) >= 8


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_file_tree_is_the_packages():
    listed = set(re.findall(r"^      (\w+\.py|\w+/) ", README, re.MULTILINE))
    package = ROOT / "src" / "featherweight"
    present = {path.name for path in package.glob("*.py")} | {
        f"{path.name}/"
        for path in package.iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert listed == present - {"__init__.py"}


def test_every_linked_file_is_there():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link
