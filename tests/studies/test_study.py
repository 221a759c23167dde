"""Studies: what a row holds, what is repeated, and what survives a kill."""

import dataclasses
import glob
import hashlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from functools import partial

import pytest
import torch
from helpers import SMALL_PLAN
from rich.console import Console
from scipy import stats

from featherweight import device
from featherweight.cli import study
from featherweight.contract import load_contract
from featherweight.data import load_test
from featherweight.errors import InputError
from featherweight.recipe import find_recipe
from featherweight.run import open_run
from featherweight.studies.plan import PLANS, load_plan, run_config
from featherweight.studies.rows import STUDY_COLUMNS, read_rows, row_digest, row_key, sign_row
from featherweight.studies.study import run_study
from featherweight.studies.summary import spread, summarise
from featherweight.studies.workers import LocalProcesses, run_task
from featherweight.tables import write_table

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def plan_file(tmp_path, tiny_contract):
    (tmp_path / "tiny.toml").write_text(tiny_contract.to_toml())
    file = tmp_path / "plan.toml"
    file.write_text(SMALL_PLAN.format(contract=tmp_path / "tiny.toml", test="true"))
    return file


def run_here(folder, digits, **kwargs):
    workers = LocalProcesses(kwargs.pop("workers", 2), 1, CPU)
    plan = load_plan(folder / "plan.toml", str(digits))
    return run_study(plan, folder / "rows.csv", folder / "runs", CPU, workers, **kwargs)


@pytest.fixture
def go(tmp_path, plan_file, digits):
    return partial(run_here, tmp_path, digits)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_contract, digits):
    """Return a folder in which the plan's four runs are finished, and their rows."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.toml").write_text(tiny_contract.to_toml())
    (folder / "plan.toml").write_text(SMALL_PLAN.format(contract=folder / "tiny.toml", test="true"))
    return folder, run_here(folder, digits)


@pytest.fixture
def done(finished, tmp_path, go):
    """Copy the finished study to `tmp_path`, where a test may change it; return its rows."""
    folder, rows = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return rows


def test_rows_have_what_is_needed_to_repeat_a_run(finished):
    folder, rows = finished
    assert sorted(map(str, rows)) == sorted(map(str, read_rows(folder / "rows.csv")))
    for row in rows:
        assert tuple(row) == STUDY_COLUMNS
        assert json.loads(row["config"])["recipe"]["name"] == row["recipe"]
        assert int(row["test_total"]) == 90
        assert 0 <= int(row["test_correct"]) <= 90
        assert row["last_epochs_val_correct"].split()[-1] == row["val_correct"]
        assert 0 < float(row["val_loss"]) < 3  # of 10 classes by chance: 2.3
        assert row["threads"] == "1"
        assert row["verdict"] in ("PASS", "FAIL")
    made = glob.glob(str(folder / "runs" / "*"))  # as in a shell
    assert len(made) == len(list((folder / "runs").glob("*/verdict.json"))) == 4


def test_a_finished_study_submits_no_job(done, go, tmp_path, monkeypatch):
    content, told = (tmp_path / "rows.csv").read_bytes(), []
    monkeypatch.setattr(
        LocalProcesses, "submit", lambda *args, **kwargs: pytest.fail("a run is trained again")
    )
    assert go(on_row=told.append) == done == told
    assert (tmp_path / "rows.csv").read_bytes() == content


def test_test_counts_are_those_of_the_test_images(finished, digits):
    folder, rows = finished
    for task in load_plan(folder / "plan.toml", str(digits)).tasks:
        row = next(row for row in rows if row_key(row) == task.key)
        split = task.load_split()
        mean, std = split.mean_std
        test = load_test(split)
        with torch.no_grad():
            model = open_run(task.folder(folder / "runs")).load_model()
            logits = model((test.pixels.float() / 255 - mean) / std)
        assert int(row["test_total"]) == len(test.labels)
        assert int(row["test_correct"]) == int((logits.argmax(1) == test.labels).sum())


def test_a_finished_folder_becomes_its_row_without_training(done, go, tmp_path):
    times = {
        file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*/model.safetensors")
    }
    (tmp_path / "rows.csv").unlink()
    assert go() == done
    assert times == {
        file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*/model.safetensors")
    }


def test_one_worker_gives_the_same_rows_as_two(finished, go):
    def strip(rows):
        kept = [key for key in STUDY_COLUMNS if key not in ("seconds", "digest")]
        return [{key: row[key] for key in kept} for row in rows]

    assert strip(go(workers=1)) == strip(finished[1])


def _command(tmp_path, digits, plan_file):
    return [
        sys.executable,
        "-c",
        "from featherweight.cli import main; main()",
        "study",
        str(plan_file),
        "--results",
        str(tmp_path / "rows.csv"),
        "--runs",
        str(tmp_path / "runs"),
        "--data",
        str(digits),
        "--workers",
        "2",
    ]


def _wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_study_continues_and_loses_no_row(how, tmp_path, digits, plan_file, go):
    table = tmp_path / "rows.csv"
    plan_file.write_text(plan_file.read_text().replace("epochs = 2", "epochs = 6"))
    process = subprocess.Popen(
        _command(tmp_path, digits, plan_file), stderr=subprocess.PIPE, text=True
    )
    _wait_for(lambda: table.exists() and any((tmp_path / "runs").glob("two*/resume.pt")))
    before = read_rows(table)
    process.send_signal(how)
    _, said = process.communicate()
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command again to continue" in said
    rows = go()
    assert len(rows) == len(read_rows(table)) == 4
    for row in before:
        assert sign_row(row | {"test_correct": "", "test_total": ""}) in [
            sign_row(r | {"test_correct": "", "test_total": ""}) for r in rows
        ]


def test_worker_processes_end_when_their_study_is_killed(tmp_path, digits, plan_file):
    text = plan_file.read_text()
    plan_file.write_text(
        text.replace("epochs = 2", "epochs = 900").replace("epochs = 1", "epochs = 901")
    )
    process = subprocess.Popen(_command(tmp_path, digits, plan_file), stderr=subprocess.DEVNULL)
    logs = tmp_path / "runs"
    _wait_for(lambda: len(list(logs.glob("*/resume.pt"))) == 2)
    process.kill()
    process.wait()
    time.sleep(2)
    first = {file: file.stat().st_mtime_ns for file in logs.glob("*/resume.pt")}
    time.sleep(2)
    assert first == {file: file.stat().st_mtime_ns for file in logs.glob("*/resume.pt")}


def test_two_studies_on_one_table_share_the_work(tmp_path, digits, plan_file):
    commands = [_command(tmp_path, digits, plan_file)] * 2
    both = [
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "80"},
        )
        for command in commands
    ]
    tables = [process.communicate()[0] for process in both]
    assert {process.returncode for process in both} <= {0, 1}
    assert tables[0] == tables[1]
    assert "95 % of mean" in tables[0]
    assert "\N{HORIZONTAL ELLIPSIS}" not in tables[0]  # no figure is cut short
    rows = read_rows(tmp_path / "rows.csv")
    assert len(rows) == 4
    assert len({(row["recipe"], row["seed"]) for row in rows}) == 4


def test_a_run_that_diverges_becomes_a_row_and_the_others_continue(go, plan_file):
    plan_file.write_text(
        plan_file.read_text().replace("epochs = 2", "epochs = 2\nlr = 1e30\nschedule = 'constant'")
    )
    rows = go()
    assert [row["verdict"] == "DIVERGED" for row in rows] == [False, False, True, True]
    summary = summarise(rows)[1]
    assert (summary.runs, summary.diverged, summary.val, summary.test) == (2, 2, None, None)


def test_test_images_are_read_only_if_the_plan_says_so_and_at_the_end(
    done, go, plan_file, tmp_path
):
    table, text = tmp_path / "rows.csv", plan_file.read_text()
    unread = [sign_row(row | {"test_correct": "", "test_total": ""}) for row in done]
    write_table(table, unread, STUDY_COLUMNS)
    plan_file.write_text(text.replace("test = true", "test = false"))
    assert go() == read_rows(table) == unread
    plan_file.write_text(text)
    assert go() == done
    write_table(table, unread, STUDY_COLUMNS)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="gone"):
        go()
    assert read_rows(table) == unread


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"",
        b"\xff\xfe\x00",
        ",".join(STUDY_COLUMNS).encode() + b"\nfeather,1\n",
    ],
)
def test_another_table_is_refused_and_kept(go, tmp_path, content):
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.csv"):
        go()
    assert (tmp_path / "rows.csv").read_bytes() == content


def test_an_edited_row_is_named(done, tmp_path):
    table = tmp_path / "rows.csv"
    whole = read_rows(table)
    for column in STUDY_COLUMNS:
        edited = [dict(row) for row in whole]
        edited[2][column] += "1"
        write_table(table, edited, STUDY_COLUMNS)
        with pytest.raises(InputError, match=r"rows\.csv: row 4 \(.*the row was edited"):
            read_rows(table)
    write_table(table, [*whole[:2], whole[3]], STUDY_COLUMNS)  # a row less is another table
    assert len(read_rows(table)) == 3


def test_a_rows_digest_is_a_sha_256_of_its_other_cells(finished):
    *cells, digest = finished[1][0].values()
    text = json.dumps(cells, ensure_ascii=False)
    assert digest == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest == row_digest(finished[1][0])


def test_a_run_that_is_resumed_by_hand_is_left_to_it(finished, tmp_path, digits):
    """A run that another process holds is busy, and becomes a row as soon as it is let go."""
    folder, rows = finished
    task = load_plan(folder / "plan.toml", str(digits)).tasks[0]
    copy = shutil.copytree(task.folder(folder / "runs"), tmp_path / "copy")
    code = (
        "import sys\nfrom featherweight.run import open_run\n"
        "with open_run(sys.argv[1]).lock():\n    print('held', flush=True)\n    input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(copy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    split = task.load_split()
    assert run_task(task, split, copy, CPU, block=False) is None
    holder.communicate(b"\n")
    row = run_task(task, split, copy, CPU, block=True)
    assert row_key(row) in map(row_key, rows)


def test_a_table_with_a_byte_order_mark_is_read(finished, tmp_path):
    text = (finished[0] / "rows.csv").read_text(encoding="utf-8")
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8-sig")
    assert read_rows(tmp_path / "rows.csv") == read_rows(finished[0] / "rows.csv")


def test_spread_equals_scipys_interval():
    values = [0.991, 0.994, 0.9935, 0.9952]
    found = spread(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert found.interval == pytest.approx((low, high))
    assert (found.n, found.minimum) == (4, 0.991)
    assert math.isnan(spread([0.5]).sd)


def test_runs_on_other_numbers_of_images_are_summarised_apart():
    def row(size, correct):
        contract = dataclasses.replace(load_contract("era-v3-s6"), name="few", train_size=size)
        return {
            "recipe": "baseline",
            "seed": "0",
            "n_params": "5",
            "verdict": "FAIL",
            "val_correct": correct,
            "val_total": "100",
            "test_correct": "",
            "seconds": "1",
            "config": run_config(find_recipe("baseline"), contract),
        }

    found = summarise([row(500, "80"), row(1000, "90"), row(500, "82")])
    assert [(each.train_size, each.runs, each.val.mean) for each in found] == [
        (500, 2, pytest.approx(0.81)),
        (1000, 1, pytest.approx(0.9)),
    ]


def test_the_committed_rows_belong_to_their_plans(request):
    for name in PLANS:
        table = request.config.rootpath / "results" / f"{name}.csv"
        rows = read_rows(table, must_exist=True)
        assert rows
        keys = {row_key(row) for row in rows}
        if name in ("cifar", "fashion"):  # whose images are not here
            plan = tomllib.loads(PLANS[name].read_text())
            recipes = [find_recipe(recipe) for recipe in plan["recipes"]]
            configs = {
                run_config(each, load_contract(plan.get("contract", each.contract)))
                for each in recipes
            }
            seeds = {str(seed) for seed in range(plan["seeds"])}
            assert all(seed in seeds and config in configs for seed, _, config in keys)
            assert len({data for _, data, _ in keys}) == 1
        else:
            assert keys <= {task.key for task in load_plan(name).tasks}


def test_a_study_on_a_gpu_runs_what_fits_or_what_it_is_told(monkeypatch):
    monkeypatch.setattr(device, "pick_device", lambda name: torch.device(name))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 2**30, 8 * 2**30))
    monkeypatch.setattr(study, "cores", lambda: 16)
    for name, told, slots in (("cuda", None, 2), ("cuda", 20, 20), ("cpu", None, 16)):
        with study._make_workers(told, 1, name, None, "runs") as workers:
            assert workers.slots == slots


def test_no_figure_is_broken_at_80_columns_however_long_a_name_is(monkeypatch, request):
    table = read_rows(request.config.rootpath / "results/peers.csv")
    rows = [row for row in table if row["recipe"] == "jyanivaddi-14372"]
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(study, "stdout", console)
    study._print_summaries(summarise(rows))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    first, rest, test = lines[1:]
    assert first.split()[0] + rest.split()[0] == "jyanivaddi-14372"
    assert " 10  99.456  0.039  99.41  99.43 to 99.48  145" in first
    assert " 10  99.494  0.049  99.37  99.46 to 99.53" in test
