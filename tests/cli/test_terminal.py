"""Every command that draws a bar or a table, on a real terminal, to its end.

The commands of one terminal run one after the other in one process, which loads PyTorch only once.
An emulated terminal turns what they write into the lines of a screen.
"""

import json
import os
import re
import sys

import pexpect
import pyte
import pytest
from helpers import make_contract, make_digits, train_and_export, write_mnist
from PIL import Image

from featherweight.data import load_split

pytestmark = [pytest.mark.terminal, pytest.mark.slow]

DRIVER = """
import functools, json, sys, traceback
import torch
from featherweight.bench import training as bench
from featherweight.cli import base, main
base.end = sys.exit  # although a network's code has run here
torch.set_num_threads(1)
# The figures do not matter here.
bench.bench_train = functools.partial(bench.bench_train, rounds=1, n_steps=1)
bench.profile_train = functools.partial(bench.profile_train, n_steps=1)
for words in json.loads(sys.argv[1]):
    sys.argv = ["featherweight", *words]
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 70
    print(f"\\n<<{words[0]} ended {code}>>", flush=True)
"""
COLOUR = re.compile(r"\x1b\[(?:\d+;)*[349]\d")
PLAN = """
recipes = ["baseline"]
contract = "small.toml"
seeds = 2
[[overrides]]
name = "one"
epochs = 1
"""
SLOW = """
import time
from featherweight.model import BaselineNet
class Slow(BaselineNet):
    def forward(self, images):
        time.sleep(0.05 * self.training)  # 20 steps an epoch
        return super().forward(images)
"""
TERMINALS = {
    "80 columns": (80, {}),
    "200 columns": (200, {}),
    "dumb": (80, {"TERM": "dumb"}),
    "no colour": (80, {"NO_COLOR": "1"}),
    "COLUMNS=0": (80, {"COLUMNS": "0"}),
}


class Terminal:
    """A terminal with a number of columns on which commands run."""

    def __init__(self, commands, cwd, columns, variables):
        environment = {
            key: os.environ[key]
            for key in os.environ
            if key not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self.process = pexpect.spawn(
            sys.executable,
            ["-c", DRIVER, json.dumps([list(map(str, words)) for words in commands])],
            cwd=cwd,
            env=environment | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | variables,
            dimensions=(60, columns),
            encoding="utf-8",
            timeout=240,
        )
        self.columns = columns

    def wait_for(self, pattern):
        self.process.expect(pattern)
        return self.process.before + self.process.after

    def finish(self, command):
        """Return a command's exit code, what it wrote, and the lines that the terminal shows."""
        text = self.wait_for(rf"<<{command} ended (\w+)>>\r\n")
        return int(self.process.match[1]), text, self.shown(text)

    def shown(self, text):
        """Return the lines that the terminal shows for a text with control codes."""
        screen = pyte.Screen(self.columns, 1000)
        pyte.Stream(screen).feed(text)
        return [line.rstrip() for line in screen.display if line.strip()]

    def interrupt(self):
        self.process.sendintr()


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_contract, tiny_recipe):
    """Return a folder with data, a contract, a plan, a network, an exported run and pictures."""
    folder = tmp_path_factory.mktemp("place")
    write_mnist(folder / "digits", n_train=2600)
    contract = make_contract(train_size=2500)
    (folder / "small.toml").write_text(contract.to_toml())
    (folder / "plan.toml").write_text(PLAN)
    (folder / "slow.py").write_text(SLOW)
    train_and_export(folder, tiny_recipe, contract, load_split(str(folder / "digits"), 2500, 100))
    (folder / "scans").mkdir()
    for number, image in enumerate(make_digits(300, 2)[0]):
        Image.fromarray(image).save(folder / "scans" / f"{number:03}.png")
    return folder


@pytest.fixture(params=TERMINALS)
def kind(request):
    return request.param


def commands(out):
    """Return commands, each with its possible exit codes and a text on the screen at its end."""
    data = ["--data", "digits", "--contract", "small.toml"]
    return [
        (
            ["train", *data, "--recipe", "baseline", "--epochs", 3, "--out", out / "run"],
            (0, 1),
            "verdict: ",
        ),
        (["train", "--resume", out / "run"], (0, 1), "verdict: "),
        (["audit", "run"], (0,), "verdict: PASS"),
        (["evaluate", "run"], (0,), "confusion matrix"),
        (["report", "run"], (0,), "curves.png"),
        (
            [
                "study",
                "plan.toml",
                "--data",
                "digits",
                "--workers",
                1,
                "--results",
                out / "rows.csv",
                "--runs",
                out / "runs",
            ],
            (0, 1),
            "95 % of mean",
        ),
        (["stress", "--model", "run", "--per-category", 2], (0,), "all digits"),
        (["predict", "--model", "run", "scans"], (0,), "299.png"),
        (
            ["predict", "--model", "run", "scans", "--out", out / "readings", "--ray"],
            (0,),
            "300 images read",
        ),
        (["bench", "train"], (0,), "epoch of feather-20k / epoch of baseline"),
        (["export", "run", "--format", "onnx"], (0,), "model.onnx"),
        (["export", "run", "--format", "c"], (0,), "c-int8"),
        (["firmware", "run", "--results", out / "c.csv"], (0,), "to the bit"),
        (["contracts"], (0,), "era-v3-s6"),
        (["recipes"], (0,), "feather-20k"),
        (["--help"], (0,), "Train and judge"),
        (["train", "--nope"], (2,), "error: "),
    ]


# What takes longest draws nothing that the others do not: one terminal is enough for it.
ON_ONE_TERMINAL = (
    *({"study"}, {"--ray"}, {"bench"}, {"firmware"}, {"export"}),
    *({"--resume"}, {"report"}, {"stress"}),
)


def test_every_command_comes_to_its_end(place, tmp_path, kind):
    columns, variables = TERMINALS[kind]
    wanted = [
        command
        for command in commands(tmp_path)
        if kind == "80 columns" or not any(slow <= set(command[0]) for slow in ON_ONE_TERMINAL)
    ]
    terminal = Terminal([words for words, _, _ in wanted], place, columns, variables)
    for words, codes, last in wanted:
        code, text, lines = terminal.finish(words[0])
        shown = "\n".join(lines)
        assert code in codes, shown
        assert "Traceback" not in text, shown
        assert last in shown, shown
        # A table that is wider than the terminal has its edges on other lines.
        assert all(line.endswith(("┓", "┐")) for line in lines if line.startswith(("┏", "┌"))), (
            shown
        )
        assert ("\x1b" not in text) or kind != "dumb", repr(text)
        assert not (COLOUR.search(text) and kind in ("dumb", "no colour")), repr(text)


@pytest.mark.parametrize("kind", ["80 columns", "dumb"])  # with a bar, and without
def test_ctrl_c_during_an_epoch_and_on_to_the_end(place, tmp_path, kind):
    columns, variables = TERMINALS[kind]
    run = tmp_path / "run"
    terminal = Terminal(
        [
            [
                "train",
                "--data",
                "digits",
                "--contract",
                "small.toml",
                "--recipe",
                "baseline",
                "--model",
                "slow:Slow",
                "--epochs",
                4,
                "--out",
                run,
            ],
            ["train", "--resume", run],
        ],
        place,
        columns,
        variables,
    )
    if kind == "dumb":  # which has no bar
        terminal.wait_for(r"    1 +\d+\.\d\d ")
    else:
        # Drawn while an epoch runs, whole and on one line.
        bar = terminal.shown(terminal.wait_for(r"epoch 2 of 4, loss[^\r]*:[-\d]{2}[^\r]*\r"))[-1]
        assert re.fullmatch(
            r"epoch 2 of 4, loss \d\.\d{4}(, [\d,]+ images/s)? [━╸╺ ]{20} [-\d]:[-\d:]{5}", bar
        )
    terminal.interrupt()
    code, text, lines = terminal.finish("train")
    assert code == 130
    assert "Traceback" not in text
    assert f"featherweight train --resume {run}" in "".join(lines)
    code, text, lines = terminal.finish("train")
    assert code in (0, 1)
    assert "Traceback" not in text
    assert [line.split()[0] for line in lines if "% (" in line and not line.startswith("│")] == [
        "2",
        "3",
        "4",
    ]


def test_ctrl_c_ends_the_server(place):
    terminal = Terminal(
        [["serve", "--model", "run", "--port", "0"]], place, *TERMINALS["80 columns"]
    )
    terminal.wait_for(r"http://127\.0\.0\.1:\d+")
    terminal.interrupt()
    code, text, _ = terminal.finish("serve")
    assert code == 130
    assert "Traceback" not in text
