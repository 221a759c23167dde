"""Make a class of submissions to try `grade` with: good, bad, cheating, broken and copied ones.

python tools/make_submissions.py /tmp/class                  # 300 of them
featherweight grade /tmp/class --contract era-v3-s6 --out /tmp/grades.csv

Every submission differs in its sizes; the kinds take turns. The folder must not exist yet.
"""

import argparse
import inspect
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from networks import base, cheats, honest

IMPORTS = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n\n"
NET = """class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, {width}, 3, bias=False)
        self.norm1 = nn.BatchNorm2d({width})
        self.conv2 = nn.Conv2d({width}, {width2}, 3, bias=False)
        self.norm2 = nn.BatchNorm2d({width2})
        self.drop = nn.Dropout({dropout})
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d({width2}, 10, 1)

    def forward(self, x):
        x = self.pool(F.relu(self.norm1(self.conv1(x))))
        x = self.drop(F.relu(self.norm2(self.conv2(x))))
        return F.log_softmax(self.head(x).mean((2, 3)), 1)
"""
TRAINING = """
model = {name}()
optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
while True:
    loss = model(torch.randn(64, 1, 28, 28)).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
"""


def net(draw: random.Random, name: str = "Net", **changes: object) -> str:
    """Return the source of a network that meets the contract."""
    sizes = {"width": draw.randrange(6, 12), "width2": draw.randrange(12, 33)}
    values = sizes | {"name": name, "dropout": draw.choice([0.05, 0.1, 0.2])} | changes
    return NET.format(**values)


def notebook(*cells: str) -> str:
    """Return a notebook with code cells."""
    made = [
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": cell.splitlines(True)}
        for cell in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def good(folder: Path, draw: random.Random) -> None:
    """Write a network in model.py that meets the contract."""
    (folder / "model.py").write_text(IMPORTS + net(draw))


def several(folder: Path, draw: random.Random) -> None:
    """Write three networks in one file, the last of which is meant, and a block that is a part."""
    text = IMPORTS + "\n\n".join(net(draw, f"Model{n}") for n in (1, 2, 3))
    (folder / "model.py").write_text(text + "\n\nclass Block(nn.Module):\n    pass\n")


def in_notebook(folder: Path, draw: random.Random) -> None:
    """Write a notebook with magics, a training, and packages that are not installed."""
    (folder / "S6.ipynb").write_text(
        notebook(
            "%matplotlib inline\n!pip install torchsummary\nimport torchsummary\n" + IMPORTS,
            "dropout = 0.1\n",
            net(draw, dropout="dropout"),
            "%%time\n" + TRAINING.format(name="Net"),
        )
    )


def trains(folder: Path, draw: random.Random) -> None:
    """Write a script that trains for ever when it is imported."""
    (folder / "train.py").write_text(IMPORTS + net(draw) + TRAINING.format(name="Net"))


def reads_data(folder: Path, draw: random.Random) -> None:
    """Write a script that reads a data set that is not here."""
    (folder / "main.py").write_text(
        IMPORTS + net(draw) + "\nimages = torch.load('data/train.pt')\nprint(images.shape)\n"
    )


def large(folder: Path, draw: random.Random) -> None:
    """Write a network with too many parameters."""
    (folder / "model.py").write_text(IMPORTS + net(draw, width2=draw.randrange(400, 600)))


def no_dropout(folder: Path, draw: random.Random) -> None:
    """Write a network whose dropout drops nothing."""
    (folder / "model.py").write_text(IMPORTS + net(draw, dropout=0.0))


def cheat(folder: Path, draw: random.Random) -> None:
    """Write one of tests/networks/cheats.py, with a graph of usual size."""
    names = [name for name, case in cheats.CHEATS.items() if case.n_hidden >= 20_000]
    _write_case(folder, cheats, draw.choice(sorted(set(names) - SLOW)))


def honest_one(folder: Path, draw: random.Random) -> None:
    """Write one of tests/networks/honest.py."""
    _write_case(folder, honest, draw.choice(sorted(honest.HONEST)))


# Cheats whose export takes minutes, within any limit of time.
SLOW = {"GlobalSeeds", "ChosenSeeds", "Counters", "Pickled", "ListTree"}


def _write_case(folder: Path, module: object, name: str) -> None:
    """Write a module of tests/networks as a file whose only network is one of it."""
    package = folder / "networks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = Path(inspect.getfile(module))  # type: ignore[arg-type]
    (package / "base.py").write_text(Path(base.__file__).read_text())
    (package / source.name).write_text(source.read_text())
    (folder / "model.py").write_text(
        f"from networks.{source.stem} import {name} as Case\n\n\nclass Net(Case):\n"
        "    def __init__(self, *args, **kwargs):\n        super().__init__(*args, **kwargs)\n"
    )


def endless(folder: Path, draw: random.Random) -> None:
    """Write a constructor that never ends."""
    text = net(draw).replace(
        "super().__init__()\n", "super().__init__()\n        while True: pass\n"
    )
    (folder / "model.py").write_text(IMPORTS + text)


def exits(folder: Path, draw: random.Random) -> None:
    """Write a file that ends the process in forward."""
    text = net(draw).replace("x = self.pool", "import os; os._exit(0)\n        x = self.pool")
    (folder / "model.py").write_text(IMPORTS + text)


def syntax(folder: Path, draw: random.Random) -> None:
    """Write a file with a syntax error."""
    (folder / "model.py").write_text(IMPORTS + net(draw).replace("self, x):", "self, x:"))


def no_class(folder: Path, draw: random.Random) -> None:
    """Write a file without a network."""
    (folder / "model.py").write_text(f"print('hello {draw.random()}')\n")


def colour(folder: Path, draw: random.Random) -> None:
    """Write a network for images with three channels."""
    (folder / "model.py").write_text(IMPORTS + net(draw).replace("Conv2d(1,", "Conv2d(3,"))


def nothing(folder: Path, draw: random.Random) -> None:
    """Write a folder with a report alone."""
    (folder / "report.txt").write_text(f"99.{draw.randrange(40, 60)} %\n")


def needs_arguments(folder: Path, draw: random.Random) -> None:
    """Write a network whose constructor needs an argument."""
    (folder / "model.py").write_text(
        IMPORTS + net(draw).replace("__init__(self)", "__init__(self, width)")
    )


def with_weights(folder: Path, draw: random.Random) -> None:
    """Write a network with weights, which nothing has trained."""
    good(folder, draw)
    made: dict[str, Any] = {}
    exec((folder / "model.py").read_text(), made)
    torch.save(made["Net"]().state_dict(), folder / "model.pth")


def copied(folder: Path, draw: random.Random) -> None:
    """Write a network that several hand in, under other names and in other formatting."""
    text = net(random.Random(0))
    for old in ("conv1", "norm1", "head"):
        text = text.replace(old, f"{old}_{draw.randrange(1000)}")
    (folder / "model.py").write_text(IMPORTS + text.replace("Net", f"Net{draw.randrange(1000)}"))


# Each kind, and how many of thirty submissions are of it.
KINDS: tuple[tuple[Callable[[Path, random.Random], None], int], ...] = (
    *(
        (good, 6),
        (with_weights, 2),
        (several, 2),
        (in_notebook, 4),
        (trains, 1),
        (reads_data, 1),
        (large, 1),
    ),
    *((no_dropout, 1), (cheat, 3), (honest_one, 2), (copied, 1), (syntax, 1), (no_class, 1)),
    *((colour, 1), (nothing, 1), (needs_arguments, 1), (exits, 1)),
)


def main() -> None:
    """Make the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-n", type=int, default=300, help="number of submissions")
    parser.add_argument("--endless", type=int, default=2, help="of these, how many never end")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    turns = [make for make, count in KINDS for _ in range(count)]
    for number in range(options.n):
        draw = random.Random(number + 1)
        make = endless if number < options.endless else turns[number % len(turns)]
        folder = options.folder / f"{number + 1:03}-{make.__name__.replace('_', '-')}"
        folder.mkdir()
        make(folder, draw)


if __name__ == "__main__":
    main()
