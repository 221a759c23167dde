"""The command line as users see it: processes, exit codes, and what is on which stream."""

import csv
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from inspect import signature
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import COMMAND, ENVIRONMENT, featherweight, write_network
from PIL import Image

from featherweight.build import build
from featherweight.cli import COMMAND_GROUPS, app, base, main
from featherweight.contract import CONTRACTS, load_contract
from featherweight.image_kind import ImageKind
from featherweight.pretrained import find_pretrained
from featherweight.recipe import RECIPES, Recipe, find_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def workplace(tmp_path, digits, tiny_contract):
    """Return a folder with a small contract and small networks."""
    (tmp_path / "small.toml").write_text(tiny_contract.to_toml())
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Conv2d(1, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "                         nn.Dropout(0.1), nn.Flatten(),\n"
        "                         nn.Linear(8 * 12 * 12, num_classes), nn.LogSoftmax(1))\n"
        "class NeedsSize(nn.Module):\n"
        "    def __init__(self, size): super().__init__()\n"
        "class WrongShape(Net):\n"
        "    def forward(self, x): return super().forward(x)[:, :7]\n"
        "class Broken(Net):\n"
        "    def forward(self, x): return super().forward(x) * float('nan')\n"
    )
    return tmp_path


@pytest.fixture
def options(digits):
    return [
        "--contract",
        "small.toml",
        "--data",
        digits,
        "--model",
        "my_net:Net",
        "--recipe",
        "baseline",
    ]


COMMANDS = [name for name in app if not name.startswith("-")]


def run_main(monkeypatch, *words):
    """Run a command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["featherweight", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_help_and_listings_import_no_torch(tmp_path):
    lines = [
        ["--help"],
        ["--version"],
        ["recipes"],
        ["recipes", "--json"],
        ["recipes", "sprint"],
        ["contracts"],
        ["contracts", "era-s7"],
        ["--install-completion", "--shell", "fish"],
        *([command, "--help"] for command in COMMANDS),
    ]
    code = (
        "import sys\nfrom featherweight.cli import main\n"
        f"for words in {lines}:\n"
        "    sys.argv = ['featherweight', *words]\n"
        "    try: main()\n"
        "    except SystemExit as stop: assert stop.code == 0, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_can_be_typed_and_nothing_else(command, monkeypatch, capsys):
    monkeypatch.setattr(app.console, "width", 80)
    assert run_main(monkeypatch, command, "--help") == 0
    shown = capsys.readouterr().out
    for name, argument in signature(app[command].default_command).parameters.items():
        if argument.kind is argument.KEYWORD_ONLY:
            assert f" --{name.strip('_').replace('_', '-')} " in shown
        else:  # a positional argument has no option
            assert argument.kind in (argument.POSITIONAL_ONLY, argument.VAR_POSITIONAL)
            assert f" {name.upper()} " in shown
            assert f"--{name}" not in shown
    assert "--no-" not in shown
    assert "--empty-" not in shown
    assert "default: False" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert (
        "<" not in app[command].default_command.__doc__
    )  # the help would leave it out, as if it were HTML


def test_the_help_lists_every_command_once_in_its_group(monkeypatch, capsys):
    monkeypatch.setattr(app.console, "width", 80)
    assert run_main(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    titles = [line.split("─")[1].strip() for line in shown.splitlines() if line.startswith("╭")]
    assert titles == list(COMMAND_GROUPS)
    words = [line.split()[1] for line in shown.splitlines() if re.match(r"│ [\w-]", line)]
    assert words == [name for group in COMMAND_GROUPS.values() for name in group]
    assert sorted(COMMANDS) == sorted(word for word in words if not word.startswith("-"))


def test_the_reference_of_the_commands_is_what_the_parser_says(request, monkeypatch):
    tools = request.config.rootpath / "tools"
    monkeypatch.syspath_prepend(tools)
    import make_cli

    # In a process of its own: typing keeps one Literal of several that differ in their order, the
    # first that any module of the process has made.
    program = "import sys, make_cli; sys.stdout.buffer.write(make_cli.make_page().encode())"
    made = subprocess.run([sys.executable, "-c", program], cwd=tools, stdout=subprocess.PIPE)
    assert made.returncode == 0
    assert make_cli.PAGE.read_bytes() == made.stdout, "run: python tools/make_cli.py"
    assert set(make_cli.command_sections()) == {*COMMANDS, "--install-completion"}


HOSTILE = "[red]x[ <b> [bold]"


def test_photographs_are_read_by_the_names_of_their_classes(command, workplace):
    kind = ImageKind(3, 32, 32, "natural", "upright", ("a cat", "dog"))
    write_network(workplace / "m.onnx", kind)
    Image.new("RGB", (60, 40), (200, 30, 30)).save(workplace / "p.png")
    code, out, err = command("predict", "p.png", "--model", "m.onnx")
    assert (code, err) == (0, "")
    assert "label" in out.splitlines()[1]
    assert "a cat" in out or "dog" in out
    code, out, err = command("predict", "p.png", "--model", "m.onnx", "--json")
    assert json.loads(out)[0]["label"] in ("a cat", "dog")
    for words, message in (
        (("predict", "p.png", "--number"), "--number: m.onnx reads whole pictures"),
        (("stress",), "made: reads whole pictures"),
    ):
        code, out, err = command(*words, "--model", "m.onnx")
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {message}")
        assert "Traceback" not in err


def test_names_and_labels_of_strangers_are_shown_as_they_are(command, workplace):
    shown = Path(find_pretrained("int4-1kb") / "model.onnx")
    graph = onnx.load(shown)
    (entry,) = (each for each in graph.metadata_props if each.key == "labels")
    entry.value = " ".join(f"[red]{k}[/] [/]".split()[k % 2] + str(k) for k in range(10))
    (kind,) = (each for each in graph.metadata_props if each.key == "kind")
    graph.metadata_props.remove(kind)  # an early file, where the labels count
    onnx.save(graph, workplace / "m.onnx")
    bar = np.full((100, 100), 255, np.uint8)
    bar[20:80, 45:55] = 0
    names = [f"{HOSTILE}.png", "=1+1.png", "-2+3.png", "two\nlines\x1b[31m.png", "@x.png"]
    for name in names:
        Image.fromarray(bar).save(workplace / name)
    code, out, err = command("predict", *(f"./{name}" for name in names), "--model", "m.onnx")
    assert (code, err) == (0, "")
    assert f"./{HOSTILE}.png" in out
    assert r"./two\nlines\x1b[31m.png" in out
    assert "\x1b[31m" not in out
    assert out.count("[/]1") + out.count("[red]0[/]0") == len(names)
    code, out, err = command("predict", *names, "--model", "m.onnx", "--csv")
    assert (code, err) == (0, "")
    first = [row[0] for row in csv.reader(io.StringIO(out))][1:]
    assert first == [names[0], *("'" + name for name in names[1:3]), names[3], "'@x.png"]
    code, out, err = command("predict", "gone\n\x1b[2J[red].png")
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == r"error: gone\n\x1b[2J[red].png: no such file"


def test_recipes_of_strangers_are_shown_as_they_are(capsys):
    from featherweight.cli.study import _print_summaries
    from featherweight.studies.summary import Summary

    names = ["[red]x", "[/]", "[bold", "\x1b[31mred\x1b[0m"]
    _print_summaries([Summary(n, 50_000, "5", 1, 1, 0, None, None, 1.0) for n in names])
    out = capsys.readouterr().out
    assert all(name in out for name in [*names[:3], r"\x1b[31mred\x1b[0m"])
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["help"], ["--help"]),
        (["help", "train"], ["train", "--help"]),
        (["-V"], ["--version"]),
        ([], ["--help"]),
    ],
)
def test_other_words_for_help_and_version(words, same, monkeypatch, capsys):
    assert run_main(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert shown
    run_main(monkeypatch, *same)
    assert capsys.readouterr().out == shown


def test_completion_is_installed_in_one_line(tmp_path):
    said = subprocess.run(
        [*COMMAND, "--install-completion", "--shell", "bash"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"HOME": str(tmp_path)},
        check=False,
    )
    script = tmp_path / ".local/share/bash-completion/completions/featherweight"
    assert said.stdout.splitlines() == [f"{script}: loaded by every new shell"]
    assert str(script) in (tmp_path / ".bashrc").read_text()
    asked = (
        f"source '{script}'; COMP_WORDS=(featherweight tra); COMP_CWORD=1; "
        "_featherweight featherweight tra featherweight; echo ${COMPREPLY[@]}"
    )
    assert (
        subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout
        == "train\n"
    )


def test_a_bug_is_a_traceback_and_exits_70(monkeypatch, capsys):
    def broken(name):
        raise KeyError(name)

    monkeypatch.setattr("featherweight.cli.presets.find_recipe", broken)
    assert run_main(monkeypatch, "recipes", "sprint") == 70
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("KeyError: 'sprint'\n")


# The command line with one more command, which exits as if a contract does not hold.
JUDGE = [
    sys.executable,
    "-c",
    """
from featherweight.cli.base import app, main, print_json, stderr, stdout
@app.command
def judge():
    for word in ("one", "two"):
        stdout.print(word)
        stderr.print(word)
        print_json(100_000 * [word])
    return 1
main()""",
]
ENDS = [
    (["recipes", "--json"], 0),
    (["recipes"], 0),
    (["--help"], 0),
    (["--version"], 0),
    (["judge"], 1),
    (["recipes", "nope"], 2),
]


@pytest.mark.parametrize(("words", "code"), ENDS)
@pytest.mark.parametrize("gone", ["out", "both"])
def test_a_closed_pipe_changes_no_exit_code(words, code, gone):
    read, write = os.pipe()
    os.close(read)
    said = subprocess.run(
        [*JUDGE, *words],
        env=ENVIRONMENT,
        stdout=write,
        text=True,
        check=False,
        stderr=write if gone == "both" else subprocess.PIPE,
    )
    os.close(write)
    assert said.returncode == code
    assert gone == "both" or "Traceback" not in said.stderr
    assert gone == "both" or code != 1 or said.stderr == "one\ntwo\n"


@pytest.mark.parametrize(("words", "code"), ENDS)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_closed_streams_change_no_exit_code(words, code, closed):
    said = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *JUDGE, *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == code
    assert "Traceback" not in said.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [["recipes", "--json"], ["recipes"]])
def test_data_that_does_not_fit_is_an_error(words):
    with open("/dev/full", "w") as full:
        said = subprocess.run(
            [*COMMAND, *words],
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert said.returncode == 2
    assert said.stderr.startswith("error: no space left on device\n")


def test_a_width_that_is_no_number_is_ignored():
    def shown(columns):
        return subprocess.run(
            [*COMMAND, "contracts"],
            env=ENVIRONMENT | {"COLUMNS": columns, "LINES": columns},
            text=True,
            capture_output=True,
            check=False,
        ).stdout

    whole = shown("160")
    assert "era-v3-s6" in whole
    for columns in ("0", "", "00", "x", "-5", "80.5", "\u00b2"):
        assert shown(columns) == whole
    assert max(map(len, shown("50").splitlines())) == 50


def test_train_audit_evaluate_report(workplace, options, digits):
    result = featherweight("train", *options, "--epochs", 3, "--out", "run", cwd=workplace)
    assert result.returncode == 0, result.stderr
    assert "verdict: PASS" in result.stdout
    rows = [line for line in result.stderr.splitlines() if "% (" in line]
    assert len(rows) == 3
    assert "\r" not in result.stderr  # no progress bar where there is no terminal
    run = workplace / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "resume.pt",
        "SHA256SUMS",
        ".lock",
        "graph.safetensors",
        "verdict.json",
        "README.md",
        "curves.png",
        "confusion.png",
        "mistakes.png",
        "verdict.svg",
    }

    audit = featherweight("audit", "run", "--json", cwd=workplace)
    assert audit.returncode == 0
    assert json.loads(audit.stdout)["passed"]
    for split, total in (("val", 100), ("test", 90)):
        evaluated = featherweight("evaluate", "run", "--split", split, "--json", cwd=workplace)
        assert json.loads(evaluated.stdout)["total"] == total
    assert featherweight("report", "run", cwd=workplace).returncode == 0

    assert featherweight("audit", "run", "--contract", "era-v3-s6", cwd=workplace).returncode == 1
    again = featherweight("train", *options, "--out", "run", cwd=workplace)
    assert again.returncode == 2
    assert "exists" in again.stderr

    (run / "model.safetensors").unlink()
    incomplete = featherweight("evaluate", "run", cwd=workplace)
    assert incomplete.returncode == 2
    assert "finished run" in incomplete.stderr


@pytest.fixture
def command(workplace, monkeypatch, capfd):
    """Run a command in this process, in the workplace: its exit code, stdout and stderr."""
    monkeypatch.chdir(workplace)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["featherweight", *map(str, words)])
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Cyclopts application invoked without tokens"
            )  # it takes sys.argv
            with pytest.raises(SystemExit) as stop:
                main()
        return stop.value.code, *capfd.readouterr()

    return run


@pytest.mark.parametrize(
    "target", ["my_net:Net", "my_net.py:Net", "alone.py", "folder/deeper.py:Net"]
)
def test_audit_of_a_class(workplace, options, command, target):
    (workplace / "alone.py").write_text("import my_net\nclass Alone(my_net.Net): pass\n")
    (workplace / "folder").mkdir()
    (workplace / "folder" / "deeper.py").write_text((workplace / "my_net.py").read_text())
    code, out, err = command("audit", target, *options[:4])
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "verdict: PASS (structure alone: 5 of 10 clauses judged)"


LOUD = """
import os, subprocess, sys
print("at import")
from my_net import Net as Quiet
class Net(Quiet):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        print("in the constructor")
    def forward(self, x):
        print("in forward")
        os.write(1, b"to the descriptor\\n")
        return super().forward(x)
"""


@pytest.mark.apart
@pytest.mark.parametrize("evidence", ["graph", "watched"])
def test_what_a_network_prints_is_kept_from_the_data(workplace, options, command, evidence):
    (workplace / "loud.py").write_text(LOUD)
    code, out, err = command(
        "audit", "loud.py:Net", "--quick", "--json", "--evidence", evidence, *options[:4]
    )
    assert code == 0
    verdict = json.loads(out)
    assert verdict["passed"]
    assert verdict["not_judged"] == ["epochs", "split", "accuracy", "weights", "log"]
    for words in ("at import", "in the constructor", "in forward", "to the descriptor"):
        assert (words in err) == (evidence == "watched")  # apart, it prints to nobody
    print("stdout is put back")
    os.write(1, b"and its descriptor")
    assert command("contracts")[1].startswith("stdout is put back\nand its descriptor")


@pytest.mark.parametrize("where", ["import", "constructor", "forward"])
def test_a_network_that_ends_the_process_is_an_error(workplace, options, command, where):
    leave = {
        name: "import sys; sys.exit(0)" if name == where else "pass"
        for name in ("import", "constructor", "forward")
    }
    (workplace / "leaves.py").write_text(
        f"from my_net import Net as Stays\n{leave['import']}\nclass Net(Stays):\n"
        "    def __init__(self, num_classes):\n        super().__init__(num_classes)\n"
        f"        {leave['constructor']}\n"
        "    def forward(self, x):\n"
        f"        {leave['forward']}\n        return super().forward(x)\n"
    )
    code, out, err = command("audit", "leaves.py:Net", *options[:4])
    assert (code, out) == (2, "")
    assert err.startswith("error: model ")
    assert "leaves.py:Net" in err
    assert "it ends the process, exit(0)" in err
    assert len(err.splitlines()) == 2


def test_weights_trained_elsewhere(workplace, options, command, split, monkeypatch):
    monkeypatch.chdir(workplace)
    torch.manual_seed(0)
    network = build("my_net.py:Net", {}, 10)
    images = (split.train.pixels.float() / 255 - 0.5) / 0.5
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for batch in torch.arange(500).repeat(3).split(25):
        optimizer.zero_grad()
        torch.nn.functional.nll_loss(network(images[batch]), split.train.labels[batch]).backward()
        optimizer.step()
    torch.save({"model_state_dict": network.state_dict()}, "model.pth")
    torch.save(network, "whole.pth")
    network.eval()
    right = int(
        (network((split.val.pixels.float() / 255 - 0.5) / 0.5).argmax(1) == split.val.labels).sum()
    )

    judge = ("audit", "my_net.py:Net", *options[:4], "--weights")
    code, out, _ = command(*judge, "model.pth", "--mean", 0.5, "--std", 0.5, "--json")
    clauses = {clause["clause"]: clause for clause in json.loads(out)["clauses"]}
    assert (code, clauses["accuracy"]["found"]) == (
        0,
        f"{right:.2f} % ({100 - right} wrong of 100)",
    )
    assert "mean 0.5000 and std 0.5000, as given" in clauses["accuracy"]["how"]
    assert [name for name, clause in clauses.items() if clause["passed"] is None] == [
        "epochs",
        "weights",
        "log",
    ]
    assert command(*judge, "model.pth", "--mean", 0.5, "--std", 0.5)[1].splitlines()[-1] == (
        "verdict: PASS (7 of 10 clauses judged)"
    )
    code, out, err = command(*judge, "model.pth", "--mean", 9, "--std", 0.5, "--quick")
    assert (code, out.splitlines()[-1]) == (1, "verdict: FAIL (7 of 10 clauses judged)")

    for words, message in (
        (("whole.pth",), "state_dict()"),
        (("nowhere.pth",), "no such file"),
        (("my_net.py",), "damaged"),
        (("model.pth", "--mean", 0.5), "expected mean and std both"),
        (("model.pth", "--mean", 0.5, "--std", 0), "above 0"),
    ):
        code, out, err = command(*judge, *words)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 2
    for words in (("--mean", 0.5, "--std", 0.5), ("--std", 0.5)):
        assert command(*judge[:-1], *words)[0] == 2


@pytest.mark.parametrize(
    ("width", "words", "how"),
    [(160, (), True), (110, (), True), (109, (), False), (80, (), False), (80, ("--why",), True)],
)
def test_a_verdict_fits_its_terminal(workplace, options, command, monkeypatch, width, words, how):
    monkeypatch.setattr(base.stdout, "width", width)
    (workplace / "spoiled.py").write_text(
        "from my_net import Net as Good\nclass Net(Good):\n"
        "    def forward(self, x): return super().forward(x).relu()\n"
    )
    code, out, _ = command("audit", "spoiled.py:Net", "--quick", *options[:4], *words)
    assert code == 1
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    assert ("passes in" in " ".join(out.replace("\u2502", " ").split())) is how
    assert lines[-1] == "verdict: FAIL (structure alone: 5 of 10 clauses judged)"
    rows = [
        line.split("\u2502")[1].split()[0]
        for line in lines
        if line.startswith("\u2502 ") and line[2] != " "
    ]
    assert (rows[0], rows[-1]) == ("parameters", "head")  # what fails stands last
    assert len(rows) == 10
    if not words:
        assert len(lines) < 50


def test_a_network_from_a_file_is_trained_and_found_again(workplace, options, command, monkeypatch):
    (workplace / "nets").mkdir()
    (workplace / "nets" / "filed.py").write_text(
        "print('loud')\nfrom sizes import EIGHT\n"
        + (workplace / "my_net.py").read_text().replace("nn.Conv2d(1, 8,", "nn.Conv2d(1, EIGHT,")
    )
    (workplace / "nets" / "sizes.py").write_text("EIGHT = 8\n")
    code, out, err = command(
        "train",
        *options[:4],
        "--recipe",
        "baseline",
        "--model",
        "nets/filed.py:Net",
        "--epochs",
        3,
        "--out",
        "run",
        "--device",
        "cpu",
    )
    assert code == 0, err
    assert "loud" not in out
    assert out.splitlines()[-1] == "verdict: PASS"
    code, out, err = command("audit", "run", "--json")
    assert code == 0
    assert json.loads(out)["scope"] == "run"
    assert json.loads(out)["not_judged"] == []
    assert json.loads(command("evaluate", "run", "--json")[1])["total"] == 100
    for words in (("--quick",), ("--weights", "model.pth")):
        code, out, err = command("audit", "run", *words)
        assert (code, out) == (2, "")
        assert f"{words[0][2:]} with run: expected a network" in err
    monkeypatch.chdir(workplace / "nets")
    code, _, err = command("audit", "../run")
    assert code == 0, err  # the run has the graph, and needs no source
    code, _, err = command("audit", "../run", "--retrain")
    assert code == 2
    assert f"{workplace}/nets/nets/filed.py" in err
    assert "hint: a relative path starts at the working directory" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--recipe", "nope"], "nope"),
        (["train", "--epochs", "0"], "epochs"),
        (["train", "--seed", "-1"], "seed"),
        (["study", "quick", "--threads", "2"], "threads: got 2, expected 1, as quick has ghost"),
        (["train", "--workers", "3"], "workers: got 3, expected 1 to 2: 2 ghost batches in a step"),
        (["train", "--contract", "missing.toml"], "missing.toml"),
        (["train", "--contract", "unknown.toml"], "'colour'"),
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--device", "abacus"], "abacus"),
        (["train", "--resume", "."], "not a run folder"),
        (["train", "--resume", ".", "--epochs", "3"], "--epochs"),
        (["train", "--model", "no_such_module:Net"], "no_such_module"),
        (["train", "--model", "my_net:NeedsSize"], "size"),
        (["train", "--model", "my_net:WrongShape"], "expected (8, 10)"),
        (["train", "--model", "my_net:Broken"], "NaN"),
        (["train", "--model", "missing.py:Net"], "missing.py"),
        (["audit", "nowhere"], "not a run folder"),
        (["audit", "my_net.py"], "4 torch.nn.Module classes"),
        (["audit", "my_net.py:Nope"], "expected Net or NeedsSize or WrongShape or Broken"),
        (["audit", "missing:Net"], "working directory"),
        (["evaluate", ".", "--split", "all"], "all"),
        (["evaluate", "--data", "nowhere"], "nowhere: got no such file or folder"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(words, message, workplace, monkeypatch, capsys):
    (workplace / "unknown.toml").write_text((workplace / "small.toml").read_text() + "colour = 3\n")
    monkeypatch.chdir(workplace)
    monkeypatch.delitem(sys.modules, "my_net", raising=False)  # of another test's folder
    assert run_main(monkeypatch, *words) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")
    hints = {
        "no_such_module:Net": "PYTHONPATH",
        "missing:Net": "PYTHONPATH",
        "missing.py:Net": f"starts at the working directory, {workplace}",
        "my_net.py": "name it, as in my_net.py:Broken",
        "nowhere": "featherweight models" if words[0] == "audit" else "",
    }
    if words[-1] in hints:
        assert hints[words[-1]] in hint
    elif words[0] in COMMANDS and "--resume" not in words:
        assert hint == f"hint: featherweight {words[0]} --help"
    assert "Errno" not in error
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (
            ["train", "baseline"],
            "got baseline, expected an option before it: did you mean --recipe baseline?",
            "train --help",
        ),
        (["train", "my_net:Net"], "did you mean --model my_net:Net?", "train --help"),
        (["audit", "x", "era-s7"], "did you mean --contract era-s7?", "audit --help"),
        (["study", "records", "sprint"], "got one word too many, sprint", "study --help"),
        (["audit"], "got no TARGET, expected: featherweight audit TARGET", "audit --help"),
        (
            ["export", "run"],
            "got no --format, expected: featherweight export RUN --format onnx|onnx-int8|c",
            "export --help",
        ),
        (
            ["predict"],
            "got no IMAGES, expected: featherweight predict IMAGES",
            "predict photo.jpg",
        ),
        (
            ["predict", "https://example.org/7.png"],
            "https://example.org/7.png: an address, expected a file",
            "predict - reads what a download pipes into it",
        ),
        (["predict", "x.png", "--model", ""], "model '': neither pretrained (", "models"),
        (
            ["predict", "feather-4k", "photo.jpg"],
            "feather-4k is a network, expected pictures",
            "predict photo.jpg --model feather-4k",
        ),
        (["train", "--recipes", "x"], "Did you mean --recipe?", "train --help"),
        (["trian"], 'Did you mean "train"?', "--help"),
        (["-x"], "-x", "--help"),
        (
            ["train", "--device", "mps"],
            "device 'mps': PyTorch finds no Apple GPU here, expected cpu or auto",
            "train --help",
        ),
        (
            ["study", "nope"],
            "plan 'nope': neither built in (baseline, cifar, data-efficiency, fashion, "
            "feather-8k-first, feather-8k-second, ghosts, int4-first, int4-small, int4, quick, "
            "reader, records-first, records, sprint-first, sprint) nor a file",
            "study --help",
        ),
        (["frontier", "gone.csv"], "gone.csv: no such file", "frontier --help"),
        (["frontier", "."], ".: is a directory", "frontier --help"),
        (["frontier", "binary.csv"], "binary.csv: not a CSV file in UTF-8", "frontier --help"),
        (
            ["recipes", "nope"],
            "recipe 'nope': unknown, expected one of quick",
            "recipes --help",
        ),
        (["contracts", "nope"], "contract 'nope': neither built in (era-v3-s6", "contracts --help"),
    ],
)
def test_a_hint_is_of_the_command_that_was_meant(
    words, error, hint, workplace, monkeypatch, capsys
):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    (workplace / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert run_main(monkeypatch, *words) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: ")
    assert error in said[0]
    assert said[1:] == [f"hint: featherweight {hint}"]


def test_interrupted_run_says_how_to_resume_and_ends_in_the_same_bits(workplace, options):
    whole = [*options, "--epochs", "8"]
    assert featherweight("train", *whole, "--out", "one", cwd=workplace).returncode in (0, 1)
    process = subprocess.Popen(
        [*COMMAND, "train", *map(str, whole), "--out", "two"],
        cwd=workplace,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    for line in process.stderr:  # stop it after its second epoch
        if line.lstrip().startswith("2 "):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "featherweight train --resume two" in rest
    assert featherweight("train", "--resume", "two", cwd=workplace).returncode in (0, 1)
    one, two = ((workplace / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_diverged_run_keeps_its_log_and_exits_1(workplace, options, monkeypatch):
    (workplace / "exploding.py").write_text(
        "from my_net import Net as Honest\n"
        "class Net(Honest):\n"
        "    calls = 0\n"
        "    def forward(self, x):\n"
        "        self.calls += self.training\n"
        "        return super().forward(x) * (float('inf') if self.calls > 12 else 1)\n"
    )
    result = featherweight(
        *("train", *options[:4], "--model", "exploding:Net", "--out", "run"),
        *("--evidence", "watched"),  # its Python runs in training
        cwd=workplace,
    )
    assert result.returncode == 1
    assert "diverged" in result.stderr
    rows = (workplace / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == list(range(1, len(rows) + 1))


def test_a_killed_worker_is_one_line_and_exits_1(workplace, options):
    (workplace / "dying.py").write_text(
        "import os, signal\n"
        "from my_net import Net as Honest\n"
        "class Net(Honest):\n"
        "    def forward(self, x):\n"
        "        if self.training and os.getppid() == int(open('main').read()):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().forward(x)\n"
    )
    code = (
        "import os; open('main', 'w').write(str(os.getpid())); "
        "from featherweight.cli import main; main()"
    )
    words = ["train", *options[:4], "--model", "dying:Net", "--workers", "2", "--out", "run"]
    words += ["--evidence", "watched"]  # its Python runs in training
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=workplace,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: worker 2 of 2 was ended by SIGKILL")
    assert line.endswith("hint: featherweight train --resume run")


def test_a_full_disk_is_one_line_and_leaves_no_half_file(workplace, options):
    # A file-size limit fails a write in the middle as a full disk does.
    result = featherweight(
        "train",
        *options,
        "--epochs",
        1,
        "--out",
        "run",
        "--evidence",
        "watched",  # else the graph is the first file that is too large
        cwd=workplace,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert result.returncode == 2, result.stderr
    assert f"error: {Path('run', 'resume.pt')}: file too large\n" in result.stderr
    assert "featherweight train --resume run\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in (workplace / "run").iterdir()} == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "SHA256SUMS",
        ".lock",
    }


def test_contracts_prints_files_that_can_be_read_back(tmp_path, monkeypatch, capsys):
    for contract in CONTRACTS:
        assert run_main(monkeypatch, "contracts", contract.name) == 0
        (tmp_path / "copy.toml").write_text(capsys.readouterr().out)
        assert load_contract(str(tmp_path / "copy.toml")) == contract


def test_contracts_and_recipes_are_listed(monkeypatch, capsys):
    for command, items in (("contracts", CONTRACTS), ("recipes", RECIPES)):
        assert run_main(monkeypatch, command) == 0
        shown = capsys.readouterr().out
        assert all(f" {item.name} " in shown for item in items)
    assert run_main(monkeypatch, "contracts") == 0
    shown = capsys.readouterr().out
    assert re.search(r"era-s7 .* mnist .* < 8,000 .* < 16 .* >= 99\.40 %", shown)
    assert re.search(r"era-s8-gn .* cifar-10 .* < 50,000 .* <= 20 .* > 70\.00 %", shown)
    assert {"global", "average", "pooling"} <= set(shown.split())  # whatever the width


def test_a_contract_about_other_data_than_mnist_needs_data(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    for words in (
        ("audit", "my_net.py:Net", "--contract", "era-s9", "--evidence", "watched"),
        ("train", "--recipe", "baseline", "--contract", "era-s9"),
    ):
        assert run_main(monkeypatch, *words) == 2
        assert capsys.readouterr().err.splitlines() == [
            "error: contract era-s9: got no data, expected CIFAR-10's images",
            "hint: give their place with --data; MNIST comes with Featherweight, CIFAR-10 does not",
        ]


def test_recipes_prints_json(monkeypatch, capsys):
    assert run_main(monkeypatch, "recipes", "--json") == 0
    assert [Recipe.from_dict(values) for values in json.loads(capsys.readouterr().out)] == list(
        RECIPES
    )
    assert run_main(monkeypatch, "recipes", "sprint") == 0
    assert Recipe.from_dict(json.loads(capsys.readouterr().out)) == find_recipe("sprint")


def test_killed_run_leaves_whole_files(workplace, options):
    process = subprocess.Popen(
        [*COMMAND, "train", *map(str, options), "--epochs", "6", "--out", "run"],
        cwd=workplace,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = workplace / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    result = featherweight("train", "--resume", "run", cwd=workplace)
    assert result.returncode in (0, 1), result.stderr
    assert len(metrics.read_text().splitlines()) == 6


def test_hints_can_be_typed_where_the_environment_is_not_activated(workplace, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(workplace))
    monkeypatch.chdir(Path(sys.executable).parents[2])
    assert run_main(monkeypatch, "train", "--nope") == 2
    hint = capsys.readouterr().err.splitlines()[-1].removeprefix("hint: ")
    command = Path(hint.split()[0])
    assert command.is_file()
    assert command.parent.resolve() == Path(sys.executable).parent.resolve()
    assert not command.is_absolute() or not command.is_relative_to(Path.cwd())
