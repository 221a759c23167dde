"""Grading on two nodes of this machine: the rows of local processes."""

import dataclasses

import pytest
import torch

from featherweight.grading.grade import grade
from featherweight.grading.ray_graders import RayGraders, bundle, unbundle
from featherweight.grading.settings import Settings
from featherweight.grading.submissions import Submission, find_submissions

NET = """
import torch
from torch import nn

from widths import WIDTH


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, WIDTH, 5), nn.BatchNorm2d(WIDTH), nn.Dropout(0.1))
        self.head = nn.Conv2d(WIDTH, 10, 1)

    def forward(self, x):
        return self.head(self.body(x)).mean((2, 3))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_gives_the_rows_of_this_machine(tmp_path, digits, tiny_contract, cluster):
    for name, width in (("anna", 6), ("ben", 7), ("cleo", 6)):
        folder = tmp_path / "class" / name
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(NET)
        (folder / "widths.py").write_text(f"WIDTH = {width}\n")
    (tmp_path / "class/empty").mkdir()
    settings = Settings(tiny_contract, str(digits))
    found = find_submissions(str(tmp_path / "class"))
    with RayGraders("auto", settings, None) as graders:
        rows = grade(found, settings, tmp_path / "grades.csv", graders)
    assert [row["name"] for row in rows] == ["anna", "ben", "cleo", "empty"]
    assert [row["verdict"] for row in rows] == ["PASS", "PASS", "PASS", "NOT JUDGED"]
    assert rows[0]["same as"] == "the same network as cleo; 2 students"
    assert (tmp_path / rows[0]["report"]).is_file()


def test_files_come_to_another_folder_as_they_are(tmp_path):
    root = tmp_path / "anna"
    (root / "src").mkdir(parents=True)
    (root / "src/model.py").write_text(NET)
    (root / "data.bin").write_bytes(b"\0\1")
    torch.save({}, tmp_path / "best.pth")
    given = Submission("Anna", root, root / "src/model.py", weights=tmp_path / "best.pth")
    moved = unbundle(given, bundle(given), tmp_path / "there")
    assert moved.file == tmp_path / "there/src/model.py"
    assert moved.weights.read_bytes() == (tmp_path / "best.pth").read_bytes()
    assert (moved.shown_file, moved.name) == (given.shown_file, given.name)
    assert (tmp_path / "there/data.bin").read_bytes() == b"\0\1"
    single = dataclasses.replace(given, root=root / "src/model.py", weights=None)
    alone = unbundle(single, bundle(single), tmp_path / "alone")
    assert alone.root == alone.file == tmp_path / "alone/model.py"
