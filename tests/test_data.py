"""Reading data sets, and refusing damaged ones."""

import gzip
import io
import shutil
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_digits, write_idx, write_mnist

from featherweight import data
from featherweight.data import load_split, load_test
from featherweight.errors import InputError


@pytest.fixture(autouse=True)
def _no_cache():
    load_split.cache_clear()


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000)


def test_mnist_is_mnist(mnist):
    assert mnist.train.pixels.shape == (50_000, 1, 28, 28)
    assert mnist.val.pixels.shape == (10_000, 1, 28, 28)
    assert mnist.num_classes == 10
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert [round(value, 4) for value in mnist.mean_std] == [0.1310, 0.3085]
    counts = [
        torch.bincount(part.pixels.flatten(), minlength=256).double()
        for part in (mnist.train, mnist.val)
    ]
    grey, share = torch.arange(256) / 255, sum(counts) / sum(counts).sum()
    mean = (share * grey).sum()  # of all 60,000 images: the published figures
    assert round(mean.item(), 4) == 0.1307
    assert round((share * (grey - mean) ** 2).sum().sqrt().item(), 4) == 0.3081
    pixels = mnist.train.pixels.numpy() / 255
    assert mnist.mean_std == pytest.approx((pixels.mean(), pixels.std()))
    test = load_test(mnist)
    assert len(test) == 10_000
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_no_validation_image_of_mnist_is_a_training_image(mnist):
    train, val = set(mnist.train.digests()), set(mnist.val.digests())
    assert (len(train), len(val)) == (50_000, 10_000)
    assert not train & val


def test_equal_images_have_equal_digests():
    pixels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    pixels[1, 0, 3, 3] = 1
    first, other, again = data.Images(pixels, torch.arange(3)).digests()
    assert first == again != other


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_directory_gzipped_or_not(tmp_path, suffix):
    split = load_split(str(write_mnist(tmp_path / "d", suffix=suffix)), 500, 100)
    images, labels = make_digits(600, 0)
    assert np.array_equal(split.train.pixels[:, 0], images[:500])
    assert np.array_equal(split.val.pixels[:, 0], images[-100:])
    assert np.array_equal(split.val.labels, labels[-100:])
    assert len(load_test(split)) == 90


def test_the_dot_in_the_names_of_old(tmp_path):
    folder = write_mnist(tmp_path / "d", suffix="")
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    split = load_split(str(folder), 500, 100)
    assert np.array_equal(split.train.pixels[:, 0], make_digits(600, 0)[0][:500])
    assert len(load_test(split)) == 90


def test_a_split_is_of_the_first_and_the_last_images(digits):
    split = load_split(str(digits), 30, 20)
    images, labels = make_digits(600, 0)
    assert np.array_equal(split.train.pixels[:, 0], images[:30])
    assert np.array_equal(split.val.pixels[:, 0], images[580:])
    assert np.array_equal(split.train.labels, labels[:30])


def test_the_hash_is_of_every_pixel_and_label(split):
    for part in ("train", "val"):
        for kind in ("pixels", "labels"):
            images = getattr(split, part)
            changed = getattr(images, kind).clone()
            changed.view(-1)[-1] ^= 1
            other = data.Split(None, split.train, split.val, 10)
            object.__setattr__(other, part, data.Images(**{**vars(images), kind: changed}))
            assert other.sha256 != split.sha256


@pytest.mark.parametrize("sides", [(1, 8), (27, 31), (64, 64)])
def test_other_sides_and_classes(tmp_path, sides):
    random = np.random.default_rng(0)
    for stem, n in (("train", 60), ("t10k", 26)):
        images = random.integers(0, 256, (n, *sides), dtype=np.uint8)
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 26)
    split = load_split(str(tmp_path), 50, 10)
    assert split.num_classes == 26
    assert split.shape == (1, *sides)


def npz(path, **changes):
    parts = {}
    for part, n in (("train", 50), ("val", 20), ("test", 10)):
        images, labels = make_digits(n, n)
        parts |= {f"{part}_images": images, f"{part}_labels": labels[:, None]}
    np.savez(path, **{key: value for key, value in (parts | changes).items() if value is not None})
    return str(path)


def test_an_npz_has_its_own_validation_images(tmp_path):
    split = load_split(npz(tmp_path / "a.npz"), 50, 20)
    assert np.array_equal(split.val.labels, make_digits(20, 20)[1])
    assert np.array_equal(split.train.pixels[:, 0], make_digits(50, 50)[0])
    assert split.train.labels.shape == (50,)
    assert len(load_test(split)) == 10


def test_test_images_of_another_kind_are_refused(tmp_path):
    source = npz(tmp_path / "a.npz", test_labels=np.full(10, 10))
    with pytest.raises(ValueError, match=r"\(test\): got label 10"):
        load_test(load_split(source, 50, 20))


def test_a_damaged_npz_is_refused(tmp_path):
    source = tmp_path / "a.npz"
    npz(source)
    whole = source.read_bytes()
    lone = io.BytesIO()
    np.save(lone, np.zeros(3))
    spoilt = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    for content in (whole[:-100], spoilt, b"", lone.getvalue()):
        source.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load_split(str(source), 50, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_images": None}, "val_images"),
        ({"train_images": np.zeros((50, 28, 28, 4), np.uint8)}, "greyscale"),
        ({"train_images": np.zeros((50, 28, 28))}, "uint8"),
        ({"train_images": np.zeros((50, 65, 28), np.uint8)}, "64x64"),
        ({"train_labels": np.zeros(49, np.uint8)}, "50 images and 49 labels"),
        ({"train_labels": np.zeros(50, np.uint8)}, "one class"),
        ({"train_labels": np.zeros(50)}, "whole numbers"),
        ({"train_labels": -np.ones(50, np.int64)}, "label -1"),
        ({"val_labels": np.full(20, 10)}, "label 10"),
        ({"val_images": np.zeros((20, 14, 14), np.uint8)}, "expected"),
    ],
)
def test_a_wrong_npz_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_split(npz(tmp_path / "a.npz", **changes), 50, 20)


def test_sizes_that_the_contract_does_not_name_are_refused(tmp_path, digits):
    with pytest.raises(ValueError, match="600 images, expected 50,000"):
        load_split(str(digits), 50_000, 10_000)
    with pytest.raises(ValueError, match="50 and 20"):
        load_split(npz(tmp_path / "a.npz"), 40, 20)


def spoil(name, change):
    def apply(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return apply


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / LABELS).unlink(), LABELS),
        (spoil(IMAGES, lambda b: b[:-1]), "truncated"),
        (spoil(IMAGES, lambda b: b[:9]), "truncated"),
        (spoil(IMAGES, lambda b: b""), "empty"),
        (spoil(IMAGES, lambda b: b"\0\0\x0b\3" + b[4:]), "magic number 00000b03"),
        (
            spoil(LABELS, lambda b: b[:4] + (599).to_bytes(4, "big") + b[8:-1]),
            "600 images and 599 labels",
        ),
        (spoil(LABELS, lambda b: b[:-1] + b"\x0b"), "label 11"),
        (lambda folder: write_idx(folder / IMAGES, np.zeros((600, 65, 28), np.uint8)), "64x64"),
        (lambda folder: write_idx(folder / IMAGES, np.zeros((0, 28, 28), np.uint8)), "0 images"),
        (
            lambda folder: (folder / IMAGES).write_bytes((folder / LABELS).read_bytes()),
            "expected 00000803",
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, message):
    folder = write_mnist(tmp_path / "d", suffix="")
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_split(str(folder), 500, 100)


def test_a_header_that_claims_too_much_is_refused_before_it_is_read(tmp_path):
    folder = write_mnist(tmp_path / "d", suffix="")
    for claim in ((2**32 - 1, 28, 28), (2**32 - 1,) * 3, (3_000_000, 28, 28)):
        header = b"\0\0\x08\3" + np.array(claim, ">u4").tobytes()
        (folder / IMAGES).write_bytes(header + bytes(784))
        with pytest.raises(InputError, match=r"claims .* expected at most 2,147,483,648 bytes"):
            load_split(str(folder), 500, 100)


def peak(function):
    """The most bytes that a call holds at a time, and what it raises."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            function()
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("n", [600, 0])
def test_no_more_is_decompressed_than_the_header_claims(tmp_path, n):
    folder = write_mnist(tmp_path / "d")
    with gzip.open(folder / (IMAGES + ".gz"), "wb", 1) as file:
        file.write(b"\0\0\x08\3" + np.array((n, 28, 28), ">u4").tobytes())
        for _ in range(200):
            file.write(bytes(2**20))
    held, message = peak(lambda: load_split(str(folder), 500, 100))
    assert "got more bytes of values" in message
    assert held < 20 * 2**20  # of 200 that are packed


def member(descr="|u1", shape=(50, 28, 28), content=b"", version=(1, 0), header=None, n=0):
    """An .npy file whose header says what it is told to, `content`, and `n` MiB of zeros."""
    text = header or f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text.encode() + content + bytes(n * 2**20)


IMAGE_BYTES = bytes(50 * 784)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (member(shape=(2**40, 28, 28)), "1099511627776 x 28 x 28 values, expected at most"),
        (member(shape=(2**70, 28, 28)), "expected at most"),
        (member(content=IMAGE_BYTES, n=200), "got more bytes of values, expected 39,200"),
        (member(content=IMAGE_BYTES[:-1]), "got 39,199 bytes of values, expected 39,200"),
        (member(shape=(-50, 28, 28)), "expected one of numbers"),
        (member(shape=(50, -28, -28)), "expected one of numbers"),
        (member(shape=(0, 28, 28)), "0 images"),
        (member(shape=(2**40, 0, 0)), "1099511627776 images and 50 labels"),
        (member(shape=(50.0, 28, 28)), "damaged header"),
        (member(shape=39200, content=IMAGE_BYTES), "damaged header"),
        (member(descr="|O"), "object"),
        (member(descr="zzz"), "damaged header"),
        (member(descr="|S2000000000"), "expected one of numbers"),
        (member(header="-" * 9000 + "1"), "damaged header"),
        (member(header="(" * 6000), "damaged header"),
        (member(header="__import__('os').abort()"), "damaged header"),
        (member(header='{"descr": "|u1", '), "damaged header"),
        (member(header="{[]: 1}"), "damaged header"),
        (member(version=(2, 0), content=IMAGE_BYTES), "damaged header"),
        (member(version=(9, 0)), "damaged header"),
        (b"", "damaged header"),
        (b"nonsense" * 20, "damaged header"),
    ],
)
def test_an_npz_made_to_do_harm_is_refused_in_one_line(tmp_path, content, message):
    source = Path(npz(tmp_path / "a.npz", train_images=None))
    with zipfile.ZipFile(source, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", content)
    held, found = peak(lambda: load_split(str(source), 50, 20))
    assert message in found
    assert "\n" not in found
    assert held < 20 * 2**20


def test_an_npz_with_an_array_twice_or_packed_otherwise_is_refused(tmp_path):
    source = Path(npz(tmp_path / "a.npz"))
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(source, "a") as archive,
    ):
        archive.writestr("train_images.npy", member(content=IMAGE_BYTES))
    with pytest.raises(InputError, match=r"train_images.*twice"):
        load_split(str(source), 50, 20)
    source = Path(npz(tmp_path / "b.npz", train_images=None))
    with zipfile.ZipFile(source, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("train_images.npy", member(content=IMAGE_BYTES))
    with pytest.raises(InputError, match="compression method 14"):
        load_split(str(source), 50, 20)
    source = Path(npz(tmp_path / "c.npz"))
    whole = bytearray(source.read_bytes())
    whole[whole.find(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted file
    source.write_bytes(whole)
    with pytest.raises(InputError, match="encrypted"):
        load_split(str(source), 50, 20)


def test_fortran_order_is_read_as_any_other(tmp_path):
    images, _ = make_digits(50, 50)
    source = npz(tmp_path / "a.npz", train_images=np.asfortranarray(images))
    assert np.array_equal(load_split(source, 50, 20).train.pixels[:, 0], images)


def test_a_truncated_gzip_is_refused(tmp_path):
    folder = write_mnist(tmp_path / "d")
    spoil(IMAGES + ".gz", lambda b: b[:-100])(folder)
    with pytest.raises(ValueError, match="damaged gzip"):
        load_split(str(folder), 500, 100)


def test_mnists_files_are_checked_against_their_sums(tmp_path, monkeypatch):
    shutil.copytree(data.mnist_folder(), tmp_path / "mnist")
    labels = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(labels.read_bytes()))
    content[-1] ^= 1
    labels.write_bytes(gzip.compress(content, 1))
    monkeypatch.setattr(data, "mnist_folder", lambda: tmp_path / "mnist")
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte: got SHA-256"):
        load_split(None, 50_000, 10_000)


def test_without_its_package_mnist_is_named_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "featherweight_mnist", None)
    with pytest.raises(InputError, match="MNIST's images are not installed") as caught:
        load_split(None, 50_000, 10_000)
    assert "packages/mnist" in caught.value.hint


def test_nowhere():
    with pytest.raises(ValueError, match="no such file or folder"):
        load_split("nowhere", 500, 100)


def test_normalised_training_images_have_mean_0_and_deviation_1(split):
    pixels = split.normalise(split.train.pixels)
    assert torch.equal(pixels, data.normalise(split.train.pixels, split.mean_std))
    assert pixels.double().mean().abs() < 1e-5
    assert (pixels.double().std(correction=0) - 1).abs() < 1e-5


def test_images_of_one_grey_level_cannot_be_normalised(split):
    flat = data.Images(torch.zeros_like(split.train.pixels), split.train.labels)
    with pytest.raises(ValueError, match="one grey level"):
        _ = data.Split(None, flat, split.val, 10).mean_std
