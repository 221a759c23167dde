"""Ray workers on two nodes of this machine: the rows of local processes, whatever is killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
import torch

from featherweight._ray import pack, unpack
from featherweight.studies.plan import load_plan
from featherweight.studies.ray_workers import RayTasks
from featherweight.studies.rows import STUDY_COLUMNS, read_rows
from featherweight.studies.study import run_study
from featherweight.studies.workers import LocalProcesses

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CPU = torch.device("cpu")


class Apart(RayTasks):
    """Ray workers on nodes that do not see the driver's storage."""

    def __enter__(self):
        super().__enter__()
        self._driver_file = Path("/nowhere/file")
        return self


def go(folder, digits, workers=RayTasks, on_row=lambda row: None):
    plan, runs = load_plan(folder / "plan.toml", str(digits)), folder / "runs"
    return run_study(
        plan, folder / "rows.csv", runs, CPU, workers("auto", runs, 1, "cpu", None), on_row
    )


def strip(rows):
    """Return the rows without their times and losses.

    An evaluation uses all cores that its process may, which decide the last bits of a loss."""
    kept = [key for key in STUDY_COLUMNS if key not in ("seconds", "val_loss", "digest")]
    return [{key: row[key] for key in kept} for row in rows]


def weights(folder):
    return {
        path.parent.name: path.read_bytes()
        for path in (folder / "runs").glob("*/model.safetensors")
    }


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def test_an_unpacked_folder_has_the_permissions_of_the_umask(tmp_path):
    folder = tmp_path / "there" / "run"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"content")
    (folder / "weights").chmod(0o644)
    before = os.umask(0o077)
    try:
        unpack(pack(folder), tmp_path / "here" / "run")
    finally:
        os.umask(before)
    assert (tmp_path / "here" / "run" / "weights").read_bytes() == b"content"
    wide = [path for path in (tmp_path / "here").rglob("*") if path.stat().st_mode & 0o077]
    assert wide == []


@pytest.fixture(scope="module")
def longer(tmp_path_factory, tiny_contract, digits):
    """Run a plan on local processes; return its folder and rows.

    A run takes long enough that a signal finds some of them unfinished."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "tiny.toml").write_text(tiny_contract.to_toml())
    (folder / "plan.toml").write_text(
        f'recipes = ["feather-20k"]\nseeds = 4\ntest = true\ncontract = "{folder / "tiny.toml"}"\n'
        '[[overrides]]\nname = "long"\nepochs = 12\nbatch_size = 50\n'
        'model_args.layers = ["conv 8 m2", "conv 16", "conv 16"]\nmodel_args.views = []\n'
    )
    rows = run_study(
        load_plan(folder / "plan.toml", str(digits)),
        folder / "rows.csv",
        folder / "runs",
        CPU,
        LocalProcesses(2, 1, CPU),
    )
    return folder, rows


@pytest.fixture
def folder(longer, tmp_path):
    shutil.copy(longer[0] / "plan.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("workers", [RayTasks, Apart])
def test_rows_and_weights_are_those_of_local_processes(workers, longer, cluster, folder, digits):
    told = []
    assert strip(go(folder, digits, workers, told.append)) == strip(longer[1])
    assert len(told) == 4
    assert weights(folder) == weights(longer[0])
    hidden = [path.name for path in (folder / "runs").iterdir() if path.name.startswith(".")]
    assert all(name.endswith(".lock") for name in hidden)  # no unfinished copy
    first = next((folder / "runs").glob("*-s0-*[!k]"))
    assert {path.name for path in first.iterdir()} == {
        path.name for path in (longer[0] / "runs" / first.name).iterdir()
    }


def test_nodes_without_the_storage_are_sent_the_unfinished_folder(longer, cluster, folder, digits):
    shutil.copytree(longer[0] / "runs", folder / "runs")
    begun, *_ = sorted((folder / "runs").glob("*/model.safetensors"))
    begun.unlink()  # its training state is there: no epoch is left to train
    rows = go(folder, digits, Apart)
    assert [row["seconds"] for row in rows] == [
        row["seconds"] for row in longer[1]
    ]  # not trained again
    assert weights(folder) == weights(longer[0])


def test_a_node_that_is_killed_loses_no_row_and_repeats_none(longer, cluster, folder, digits):
    begun = {}

    def kill():
        wait_for(lambda: len(list((folder / "runs").glob("*/resume.pt"))) == 2)  # one on each node
        begun.update((path, path.stat().st_ino) for path in (folder / "runs").glob("*/config.json"))
        cluster.remove_node(cluster.second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    times = {}

    def on_row(row):
        for path in (folder / "runs").glob(f"{row['recipe']}-s{row['seed']}-*/model.safetensors"):
            times[path] = path.stat().st_mtime_ns

    try:
        rows = go(folder, digits, on_row=on_row)
    finally:
        killer.join()
        cluster.second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    assert strip(rows) == strip(longer[1])
    assert len(read_rows(folder / "rows.csv")) == len(times) == 4
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert len(begun) >= 2
    assert begun == {path: path.stat().st_ino for path in begun}  # resumed, not started again


def test_a_killed_or_interrupted_driver_continues(longer, cluster, folder, digits):
    command = [
        sys.executable,
        "-m",
        "featherweight",
        "study",
        folder / "plan.toml",
        "--data",
        digits,
        "--runs",
        folder / "runs",
        "--results",
        folder / "rows.csv",
        "--ray",
        cluster.address,
    ]
    for how, far_enough in (
        (signal.SIGKILL, lambda: list((folder / "runs").glob("*/resume.pt"))),
        (signal.SIGINT, (folder / "rows.csv").exists),
    ):
        process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
        wait_for(far_enough)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
        wait_for(lambda: ray.available_resources().get("CPU") == 2)  # its tasks are gone
    assert process.returncode == 130, said
    assert "run the same command again to continue" in said
    rows = read_rows(folder / "rows.csv")
    begun = {path: path.stat().st_ino for path in (folder / "runs").glob("*/config.json")}
    assert len(begun) >= 2
    told = []
    assert strip(go(folder, digits, on_row=told.append)) == strip(longer[1])
    assert all(row in told[: len(rows)] for row in rows)
    assert weights(folder) == weights(longer[0])
    assert begun == {path: path.stat().st_ino for path in begun}


def test_an_error_on_a_node_is_raised_by_the_driver(longer, cluster, folder, digits):
    task = load_plan(folder / "plan.toml", str(digits)).tasks[0]
    task.folder(folder / "runs").mkdir(parents=True)
    with pytest.raises(ValueError, match="not a run folder"):
        go(folder, digits)


def test_a_folder_is_sent_whole_and_replaces_an_unfinished_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").write_text("")
    unpack(pack(tmp_path / "a"), tmp_path / "b")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["config.json"]
    with pytest.raises(Exception, match="file"):
        unpack(b"nonsense", tmp_path / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", ".b.lock"}
    assert (tmp_path / "b" / "config.json").is_file()


@pytest.mark.parametrize(
    ("prelude", "words", "message"),
    [
        (
            "import sys; sys.modules['ray'] = None; ",
            ["--ray", "local"],
            "pip install 'featherweight[ray]'",
        ),
        ("", ["--ray", "127.0.0.1:6379", "--workers", "2"], "--workers"),
        ("", ["--ray", "local", "--device", "abacus"], "abacus"),
        ("", ["--ray", "nowhere"], "nowhere"),
    ],
)
def test_wrong_ray_options_are_one_line(prelude, words, message, tmp_path, tiny_contract, digits):
    (tmp_path / "tiny.toml").write_text(tiny_contract.to_toml())
    (tmp_path / "plan.toml").write_text('recipes = ["feather-20k"]\ncontract = "tiny.toml"\n')
    code = f"{prelude}from featherweight.cli import main; main()"
    said = subprocess.run(
        [sys.executable, "-c", code, "study", "plan.toml", "--data", str(digits), *words],
        cwd=tmp_path,
        env=os.environ | {"NO_COLOR": "1"},
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert said.returncode == 2, said.stderr
    assert message in said.stderr
    assert len(said.stderr.splitlines()) == 2
