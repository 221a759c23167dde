"""Splits that cannot measure anything: copies, near copies, one label, other data than MNIST."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import make_contract, make_digits

from featherweight import splits
from featherweight.contract import CONTRACTS, DATA_NAMES
from featherweight.data import Images, Split, load_split
from featherweight.errors import InputError
from featherweight.facts import Facts
from featherweight.requirements import Requirement
from featherweight.splits import (
    MNIST_SPLIT,
    contract_split,
    find_split,
    near_copies,
    split_faults,
)

ANY = make_contract(name="any", min_val_accuracy=0.9)


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000)


def one_pixel(images, change, random):
    """Change one pixel, at random, of each image (n, 28, 28)."""
    where = np.arange(len(images)), *random.integers(0, 28, (2, len(images)))
    images[where] = change(images[where])


# What a forger may do to training images before they become validation images: (n, 28, 28), int.
CHANGES = {
    "one grey level": lambda x, random: one_pixel(x, lambda pixel: pixel ^ 1, random),
    "another pixel": lambda x, random: one_pixel(x, lambda pixel: 255 - pixel, random),
    "1 everywhere": lambda x, random: x.__iadd__(random.integers(0, 2, x.shape) * 2 - 1),
    "3 everywhere": lambda x, random: x.__iadd__(random.integers(-3, 4, x.shape)),
    "3 brighter": lambda x, random: x.__iadd__(3),
    "both": lambda x, random: (x.__iadd__(3), one_pixel(x, lambda pixel: 258 - pixel, random)),
}


def leaky(split, n, change):
    """Return the split with its first n validation images changed training images."""
    images = split.train.pixels[:n, 0].numpy().astype(int)
    change(images, np.random.default_rng(0))
    pixels = split.val.pixels.clone()
    pixels[:n, 0] = torch.from_numpy(images.clip(0, 255).astype(np.uint8))
    return Split("leaky", split.train, Images(pixels, split.val.labels), split.num_classes)


def test_mnists_own_split_has_no_fault_and_is_known_by_its_hash(mnist, monkeypatch):
    assert mnist.sha256 == MNIST_SPLIT
    monkeypatch.setattr(splits, "near_copies", lambda *_: pytest.fail("is compared"))
    for contract in CONTRACTS:
        if contract.data == "mnist":
            assert split_faults(mnist, contract) == []


@pytest.mark.slow
def test_no_validation_image_of_mnist_is_nearly_a_training_image(mnist):
    assert not near_copies(mnist.train, mnist.val, 5.9).any()
    # The nearest two are 6.18 grey levels apart, as a comparison of all pairs found.
    assert near_copies(mnist.train, mnist.val, 6.3).nonzero().tolist() == [[1603]]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["one grey level", "both"])
def test_changed_training_images_of_mnist_are_found(mnist, change):
    split = leaky(mnist, 1000, CHANGES[change])
    (fault,) = split_faults(split, dataclasses.replace(CONTRACTS[0], name="any", data=""))
    assert fault.startswith("1,000 of 10,000 validation images are training images with small")
    assert "not MNIST's images" in split_faults(split, CONTRACTS[0])[0]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_training_images_are_found_in_any_data(split, change):
    assert split_faults(split, ANY) == []
    (fault,) = split_faults(leaky(split, 7, CHANGES[change]), ANY)
    assert fault.startswith("7 of 100 validation images are training images with small changes")


def test_equal_images_are_told_apart_from_near_ones(split):
    (fault,) = split_faults(leaky(split, 7, lambda *_: None), ANY)
    assert fault == "7 of 100 validation images are training images too"


def test_near_copies_are_those_of_a_comparison_of_all_pairs():
    random = np.random.default_rng(0)
    for height, width in ((28, 28), (9, 13), (3, 2)):
        train = random.integers(0, 256, (200, 1, height, width))
        noise = random.normal(0, random.uniform(0, 12, (90, 1, 1, 1)), (90, 1, height, width))
        val = (train[:90] + noise).round()
        images = [
            Images(torch.from_numpy(x.clip(0, 255).astype(np.uint8)), torch.zeros(len(x)).long())
            for x in (train, val)
        ]
        squares = (images[1].pixels[:, None].int() - images[0].pixels[None].int()).square()
        squares = squares.flatten(2)
        nearest = (squares.sum(2) - squares.amax(2)).amin(1)
        expected = nearest <= 36 * height * width
        assert 0 < expected.sum() < 90
        assert torch.equal(near_copies(*images, 6.0), expected)


def test_blank_images_are_compared_in_bounded_memory():
    pixels = torch.zeros(3000, 1, 8, 8, dtype=torch.uint8)
    blank = Images(pixels, torch.zeros(3000).long())
    assert near_copies(blank, blank, 1.0).all()


def test_sizes_other_than_the_contracts_are_named(split):
    (fault,) = split_faults(split, dataclasses.replace(ANY, val_size=50))
    assert fault == "500 training and 100 validation images, expected 500 and 50"


def test_one_label_that_is_nearly_all_is_named(split):
    labels = torch.where(torch.arange(100) < 4, 2, 1)
    easy = Split("easy", split.train, Images(split.val.pixels, labels), 10)
    (fault,) = split_faults(easy, ANY)
    assert fault.startswith("one label is right for 96.00 % (4 wrong of 100) of the validation")
    assert split_faults(easy, make_contract(min_val_accuracy=0.97)) == []
    # A contract that asks for little says nothing about its data.
    assert split_faults(easy, make_contract(min_val_accuracy=0.0)) == []


def test_one_label_of_the_training_images_is_named_for_a_contract_about_them(split):
    about = dataclasses.replace(
        ANY, clauses=(Requirement("accuracy", {"split": "train", "at_least": 0.9}),)
    )
    labels = torch.where(torch.arange(500) < 25, torch.arange(500) % 10, 1)
    easy = Split("easy", Images(split.train.pixels, labels), split.val, 10)
    (fault,) = split_faults(easy, about)
    assert fault.startswith("one label is right for 95.")
    assert " of the training images: " in fault
    assert split_faults(easy, ANY) == []


def test_synthetic_images_break_a_contract_about_a_data_set_and_are_named_in_others(split):
    about = dataclasses.replace(ANY, data="mnist")
    found = find_split(split, about, own=True, n_synthetic=200)
    assert "trained on 200 synthetic images too, not on MNIST's alone" in found.faults
    assert find_split(split, ANY, own=True, n_synthetic=200).faults == ()
    facts = Facts(split=find_split(split, ANY, own=True, n_synthetic=200))
    title, required, clause = next(row for row in ANY.rows if row[0] == "split")
    assert clause.judge(title, required, facts).found.endswith(", 200 synthetic ones added")


def test_a_contract_about_mnist_knows_its_images_in_any_number(split, mnist):
    about = dataclasses.replace(ANY, data="mnist")
    assert split_faults(load_split(None, 500, 100), about) == []
    (fault,) = split_faults(split, about)
    assert fault.startswith("not MNIST's images: their hash is ")
    swapped = Images(mnist.train.pixels[:500], mnist.train.labels[:500].flip(0))
    (fault,) = split_faults(
        Split(None, swapped, Images(mnist.val.pixels[-100:], mnist.val.labels[-100:]), 10), about
    )
    assert fault.startswith("not MNIST's images")


def test_a_contract_about_cifar_10_knows_its_shape_and_its_classes(split):
    about = make_contract(name="any", data="cifar-10")
    (fault,) = split_faults(split, about)
    assert fault == "not CIFAR-10's images: 1x28x28 in 10 classes, expected 3x32x32 in 10"
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (600, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels = torch.arange(600) % 10
    parts = Images(pixels[:500], labels[:500]), Images(pixels[500:], labels[500:])
    found = find_split(Split("made", *parts, 10), about, own=True)
    assert found.faults == ()
    assert "not that the images are CIFAR-10's own" in found.how
    near = pixels[:100].clone()
    near[:, 1] ^= 1  # in one of three channels
    copied = Split("made", parts[0], Images(near, labels[:100]), 10)
    (fault,) = split_faults(copied, about)
    assert fault.startswith("100 of 100 validation images are training images with small changes")


def test_a_contract_about_fashion_mnist_knows_its_images_by_their_hash(
    split, mnist, digits, monkeypatch
):
    about = dataclasses.replace(ANY, data="fashion-mnist")
    whole = dataclasses.replace(about, train_size=50_000, val_size=10_000)
    # MNIST's images have the shape and the classes too.
    (fault,) = split_faults(mnist, whole)
    assert fault == f"not Fashion-MNIST's images: their hash is {MNIST_SPLIT[:12]}"
    assert split_faults(split, about)[0].startswith("not Fashion-MNIST's images")
    # The made digits take its part, in small numbers.
    monkeypatch.setattr(splits, "KNOWN_SIZES", (500, 100))
    monkeypatch.setitem(splits.SPLITS, "fashion-mnist", split.sha256)
    monkeypatch.setattr(splits, "near_copies", lambda *_: pytest.fail("is compared"))
    for n_train in (500, 400):
        own, sized = (
            load_split(str(digits), n_train, 100),
            dataclasses.replace(about, train_size=n_train),
        )
        found = find_split(own, sized, own=True)
        assert found.faults == ()
        assert found.how.startswith("the hash is that of Fashion-MNIST's own")
    monkeypatch.undo()
    leaked = dataclasses.replace(own, val=Images(own.train.pixels[:100], own.train.labels[:100]))
    faults = split_faults(leaked, sized)
    assert [fault.partition(":")[0] for fault in faults] == [
        "not Fashion-MNIST's images",
        "100 of 100 validation images are training images too",
    ]


def test_only_mnist_needs_no_data(mnist):
    assert contract_split(None, CONTRACTS[0]).sha256 == MNIST_SPLIT
    for contract in CONTRACTS:
        if contract.data not in ("", "mnist"):
            with pytest.raises(InputError) as caught:
                contract_split(None, contract)
            name = DATA_NAMES[contract.data]
            assert caught.value.message == (
                f"contract {contract.name}: got no data, expected {name}'s images"
            )
            assert "--data" in caught.value.hint


def test_made_digits_of_another_seed_are_no_near_copies(split):
    images, labels = make_digits(100, 5)
    other = Images(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())
    assert split_faults(Split("other", split.train, other, 10), ANY) == []
