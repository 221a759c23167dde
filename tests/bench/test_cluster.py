"""Simulated clusters, against closed forms."""

import pytest

from featherweight.bench.cluster import Measured, simulate

# 8 runs with 10 s of epochs on 2 slots, and half a second of overhead each.
MEASURED = Measured(2, 8, 40.0, 42.0, (10.0,) * 8, 0.0, 0, 0)


def test_ratio_overhead_and_slot_seconds():
    assert MEASURED.ratio == pytest.approx(1.05)
    assert MEASURED.overhead == pytest.approx(0.5)
    assert MEASURED.slot_seconds == pytest.approx(10.5)


@pytest.mark.parametrize("nodes", [1, 10, 100])
def test_without_a_driver_or_transfers_the_rate_is_proportional_to_the_slots(nodes):
    assert simulate(MEASURED, 200 * nodes, nodes, 1e6) == pytest.approx(3600 * 2 * nodes / 10.5)


def test_the_driver_processes_one_row_at_a_time():
    busy = Measured(2, 8, 40.0, 42.0, (10.0,) * 8, 0.5, 0, 0)
    assert simulate(busy, 10_000, 1, 1e6) == pytest.approx(3600 * 2 / 11, rel=0.01)
    assert simulate(busy, 10_000, 100, 1e6) == pytest.approx(3600 / 0.5, rel=0.03)


def test_images_are_sent_to_one_node_after_the_other_and_folders_come_back():
    sent = Measured(1, 8, 80.0, 80.0, (10.0,) * 8, 0.0, 5_000_000, 1_000_000)
    assert simulate(sent, 2, 2, 1e6) == pytest.approx(3600 * 2 / (5 + 5 + 10 + 1))
    assert simulate(sent, 10_000, 1, 1e6) == pytest.approx(3600 / 11, rel=0.01)


def test_runs_of_different_lengths_keep_their_lengths():
    uneven = Measured(1, 2, 12.0, 12.0, (1.0, 5.0), 0.0, 0, 0)
    assert simulate(uneven, 2, 2, 1e6) == pytest.approx(3600 * 2 / 10)
