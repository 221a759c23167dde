"""Finding data sets, and what is not read."""

import pytest
from helpers import write_mnist

from featherweight.errors import InputError
from featherweight.formats import open_source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist.pkl", "loading a pickle can run code"),
        ("mnist.pkl.gz", "loading a pickle can run code"),
        ("x_train.npy", "one array, .*numpy.savez"),
        ("training.PT", "loading a pickle can run code"),
        ("cifar-10-binary.tar.gz", "unpack it"),
        ("emnist-letters.mat", "numpy.savez"),
        ("train.parquet", "numpy.savez"),
        ("notes.txt", "another format, expected IDX files"),
    ],
)
def test_what_is_not_read_is_told_with_the_way_on(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"1")
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / name)
    if name != "notes.txt":
        inside = tmp_path / "as" / "deep"  # as torchvision's MNIST/processed/training.pt
        inside.mkdir(parents=True)
        (tmp_path / name).rename(inside / name)
        with pytest.raises(InputError, match=message):
            open_source(tmp_path)


def test_a_file_of_a_data_set_leads_to_its_folder(tmp_path):
    path = write_mnist(tmp_path) / "train-images-idx3-ubyte.gz"
    for each in (path.rename(path.with_suffix("")), tmp_path / "t10k-labels-idx1-ubyte.gz"):
        with pytest.raises(InputError, match="got one file of several") as told:
            open_source(each)
        assert told.value.hint == f"name its folder: --data {tmp_path}"


def test_a_table_of_any_name_is_told_to_be_named(tmp_path):
    (tmp_path / "letters.csv").write_text("1,2\n")
    with pytest.raises(InputError, match="no data set in this folder") as told:
        open_source(tmp_path)
    assert told.value.hint == f"name the table: --data {tmp_path / 'letters.csv'}"


def test_what_a_data_set_says_is_not_passed_over(tmp_path):
    (tmp_path / "MNIST").mkdir()
    write_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "data.toml").write_text('orientation = "transposed"')
    with pytest.raises(InputError, match=r"data\.toml: not beside the data set") as told:
        open_source(tmp_path)
    assert told.value.hint == f"move it to {tmp_path / 'MNIST' / 'raw' / 'data.toml'}"


def test_an_empty_folder_and_a_loop_of_links(tmp_path):
    with pytest.raises(InputError, match="no data set in this folder"):
        open_source(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "back").symlink_to(tmp_path)
    with pytest.raises(InputError, match="no data set in this folder"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(tmp_path / "loop")


def test_the_files_that_macos_adds_are_no_data_sets(tmp_path):
    write_mnist(tmp_path / "raw")
    (tmp_path / "__MACOSX").mkdir()
    for name in ("train-images-idx3-ubyte.gz", "train.csv", "a.npz"):
        (tmp_path / "raw" / f"._{name}").write_bytes(b"1")
        (tmp_path / "__MACOSX" / name).write_bytes(b"1")
    assert len(open_source(tmp_path).read("train").images)
    for path in sorted((tmp_path / "raw").glob("[!.]*")):
        path.unlink()
    with pytest.raises(InputError, match="no data set in this folder"):
        open_source(tmp_path)


def test_a_name_in_other_case_or_without_its_suffix_is_told(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"1")
    for name in ("DATA.NPZ", "data"):
        with pytest.raises(InputError, match="no such file or folder") as told:
            open_source(tmp_path / name)
        assert told.value.hint == f"did you mean {tmp_path / 'data.npz'}?"
