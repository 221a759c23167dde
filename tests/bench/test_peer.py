"""The plain PyTorch loop: its pictures, its training, and the process that runs it."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from featherweight.augment import affine
from featherweight.bench import peer
from featherweight.recipe import Augmentation


def _always(monkeypatch, fraction):
    """Let every draw be this fraction of the way from its least to its most."""
    monkeypatch.setattr(peer.random, "uniform", lambda low, high: low + fraction * (high - low))


def test_a_picture_keeps_its_pixels_where_nothing_changes_it(split):
    digits = peer.Digits(split.val, split.mean_std, None)
    changed = peer.Digits(split.val, split.mean_std, Augmentation())
    image, label = digits[3]
    assert len(digits) == len(split.val)
    assert label == split.val.labels[3]
    torch.testing.assert_close(image, split.normalise(split.val.pixels[3:4])[0])
    assert torch.equal(changed[3][0], image)


def test_a_picture_is_turned_and_shifted_as_the_augmentation_does(split, monkeypatch):
    _always(monkeypatch, 1)
    strengths = Augmentation(rotation=10, shift=2, scale=0.1)
    here = peer.Digits(split.val, (0, 1), strengths)[0][0]
    there = affine(
        split.val.pixels[:1].float() / 255,
        torch.tensor([10.0]),
        torch.tensor([[2.0, 2.0]]),
        torch.tensor([1.1]),
        torch.tensor([0.0]),
    )[0]
    # What comes from beyond the border differs by a part of a pixel.
    assert (here - there)[:, 5:-5, 5:-5].abs().max() < 0.01  # PIL rounds to 255 levels


def test_brightness_and_contrast_have_the_recipes_strength(split, monkeypatch):
    _always(monkeypatch, 0)
    before = peer.Digits(split.val, (0, 1), None)[0][0]
    darker = peer.Digits(split.val, (0, 1), Augmentation(brightness=0.2))[0][0]
    assert (darker - 0.8 * before).abs().max() < 0.01
    flatter = peer.Digits(split.val, (0, 1), Augmentation(contrast=0.5))[0][0]
    assert (flatter - 0.5 * (before + before.mean())).abs().max() < 0.01


def test_training_prints_a_line_for_each_epoch(split, monkeypatch, capsys):
    monkeypatch.setattr(peer, "load_split", lambda *arguments: split)
    monkeypatch.setattr(sys, "argv", ["peer", "2", "0"])
    peer.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"]
    assert rows[1]["val_correct"] > 3 * len(split.val) / 10  # it learns


def test_the_last_line_of_the_process_counts(monkeypatch):
    told = []
    lines = [{"epoch": e, "seconds": 2.5 * e, "val_correct": 90 + e} for e in (1, 2)]
    code = "".join(f"print('{json.dumps(line)}');" for line in lines)
    monkeypatch.setattr(peer, "COMMAND", (sys.executable, "-c", code))
    assert peer.bench_peer(2, 1, told.append) == peer.Peer(2, 5.0, 92)
    assert told == lines


def test_a_failed_process_is_an_error(monkeypatch):
    monkeypatch.setattr(peer, "COMMAND", (sys.executable, "-c", "import sys; sys.exit(3)"))
    with pytest.raises(RuntimeError, match="exit code 3"):
        peer.bench_peer(1, 1)


def test_blur_takes_its_strength_from_the_recipe(split, monkeypatch):
    _always(monkeypatch, 1)
    sharp = peer.Digits(split.val, (0, 1), None)[0][0]
    strengths = replace(Augmentation(), blur_kernel=5, blur_sigma=(0.1, 2.0))
    blurred = peer.Digits(split.val, (0, 1), strengths)[0][0]
    assert blurred.max() < sharp.max()
    assert blurred.sum().item() == pytest.approx(
        sharp.sum().item(), rel=0.05
    )  # blur moves light, it makes none
