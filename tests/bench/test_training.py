import dataclasses
import math

import torch

from featherweight.bench import training as bench


def test_two_recipes_are_measured_in_turn(split):
    speeds, ratio = bench.bench_train(
        ("baseline", "feather-20k"), split, torch.device("cpu"), rounds=2, n_steps=1
    )
    assert [speed.recipe for speed in speeds] == ["baseline", "feather-20k"]
    for speed in speeds:
        assert math.isclose(
            speed.images_per_second * speed.seconds_per_epoch, len(split.train), rel_tol=1e-6
        )
        assert speed.share_of_peak > 0
        assert 0 < speed.share_augmentation < 1
    assert ratio.least <= ratio.median <= ratio.most


def test_the_profile_is_of_the_whole_step(split):
    shares = bench.profile_train("baseline", split, torch.device("cpu"), n_steps=2)
    assert math.isclose(sum(share for _, share in shares), 1)
    assert shares == sorted(shares, key=lambda item: -item[1])
    assert "convolution_backward" in shares[0][0]
    assert "aten::grid_sampler_2d" in dict(shares)  # the augmentation too


def test_whole_trainings_are_timed_in_the_order_given(
    split, tiny_recipe, tiny_contract, monkeypatch
):
    other = dataclasses.replace(tiny_recipe, name="other", epochs=1)
    monkeypatch.setattr(bench, "find_recipe", {"tiny": tiny_recipe, "other": other}.get)
    monkeypatch.setattr(bench, "load_contract", lambda name: tiny_contract)
    told = []
    races = bench.bench_sprint(
        ("other", "tiny", "other"),
        split,
        torch.device("cpu"),
        on_epoch=lambda name, row: told.append((name, row["epoch"], row["val_correct"])),
    )
    assert [(name, epoch) for name, epoch, _ in told] == [
        ("other", 1),
        ("tiny", 1),
        ("tiny", 2),
        ("tiny", 3),
        ("tiny", 4),
        ("other", 1),
    ]
    assert [(race.recipe, race.epochs, race.val_total) for race in races] == [
        ("other", 1, 100),
        ("tiny", 4, 100),
        ("other", 1, 100),
    ]
    assert [race.val_correct for race in races] == [told[0][2], told[4][2], told[5][2]]
    assert all(race.seconds > 0 for race in races)


def test_the_floating_point_count_is_that_of_the_layers(split):
    contestant = bench.Contestant(bench.find_recipe("baseline"), split, torch.device("cpu"))
    layers = [
        (26, 16, 9),
        (24, 32, 16 * 9),
        (10, 32, 32 * 9),
        (5, 16, 32),
    ]  # map side, width, inputs
    macs = [side**2 * width * inputs for side, width, inputs in layers]
    forward = sum(macs) + 400 * 10
    # Backward is twice the forward, but nothing flows back to the images.
    expected = 2 * (3 * forward - macs[0])
    assert math.isclose(contestant.flops_per_step / contestant.batch, expected, rel_tol=1e-6)
