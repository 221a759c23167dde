"""Where in the image a network finds the evidence for its answer.

    head = find_head(model, images)         # None if the head is not a mean and a linear layer
    grid = head.evidence(maps)              # (n, classes, rows, columns); sums to the logits
    measure_grid(model, head, (1, 28, 28))  # where that grid lies in the image

If a network's last step is the mean over the places of its last maps and one linear layer, the
two can be exchanged: each place has logits of its own, and the network's are their sum (class
activation mapping, Zhou et al. 2016, with nothing left out). Nothing here depends on the names of
modules: a head is one if it gives what the network gives.
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..build import forward
from ..capture import is_scripted
from ..errors import InputError
from ..model import Pool

TOLERANCE = 1e-4  # difference of log-probabilities up to which a head is the network's
# A geometry is measured in the middle of images with sides this many times as long, where neither
# the image's border nor padding cuts off a field of view.
LARGER = 3
SEEN = 1e-5  # change of an activation, relative to the largest, from which on it counts


@dataclass(frozen=True, eq=False)
class Head:
    """A mean over places and a linear layer that together are a network's head."""

    name: str
    "The module in the network whose output the mean is taken of."
    weight: Tensor
    "Weights of the linear layer (classes, channels)."
    bias: Tensor
    "Its bias (classes,)."
    pools: tuple[int, ...]
    """Sides of the max-pools that stack every offset of their grids along the batch in dense
    evaluation, the first one first."""

    def interleave(self, maps: Tensor) -> Tensor:
        """Join the maps of every offset (offsets * n, channels, h, w) into one finer grid.

        The grid is (n, channels, h * a, w * a) for `a` offsets along each axis.
        """
        channels, height, width = maps.shape[1:]
        sides = self.pools[::-1]  # the last pool's offsets are the outermost part of the batch
        # (rows of the last pool, its columns, ..., n, channels, h, w)
        split = maps.reshape(*(s for side in sides for s in (side, side)), -1, *maps.shape[1:])
        n = 2 * len(sides)
        rows, columns = range(0, n, 2), range(1, n, 2)
        split = split.permute(n, n + 1, n + 2, *rows, n + 3, *columns)
        finer = math.prod(sides)
        return split.reshape(-1, channels, height * finer, width * finer)

    def evidence(self, maps: Tensor) -> Tensor:
        """Return each place's part of each logit, (n, classes, rows, columns).

        The bias is divided evenly among the places.
        """
        places = maps.shape[2] * maps.shape[3] * math.prod(self.pools) ** 2
        weight, bias = self.weight[:, :, None, None] / places, self.bias / places
        return self.interleave(nn.functional.conv2d(maps, weight, bias))


@dataclass(frozen=True)
class Grid:
    """Where the places of the last maps lie in the image, in pixels.

    A place lies at the centre of its field of view.
    """

    extent: tuple[float, float, float, float]
    """Sides of the grid (left, top, right, bottom), half a step beyond the centres of the outer
    places."""
    field: tuple[float, float]
    "Width and height of the part of the image that one place depends on."


@contextlib.contextmanager
def _outputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Give a dictionary that holds the maps (n, channels, h, w) of every module that ran, in order.

    A module that runs several times counts as run when it last did.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim == 4:
            outputs.pop(name, None)
            outputs[name] = out

    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name, module in model.named_modules()
        if not is_scripted(module)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _linear_layers(model: nn.Module, classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weights (classes, channels) and bias of each layer that may be the last, last first.

    The very last is none at all, for networks that take the mean of a map for each class.
    """
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
        ):
            weight = module.weight.flatten(1)
            if len(weight) == classes:
                bias = torch.zeros(classes) if module.bias is None else module.bias
                yield weight.detach(), bias.detach()
    yield torch.eye(classes), torch.zeros(classes)


@torch.no_grad()
def find_head(model: nn.Module, images: Tensor) -> Head | None:
    """Return the network's head if it is a mean over places and a linear layer, otherwise None.

    Args:
        model: A network in evaluation mode, on the CPU.
        images: Normalised images (n, channels, height, width), on which the head must give the
            network's own log-probabilities.
    """
    pools = tuple(m.size for m in model.modules() if isinstance(m, Pool) and m.dense)
    stacked = math.prod(pools) ** 2 * len(images)
    with _outputs(model) as outputs:
        expected = torch.log_softmax(forward(model, images.clone()), 1)
    for name, maps in reversed(outputs.items()):
        if len(maps) != stacked or maps[:, 0].numel() == len(images):  # a single place
            continue
        for weight, bias in _linear_layers(model, expected.shape[1]):
            if weight.shape[1] != maps.shape[1]:
                continue
            head = Head(name, weight, bias, pools)
            found = torch.log_softmax(head.evidence(maps).sum((2, 3)), 1)
            if torch.allclose(found, expected, rtol=0, atol=TOLERANCE):
                return head
    return None


@torch.no_grad()
def measure_grid(model: nn.Module, head: Head, shape: tuple[int, int, int]) -> Grid | None:
    """Measure where the places of the last maps lie in the image.

    One line of pixels at a time is changed, to see which places change. Returns None if the places
    are not evenly spaced, as behind a stride between two max-pools in dense evaluation, or if the
    network takes images of one size only.

    Args:
        model: A network in evaluation mode.
        head: Its head.
        shape: Shape of one of its images, (channels, height, width).
    """
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.modules():  # trained weights may be zero, which hides part of a field
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                module.reset_parameters()
    grids = []
    for batch in (torch.zeros(1, *shape), *_changed_lines(shape)):
        with _outputs(model) as outputs:
            try:
                forward(model, batch)
            except InputError:
                return None
        grids.append(head.interleave(outputs[head.name]))
    sides: list[tuple[float, float, float]] = []
    for axis, grid in ((2, grids[1]), (3, grids[2])):
        change = (grid[1:] - grid[:1]).abs().amax((1, 5 - axis))  # (lines, places along the axis)
        line = _fit_line(change > SEEN * change.max())
        if line is None:
            return None
        first, step, field = line
        sides.append((first - step / 2, first + (grids[0].shape[axis] - 0.5) * step, field))
    (top, bottom, height), (left, right, width) = sides
    return Grid((left, top, right, bottom), (width, height))


def _changed_lines(shape: tuple[int, int, int]) -> list[Tensor]:
    """Return two batches: one image and copies with one row changed; the same with columns.

    The images are LARGER times as large as `shape`. All channels of an image are equal.
    """
    channels, height, width = shape[0], LARGER * shape[1], LARGER * shape[2]
    noise = torch.randn(2, height, width, generator=torch.Generator().manual_seed(0))
    rows = torch.where(torch.eye(height, dtype=torch.bool)[:, :, None], noise[1], noise[0])
    columns = torch.where(torch.eye(width, dtype=torch.bool)[:, None, :], noise[1], noise[0])
    return [
        torch.cat([noise[:1], changed])[:, None].expand(-1, channels, -1, -1)
        for changed in (rows, columns)
    ]


def _fit_line(changes: Tensor) -> tuple[float, float, float] | None:
    """Return the centre of the first place's field, the step to the next, and the field's length.

    All are in pixels. Returns None if the places in the middle third are not evenly spaced.

    Args:
        changes: Whether a change of a line of pixels (first axis) changes a place (second axis).
    """
    n = len(changes)
    centres, fields = {}, set()
    for place, seen in enumerate(changes.T):
        lines = seen.nonzero()[:, 0].tolist()
        centre = (lines[0] + lines[-1] + 1) / 2 if lines else 0.0
        if n / LARGER < centre < n - n / LARGER:
            centres[place] = centre
            fields.add(lines[-1] + 1 - lines[0])
    if len(centres) < 2:
        return None
    (a, at_a), *_, (b, at_b) = centres.items()
    step = (at_b - at_a) / (b - a)
    first = at_a - step * a
    even = all(abs(first + step * place - at) < 1e-6 for place, at in centres.items())
    return (first, step, float(max(fields))) if even else None
