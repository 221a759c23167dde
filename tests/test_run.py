import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from helpers import ENVIRONMENT, make_contract
from torch import nn

from featherweight import _files
from featherweight._files import write_atomic
from featherweight.audit import audit_run
from featherweight.data import Images, Split, load_split
from featherweight.errors import InputError
from featherweight.pretrained import pretrained
from featherweight.report import report
from featherweight.run import IncompatibleWeightsError, RunBusyError, create_run, open_run
from featherweight.train import train

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_recipe, tiny_contract, split):
    monkeypatch.chdir(tmp_path)
    return create_run(None, tiny_recipe, tiny_contract, split, 5, CPU, "featherweight train")


def test_a_run_says_what_it_was_made_from(run, tiny_recipe, tiny_contract, split):
    again = open_run(run.path)
    assert (again.recipe, again.contract, again.seed) == (tiny_recipe, tiny_contract, 5)
    assert again.load_split().sha256 == split.sha256
    assert not again.complete
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["command"] == "featherweight train"


def test_folders_are_numbered_and_never_overwritten(run, tiny_recipe, tiny_contract, split):
    second = create_run(None, tiny_recipe, tiny_contract, split, 5, CPU, "")
    assert [run.path.name, second.path.name] == ["tiny-s5-1", "tiny-s5-2"]
    with pytest.raises(ValueError, match="exists"):
        create_run(str(run.path), tiny_recipe, tiny_contract, split, 5, CPU, "")
    assert {path.name for path in run.path.parent.iterdir()} == {"tiny-s5-1", "tiny-s5-2"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.unlink(), "not a run folder"),
        (lambda c: c.write_text("{"), "damaged"),
        (lambda c: c.write_text("[]"), "damaged"),
        (lambda c: c.write_text("[" * 200_000), "damaged"),
        (lambda c: c.write_text(" " * 1_000_001), "got over 1,000,000 bytes"),
        (
            lambda c: c.write_text(c.read_text().replace('"format": 1', '"format": 2')),
            "version 2, expected version 1",
        ),
        (lambda c: c.write_text(c.read_text().replace('"epochs": 4', '"epochs": 0')), "epochs"),
        (
            lambda c: c.write_text(c.read_text().replace('"fewer_than"', '"fewest"')),
            "fewest",
        ),
        (lambda c: c.write_text(json.dumps({"format": 1})), "incomplete"),
    ],
)
def test_what_is_no_run_is_refused(run, spoil, message):
    (run.path / "SHA256SUMS").unlink()
    spoil(run.path / "config.json")
    with pytest.raises(ValueError, match=message):
        open_run(run.path)


def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_atomic(file, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_weights_come_back_and_another_networks_do_not(run):
    with pytest.raises(ValueError, match="finished run"):
        run.load_model()
    model = run.build_model()
    run.save_weights(model.state_dict())
    assert run.complete
    loaded = run.load_model().state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    run.save_weights(nn.Linear(3, 4).state_dict())
    with pytest.raises(IncompatibleWeightsError):
        run.load_model()
    run.write("model.safetensors", b"nonsense")
    with pytest.raises(IncompatibleWeightsError):
        run.load_model()


TIED = """
from torch import nn
class Tied(nn.Sequential):
    def __init__(self):
        layer = nn.Linear(10, 10)
        super().__init__(nn.Flatten(), nn.Linear(784, 10), layer, layer)
"""


def test_layers_that_share_memory_are_saved_and_still_share_it(
    run, tmp_path, tiny_recipe, tiny_contract, split
):
    (tmp_path / "tied_net_of_a_stranger.py").write_text(TIED)
    recipe = dataclasses.replace(tiny_recipe, model="tied_net_of_a_stranger:Tied", model_args={})
    run = create_run("tied", recipe, tiny_contract, split, 0, CPU, "")
    model = run.build_model()
    run.save_weights(model.state_dict())
    loaded = run.load_model()
    assert loaded[2] is loaded[3]
    assert torch.equal(loaded[2].weight, model[3].weight)


EXTRA = """
from torch import nn
class Extra(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(784, 10))
    def get_extra_state(self): return {"version": object()}
    def set_extra_state(self, state): assert set(state) == {"version"}
"""


def test_a_network_with_extra_state_is_trained_resumed_and_audited(
    run, tmp_path, tiny_recipe, tiny_contract, split
):
    (tmp_path / "extra_net.py").write_text(EXTRA)
    recipe = dataclasses.replace(tiny_recipe, model="extra_net.py:Extra", model_args={}, epochs=3)
    run = create_run("extra", recipe, tiny_contract, split, 0, CPU, "")

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, split, CPU, on_epoch=stop)
    train(open_run("extra"), split, CPU)
    verdict, _ = audit_run(open_run("extra"), split)
    assert {clause.clause for clause in verdict.failed} <= {"batch norm", "dropout", "accuracy"}


LAZY = """
from torch import nn
class Lazy(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.LazyLinear(10))
"""


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_runs_network_is_built_for_its_images(run, tmp_path, tiny_recipe, tiny_contract, split):
    (tmp_path / "lazy_net.py").write_text(LAZY)
    train, val = (
        Images(part.pixels[..., :20, :18].clone(), part.labels) for part in (split.train, split.val)
    )
    small = Split(None, train, val, split.num_classes)
    recipe = dataclasses.replace(tiny_recipe, model="lazy_net.py:Lazy", model_args={})
    run = create_run("lazy", recipe, tiny_contract, small, 0, CPU, "")
    assert run.build_model()[1].weight.shape == (10, 20 * 18)


def test_metrics_come_back(run):
    rows = [{"epoch": 1, "val_loss": 0.1}, {"epoch": 2, "val_loss": 1e-9}]
    run.write_metrics(rows)
    assert run.read_metrics() == rows
    for content in (b'{"epoch": 1}\n{"epo', b"\xff"):
        run.write("metrics.jsonl", content)
        with pytest.raises(ValueError, match="unreadable"):
            run.read_metrics()


def test_a_damaged_state_is_refused(run):
    assert run.load_resume() is None
    run.write("resume.pt", b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        run.load_resume()


def test_other_images_than_the_runs_are_refused(run, tmp_path, digits):
    from helpers import make_digits, write_idx, write_mnist

    other = write_mnist(tmp_path / "other")
    images, _ = make_digits(600, 99)
    write_idx(other / "train-images-idx3-ubyte.gz", images)
    with pytest.raises(ValueError, match="expected the run's"):
        run.load_split(str(other))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    """A finished run of three epochs with its verdict and pictures, and a digest of its weights."""
    split = load_split(str(digits), 500, 100)
    recipe, contract = (
        dataclasses.replace(tiny_recipe, epochs=3),
        make_contract(consistent_epochs=2),
    )
    path = tmp_path_factory.mktemp("finished") / "run"
    run = create_run(str(path), recipe, contract, split, 0, CPU, "")
    train(run, split, CPU)
    verdict, result = audit_run(run, split)
    run.write_json("verdict.json", verdict.to_dict())
    report(run, result, split, verdict.to_dict())
    return run


@pytest.fixture
def copied(finished, tmp_path):
    return open_run(shutil.copytree(finished.path, tmp_path / "copied"))


def test_every_file_of_a_finished_run_has_a_digest_that_sha256sum_checks(finished):
    lines = (finished.path / "SHA256SUMS").read_text().splitlines()
    names = [line[66:] for line in lines]
    assert sorted([*names, "SHA256SUMS"]) == sorted(path.name for path in finished.path.iterdir())
    for line in lines:
        content = (finished.path / line[66:]).read_bytes()
        assert line == f"{hashlib.sha256(content).hexdigest()}  {line[66:]}"
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=finished.path, check=True)


# Each file, and what reads it.
READERS = {
    "config.json": lambda run: open_run(run.path),
    "environment.json": lambda run: run.environment,
    "metrics.jsonl": lambda run: run.read_metrics(),
    "resume.pt": lambda run: run.load_resume(),
    "model.safetensors": lambda run: run.load_model(),
    "epoch-2.safetensors": lambda run: run.load_model("epoch-2.safetensors"),
    "verdict.json": lambda run: run.verdict,
}


@pytest.mark.parametrize("name", READERS)
def test_any_damage_of_any_file_is_one_line_that_names_it(copied, name):
    whole, draw = (copied.path / name).read_bytes(), random.Random(name)
    for n in range(40):
        place = draw.randrange(len(whole))
        other = whole[place] ^ draw.randrange(1, 256)
        damaged = whole[:place] + (bytes([other]) + whole[place + 1 :] if n % 4 else b"")
        (copied.path / name).write_bytes(damaged)
        run = dataclasses.replace(copied)  # which has read nothing yet
        with pytest.raises(InputError, match=r"damaged: got SHA-256 [0-9a-f]{12}, exp") as raised:
            READERS[name](run)
        assert str(copied.path / name) in raised.value.message
        assert raised.value.hint
        assert "\n" not in str(raised.value)
    (copied.path / name).write_bytes(whole)
    READERS[name](dataclasses.replace(copied))


def test_a_damaged_manifest_is_one_line_or_changes_nothing(copied):
    file, draw = copied.path / "SHA256SUMS", random.Random(0)
    whole, found = file.read_bytes(), hashlib.sha256
    read = {name: found((copied.path / name).read_bytes()).digest() for name in READERS}
    seen, told = {"damaged": 0, "no digest": 0, "unharmed": 0}, []
    for n in range(200):
        place = draw.randrange(len(whole))
        other = whole[place] ^ draw.randrange(1, 256)
        file.write_bytes(whole[:place] + (bytes([other]) + whole[place + 1 :] if n % 4 else b""))
        try:
            for name in READERS:
                assert found(copied.read(name)).digest() == read[name]
            seen["unharmed"] += 1  # the damage is in the line of a picture
        except InputError as error:
            seen["no digest" if "no digest" in error.message else "damaged"] += 1
            told.append((error.message, error.hint))
    assert min(seen.values()) > 0
    for message, hint in told:
        assert message.startswith(str(copied.path))
        assert hint
        assert "\n" not in message
    file.write_bytes(b"0" * 200_000)
    with pytest.raises(InputError, match="SHA256SUMS: damaged"):
        copied.read_metrics()


def test_a_run_without_a_manifest_is_read_and_gets_one_with_the_next_write(copied):
    (copied.path / "SHA256SUMS").unlink()
    for read in READERS.values():
        assert read(dataclasses.replace(copied)) is not None
    (copied.path / "model.onnx").write_bytes(b"exported")
    copied.write_metrics(copied.read_metrics())
    names = [line[66:] for line in (copied.path / "SHA256SUMS").read_text().splitlines()]
    assert set(READERS) < set(names)
    assert "model.onnx" not in names
    (copied.path / "resume.pt").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"resume\.pt: damaged: got SHA-256"):
        copied.load_resume()


def test_pretrained_networks_have_no_manifest_and_are_read():
    for name in pretrained():
        run = open_run(name)
        assert not (run.path / "SHA256SUMS").exists()
        assert run.environment
        assert run.read_metrics()
        assert run.verdict
        assert not run.contract.differences()
        run.load_model()


class Killed(BaseException):
    """What ends a process at once."""


def test_a_run_that_is_killed_at_any_write_agrees_with_its_manifest_and_resumes(
    finished, tmp_path, monkeypatch, split
):
    replace, written = _files._replace, []
    want = (finished.path / "model.safetensors").read_bytes()

    def train_until(n, path):
        """Train the run until its n-th write, of a file or the manifest, which is not done."""

        def replace_or_die(temporary, path):
            written.append(path.name)
            if len(written) == n:
                raise Killed
            replace(temporary, path)

        written.clear()
        monkeypatch.setattr(_files, "_replace", replace_or_die)
        run = (
            open_run(path)
            if path.exists()
            else create_run(str(path), finished.recipe, finished.contract, split, 0, CPU, "")
        )
        train(run, split, CPU)

    train_until(0, tmp_path / "whole")
    order = list(written)
    second = order.index("epoch-2.safetensors")
    for n in (*range(second, second + 8), len(order)):
        path = tmp_path / str(n)
        with pytest.raises(Killed):
            train_until(n, path)
        train_until(0, path)
        assert (path / "model.safetensors").read_bytes() == want
        names = [line[66:] for line in (path / "SHA256SUMS").read_text().splitlines()]
        assert len(names) == len(set(names))
        for name in names:
            open_run(path).read(name)


def test_state_and_log_of_an_epoch_are_written_together(run):
    rows = [{"epoch": 1, "val_loss": 0.5}]
    for n in range(2):
        run.save_epoch({"epoch": n, "rows": rows}, rows)
        assert run.load_resume() == {"epoch": n, "rows": rows}
        assert run.read_metrics() == rows


HOLD = """
import sys, time
from featherweight.run import open_run
with open_run(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_process_at_a_time_holds_a_run_and_a_killed_one_lets_go(run):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(RunBusyError, match="another process is training this run"), run.lock():
            pass
        assert time.monotonic() - started < 5
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run.lock(), open_run(run.path.resolve()).lock(wait=True):  # once more, by itself
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_the_source_of_a_notebooks_network_is_checked(tmp_path, tiny_recipe, tiny_contract, split):
    recipe = dataclasses.replace(tiny_recipe, model="model.py:Tied", model_args={})
    run = create_run(str(tmp_path / "r"), recipe, tiny_contract, split, 0, CPU, "", source=TIED)
    run.build_model()
    (run.path / "model.py").write_text(TIED.replace("784, 10", "784, 11"))
    with pytest.raises(InputError, match=r"model\.py: damaged"):
        run.build_model()


def test_a_run_whose_data_have_moved_says_how_to_name_their_place(
    tmp_path, digits, tiny_recipe, tiny_contract
):
    copied = tmp_path / "copied"
    shutil.copytree(digits, copied)
    split = load_split(str(copied), 500, 100)
    run = create_run(
        str(tmp_path / "run"), tiny_recipe, tiny_contract, split, 0, torch.device("cpu"), ""
    )
    copied.rename(tmp_path / "moved")
    load_split.cache_clear()
    with pytest.raises(InputError, match="no such file or folder") as caught:
        run.load_split()
    assert "--data" in caught.value.hint
    assert run.load_split(str(tmp_path / "moved")).sha256 == split.sha256
    with pytest.raises(InputError, match="no such file or folder") as caught:
        run.load_split("nowhere")
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", float("nan")),
        ("mean", "0.1"),
        ("std", 0),
        ("std", -1),
        ("std", float("inf")),
        ("shape", [1, 28]),
        ("shape", [1, 2**40, 28]),
        ("shape", [2, 28, 28]),
        ("shape", [3, 28, 28]),  # not the kind's
        ("kind", {}),
        ("kind", None),
        ("kind", {"channels": 1, "height": 28}),
        ("shape", 28),
        ("num_classes", 2**40),
        ("num_classes", -1),
        ("n_train", "all"),
        ("source", ["a"]),
        ("sha256", None),
    ],
)
def test_damaged_data_in_a_config_is_refused_in_one_line(run, key, value):
    (run.path / "SHA256SUMS").unlink()
    config = json.loads((run.path / "config.json").read_text())
    config["data"][key] = value
    (run.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json: ") as caught:
        open_run(run.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"threads": "two"}', "[" * 10_000])
def test_a_damaged_environment_is_refused(run, content):
    (run.path / "SHA256SUMS").unlink()
    (run.path / "environment.json").write_text(content)
    with pytest.raises(InputError, match=r"environment\.json: damaged"):
        _ = open_run(run.path).environment


@pytest.mark.parametrize("line", ["{", "[1]", '{"val_loss": "x"}', '{"val_correct": NaN}', "7"])
def test_damaged_metrics_are_refused(run, line):
    (run.path / "SHA256SUMS").unlink()
    (run.path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl: unreadable"):
        run.read_metrics()


def test_a_packed_state_is_refused(run):
    (run.path / "SHA256SUMS").unlink()
    with zipfile.ZipFile(run.path / "resume.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**26))
    with pytest.raises(InputError, match="that unpack to"):
        run.load_resume()


def test_what_is_no_run_folder_is_told(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"1")
    for name, message in (
        ("nowhere", "got no such folder"),
        (".", r"got no config\.json in it"),
        ("model.pth", r"got a file, .*; hint: .*--weights .*model\.pth"),
    ):
        with pytest.raises(InputError, match=f"not a run folder: {message}"):
            open_run(tmp_path / name)
