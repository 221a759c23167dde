"""Data sets in one .npz file."""

import io
import zipfile

import numpy as np
import pytest
from helpers import make_digits

from featherweight.errors import InputError
from featherweight.formats import open_source


def save(path, **arrays):
    images, labels = make_digits(12, 0)
    np.savez(path, **{"train_images": images, "train_labels": labels} | arrays)
    return path


@pytest.mark.parametrize("name", ["a.npz", "A.NPZ", 'it\'s a "set".npz'])
def test_a_name(tmp_path, name):
    save(tmp_path / "a.npz").rename(tmp_path / name)
    assert len(open_source(tmp_path / name).read("train").images) == 12
    assert len(open_source(tmp_path).read("train").images) == 12  # the one file in the folder


def test_keras_names(tmp_path):
    images, labels = make_digits(12, 0)
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:5], y_test=labels[:5])
    source = open_source(path)
    assert not source.has_val
    assert np.array_equal(source.read("test").labels, labels[:5])


@pytest.mark.parametrize(
    "names",
    [("X_train", "y_train"), ("train_x", "train_y"), ("TRAINING_DATA", "TRAINING_TARGETS")],
)
def test_other_names_of_the_arrays(tmp_path, names):
    images, labels = make_digits(12, 0)
    path, (x, y) = tmp_path / "a.npz", names
    np.savez(path, **{x: images, y: labels, "X_valid": images[:3], "y_valid": labels[:3]})
    source = open_source(path)
    assert np.array_equal(source.read("train").labels, labels)
    assert source.has_val
    assert np.array_equal(source.read("val").images, images[:3])
    np.savez(path, images=images, labels=labels)
    with pytest.raises(InputError, match=r"it has images, labels; hint: save them by these names"):
        open_source(path).read("train")


def kuzushiji(folder, name="kmnist", word="imgs"):
    for part, n in (("train", 12), ("test", 5)):
        images, labels = make_digits(n, n)
        np.savez_compressed(folder / f"{name}-{part}-{word}.npz", images)
        np.savez_compressed(folder / f"{name}-{part}-labels.npz", labels)


def test_a_set_of_four_files(tmp_path):
    kuzushiji(tmp_path)
    for path in (tmp_path, tmp_path / "kmnist", tmp_path / "kmnist-train-imgs.npz"):
        source = open_source(path)
        for part, n in (("train", 12), ("test", 5)):
            images, labels = make_digits(n, n)
            read = source.read(part)
            assert np.array_equal(read.images, images)
            assert np.array_equal(read.labels, labels)
        assert source.said.classes[-1] == "wo"
    kuzushiji(tmp_path, "k49", "images")
    with pytest.raises(InputError, match="2 data sets, k49, kmnist; expected one"):
        open_source(tmp_path)
    assert not open_source(tmp_path / "k49").said.classes
    (tmp_path / "k49-test-labels.npz").unlink()
    with pytest.raises(InputError, match=r"got no k49-test-labels\.npz"):
        open_source(tmp_path / "k49").read("test")
    np.savez(tmp_path / "k49-train-labels.npz", y=np.arange(12))
    with pytest.raises(InputError, match=r"labels\.npz: got no array arr_0, but y\.npy"):
        open_source(tmp_path / "k49").read("train")


def test_a_file_beside_it_says_what_its_arrays_do_not(tmp_path):
    path = save(tmp_path / "a.npz")
    (tmp_path / "data.toml").write_text('orientation = "transposed"')
    assert open_source(path).said.orientation == "transposed"
    save(path, polarity="natural")
    assert open_source(path).said.orientation == ""


def test_a_missing_array_is_named(tmp_path):
    path = save(tmp_path / "a.npz", val_labels=np.zeros(3))
    source = open_source(path)
    assert source.has_val
    with pytest.raises(InputError, match=r"no array val_images, .* it has train_images, train_lab"):
        source.read("val")
    with pytest.raises(InputError, match="no array test_images"):
        source.read("test")


def test_it_may_say_what_it_is(tmp_path):
    names = [f"number {i}" for i in range(10)]
    said = open_source(
        save(tmp_path / "a.npz", classes=names, orientation="transposed", first_label=0)
    ).said
    assert said.classes == tuple(names)
    assert said.orientation == "transposed"
    assert open_source(save(tmp_path / "b.npz", polarity=b"natural")).said.polarity == "natural"
    for kind in (np.str_, lambda name: name.encode()):
        said = open_source(save(tmp_path / "c.npz", classes=[kind("été"), kind("ここ")])).said
        assert said.classes == ("été", "ここ")
    no_characters = np.full(2, 0x7FFFFFFF, "<u4").view("<U1")
    for wrong, message in (
        ({"classes": no_characters}, r"\(classes\): .*, expected texts"),
        ({"classes": np.arange(10)}, r"\(classes\): got an array int64 .* one of texts"),
        ({"classes": np.array(names, object)}, r"\(classes\): got an array object"),
        ({"classes": ["a", "a"]}, "classes: got"),
        ({"polarity": "dark"}, "polarity: got 'dark'"),
        ({"first_label": 3}, "first_label: got 3"),
        ({"first_label": [0, 1]}, "first_label"),
    ):
        with pytest.raises(InputError, match=rf"a\.npz.*{message}"):
            open_source(save(tmp_path / "a.npz", **wrong))


def test_labels_that_are_objects_are_refused_by_the_names_of_file_and_array(tmp_path):
    labels = make_digits(12, 0)[1].astype(str)
    for kind in (object, str, bytes):
        path = save(tmp_path / "a.npz", train_labels=labels.astype(kind))
        with pytest.raises(InputError, match=r"a\.npz \(train_labels\): got an array") as caught:
            open_source(path).read("train")
        assert "int64" in caught.value.hint
        assert "pickle" not in str(caught.value)


def test_texts_that_would_fill_the_memory_are_refused(tmp_path):
    path = save(tmp_path / "a.npz")
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<U500000000", "fortran_order": False, "shape": (1,)}
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("classes.npy", content.getvalue())
    with pytest.raises(InputError, match="expected at most 1,000,000 bytes"):
        open_source(path)
