"""A folder for a model hub, and back: its card, its files, and what a stranger does with them."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import encoded
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

import featherweight as fw
from featherweight.cli import app
from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.export import hub as module
from featherweight.export.hub import export_hub
from featherweight.pretrained import pretrained
from featherweight.run import create_run, open_run
from featherweight.train import export_network, train

OWN = """
import torch
from torch import nn
{first}

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 5, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        return self.head(torch.relu(self.norm(self.stem(images))).mean((2, 3)))
"""


@pytest.fixture(scope="module")
def run(model):
    return open_run(model.path.parent)


@pytest.fixture(scope="module")
def folder(run, digits, tmp_path_factory):
    """The folder of a run; its logits and its reader's answers are those of the run."""
    out = tmp_path_factory.mktemp("hub") / "tiny"
    exported = export_hub(run, load_split(str(digits), 500, 100), out)
    assert exported.path == out
    return out


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "damaged")


def logits(network, split):
    with torch.no_grad():
        return network(split.normalise(split.val.pixels))


def test_the_hubs_own_library_accepts_the_card(folder, split, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("this needs the network")

    monkeypatch.setattr(socket, "socket", no_network)
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))  # raises if it is not one
    data = card.data
    assert (data.license, data.library_name) == ("apache-2.0", "featherweight")
    assert data.pipeline_tag == "image-classification"
    assert data.model_name == "tiny"
    (result,) = data.eval_results
    found = fw.load_run(folder).evaluate(data=split.source)
    assert (result.metric_type, result.metric_value) == ("accuracy", found.accuracy)
    assert result.dataset_split == "validation"
    assert "the last 100 images of the training file" in result.metric_name
    assert "last epoch's weights" in result.metric_name
    index = eval_results_to_model_index("tiny", [result])
    assert model_index_to_eval_results(index) == ("tiny", [result])
    assert data.to_dict()["model-index"] == index
    assert card.text.strip().startswith("# tiny, seed 0")


def test_every_file_that_the_card_names_is_there_and_no_other(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("README.md", "config.json", "model.safetensors", "model.onnx", "use.py"),
        *("verdict.json", "metrics.jsonl", "environment.json"),
        *("curves.png", "confusion.png", "mistakes.png", "verdict.svg"),
    }
    text = (folder / "README.md").read_text(encoding="utf-8")
    for name in ("model.safetensors", "model.onnx", "use.py"):
        assert f"| {name} | {(folder / name).stat().st_size:,} |" in text


def test_the_config_says_what_another_program_needs(folder, run, split):
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "featherweight.model:Feather"
    assert config["recipe"] == run.recipe.to_dict()
    assert config["parameters"] == sum(p.numel() for p in run.load_model().parameters())
    assert config["labels"] == list("0123456789")
    assert config["normalisation"] == {
        "scale": 1 / 255,
        "mean": split.mean_std[0],
        "std": split.mean_std[1],
    }
    reader = fw.Reader(folder)
    assert config["temperature"] == float(reader.card["temperature"])
    assert config["sure_from"] == reader.sure_from


def test_no_folder_of_this_machine_is_named_in_it(folder, digits):
    for path in folder.iterdir():
        if path.suffix in (".json", ".jsonl", ".md", ".svg", ".onnx"):
            assert str(digits.parent).encode() not in path.read_bytes(), path.name
    assert json.loads((folder / "config.json").read_text())["data"]["source"] == digits.name
    assert "command" not in json.loads((folder / "environment.json").read_text())


def test_it_reads_back_to_the_same_bits(folder, run, split):
    network = fw.from_pretrained(folder)
    assert not network.training
    assert torch.equal(logits(network, split), logits(run.load_model(), split))
    assert torch.equal(logits(fw.load_model(folder), split), logits(network, split))
    read = fw.Reader(folder).probabilities(split.val.pixels[:, 0].numpy()).argmax(1)
    assert read.tolist() == logits(network, split).argmax(1).tolist()


def test_the_script_reads_a_picture_with_three_packages_alone(folder, split, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    packages = ("onnxruntime", "numpy", "PIL")
    needed = ("flatbuffers", "google", "packaging")  # what onnxruntime needs in turn
    home = Path(importlib.util.find_spec("numpy").origin).parent.parent
    for name in (*packages, *needed, "numpy.libs", "pillow.libs"):
        if (home / name).exists():
            (site / name).symlink_to(home / name)
    environment = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT") if key in os.environ}
    environment["PYTHONPATH"] = str(site)
    reader = fw.Reader(folder)
    for i in (0, 7):
        pixels = split.val.pixels[i, 0].numpy()
        (tmp_path / "picture.png").write_bytes(encoded(pixels))
        done = subprocess.run(
            [sys.executable, "-S", folder / "use.py", tmp_path / "picture.png"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (odds,) = reader.probabilities(pixels[None])
        assert done.stdout == f"{reader.labels[odds.argmax()]}, {odds.max():.1%} sure\n"
    (tmp_path / "picture.png").write_bytes(encoded(pixels[:20]))
    wrong = subprocess.run(
        [sys.executable, folder / "use.py", tmp_path / "picture.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.stderr == "got (20, 28) pixels, expected [28, 28]\n"


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused(damaged, missing):
    (damaged / missing).unlink()
    with pytest.raises(InputError, match=f"got no {missing}"):
        fw.from_pretrained(damaged)
    with pytest.raises(InputError, match=r"got no config\.json"):
        fw.from_pretrained(damaged / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe\x00", None])
def test_a_damaged_file_is_refused(damaged, name, content):
    whole = (damaged / name).read_bytes()
    (damaged / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(InputError, match=name):
        fw.from_pretrained(damaged)


@pytest.mark.parametrize("part", [None, "recipe", "contract", "data"])
@pytest.mark.parametrize("value", ["absent", None, [], "x", -1])
def test_a_config_with_a_wrong_value_never_ends_in_a_traceback(damaged, part, value):
    whole = json.loads((damaged / "config.json").read_text())
    for key in whole[part] if part else whole:
        config = json.loads(json.dumps(whole))
        holder = config[part] if part else config
        if value == "absent":
            del holder[key]
        else:
            holder[key] = value
        (damaged / "config.json").write_text(json.dumps(config))
        try:
            network = fw.from_pretrained(damaged)
        except InputError:
            continue
        assert isinstance(network, torch.nn.Module)  # what was changed is not needed for it


def test_weights_of_another_network_are_refused(damaged):
    config = json.loads((damaged / "config.json").read_text())
    config["recipe"]["model_args"]["layers"][1] = "conv 9"
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not weights of"):
        fw.from_pretrained(damaged)


def test_a_folder_is_never_overwritten(run, split, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists"):
        export_hub(run, split, tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


def test_where_it_fails_nothing_is_left(run, split, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "report", full)
    with pytest.raises(OSError, match="space"):
        export_hub(run, split, tmp_path / "hub")
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_finished_is_refused(tiny_recipe, tiny_contract, split, tmp_path):
    unfinished = create_run(
        str(tmp_path / "run"), tiny_recipe, tiny_contract, split, 0, torch.device("cpu"), ""
    )
    with pytest.raises(InputError, match="finished run"):
        export_hub(unfinished, split)
    assert not (unfinished.path / "hub").exists()


@pytest.fixture
def own_run(tiny_recipe, tiny_contract, split, tmp_path):
    """A function that trains a network of a file, OWN with another first line."""

    def make(first="", kept=False, as_graph=False):
        text = OWN.format(first=first)
        file = tmp_path / "mine" / "net.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        model = "model.py:Net" if kept else f"{file}:Net"
        recipe = replace(tiny_recipe, name="Net", model=model, model_args={}, epochs=1)
        run = create_run(
            *(str(tmp_path / "run"), recipe, tiny_contract, split, 0, torch.device("cpu"), ""),
            source=text if kept else None,
            graph=export_network(recipe, split, 0) if as_graph else None,
        )
        train(run, split, torch.device("cpu"))
        return run

    return make


@pytest.mark.parametrize("kept", [False, True], ids=["in a file", "from a notebook"])
def test_a_network_of_ones_own_is_carried_and_runs_only_if_trusted(
    own_run, split, tmp_path, kept, monkeypatch
):
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    run = own_run("import os; open(os.environ['MARK'], 'w').close()", kept)
    expected = logits(run.load_model(), split)
    assert export_hub(run, split).path == run.path / "hub"
    shutil.rmtree(tmp_path / "mine")
    folder = (run.path / "hub").rename(tmp_path / "hub")
    (tmp_path / "mark").unlink()
    with pytest.raises(InputError, match="trust_code=True"):
        fw.from_pretrained(folder)
    assert not (tmp_path / "mark").exists()  # the code did not run
    assert torch.equal(logits(fw.from_pretrained(folder, trust_code=True), split), expected)
    text = (folder / "README.md").read_text()
    assert f"| model.py | {(folder / 'model.py').stat().st_size:,} |" in text
    assert "trust_code=True" in text
    assert str(tmp_path) not in text + (folder / "config.json").read_text()
    assert ModelCard(text).data.license == "other"


def test_a_network_with_a_graph_goes_to_a_hub_without_its_code(own_run, split, tmp_path):
    run = own_run(as_graph=True)
    expected = logits(run.load_model(), split)
    folder = export_hub(run, split).path
    shutil.rmtree(tmp_path / "mine")
    assert not (folder / "model.py").exists()
    assert torch.equal(logits(fw.from_pretrained(folder), split), expected)
    text = (folder / "README.md").read_text()
    assert f"| graph.safetensors | {(folder / 'graph.safetensors').stat().st_size:,} |" in text
    assert "trust_code" not in text
    assert "Evidence: weights (" in text


def test_a_network_that_needs_other_files_is_refused(own_run, split, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "blocks_of_mine.py").write_text("")
    run = own_run("import blocks_of_mine")
    with pytest.raises(InputError, match=r"needs more than this file.*blocks_of_mine"):
        export_hub(run, split)
    assert not (run.path / "hub").exists()


@pytest.mark.parametrize("network", ["evil:Net", "evil.py:Net", "evil.py", "json:JSONDecoder"])
def test_no_module_is_imported_for_a_folder_of_others(damaged, network, monkeypatch):
    config = json.loads((damaged / "config.json").read_text())
    config["recipe"]["model"] = network
    (damaged / "config.json").write_text(json.dumps(config))
    (damaged / "evil.py").write_text("raise SystemExit")
    monkeypatch.chdir(damaged)
    with pytest.raises(InputError, match="trust_code=True"):
        fw.from_pretrained(damaged)


@pytest.mark.slow
def test_a_pretrained_network_goes_to_a_hub_with_its_test_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "int4-1kb"
    folder = fw.export_run(name, "hub")
    assert folder == Path("int4-1kb-hub")
    shipped = pretrained()[name]
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    assert f"Seed {shipped.seed} is the {shipped.chosen}." in card.text
    validation, test = card.data.eval_results
    assert validation.metric_value == shipped.validation_correct / shipped.validation_total
    assert (test.dataset_split, test.metric_value) == (
        "test",
        shipped.test_correct / shipped.test_total,
    )
    assert "which decided nothing" in test.metric_name
    assert card.data.datasets == ["ylecun/mnist"]
    weights = fw.from_pretrained(folder).state_dict()
    assert all(
        torch.equal(value, weights[key])
        for key, value in fw.from_pretrained(name).state_dict().items()
    )


def test_the_command_writes_the_folder_once(run, split, tmp_path, capfd):
    shutil.copytree(run.path, tmp_path / "run")
    words = ["export", str(tmp_path / "run"), "--format", "hub"]
    assert app(words, exit_on_error=False, result_action="return_value") == 0
    written = capfd.readouterr()
    assert Path(written.out.strip()) == tmp_path / "run" / "hub"
    size = sum(file.stat().st_size for file in (tmp_path / "run" / "hub").iterdir())
    assert f"{size:,} bytes" in written.err
    with pytest.raises(InputError, match="exists"):
        app(words, exit_on_error=False, result_action="return_value")
