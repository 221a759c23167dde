"""CIFAR's binary version."""

import numpy as np
import pytest

from featherweight.errors import InputError
from featherweight.formats import open_source
from featherweight.formats.cifar import N_PIXELS


def records(n, n_labels, seed):
    array = np.random.default_rng(seed).integers(0, 256, (n, n_labels + N_PIXELS), np.uint8)
    array[:, :n_labels] = np.arange(n)[:, None] % 10 + 10 * np.arange(n_labels)[::-1]
    return array


@pytest.fixture
def cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i in range(1, 6):
        records(3, 1, i).tofile(folder / f"data_batch_{i}.bin")
    records(4, 1, 9).tofile(folder / "test_batch.bin")
    (folder / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")
    return folder


def test_cifar_10(cifar10):
    for path in (cifar10, cifar10.parent):
        source = open_source(path)
        part = source.read("train")
        assert part.images.shape == (15, 3, 32, 32)
        assert part.labels.tolist() == [0, 1, 2] * 5
        # Red comes first, then green and blue, each row by row.
        assert part.images[3, 1, 2, 5] == records(3, 1, 2)[0, 1 + 1024 + 2 * 32 + 5]
        assert source.read("test").labels.tolist() == [0, 1, 2, 3]
        assert source.said.classes[9] == "class9"


def test_cifar_100_has_fine_labels(tmp_path):
    for name, n in (("train.bin", 5), ("test.bin", 2)):
        records(n, 2, 0).tofile(tmp_path / name)
    source = open_source(tmp_path)
    assert source.read("train").labels.tolist() == [0, 1, 2, 3, 4]
    assert source.read("test").images.shape == (2, 3, 32, 32)


def test_names_of_classes(cifar10):
    names = cifar10 / "batches.meta.txt"
    names.write_text("one\n")
    with pytest.raises(InputError, match=r"batches\.meta\.txt: classes: got \['one'\]"):
        open_source(cifar10)
    names.unlink()  # CIFAR-10's own are known
    said = open_source(cifar10).said
    assert (said.classes[0], said.classes[9], said.by_name) == ("airplane", "truck", True)


def test_damaged_files_are_named(cifar10):
    batch = cifar10 / "data_batch_2.bin"
    for content in (b"", bytes(3072), bytes(3 * 3073 + 1)):
        batch.write_bytes(content)
        with pytest.raises(InputError, match=r"data_batch_2\.bin: got [\d,]+ bytes"):
            open_source(cifar10).read("train")
    batch.unlink()
    with pytest.raises(InputError, match=r"got no data_batch_2\.bin"):
        open_source(cifar10).read("train")


@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", "cifar-100-python/train"])
def test_the_pickled_version_is_refused_and_the_way_on_told(tmp_path, name):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"\x80\x02")
    for path in (tmp_path, (tmp_path / name).parent, tmp_path / name):
        with pytest.raises(InputError, match="loading a pickle can run code") as caught:
            open_source(path)
        assert "binary.tar.gz" in caught.value.hint
