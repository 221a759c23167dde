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
from PIL import Image

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


def test_an_empty_path_is_not_the_current_folder(digits, monkeypatch):
    monkeypatch.chdir(digits)
    with pytest.raises(InputError, match="data: got an empty path"):
        load_split("", 30, 20)
    assert len(load_split(".", 30, 20).val) == 20


def test_an_npz_has_its_own_validation_images(tmp_path):
    split = load_split(npz(tmp_path / "a.npz"), 50, 20)
    assert np.array_equal(split.val.labels, make_digits(20, 20)[1])
    assert np.array_equal(split.train.pixels[:, 0], make_digits(50, 50)[0])
    assert split.train.labels.shape == (50,)
    assert len(load_test(split)) == 10


def test_an_npz_without_validation_images_gives_its_last_ones(tmp_path):
    source = npz(tmp_path / "a.npz", val_images=None, val_labels=None)
    split = load_split(source, 30, 15)
    assert np.array_equal(split.train.labels, make_digits(50, 50)[1][:30])
    assert np.array_equal(split.val.labels, make_digits(50, 50)[1][-15:])
    assert split.validating.format(n=15) == "the last 15 images of the training file"
    with pytest.raises(InputError, match="got 50 images, expected 30"):
        load_split(source, 30, 21)


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda x: x[..., None], (1, 28, 28)),
        (lambda x: x[:, None], (1, 28, 28)),
        (lambda x: np.stack([x, 255 - x, x // 2], 3), (3, 28, 28)),
        (lambda x: np.stack([x, 255 - x, x // 2], 1), (3, 28, 28)),
        (lambda x: np.stack([x[:, :, :3], 255 - x[:, :, :3], x[:, :, :3]], 3), (3, 28, 3)),
    ],
)
def test_channels_may_be_first_or_last(tmp_path, change, shape):
    images = {
        f"{part}_images": change(make_digits(n, n)[0])
        for part, n in (("train", 50), ("val", 20), ("test", 10))
    }
    split = load_split(npz(tmp_path / "a.npz", **images), 50, 20)
    assert split.shape == split.kind.shape == shape
    digits = make_digits(50, 50)[0][:, :, : shape[2]]
    assert np.array_equal(split.train.pixels[:, 0], digits)
    if shape[0] == 3:
        assert np.array_equal(split.train.pixels[:, 1], 255 - digits)
        assert split.kind.polarity == "natural"
    assert load_test(split).pixels.shape == (10, *shape)
    pixels = split.train.pixels.numpy() / 255
    assert split.mean_std == pytest.approx((pixels.mean(), pixels.std()))


def test_grey_test_images_of_a_colour_set_are_refused(tmp_path):
    colour = np.zeros((50, 28, 28, 3), np.uint8)
    with pytest.raises(
        InputError, match=r"\(val\): got images \(1, 28, 28\), expected \(3, 28, 28\)"
    ):
        load_split(npz(tmp_path / "a.npz", train_images=colour), 50, 20)


def test_labels_that_begin_with_1_are_refused_unless_they_are_said_to(tmp_path):
    parts = {"train": 50, "val": 20, "test": 10}
    labels = {f"{part}_labels": make_digits(n, n)[1] + 1 for part, n in parts.items()}
    with pytest.raises(
        InputError, match=r"a\.npz \(train\): label 0 never occurs.* 1 to 10"
    ) as told:
        load_split(npz(tmp_path / "a.npz", **labels), 50, 20)
    assert "first_label = 1" in told.value.hint
    split = load_split(npz(tmp_path / "b.npz", **labels, first_label=1), 50, 20)
    assert np.array_equal(split.train.labels, make_digits(50, 50)[1])
    assert split.num_classes == 10
    assert load_test(split).labels.max() == 9
    with pytest.raises(InputError, match="got label 0, expected 1 to 256"):
        load_split(npz(tmp_path / "c.npz", first_label=1), 50, 20)


def test_names_of_classes_say_how_many_there_are(tmp_path):
    names = list("abcdefghijkl")
    split = load_split(npz(tmp_path / "a.npz", classes=names), 50, 20)
    assert split.num_classes == 12
    assert split.kind.classes == tuple(names)
    with pytest.raises(InputError, match="names of 9 classes, and label 9"):
        load_split(npz(tmp_path / "b.npz", classes=names[:9]), 50, 20)


def emnist_letters(folder, labels):
    for part in ("train", "test"):
        images, _ = make_digits(len(labels), 0)
        write_idx(folder / f"emnist-letters-{part}-images-idx3-ubyte", images)
        write_idx(folder / f"emnist-letters-{part}-labels-idx1-ubyte", labels)
    return load_split(str(folder), 50, 10)


def test_emnists_letters_are_1_to_26(tmp_path):
    split = emnist_letters(tmp_path, np.arange(60, dtype=np.uint8) % 26 + 1)
    assert split.kind.classes == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert split.train.labels[:3].tolist() == [0, 1, 2]
    assert (split.kind.orientation, split.kind.polarity) == ("transposed", "light on dark")
    assert load_test(split).labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("first", "n", "classes"), [(1, 5, "ABCDE"), (0, 5, "ABCDE")])
def test_what_a_name_says_is_overruled_by_the_labels(tmp_path, first, n, classes):
    split = emnist_letters(tmp_path, np.arange(60, dtype=np.uint8) % n + first)
    assert split.kind.classes == tuple(classes)
    assert split.train.labels.min() == 0


def test_more_labels_than_a_name_says_are_numbers(tmp_path):
    split = emnist_letters(tmp_path, np.arange(60, dtype=np.uint8) % 30 + 1)
    assert split.kind.classes == tuple(map(str, range(30)))


def test_classes_of_a_name_are_those_of_all_training_images(tmp_path):
    labels = np.append(np.arange(59) % 5, 25).astype(np.uint8) + 1  # the last one validates
    split = emnist_letters(tmp_path, labels)
    assert split.num_classes == len(split.kind.classes) == 26


@pytest.mark.parametrize(
    ("border", "polarity"),
    [(20, "light on dark"), (230, "dark on light"), (128, "natural")],
)
def test_polarity_is_found_at_the_border(border, polarity):
    pixels = torch.full((10, 1, 9, 7), 128, dtype=torch.uint8)
    pixels[:, :, [0, -1]] = pixels[..., [0, -1]] = border
    assert data.find_polarity(pixels) == polarity
    assert data.find_polarity(pixels.repeat(1, 3, 1, 1)) == "natural"


def pictures(folder, n_each, colour=False, part="train", size=(9, 8)):
    """Write pictures of one level each: class k's are 100 k + 1, 100 k + 2 and so on."""
    for k, (label, n) in enumerate(n_each.items()):
        (folder / part / label).mkdir(parents=True)
        for i in range(n):
            level = 100 * k + i + 1
            image = Image.new("RGB" if colour else "L", size, (level, 0, 0) if colour else level)
            image.save(folder / part / label / f"{i:02}.png")
    return str(folder)


def levels(images):
    return images.pixels[:, 0, 0, 0].tolist()


def test_of_pictures_the_last_ones_of_each_class_validate(tmp_path):
    split = load_split(pictures(tmp_path, {"cat": 5, "dog": 4}), 5, 4)
    assert split.kind.classes == ("cat", "dog")
    assert levels(split.train) == [1, 101, 2, 102, 3]
    assert levels(split.val) == [103, 4, 104, 5]
    assert split.val.labels.tolist() == [1, 0, 1, 0]
    assert split.validating.format(n=4) == "the last training pictures of each class, 4 in all"
    # An odd number: the first classes give one more. Fewer training images: the first of each.
    split = load_split(str(tmp_path), 2, 3)
    assert levels(split.train) == [1, 101]
    assert levels(split.val) == [4, 104, 5]
    with pytest.raises(InputError, match="got 9 images, expected 6"):
        load_split(str(tmp_path), 6, 4)


def test_a_class_with_too_few_pictures_is_named(tmp_path):
    source = pictures(tmp_path, {"cat": 9, "one": 1})
    with pytest.raises(InputError, match="1 training pictures of class 'one', expected more than"):
        load_split(source, 6, 2)
    pictures(tmp_path, {"cat": 1, "one": 1}, part="val")
    assert len(load_split(source, 10, 2).val) == 2
    with pytest.raises(InputError, match="got 10 and 2, expected 9"):
        load_split(source, 9, 2)


def test_grey_test_pictures_of_a_colour_set_get_three_channels(tmp_path):
    source = pictures(tmp_path, {"cat": 3, "dog": 3}, colour=True)
    pictures(tmp_path, {"cat": 1, "dog": 1}, part="test")
    split = load_split(source, 4, 2)
    assert split.shape == (3, 8, 9)
    assert load_test(split).pixels[0, :, 0, 0].tolist() == [1, 1, 1]


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
        ({"train_labels": np.zeros(50)}, r"whole numbers.*labels\.astype"),
        ({"train_labels": np.eye(10)[np.arange(50) % 10]}, r"whole numbers.*labels\.argmax\(1\)"),
        ({"train_images": np.full((50, 28, 28), 0.5)}, r"float64.*\(255 \* images\)"),
        ({"train_images": np.full((50, 28, 28), 9)}, r"int64.*images\.round"),
        ({"train_labels": np.arange(150).reshape(50, 3) % 2}, r"whole numbers \(n,\)$"),
        ({"train_images": np.zeros((50, 784), np.uint8)}, r"images\.reshape\(-1, 28, 28\)"),
        ({"train_images": np.zeros((50, 3072), np.uint8)}, r"images\.reshape\(-1, 3, 32, 32\)"),
        ({"train_images": np.zeros((50, 7), np.uint8)}, r"\(n, height, width, 3\), colour$"),
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


def test_a_link_that_leads_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="no such file or folder"):
        load_split(str(tmp_path / "loop"), 50, 20)


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
