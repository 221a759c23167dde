"""The command line as its users meet it: real processes, exit codes, what stands on which stream."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from featherweight.app import main
from featherweight.recipe import RECIPES, Recipe

COMMAND = [sys.executable, "-c", "from featherweight.app import main; main()"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "160"}


def featherweight(*words, cwd, **kwargs):
    return subprocess.run([*COMMAND, *map(str, words)], cwd=cwd, env=ENVIRONMENT, text=True,
                          capture_output=True, timeout=300, check=False, **kwargs)


@pytest.fixture
def workplace(tmp_path, digits, tiny_contract):
    """A folder with a small contract, a small network and made digits."""
    (tmp_path / "small.toml").write_text(tiny_contract.to_toml())
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Conv2d(1, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),\n"
        "                         nn.Flatten(), nn.Linear(8 * 12 * 12, num_classes), nn.LogSoftmax(1))\n"
        "class NeedsSize(nn.Module):\n"
        "    def __init__(self, size): super().__init__()\n"
        "class WrongShape(Net):\n"
        "    def forward(self, x): return super().forward(x)[:, :7]\n"
        "class Broken(Net):\n"
        "    def forward(self, x): return super().forward(x) * float('nan')\n")
    return tmp_path


@pytest.fixture
def options(digits):
    return ["--contract", "small.toml", "--data", digits, "--model", "my_net:Net", "--recipe", "baseline"]


def test_help_imports_no_torch(tmp_path):
    code = ("import sys\nfrom featherweight.app import main\nsys.argv = ['featherweight', '--help']\n"
            "try: main()\nexcept SystemExit as stop: assert stop.code == 0\nassert 'torch' not in sys.modules")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Commands" in result.stdout


def test_train_audit_evaluate_report(workplace, options, digits):
    result = featherweight("train", *options, "--epochs", 3, "--out", "run", cwd=workplace)
    assert result.returncode == 0, result.stderr
    assert "verdict: PASS" in result.stdout
    rows = [line for line in result.stderr.splitlines() if "% (" in line]
    assert len(rows) == 3
    assert "\r" not in result.stderr  # no progress bar where there is no terminal
    run = workplace / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.json", "environment.json", "metrics.jsonl", "model.safetensors", "resume.pt", "verdict.json",
        "README.md", "curves.png", "confusion.png", "mistakes.png", "verdict.svg"}

    audit = featherweight("audit", "run", "--json", cwd=workplace)
    assert audit.returncode == 0
    assert json.loads(audit.stdout)["passed"]
    for split in ("val", "test"):
        evaluated = featherweight("evaluate", "run", "--split", split, "--json", cwd=workplace)
        assert json.loads(evaluated.stdout)["total"] == 100
    assert featherweight("report", "run", cwd=workplace).returncode == 0

    assert featherweight("audit", "run", "--contract", "era-v3-s6", cwd=workplace).returncode == 1
    again = featherweight("train", *options, "--out", "run", cwd=workplace)
    assert again.returncode == 2
    assert "exists" in again.stderr

    (run / "model.safetensors").unlink()
    incomplete = featherweight("evaluate", "run", cwd=workplace)
    assert incomplete.returncode == 2
    assert "finished run" in incomplete.stderr


def test_audit_of_a_class(workplace, options):
    assert featherweight("audit", "my_net:Net", *options[:4], cwd=workplace).returncode == 0


@pytest.mark.parametrize(("words", "message"), [
    (["train", "--recipe", "nope"], "nope"),
    (["train", "--epochs", "0"], "epochs"),
    (["train", "--seed", "-1"], "seed"),
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
    (["audit", "nowhere"], "not a run folder"),
    (["evaluate", ".", "--split", "all"], "all"),
    (["frobnicate"], "frobnicate"),
])
@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # it is: main takes sys.argv
def test_bad_input_is_one_line_and_a_hint(words, message, workplace, monkeypatch, capsys):
    (workplace / "unknown.toml").write_text((workplace / "small.toml").read_text() + "colour = 3\n")
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["featherweight", *words])
    monkeypatch.delitem(sys.modules, "my_net", raising=False)  # of another test's folder
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")
    assert not (workplace / "runs").exists()


def test_interrupted_run_says_how_to_resume_and_ends_in_the_same_bits(workplace, options):
    whole = [*options, "--epochs", "8"]
    assert featherweight("train", *whole, "--out", "one", cwd=workplace).returncode in (0, 1)
    process = subprocess.Popen([*COMMAND, "train", *map(str, whole), "--out", "two"], cwd=workplace,
                               env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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
        "        return super().forward(x) * (float('inf') if self.calls > 12 else 1)\n")
    result = featherweight("train", *options[:4], "--model", "exploding:Net", "--out", "run", cwd=workplace)
    assert result.returncode == 1
    assert "diverged" in result.stderr
    rows = (workplace / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == list(range(1, len(rows) + 1))


def test_a_full_disk_is_one_line_and_leaves_no_half_file(workplace, options):
    # A file-size limit fails a write in the middle as a full disk does.
    result = featherweight("train", *options, "--epochs", 1, "--out", "run", cwd=workplace,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert result.returncode == 2, result.stderr
    assert "error: [Errno" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in (workplace / "run").iterdir()} == {
        "config.json", "environment.json", "metrics.jsonl"}


def test_contracts_prints_files_that_can_be_read_back(workplace):
    text = featherweight("contracts", cwd=workplace).stdout
    (workplace / "copy.toml").write_text(text.split("\n\n")[0])
    assert featherweight("audit", "featherweight.model:Feather", "--contract", "copy.toml",
                         cwd=workplace).returncode == 0


def test_recipes_prints_json(workplace):
    printed = json.loads(featherweight("recipes", cwd=workplace).stdout)
    assert [Recipe.from_dict(values) for values in printed] == list(RECIPES)


def test_killed_run_leaves_whole_files(workplace, options):
    process = subprocess.Popen([*COMMAND, "train", *map(str, options), "--epochs", "6", "--out", "run"],
                               cwd=workplace, env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    metrics = workplace / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    result = featherweight("train", "--resume", "run", cwd=workplace)
    assert result.returncode in (0, 1), result.stderr
    assert len(metrics.read_text().splitlines()) == 6
