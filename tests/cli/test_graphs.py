"""Networks of others on the command line: judged and trained as graphs, their code held apart."""

import json
import re
import shutil
import subprocess

import pytest
from helpers import COMMAND, ENVIRONMENT, featherweight

pytestmark = pytest.mark.slow
NET = """
import os, sys, json
from torch import nn

print("at import", flush=True)
os.write(1, b"to the descriptor\\n")

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(1, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Dropout(0.1), nn.Flatten(), nn.Linear(8 * 144, num_classes))
        print(json.dumps({"passed": True}))

    def forward(self, x):
        print("in forward", file=sys.stderr)
        return super().forward(x)

class Large(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.insert(4, nn.Conv2d(8, 8, 1))
        self[-1] = nn.Linear(8 * 144, 20)
        self.append(nn.Linear(20, num_classes))

class Exits(Net):
    def __init__(self, num_classes):
        sys.exit(0)
"""


@pytest.fixture
def folder(tmp_path, tiny_contract):
    (tmp_path / "small.toml").write_text(tiny_contract.to_toml())
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


@pytest.fixture
def options(digits):
    return ["--contract", "small.toml", "--data", digits]


def trained(folder, options, out, *words, epochs=2):
    done = featherweight(
        *("train", *options, "--model", "net.py:Net", "--recipe", "baseline", "--device", "cpu"),
        *("--epochs", epochs, "--out", out, *words),
        cwd=folder,
    )
    assert done.returncode in (0, 1), done.stderr
    return done


@pytest.mark.parametrize(("kind", "code"), [("Net", 0), ("Large", 1), ("Exits", 2)])
def test_json_is_alone_on_stdout_and_the_exit_code_is_the_verdicts(folder, options, kind, code):
    done = featherweight("audit", f"net.py:{kind}", "--json", *options, cwd=folder)
    assert done.returncode == code
    if code == 2:
        assert done.stdout == ""
        first, *_ = done.stderr.splitlines()
        assert first.startswith("error: model 'net.py:Exits': ")
        assert "it ends the process, exit(0)" in first
        return
    verdict = json.loads(done.stdout)
    assert verdict["passed"] == (code == 0)
    assert verdict["method"] == "graph"
    assert verdict["evidence"] == "structure"
    limit = {"kind": "parameters", "fewer_than": 20_000}
    assert verdict["contract_values"]["clause"][0] == limit
    if code == 0:
        assert verdict["n_params"] == 208 + 16 + 11_530 == verdict["layers"]["parameters"]
        assert done.stderr == ""
    else:
        assert "parameters" in [c["clause"] for c in verdict["clauses"] if c["passed"] is False]


def test_what_is_watched_says_so(folder, options):
    words = ("audit", "net.py:Net", "--evidence", "watched", *options)
    as_json = featherweight(*words, "--json", cwd=folder)
    assert as_json.returncode == 0
    assert json.loads(as_json.stdout)["method"] == "watched"
    assert "at import" in as_json.stderr  # its code runs in this process
    table = featherweight(*words, cwd=folder).stdout
    assert "the module was watched" in table
    assert "at import" not in table
    assert "layers: not known: only a graph has a layer table" in table
    graph = featherweight("audit", "net.py:Net", "--layers", *options, cwd=folder).stdout
    assert "the graph was judged" in graph
    assert "layers: 5; 11,754 parameters; 40,320 multiply-accumulates" in graph
    assert re.match(r"0 +conv 5x5 s2 +8x12x12 +5 +2 +208 +28,800$", graph.splitlines()[2])
    assert "watched" not in graph


def test_a_graph_is_trained_to_the_same_bits_as_the_module(folder, options):
    done = trained(folder, options, "graph")
    assert "at import" not in done.stdout + done.stderr
    watched = trained(folder, options, "watched", "--evidence", "watched")
    assert "at import" not in watched.stdout
    assert "the module was watched" in watched.stdout
    for name in ("model.safetensors",):
        one, two = ((folder / run / name).read_bytes() for run in ("graph", "watched"))
        assert one == two
    rows = [
        [
            {key: value for key, value in json.loads(line).items() if key != "seconds"}
            for line in (folder / run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in ("graph", "watched")
    ]
    assert rows[0] == rows[1]
    assert (folder / "graph" / "graph.safetensors").is_file()
    assert not (folder / "watched" / "graph.safetensors").exists()
    # The graph is the network: it is audited where its source is gone, and elsewhere.
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "graph", elsewhere / "graph")
    (folder / "net.py").unlink()
    done = featherweight("audit", "graph", "--json", cwd=elsewhere)
    assert done.returncode in (0, 1), done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["method"], verdict["scope"]) == ("graph", "run")
    assert verdict["n_params"] == 208 + 16 + 11_530
    assert featherweight("evaluate", "graph", "--json", cwd=elsewhere).returncode == 0


def test_training_again_is_shown_by_the_verdict(folder, options):
    trained(folder, options, "run", "--keep-states")
    for words, evidence in (
        (["--retrain"], "retrained"),
        (["--retrain-epochs", "1"], "retrained-epochs 1"),
    ):
        done = featherweight("audit", "run", *words, "--json", cwd=folder)
        assert json.loads(done.stdout)["evidence"] == evidence, done.stderr
    both = featherweight("audit", "run", "--retrain", "--retrain-epochs", "1", cwd=folder)
    assert both.returncode == 2
    assert "expected one of them" in both.stderr


def test_a_run_that_is_being_trained_is_not_trained_twice(folder, options):
    process = subprocess.Popen(
        [
            *(*COMMAND, "train", *map(str, options), "--model", "net.py:Net", "--out", "run"),
            *("--recipe", "baseline", "--device", "cpu", "--epochs", "19"),
        ],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        for line in process.stderr:  # while it trains its second epoch
            if line.lstrip().startswith("1 "):
                break
        second = featherweight("train", "--resume", "run", cwd=folder)
    finally:
        running = process.poll() is None
        process.kill()
        process.communicate()
    assert running or "not finished" not in second.stderr
    if running:
        assert second.returncode == 2
        assert second.stderr.splitlines()[0] == (
            "error: run: another process is training this run, expected one at a time"
        )
        assert second.stdout == ""
    # The lock goes with the process, however it ends.
    assert featherweight("train", "--resume", "run", cwd=folder).returncode in (0, 1)
