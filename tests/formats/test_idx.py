"""IDX files under the names that data sets are distributed with."""

import gzip

import numpy as np
import pytest
from helpers import make_digits, write_idx

from featherweight.errors import InputError
from featherweight.formats import open_source


def write_set(folder, names, labels=None, n=20):
    """Write the four files of a data set, of which `names` gives the names."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, seed in (("train", 0), ("test", 1)):
        images, own = make_digits(n, seed)
        write_idx(folder / names(part, "images", 3), images)
        write_idx(folder / names(part, "labels", 1), own if labels is None else labels)
    return folder


def mnist(part, kind, ndim):
    return f"{'train' if part == 'train' else 't10k'}-{kind}-idx{ndim}-ubyte"


def emnist(name):
    return lambda part, kind, ndim: f"emnist-{name}-{part}-{kind}-idx{ndim}-ubyte.gz"


@pytest.mark.parametrize(
    "names",
    [
        mnist,
        lambda *of: f"{mnist(*of)}.gz",
        lambda *of: f"{mnist(*of).replace('-idx', '.idx')}.gz",
        lambda *of: f"{mnist(*of)}.gz".upper(),
        lambda part, kind, ndim: f"{part}-{kind}-idx{ndim}-ubyte",
        emnist("digits"),
        lambda part, kind, ndim: f"my set_{part}-{kind}-idx{ndim}-ubyte",
        lambda *of: f"{mnist(*of)}/{mnist(*of)}",  # a folder for each file, as Kaggle unpacks them
    ],
)
def test_names(tmp_path, names):
    for stem in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        for name in (stem, stem.replace("images-idx3", "labels-idx1")):
            if names is not mnist and "/" in names("train", "images", 3):
                (tmp_path / name).mkdir()
    source = open_source(write_set(tmp_path, names))
    for part, seed in (("train", 0), ("test", 1)):
        images, labels = make_digits(20, seed)
        read = source.read(part)
        assert np.array_equal(read.images, images)
        assert np.array_equal(read.labels, labels)
    assert not source.has_val


def test_a_name_does_not_say_whether_a_file_is_gzipped(tmp_path):
    write_set(tmp_path, lambda *of: f"{mnist(*of)}.gz")
    packed = tmp_path / f"{mnist('train', 'images', 3)}.gz"
    packed.write_bytes(gzip.decompress(packed.read_bytes()))  # as some browsers do
    labels = tmp_path / f"{mnist('train', 'labels', 1)}.gz"
    labels.rename(labels.with_suffix(""))
    part = open_source(tmp_path).read("train")
    assert np.array_equal(part.images, make_digits(20, 0)[0])


def test_several_sets_in_a_folder_are_listed_and_can_be_named(tmp_path):
    for name in ("letters", "digits"):
        write_set(tmp_path, emnist(name))
    with pytest.raises(InputError, match="2 data sets, emnist-digits, emnist-letters") as caught:
        open_source(tmp_path)
    assert f"--data {tmp_path}/emnist-digits" in caught.value.hint
    assert open_source(tmp_path / "emnist-letters").said.classes[:3] == ("A", "B", "C")
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(tmp_path / "emnist-balanced")
    # Files with MNIST's own names are what the folder itself names.
    write_set(tmp_path, mnist)
    assert not open_source(tmp_path).said.classes


@pytest.mark.parametrize(
    ("name", "n_classes", "first"),
    [
        ("letters", 26, 1),
        ("digits", 10, 0),
        ("mnist", 10, 0),
        ("balanced", 47, 0),
        ("bymerge", 47, 0),
        ("byclass", 62, 0),
    ],
)
def test_emnist_is_known_by_its_names(tmp_path, name, n_classes, first):
    said = open_source(write_set(tmp_path, emnist(name))).said
    assert (len(said.classes), said.first_label) == (n_classes, first)
    assert (said.orientation, said.polarity) == ("transposed", "light on dark")


def test_a_set_may_say_what_it_is(tmp_path):
    write_set(tmp_path, emnist("digits"))
    names = [f"n{i}" for i in range(10)]
    (tmp_path / "data.toml").write_text(
        f'classes = {names}\npolarity = "dark on light"\nfirst_label = 1\n'
    )
    # The name of the files says the orientation, which is left out.
    said = open_source(tmp_path).said
    assert (said.classes, said.polarity, said.orientation, said.first_label) == (
        *(tuple(names), "dark on light", "transposed", 1),
    )
    for text, message in (
        ("colour = 1", "unknown key 'colour', expected classes, polarity"),
        ("first_label = 2", "first_label: got 2, expected 0 or 1"),
        ('orientation = "left"', "expected upright or transposed"),
        ("classes = 3", "classes"),
        ("=", "not a TOML file"),
    ):
        (tmp_path / "data.toml").write_text(text)
        with pytest.raises(InputError, match=rf"data\.toml: .*{message}"):
            open_source(tmp_path)


@pytest.mark.parametrize("root", ["MNIST/raw", "EMNIST/raw", "deep"])
def test_the_folders_above_name_a_set_too(tmp_path, root):
    write_set(tmp_path / root, mnist)
    for folder in (tmp_path, *(tmp_path / root).parents):
        assert len(open_source(folder).read("test").images) == 20
        if folder == tmp_path:
            break


def test_torchvisions_folders_name_classes(tmp_path):
    write_set(tmp_path / "FashionMNIST" / "raw", mnist)
    assert open_source(tmp_path).said.classes[0] == "T-shirt/top"
    write_set(tmp_path / "KMNIST" / "raw", mnist)
    with pytest.raises(InputError, match="FashionMNIST/raw, KMNIST/raw; expected one"):
        open_source(tmp_path)
    assert open_source(tmp_path / "KMNIST").said.classes[-1] == "wo"


def write_qmnist(folder, labels):
    images, _ = make_digits(len(labels), 0)
    for part in ("train", "test"):
        write_idx(folder / f"qmnist-{part}-images-idx3-ubyte.gz", images)
        content = bytes([0, 0, 12, labels.ndim]) + np.array(labels.shape, ">u4").tobytes()
        content += labels.astype(">i4").tobytes()
        (folder / f"qmnist-{part}-labels-idx2-int.gz").write_bytes(gzip.compress(content))


def test_qmnists_class_is_the_first_of_eight_numbers(tmp_path):
    labels = np.arange(20)[:, None] % 10 + np.array([[0, *[70_000] * 7]])
    write_qmnist(tmp_path, labels)
    assert open_source(tmp_path).read("train").labels[:, 0].tolist() == labels[:, 0].tolist()
    write_qmnist(tmp_path, labels[:, 0])
    with pytest.raises(InputError, match=r"labels-idx2-int\.gz: got magic number 00000c01"):
        open_source(tmp_path).read("train")


def test_a_missing_file_is_named(tmp_path):
    write_set(tmp_path, emnist("digits"))
    (tmp_path / "emnist-digits-test-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="no emnist-digits-test-labels-idx1-ubyte"):
        open_source(tmp_path).read("test")
