"""The public names, as a script and a notebook use them."""

import importlib.util
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbclient
import nbformat
import pytest
import torch
from helpers import featherweight, make_contract, write_mnist
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from torch import nn

import featherweight as fw
from featherweight import api
from featherweight.errors import InputError

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.ipynb"))


def _trains(notebook):
    """Return whether a notebook trains a network."""
    return any("fw.train(" in cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.fixture
def data(digits):
    return str(digits)


def test_every_public_name_is_there_and_nothing_else():
    assert len(fw.__all__) == len(set(fw.__all__))
    for name in fw.__all__:
        assert getattr(fw, name) is not None
    assert set(fw.__all__) == set(dir(fw))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fw.nonsense


def test_importing_the_package_loads_no_library():
    code = (
        "import sys; before = set(sys.modules); import featherweight\n"
        "found = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(found - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'featherweight'}"


@pytest.mark.parametrize(
    "first", ["featherweight.train", "featherweight.audit", "featherweight.api"]
)
def test_public_functions_are_not_replaced_by_submodules_of_their_names(first):
    code = (
        f"import featherweight as fw, importlib; importlib.import_module({first!r})\n"
        "from featherweight.train import Trainer\n"
        "from featherweight import train, audit\n"
        "import featherweight.api as api\n"
        "assert fw.train is train is api.train and fw.audit is audit is api.audit"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_from_training_to_a_digit(
    data, tiny_recipe, tiny_contract, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    run = fw.train(tiny_recipe, contract=tiny_contract, data=data, epochs=3)
    assert run.path == Path("runs/tiny-3-epochs-s0-1")
    assert run.environment["threads"] == 1
    written = capfd.readouterr()
    assert not written.out
    assert written.err.count("% (") == 3  # a line for each epoch
    assert run.verdict == fw.audit(run.path)
    assert (run.path / "README.md").is_file()
    result = run.evaluate("val")
    assert result.correct == run.read_metrics()[-1]["val_correct"]
    model = fw.load_model(run)
    split = run.load_split()
    with torch.no_grad():
        read = model(
            split.train.pixels[:9].float().sub(255 * split.mean_std[0]).div(255 * split.mean_std[1])
        )
    assert read.shape == (9, 10)
    assert not model.training
    for each in (repr(run), run._repr_html_()):
        assert "tiny-3-epochs" in each
    assert "data:image/png;base64," in run._repr_html_()
    reader = fw.Reader(fw.export_run(run))
    read = reader.probabilities(split.val.pixels[:, 0].numpy()).argmax(1)
    assert read.tolist() == result.predicted.tolist()


class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(
            nn.Conv2d(1, 8, 5, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.Linear(8 * 12 * 12, num_classes),
        )


def test_a_class_an_instance_and_weights_are_audited(data, tiny_contract, tmp_path):
    structure = fw.audit(Net, contract=tiny_contract, data=data)
    assert structure.passed
    assert "accuracy" in {clause.clause for clause in structure.not_judged}
    network = Net(10)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert fw.audit(network, contract=tiny_contract, data=data).n_params == structure.n_params
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    torch.save(network.state_dict(), tmp_path / "model.pth")
    judged = fw.audit(
        Net, contract=tiny_contract, data=data, weights=tmp_path / "model.pth", mean=0.13, std=0.31
    )
    assert {clause.clause: clause.passed for clause in judged.clauses}["accuracy"] is False
    assert {clause.clause for clause in judged.not_judged} == {"epochs", "weights", "log"}


def test_a_class_is_built_with_two_seeds_where_its_contract_asks(data):
    contract = make_contract(clause=[{"kind": "forbid", "layer": "pretrained"}])
    for target, found in (
        (Net, "0 of 4 trained tensors start from fixed numbers"),
        (Net(10), "not judged: no class"),
    ):
        verdict = fw.audit(target, contract=contract, data=data)
        (clause,) = (each for each in verdict.clauses if each.clause == "no pretrained")
        assert clause.found == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "nope"}, "nope"),
        ({"seed": -1}, "seed"),
        ({"epochs": 0}, "epochs"),
        ({"model": 3}, "model"),
        ({"model": lambda: None}, "model"),
        ({"contract": "nope"}, "nope"),
        ({"data": "nowhere"}, "nowhere"),
        ({"device": "abacus"}, "abacus"),
        ({"resume": "nowhere"}, "not a run folder"),
        ({"resume": "nowhere", "epochs": 3}, "epochs"),
    ],
)
def test_wrong_input_is_said_and_leaves_nothing(
    arguments, message, data, tiny_recipe, tiny_contract, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = {"recipe": tiny_recipe, "contract": tiny_contract, "data": data}
    given = {} if "resume" in arguments else given
    with pytest.raises(InputError, match=message):
        fw.train(**given | arguments)
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys
import torch
from torch import nn
from torch.nn import functional as F
import featherweight as fw

WIDTH = 8

def squash(x):
    return F.relu(x)

class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, WIDTH, 5, stride=2), nn.BatchNorm2d(WIDTH)
    def forward(self, x):
        return squash(self.norm(self.convolution(x)))

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem, self.dropout = Stem(), nn.Dropout(0.1)
        self.head = nn.Linear(WIDTH, num_classes)
    def forward(self, images):
        if STOP and self.training:
            STOP.pop()
        return self.head(self.dropout(self.stem(images).mean((2, 3))))

STOP = []
"""
TRAIN = """
fw.train("baseline", model=Net, data=sys.argv[1], contract="small.toml", epochs=3, out=sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "recipe"), [(None, "quick"), ("featherweight.model:BaselineNet", "feather-20k")]
)
def test_the_default_recipe_depends_on_whose_network_it_is(
    data, tiny_contract, tmp_path, model, recipe
):
    run = api.start_run(
        None,
        model=model,
        contract=tiny_contract,
        data=data,
        device=torch.device("cpu"),
        out=str(tmp_path / "run"),
        command="",
    )
    assert run.recipe.augmentation == fw.find_recipe(recipe).augmentation
    assert run.recipe.resize_until == fw.find_recipe(recipe).resize_until


def test_a_class_of_a_script_is_kept_with_the_run_and_audited_elsewhere(
    data, tiny_contract, tmp_path
):
    (tmp_path / "small.toml").write_text(tiny_contract.to_toml())
    (tmp_path / "train.py").write_text(SCRIPT + TRAIN)
    done = subprocess.run(
        [sys.executable, "train.py", data, "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    source = (tmp_path / "run" / "model.py").read_text()
    assert "class Stem" in source
    assert "WIDTH = 8" in source
    assert "fw.train" not in source
    (tmp_path / "train.py").unlink()
    (tmp_path / "elsewhere").mkdir()
    judged = featherweight("audit", tmp_path / "run", cwd=tmp_path / "elsewhere")
    assert judged.returncode in (0, 1), judged.stderr
    assert "verdict: " in judged.stdout
    run = fw.load_run(tmp_path / "run")
    assert run.recipe.name == "Net"
    assert run.verdict is not None
    assert run.evaluate().correct == run.read_metrics()[-1]["val_correct"]


def test_an_interrupt_leaves_a_run_that_resumes_to_the_same_bits(
    data, tiny_recipe, tiny_contract, tmp_path, monkeypatch
):
    whole = fw.train(tiny_recipe, contract=tiny_contract, data=data, out=str(tmp_path / "whole"))
    original = fw.Run.save_epoch

    def stop(run, state, rows, keep):
        original(run, state, rows, keep)
        if len(rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fw.Run, "save_epoch", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        fw.train(tiny_recipe, contract=tiny_contract, data=data, out=str(tmp_path / "stopped"))
    assert "resume=" in stopped.value.__notes__[0]
    monkeypatch.undo()
    run = fw.train(resume=tmp_path / "stopped", data=data)
    assert (run.path / "model.safetensors").read_bytes() == (
        whole.path / "model.safetensors"
    ).read_bytes()


def test_a_function_gets_each_epochs_row_and_may_end_the_training(
    data, tiny_recipe, tiny_contract, tmp_path
):
    given = {"contract": tiny_contract, "data": data}
    rows = []
    whole = fw.train(tiny_recipe, **given, out=str(tmp_path / "whole"), on_epoch=rows.append)
    assert rows == whole.read_metrics()

    def stop(row):
        row["val_loss"] = "spoilt"
        if row["epoch"] == 2:
            raise RuntimeError("the tracker is gone")

    with pytest.raises(RuntimeError, match="tracker is gone"):
        fw.train(tiny_recipe, **given, out=str(tmp_path / "stopped"), on_epoch=stop)
    rows.clear()
    run = fw.train(resume=tmp_path / "stopped", data=data, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [3, 4]
    assert [{**row, "seconds": 0} for row in run.read_metrics()] == [
        {**row, "seconds": 0} for row in whole.read_metrics()
    ]
    weights = "model.safetensors"
    assert (run.path / weights).read_bytes() == (whole.path / weights).read_bytes()


class _Tracker:
    """A stand-in for a tracking library; it records what is logged, while it is open."""

    def __init__(self):
        self.calls, self.is_open = [], False

    def __enter__(self):
        self.is_open = True
        return self

    def __exit__(self, *_):
        self.is_open = False

    def record(self, *values, **named):
        assert self.is_open
        self.calls.append((values, named))


# A library, the module that stands in for it, and the calls that it must get for one row.
TRACKERS = {
    "TensorBoard": (
        "torch.utils.tensorboard",
        lambda tracker: {"SummaryWriter": lambda folder: tracker},
        lambda row: [((key, row[key], row["epoch"]), {}) for key in row],
    ),
    "Weights & Biases": (
        "wandb",
        lambda tracker: {"init": lambda project: tracker},
        lambda row: [((row,), {})],
    ),
    "MLflow": (
        "mlflow",
        lambda tracker: {"start_run": lambda: tracker, "log_metrics": tracker.record},
        lambda row: [((row,), {"step": row["epoch"]})],
    ),
}


@pytest.mark.parametrize("library", TRACKERS)
def test_the_guides_lines_log_each_epoch(
    library, data, tiny_recipe, tiny_contract, tmp_path, monkeypatch
):
    page = (Path(__file__).parent.parent / "docs/guides/log-a-training.md").read_text()
    code = page.partition(f"## {library}\n")[2].split("```")[1].removeprefix("python\n")
    module, attributes, expected = TRACKERS[library]
    tracker = _Tracker()
    tracker.log = tracker.add_scalar = tracker.record
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**attributes(tracker)))
    original = api.train
    arguments = {"contract": tiny_contract, "data": data, "out": str(tmp_path / "run")}
    monkeypatch.setattr(
        api, "train", lambda _, on_epoch: original(tiny_recipe, **arguments, on_epoch=on_epoch)
    )
    names = {}
    exec(code, names)
    rows = names["run"].read_metrics()
    assert tracker.calls == [call for row in rows for call in expected(row)]
    assert len(rows) == 4
    assert not tracker.is_open


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_notebooks_run_from_start_to_end(path, tiny_contract, tmp_path):
    write_mnist(tmp_path / "digits")
    (tmp_path / "small.toml").write_text(tiny_contract.to_toml())
    notebook = nbformat.read(path, 4)
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == _trains(notebook)
    for cell in parameters:
        cell.source = "DATA, EPOCHS, CONTRACT = 'digits', 2, 'small.toml'"
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(output.output_type != "error" for output in outputs)
    assert any("text/html" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_committed_notebooks_hold_the_outputs_of_a_real_run(path):
    notebook = nbformat.read(path, 4)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    text = path.read_text(encoding="utf-8")
    assert ("runs/" in text) == _trains(notebook)
    assert '"text/html"' in text


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_first_cell_of_a_notebook_installs_what_is_missing(path, installed, monkeypatch):
    notebook = nbformat.read(path, 4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    commands = []
    shell = SimpleNamespace(run_line_magic=lambda name, line: commands.append((name, line)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    names = {"get_ipython": lambda: shell}
    exec(TransformerManager().transform_cell(first.source), names)
    assert "YOU" in names["SOURCE"]
    if installed:
        assert not commands
        return
    ((magic, line),) = commands
    program, option, *words = shlex.split(line.replace("{SOURCE}", "https://host/fork.git"))
    assert (magic, program, option) == ("pip", "install", "--quiet")
    found = {each.name: each for each in map(Requirement, words)}
    assert set(found) == {"featherweight", *(["featherweight-mnist"] if _trains(notebook) else [])}
    extras = {"train", "export"} if _trains(notebook) else {"notebook"}
    assert found["featherweight"].extras == extras
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras <= set(project["optional-dependencies"])
    for name, requirement in found.items():
        address, _, folder = requirement.url.partition("#subdirectory=")
        assert address == "git+https://host/fork.git"
        text = (ROOT / folder / "pyproject.toml").read_text()
        assert tomllib.loads(text)["project"]["name"] == name


def test_what_a_missing_library_is_part_of_is_said(monkeypatch):
    for missing, said in (
        ("torch", "featherweight.load_model needs torch: pip install 'featherweight[train]'"),
        ("featherweight.nowhere", "No module named 'featherweight.nowhere'"),  # a bug: as it is
    ):

        def fail(_, missing=missing):
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

        monkeypatch.setattr(fw, "import_module", fail)
        with pytest.raises(ModuleNotFoundError) as caught:
            _ = fw.load_model
        assert str(caught.value) == said
