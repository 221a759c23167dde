"""The command line as its users meet it: real processes, exit codes, what stands on which stream."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from inspect import signature
from pathlib import Path

import pytest

from featherweight.app import app, main
from featherweight.contract import CONTRACTS, load_contract
from featherweight.recipe import RECIPES, Recipe, find_recipe

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


COMMANDS = [name for name in app if not name.startswith("-")]


def run_main(monkeypatch, *words):
    """The exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["featherweight", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_what_is_asked_before_anything_is_trained_imports_no_torch(tmp_path):
    lines = [["--help"], ["--version"], ["recipes"], ["recipes", "--json"], ["recipes", "sprint"], ["contracts"],
             ["contracts", "era-s7"], ["--install-completion", "--shell", "fish"],
             *([command, "--help"] for command in COMMANDS)]
    code = ("import sys\nfrom featherweight.app import main\n"
            f"for words in {lines}:\n"
            "    sys.argv = ['featherweight', *words]\n"
            "    try: main()\n"
            "    except SystemExit as stop: assert stop.code == 0, words\n"
            "    assert 'torch' not in sys.modules, words\n")
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | {"HOME": str(tmp_path)},
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_can_be_typed_and_nothing_else(command, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert run_main(monkeypatch, command, "--help") == 0
    shown = capsys.readouterr().out
    for name, argument in signature(app[command].default_command).parameters.items():
        if argument.kind is argument.KEYWORD_ONLY:
            option = {"csv_": "csv", "into": "out"}.get(name, name.replace("_", "-"))
            assert f" --{option} " in shown
        else:  # it has no option of its name
            assert argument.kind in (argument.POSITIONAL_ONLY, argument.VAR_POSITIONAL)
            assert f" {name.upper()} " in shown
            assert f"--{name}" not in shown
    assert "--no-" not in shown
    assert "--empty-" not in shown
    assert "default: False" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "<" not in app[command].default_command.__doc__  # the help would leave it out, as if it were HTML


@pytest.mark.parametrize(("words", "same"), [
    (["help"], ["--help"]), (["help", "train"], ["train", "--help"]), (["-V"], ["--version"]), ([], ["--help"])])
def test_other_words_for_help_and_version(words, same, monkeypatch, capsys):
    assert run_main(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert shown
    run_main(monkeypatch, *same)
    assert capsys.readouterr().out == shown


def test_completion_is_installed_in_one_line(tmp_path):
    said = subprocess.run([*COMMAND, "--install-completion", "--shell", "bash"], capture_output=True, text=True,
                          env=ENVIRONMENT | {"HOME": str(tmp_path)}, check=False)
    script = tmp_path / ".local/share/bash-completion/completions/featherweight"
    assert said.stdout.splitlines() == [f"{script}: loaded by every new shell"]
    assert str(script) in (tmp_path / ".bashrc").read_text()
    asked = (f"source '{script}'; COMP_WORDS=(featherweight tra); COMP_CWORD=1; "
             "_featherweight featherweight tra featherweight; echo ${COMPREPLY[@]}")
    assert subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout == "train\n"


def test_a_bug_is_a_traceback_and_exits_70(monkeypatch, capsys):
    def broken(name):
        raise KeyError(name)
    monkeypatch.setattr("featherweight.recipe.find_recipe", broken)
    assert run_main(monkeypatch, "recipes", "sprint") == 70
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("KeyError: 'sprint'\n")


# The command line with one more command, of which the contract does not hold.
JUDGE = [sys.executable, "-c", """
from featherweight.app.base import app, main, out, print_json, talk
@app.command
def judge():
    for word in ("one", "two"):
        out.print(word)
        talk.print(word)
        print_json(100_000 * [word])
    return 1
main()"""]
ENDS = [(["recipes", "--json"], 0), (["recipes"], 0), (["--help"], 0), (["--version"], 0), (["judge"], 1),
        (["recipes", "nope"], 2)]


@pytest.mark.parametrize(("words", "code"), ENDS)
@pytest.mark.parametrize("gone", ["out", "both"])
def test_a_reader_that_has_gone_away_changes_no_exit_code(words, code, gone):
    read, write = os.pipe()
    os.close(read)
    said = subprocess.run([*JUDGE, *words], env=ENVIRONMENT, stdout=write, text=True, check=False,
                          stderr=write if gone == "both" else subprocess.PIPE)
    os.close(write)
    assert said.returncode == code
    assert gone == "both" or "Traceback" not in said.stderr
    assert gone == "both" or code != 1 or said.stderr == "one\ntwo\n"


@pytest.mark.parametrize(("words", "code"), ENDS)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", ">&- 2>&- <&-"])
def test_closed_streams_change_no_exit_code(words, code, closed):
    said = subprocess.run(["bash", "-c", f'"$@" {closed}', "bash", *JUDGE, *words], env=ENVIRONMENT,
                          capture_output=True, text=True, check=False)
    assert said.returncode == code
    assert "Traceback" not in said.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [["recipes", "--json"], ["recipes"]])
def test_data_that_does_not_fit_is_an_error(words):
    with open("/dev/full", "w") as full:
        said = subprocess.run([*COMMAND, *words], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True,
                              check=False)
    assert said.returncode == 2
    assert said.stderr.startswith("error: no space left on device\n")


def test_a_width_that_is_none_is_not_kept_to():
    def shown(columns):
        return subprocess.run([*COMMAND, "contracts"], env=ENVIRONMENT | {"COLUMNS": columns, "LINES": columns},
                              text=True, capture_output=True, check=False).stdout
    whole = shown("160")
    assert "era-v3-s6" in whole
    for columns in ("0", "", "00", "x"):
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
def test_bad_input_is_one_line_and_a_hint(words, message, workplace, monkeypatch, capsys):
    (workplace / "unknown.toml").write_text((workplace / "small.toml").read_text() + "colour = 3\n")
    monkeypatch.chdir(workplace)
    monkeypatch.delitem(sys.modules, "my_net", raising=False)  # of another test's folder
    assert run_main(monkeypatch, *words) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: ")
    if words[0] in COMMANDS and "--resume" not in words:
        assert hint == f"hint: featherweight {words[0]} --help"
    assert "Errno" not in error
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize(("words", "error", "hint"), [
    (["train", "baseline"], "got baseline, expected an option before it: did you mean --recipe baseline?",
     "train --help"),
    (["train", "my_net:Net"], "did you mean --model my_net:Net?", "train --help"),
    (["audit", "x", "era-s7"], "did you mean --contract era-s7?", "audit --help"),
    (["study", "records", "sprint"], "got one word too many, sprint", "study --help"),
    (["audit"], "got no TARGET, expected: featherweight audit TARGET", "audit --help"),
    (["export", "run"], "got no --format, expected: featherweight export RUN --format onnx|onnx-int8|c",
     "export --help"),
    (["predict", "photo.jpg"], "got one argument, photo.jpg, expected a model and pictures",
     "predict runs/feather-20k-s0-1 photo.jpg"),
    (["predict", "run"], "got one argument, run, expected a model and pictures", "predict run photo.jpg"),
    (["predict"], "got no MODEL, expected: featherweight predict MODEL IMAGES", "predict --help"),
    (["train", "--recipes", "x"], "Did you mean --recipe?", "train --help"),
    (["trian"], 'Did you mean "train"?', "--help"), (["-x"], "-x", "--help"),
    (["train", "--device", "mps"], "device 'mps': PyTorch finds no Apple GPU here, expected cpu or auto",
     "train --help"),
    (["study", "nope"], "plan 'nope': neither built in (baseline, feather-8k-first, feather-8k-second, int4, "
     "records) nor a file", "study --help"),
    (["frontier", "gone.csv"], "gone.csv: no such file", "frontier --help"),
    (["frontier", "."], ".: is a directory", "frontier --help"),
    (["frontier", "binary.csv"], "binary.csv: not a CSV file in UTF-8", "frontier --help"),
    (["recipes", "nope"], "recipe 'nope': unknown, expected one of feather-20k", "recipes --help"),
    (["contracts", "nope"], "contract 'nope': neither built in (era-v3-s6", "contracts --help")])
def test_a_hint_is_of_the_command_that_was_meant(words, error, hint, workplace, monkeypatch, capsys):
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
    assert f"error: {Path('run', 'resume.pt')}: file too large\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name for path in (workplace / "run").iterdir()} == {
        "config.json", "environment.json", "metrics.jsonl"}


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
    assert re.search(r"era-s7 .* 8,000 .* 16 .* 99\.40 % .* 3 epochs", capsys.readouterr().out)


def test_recipes_prints_json(monkeypatch, capsys):
    assert run_main(monkeypatch, "recipes", "--json") == 0
    assert [Recipe.from_dict(values) for values in json.loads(capsys.readouterr().out)] == list(RECIPES)
    assert run_main(monkeypatch, "recipes", "sprint") == 0
    assert Recipe.from_dict(json.loads(capsys.readouterr().out)) == find_recipe("sprint")


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


def test_hints_can_be_typed_where_the_environment_is_not_activated(workplace, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(workplace))
    monkeypatch.chdir(Path(sys.executable).parents[2])
    assert run_main(monkeypatch, "train", "--nope") == 2
    hint = capsys.readouterr().err.splitlines()[-1].removeprefix("hint: ")
    command = Path(hint.split()[0])
    assert command.is_file()
    assert command.parent.resolve() == Path(sys.executable).parent.resolve()
    assert not command.is_absolute() or not command.is_relative_to(Path.cwd())
