"""The GitHub Action: its shell steps in a checkout, with the variables that GitHub sets."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import featherweight

ACTION = yaml.safe_load((Path(__file__).parents[2] / "action.yml").read_text())
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x):
        return self.head(self.body(x)).mean((2, 3))
"""


def run_steps(checkout, **given):
    """Run the shell steps that need no installation; return the exit code and what was printed."""
    inputs = {name: about.get("default", "") for name, about in ACTION["inputs"].items()}
    inputs |= given | {"python-version": ""}
    environment = os.environ | {
        "GITHUB_STEP_SUMMARY": str(checkout / "summary.md"),
        "GITHUB_OUTPUT": str(checkout / "output.txt"),
        "PYTHONPATH": str(Path(featherweight.__file__).parents[1]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for step in ACTION["runs"]["steps"]:
        if "if" in step:
            assert step["if"] == "inputs.python-version != ''"
            continue
        own = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], value)
            for name, value in step["env"].items()
        }
        # As GitHub runs `shell: bash`.
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=checkout,
            env=environment | own,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            break
    return done.returncode, done.stdout + done.stderr


def test_the_inputs_are_used_as_variables_and_other_actions_are_pinned():
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")  # an input would else be read as a command
        if "uses" in step:
            assert re.fullmatch(r"actions/setup-python@[0-9a-f]{40}", step["uses"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_the_action_judges_and_leaves_summary_badge_outputs_and_results(
    tmp_path, digits, tiny_contract
):
    (tmp_path / "my net.py").write_text(NET)
    (tmp_path / "my tiny.toml").write_text(tiny_contract.to_toml())
    (tmp_path / "featherweight").mkdir()
    (tmp_path / "featherweight/grades.csv").write_text("a table that was committed")
    code, printed = run_steps(tmp_path, network=".", contract="my tiny.toml", data=str(digits))
    assert code == 0, printed
    outputs = dict(line.split("=") for line in (tmp_path / "output.txt").read_text().splitlines())
    results = json.loads((tmp_path / "featherweight/results.json").read_text())
    assert outputs == {
        "verdict": "PASS",
        "points": f"{results['score']:g}",
        "max-points": f"{sum(test['max_score'] for test in results['tests']):g}",
        "points-not-judged": "2",
        "badge": "featherweight/badge.svg",
    }
    assert (tmp_path / "featherweight/grades.csv").read_text().startswith("name,file,class,")
    assert results["score"] == sum(test["score"] for test in results["tests"]) > 0
    assert {"name", "score", "max_score", "output", "output_format", "visibility"} <= set(
        results["tests"][0]
    )
    summary = (tmp_path / "summary.md").read_text()
    assert summary == results["output"]
    assert "## Layers" in summary
    assert "](" not in summary  # a summary has no files beside it, such as pictures
    badge = ElementTree.parse(tmp_path / "featherweight/badge.svg").getroot()
    assert badge.get("aria-label").startswith("featherweight: PASS ")


def test_the_action_ends_with_the_exit_code_of_wrong_input(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    code, printed = run_steps(tmp_path, network="net.py", contract="lost.toml")
    assert code == 2
    assert "contract 'lost.toml'" in printed
    assert not (tmp_path / "output.txt").exists()
