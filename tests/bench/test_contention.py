"""Work on an idle machine and beside busy processes."""

import os

import pytest

from featherweight.bench import contention

pytestmark = pytest.mark.slow


def test_each_threading_is_measured_on_an_idle_and_a_busy_machine():
    told = []
    found = contention.bench_load(1, ("evaluation",), n_images=500, on_load=told.append)
    assert found == told
    assert [(load.work, load.threading) for load in found] == [
        ("evaluation", threading.name) for threading in contention.WORKLOADS["evaluation"]
    ]
    assert all(load.idle > 0 and load.busy > 0 for load in found)


def test_processes_start_with_the_variables_of_their_threading(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with contention._environment({"GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": "passive"}):
        assert "GOMP_SPINCOUNT" not in os.environ
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["GOMP_SPINCOUNT"] == "3000"
    assert "OMP_WAIT_POLICY" not in os.environ
