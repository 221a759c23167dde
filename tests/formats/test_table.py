"""CSV tables with a row for each image."""

import numpy as np
import pytest
from helpers import make_digits

from featherweight.errors import InputError
from featherweight.formats import open_source
from featherweight.formats.table import read_table


def write(path, n=6, header=True, label="label", last=False, quoted=False, separator=","):
    images, labels = make_digits(n, 0)
    rows = [[int(y), *x.flatten()] for x, y in zip(images, labels, strict=True)]
    names = [label, *(f"pixel{i}" for i in range(784))]
    table = [names, *rows] if header else rows
    if last:
        table = [[*row[1:], row[0]] for row in table]
    if quoted:
        table = [[f'"{value}"' for value in row] for row in table]
    path.write_text("\n".join(separator.join(map(str, row)) for row in table) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("train.csv", {}),
        ("TRAIN.CSV", {}),
        ("mnist_train.csv", {"header": False}),
        ("emnist-letters-train.csv", {"header": False}),
        ("fashion-mnist_train.csv", {"quoted": True}),
        ("train_data.csv", {"label": "class", "last": True}),
        ("train.csv", {"label": "target", "last": True}),
        ("train.csv", {"label": "digit", "separator": ";"}),
        ("train.csv", {"header": False, "separator": "\t"}),
    ],
)
def test_tables(tmp_path, name, how):
    write(tmp_path / name, **how)
    images, labels = make_digits(6, 0)
    for path in (tmp_path, tmp_path / name):
        part = open_source(path).read("train")
        assert np.array_equal(part.images, images)
        assert part.labels.tolist() == labels.tolist()


def test_a_byte_order_mark_and_windows_line_ends(tmp_path):
    for header in (True, False):
        path = write(tmp_path / "train.csv", header=header)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert len(read_table(path).images) == 6


def test_a_test_table_without_labels_is_told(tmp_path):
    write(tmp_path / "train.csv")
    path = tmp_path / "train.csv"
    with pytest.raises(InputError, match=r"got no test\.csv"):
        open_source(tmp_path).read("test")
    lines = path.read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join(line.partition(",")[2] for line in lines))
    for place in (tmp_path, path):
        with pytest.raises(InputError, match=r"test\.csv: got 784 columns, all of pixels") as told:
            open_source(place).read("test")
        assert "Kaggle" in told.value.hint
    write(tmp_path / "test.csv", n=2)
    assert len(open_source(path).read("test").images) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("label,", "label,more,"), "786 columns"),
        (lambda text: "", "1 columns"),
        (lambda text: text.splitlines()[0], "no row"),
        (lambda text: text + "1,2,3\n", "number of columns"),
        (lambda text: text.replace("\n0,", "\n0,256,").replace(",0\n", "\n", 1), "256"),
        (lambda text: text.replace("\n0,", "\n0,-1,").replace(",0\n", "\n", 1), "-1"),
        (lambda text: text.replace("\n0,", "\n0,0.5,").replace(",0\n", "\n", 1), "0.5"),
        (lambda text: text.replace("\n0,", "\ncat,"), "cat"),
        (lambda text: text.replace("\n0,", '\n"0,'), "could not convert"),
        (lambda text: "x" * 500_000, "1 columns"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, change, message):
    path = write(tmp_path / "train.csv")
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=rf"train\.csv: .*{message}") as caught:
        open_source(path).read("train")
    assert "\n" not in str(caught.value)


def test_two_training_tables_are_listed(tmp_path):
    for name in ("a_train.csv", "b_train.csv"):
        write(tmp_path / name)
    with pytest.raises(InputError, match=r"a_train\.csv, b_train\.csv; expected one") as told:
        open_source(tmp_path)
    assert f"--data {tmp_path}/a_train.csv" in told.value.hint
    assert len(open_source(tmp_path / "a_train.csv").read("train").images) == 6


def test_a_test_table_is_that_of_the_same_name(tmp_path):
    for name, n in (("digits", 3), ("letters", 5)):
        write(tmp_path / f"emnist-{name}-train.csv", header=False)
        write(tmp_path / f"emnist-{name}-test.csv", header=False, n=n)
    for name, n in (("digits", 3), ("letters", 5)):
        source = open_source(tmp_path / f"emnist-{name}-train.csv")
        assert len(source.read("test").images) == n
        assert (source.said.orientation, source.said.first_label) == ("transposed", n // 5)
    (tmp_path / "emnist-digits-test.csv").unlink()
    with pytest.raises(InputError, match=r"got no test\.csv beside it"):
        open_source(tmp_path / "emnist-digits-train.csv").read("test")


def test_names_of_tables_tell_classes(tmp_path):
    write(tmp_path / "fashion-mnist_train.csv")
    assert open_source(tmp_path).said.classes[0] == "T-shirt/top"


def test_a_table_of_labels_alone_is_told_from_one_of_images(tmp_path):
    (tmp_path / "train.csv").write_text("id,label\n1,7\n2,3\n")
    with pytest.raises(InputError, match="got 2 columns, expected a label and the pixels") as told:
        open_source(tmp_path).read("train")
    assert "train/CLASS/PICTURE" in told.value.hint


def test_labels_that_are_not_in_the_first_column_are_asked_for(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("0,1,2,3,5\n0,1,2,3,6\n")
    with pytest.raises(InputError, match=r"got 0 in the first column of every row.*calls it label"):
        read_table(path)
    path = write(tmp_path / "train.csv")
    path.write_text("".join(f"{i},{line}\n" for i, line in enumerate(path.read_text().split())))
    with pytest.raises(InputError, match=r"got 786 columns.*index=False"):
        read_table(path)
