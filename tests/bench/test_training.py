"""Timing of training: on a fake clock, and what is counted and profiled in real steps."""

import dataclasses
import math

import pytest
import torch

from featherweight import workers
from featherweight.bench import training as bench

CPU = torch.device("cpu")


def test_figures_are_medians_over_rounds_in_which_recipes_take_turns(split, monkeypatch):
    # Seconds of `timed` for work of 10 steps. Per round: baseline's steps and augmentation, then
    # feather-20k's.
    rounds = [(1, 0.1, 2, 0.4), (2, 0.6, 6, 3), (4, 0.4, 8, 0.8)]
    seconds = iter([value for values in rounds for value in values])
    worked = []

    def timed(device, work):
        worked.append((work.func.__self__.recipe.name, work.func.__name__, work.args))
        return next(seconds)

    monkeypatch.setattr(bench, "timed", timed)
    monkeypatch.setattr(bench, "matmul_peak", lambda device, rounds: 1e9)
    names = ("baseline", "feather-20k")
    speeds, ratio = bench.bench_train(names, split, CPU, rounds=3, n_steps=10)
    turn = [(name, work, (10,)) for name in names for work in ("run", "augment")]
    assert worked == 3 * turn
    steps = [math.ceil(len(split.train) / bench.find_recipe(name).batch_size) for name in names]
    assert [speed.recipe for speed in speeds] == list(names)
    assert [speed.seconds_per_epoch for speed in speeds] == pytest.approx(
        [0.2 * steps[0], 0.6 * steps[1]]
    )
    assert speeds[0].images_per_second == pytest.approx(len(split.train) / (0.2 * steps[0]))
    assert [speed.share_augmentation for speed in speeds] == pytest.approx([0.1, 0.2])
    flops = bench.Contestant(bench.find_recipe("baseline"), split, CPU).flops_per_step
    assert speeds[0].gflops == pytest.approx(flops / 0.2 / 1e9)
    assert speeds[0].share_of_peak == pytest.approx(flops / 0.2 / 1e9)
    ratios = [steps[1] / steps[0] * value for value in (2, 3, 2)]
    assert (ratio.median, ratio.minimum, ratio.maximum) == pytest.approx(
        (ratios[0], ratios[0], ratios[1])
    )


def test_teams_take_turns_and_the_last_one_runs_beside_other_work_too(
    split, tiny_recipe, tiny_contract, monkeypatch
):
    monkeypatch.setattr(bench, "load_contract", lambda name: tiny_contract)
    seconds, worked = iter([3, 2, 6, 9, 1, 9]), []

    def timed(device, work):
        work()
        worked.append(work.args[1])
        return next(seconds)

    monkeypatch.setattr(bench, "timed", timed)
    whole = dataclasses.replace(tiny_recipe, batch_size=10)
    halves = dataclasses.replace(tiny_recipe, ghost_batch=9)  # 20 steps an epoch
    alone, busy = bench.bench_teams(
        [bench.Team(whole, 1), bench.Team(halves, 2)], split, worked.append, rounds=2, n_steps=3
    )
    assert worked == [3, 3, True, 3, False] * 2
    steps = math.ceil(len(split.train) / 10)
    assert alone == [[3 / 3 * steps, 9 / 3 * steps], [2 / 3 * 20, 1 / 3 * 20]]
    assert busy == [6 / 3 * 20, 9 / 3 * 20]


def test_a_ratio_is_taken_round_by_round():
    assert bench.ratio_of([1, 10, 4], [2, 5, 4]) == bench.Ratio(1, 0.5, 2)
    with pytest.raises(ValueError, match="zip"):
        bench.ratio_of([1], [1, 2])


def test_the_profile_covers_the_whole_step(split):
    shares = bench.profile_train("baseline", split, CPU, n_steps=2)
    assert math.isclose(sum(share for _, share in shares), 1)
    assert shares == sorted(shares, key=lambda item: -item[1])
    assert "aten::convolution_backward" in [name for name, _ in shares[:5]]
    assert "aten::grid_sampler_2d" in dict(shares)  # augmentation


def test_whole_trainings_run_in_the_given_order_on_all_cores(
    split, tiny_recipe, tiny_contract, monkeypatch
):
    other = dataclasses.replace(tiny_recipe, name="other", epochs=1, ghost_batch=9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    monkeypatch.setattr(bench, "find_recipe", {"tiny": tiny_recipe, "other": other}.get)
    monkeypatch.setattr(bench, "load_contract", lambda name: tiny_contract)
    told = []
    races = bench.bench_sprint(
        ("other", "tiny", "other"),
        split,
        CPU,
        on_epoch=lambda name, epoch: told.append((name, epoch["epoch"], epoch["val_correct"])),
    )
    assert [(name, epoch) for name, epoch, _ in told] == [
        ("other", 1),
        ("tiny", 1),
        ("tiny", 2),
        ("tiny", 3),
        ("tiny", 4),
        ("other", 1),
    ]
    assert [(race.recipe, race.epochs, race.cores, race.val_total) for race in races] == [
        ("other", 1, "2 workers", 100),
        ("tiny", 4, "1 thread", 100),
        ("other", 1, "2 workers", 100),
    ]
    assert [race.val_correct for race in races] == [told[0][2], told[4][2], told[5][2]]


def test_the_floating_point_count_equals_that_of_the_layers(split):
    contestant = bench.Contestant(bench.find_recipe("baseline"), split, CPU)
    # Side of the output map, output channels, multiply-accumulates per output.
    layers = [(26, 16, 9), (24, 32, 16 * 9), (10, 32, 32 * 9), (5, 16, 32)]
    macs = [side**2 * width * inputs for side, width, inputs in layers]
    forward = sum(macs) + 400 * 10
    # The backward pass costs twice the forward pass, but no gradient of the images is computed.
    expected = 2 * (3 * forward - macs[0])
    assert math.isclose(contestant.flops_per_step / contestant.batch, expected, rel_tol=1e-6)
