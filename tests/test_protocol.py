"""`--split test` and a study's test column count the test images, and nothing else.

The expected count comes from the files themselves: they are parsed here, without
`featherweight.data`. The made digits have 100 validation images and 90 test images, so the two
cannot be mistaken for each other.
"""

import csv
import gzip
import json

import numpy as np
import pytest
import torch
from helpers import featherweight

from featherweight.run import open_run

pytestmark = pytest.mark.slow

PLAN = """
recipes = ["sprint"]
seeds = 1
contract = "tiny.toml"
test = true
[[overrides]]
name = "short"
epochs = 2
batch_size = 25
resize_until = 0.0
"""


def _read(folder, part):
    """Return the images (n, 28, 28) and labels (n,) of one part of an MNIST folder."""
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:]
    return np.frombuffer(pixels, np.uint8).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8)


def _right(run, digits, part, where):
    """Count the images of one part that a run's network classifies correctly."""
    trained_on = _read(digits, "train")[0][:500] / 255
    images, labels = (values[where] for values in _read(digits, part))
    inputs = (images / 255 - trained_on.mean()) / trained_on.std()
    model = open_run(run).load_model().eval()
    with torch.no_grad():
        logits = model(torch.tensor(inputs, dtype=torch.float32)[:, None])
    return int((logits.argmax(1).numpy() == labels).sum())


@pytest.fixture(scope="module")
def study(tmp_path_factory, digits, tiny_contract):
    """A folder with a finished study of one run, `rows.csv`, and the path of that run."""
    folder = tmp_path_factory.mktemp("protocol")
    (folder / "tiny.toml").write_text(tiny_contract.to_toml())
    (folder / "plan.toml").write_text(PLAN)
    done = featherweight(
        *("study", "plan.toml", "--data", digits, "--workers", 1),
        *("--results", "rows.csv", "--runs", "runs"),
        cwd=folder,
    )
    assert done.returncode in (0, 1), done.stderr
    (config,) = (folder / "runs").glob("*/config.json")
    return folder, config.parent


def test_evaluate_reads_the_split_that_is_named(study, digits):
    folder, run = study
    for split, part, where, total in (
        ("val", "train", slice(500, 600), 100),
        ("test", "t10k", slice(None), 90),
    ):
        done = featherweight("evaluate", run, "--split", split, "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["correct"], found["total"]) == (_right(run, digits, part, where), total)


def test_a_studys_test_column_counts_the_test_images(study, digits):
    folder, run = study
    with (folder / "rows.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert int(row["val_correct"]) == _right(run, digits, "train", slice(500, 600))
    assert (int(row["test_correct"]), int(row["test_total"])) == (
        _right(run, digits, "t10k", slice(None)),
        90,
    )
