"""Work alone and beside busy processes."""

import os

from featherweight.bench import contention


def test_each_way_is_measured_alone_and_beside_a_busy_process():
    told = []
    found = contention.bench_load(1, ("evaluation",), n_images=500, on_load=told.append)
    assert found == told
    assert [(load.work, load.how) for load in found] == [
        ("evaluation", way[0]) for way in contention.WORK["evaluation"]
    ]
    assert all(load.alone > 0 and load.busy > 0 for load in found)


def test_processes_start_with_the_variables_of_their_way(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with contention._environment({"GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": "passive"}):
        assert "GOMP_SPINCOUNT" not in os.environ
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["GOMP_SPINCOUNT"] == "3000"
    assert "OMP_WAIT_POLICY" not in os.environ
