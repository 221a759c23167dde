"""What people run instead: the baseline network in a plain PyTorch loop with a DataLoader.

Written as a course teaches it: a dataset of PIL images, random changes to one image at a time in
the worker processes of a DataLoader, a loop over its batches, and PyTorch's settings as they are.
It runs in a process of its own, `python -m featherweight.bench.peer EPOCHS LOADERS`, which prints
one line of JSON for each epoch.
"""

import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ..data import Images, load_split
from ..model import BaselineNet
from ..recipe import Augmentation, find_recipe

OWN_SETTINGS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # which `_openmp.share_cores` sets
COMMAND = (sys.executable, "-m", __name__)


class Digits(Dataset[tuple[Tensor, int]]):
    """Images with their labels, each changed at random when it is asked for, and normalised."""

    def __init__(
        self, images: Images, mean_std: tuple[float, float], strengths: Augmentation | None
    ) -> None:
        self.pictures = [Image.fromarray(pixels[0].numpy()) for pixels in images.pixels]
        self.labels = images.labels.tolist()
        self.mean_std, self.strengths = mean_std, strengths

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image, shape (1, height, width), and its label."""
        picture = self.pictures[index]
        if self.strengths is not None:
            picture = changed(picture, self.strengths)
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        mean, std = self.mean_std
        image = pixels.view(1, picture.height, picture.width) / 255
        return (image - mean) / std, self.labels[index]


def changed(picture: Image.Image, strengths: Augmentation) -> Image.Image:
    """Return a picture blurred, rotated, shifted, scaled and with another brightness and contrast.

    The draws are uniform, and as strong as a recipe says."""

    def signed(strength: float) -> float:
        return random.uniform(-strength, strength)

    if strengths.blur_kernel:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(*strengths.blur_sigma)))
    angle, scale = math.radians(signed(strengths.rotation)), 1 + signed(strengths.scale)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    # An affine transform of PIL gives the place in the input of each place in the output; both are
    # measured from a corner, and turn about the centre here.
    x, y = picture.width / 2, picture.height / 2
    dx, dy = x + signed(strengths.shift), y + signed(strengths.shift)
    matrix = (cos, -sin, x - cos * dx + sin * dy, sin, cos, y - sin * dx - cos * dy)
    picture = picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    picture = ImageEnhance.Brightness(picture).enhance(1 + signed(strengths.brightness))
    return ImageEnhance.Contrast(picture).enhance(1 + signed(strengths.contrast))


def train_as_taught(epochs: int, workers: int) -> Iterator[int]:
    """Train the baseline network; yield the number of right validation images of each epoch."""
    recipe = find_recipe("baseline")
    split = load_split(None, 50_000, 10_000)
    torch.manual_seed(0)
    train = Digits(split.train, split.mean_std, recipe.augmentation)
    val = Digits(split.val, split.mean_std, None)
    train_loader = DataLoader(
        train, batch_size=recipe.batch_size, shuffle=True, num_workers=workers
    )
    val_loader = DataLoader(val, batch_size=recipe.batch_size, num_workers=workers)
    model = BaselineNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    for _ in range(epochs):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = F.nll_loss(model(images), labels)
            loss.backward()
            optimizer.step()
        yield count_correct(model, val_loader)


@torch.no_grad()
def count_correct(model: nn.Module, loader: "DataLoader[tuple[Tensor, int]]") -> int:
    """Return how many images a network classifies correctly."""
    model.eval()
    return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)


@dataclass(frozen=True)
class Peer:
    """A whole training as a course teaches it."""

    epochs: int
    "Number of epochs."
    seconds: float
    "Wall-clock seconds, with the reading of the images and the evaluation after every epoch."
    val_correct: int
    "Validation images read correctly after the last epoch."


def bench_peer(
    epochs: int, workers: int, on_epoch: Callable[[dict[str, Any]], None] | None = None
) -> Peer:
    """Time such a training in a new Python process, whose start does not count.

    `on_epoch` is called after each epoch with epoch, seconds (since the start) and val_correct.
    Raises RuntimeError if the process fails."""
    row: dict[str, Any] = {}
    # With PyTorch's own settings, not with those of this process.
    environment = {key: value for key, value in os.environ.items() if key not in OWN_SETTINGS}
    with subprocess.Popen(
        [*COMMAND, str(epochs), str(workers)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            row = json.loads(line)
            if on_epoch is not None:
                on_epoch(row)
    if process.returncode or not row:
        raise RuntimeError(f"the plain loop ended with exit code {process.returncode}")
    return Peer(epochs, row["seconds"], row["val_correct"])


def main() -> None:
    """Train with the numbers on the command line, and print a line of JSON for each epoch."""
    start = time.perf_counter()
    for epoch, correct in enumerate(train_as_taught(*map(int, sys.argv[1:])), 1):
        seconds = time.perf_counter() - start
        print(json.dumps({"epoch": epoch, "seconds": seconds, "val_correct": correct}), flush=True)


if __name__ == "__main__":
    main()
