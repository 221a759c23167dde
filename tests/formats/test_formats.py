"""Finding data sets, and what is not read."""

import pytest

from featherweight.errors import InputError
from featherweight.formats import open_source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist.pkl", "loading a pickle can run code"),
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
        (tmp_path / "inside").mkdir()
        (tmp_path / name).rename(tmp_path / "inside" / name)
        with pytest.raises(InputError, match=message):
            open_source(tmp_path)


def test_an_empty_folder_and_a_loop_of_links(tmp_path):
    with pytest.raises(InputError, match="no data set in this folder"):
        open_source(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "back").symlink_to(tmp_path)
    with pytest.raises(InputError, match="no data set in this folder"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(tmp_path / "loop")
