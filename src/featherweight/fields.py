"""The receptive field of a value of a graph, and what moving, joining and reducing make of it.

    start((8, 1, 28, 28)).height.window(2, 26, (0, 2), stride=1, pad=0, dilation=1).extent    # 3

A value has a `Field`: along the height and along the width of the image, how many pixels one of its
elements depends on, and along which of its dimensions that window moves, by how many pixels a step.
So a receptive field survives a reshape to patches or to tokens, a permutation to channels last, and
space-to-depth. It is the theoretical one: it grows beyond the image's border with the padding.
follow.py says what each operation does to it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

# Of a dimension: (size, jump in pixels), outer ones first. Below 0: between copies of an image.
Part = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Axis:
    """The receptive field of a value's elements along one side of the image."""

    extent: float
    "Pixels from the first to the last that an element depends on."
    start: float
    "Middle of the first element's pixels."
    parts: tuple[Part, ...]
    "How each dimension moves the pixels; a jump of 0 does not."

    @property
    def moves(self) -> bool:
        """Whether elements differ in the pixels that they depend on."""
        return any(jump for part in self.parts for _, jump in part)

    def reach(self, dims: Iterable[int]) -> float:
        """Return how many pixels the elements along some dimensions are apart, at most."""
        return sum(_reach(self.parts[dim]) for dim in dims)

    def reshape(self, shape: Sequence[int]) -> "Axis":
        """Split and merge dimensions, in the order of memory."""
        left = [factor for part in self.parts for factor in part if factor[0] > 1]
        parts: list[Part] = []
        for size in shape:
            part: list[tuple[int, float]] = []
            while size > 1:
                if not left:
                    return self.lose(shape)
                length, jump = left.pop(0)
                if size % length == 0:
                    part.append((length, jump))
                    size //= length
                elif length % size == 0:
                    inner = length // size
                    part.append((size, jump * inner))
                    left.insert(0, (inner, jump))
                    size = 1
                else:
                    return self.lose(shape)
            parts.append(tuple(part))
        return self.lose(shape) if left else replace(self, parts=tidy(parts))

    def lose(self, shape: Sequence[int]) -> "Axis":
        """Return the field of elements that depend on all that the value depends on."""
        reach = self.reach(range(len(self.parts)))
        return Axis(
            self.extent + reach, self.start + reach / 2, tidy([plain(size) for size in shape])
        )

    def reduce(self, dims: Sequence[int], shape: Sequence[int]) -> "Axis":
        """Join all elements along some dimensions, which may stay with any size."""
        reach = self.reach(dims)
        parts: list[Part] = [part for dim, part in enumerate(self.parts) if dim not in dims]
        if len(shape) == len(self.parts):
            parts = [
                plain(shape[dim]) if dim in dims else part for dim, part in enumerate(self.parts)
            ]
        return Axis(self.extent + reach, self.start + reach / 2, tidy(parts))

    def window(
        self, dim: int, size: int, taps: tuple[int, int], stride: float, pad: float, dilation: int
    ) -> "Axis":
        """Slide a window along a dimension.

        Args:
            dim: The dimension.
            size: Number of its places.
            taps: The first and the last place of the window that count.
            stride, pad, dilation: Of the window, in elements.
        """
        part, (low, high) = self.parts[dim], taps
        reach = _reach(part)
        extent, start = self.extent, self.start
        if len(part) == 1:
            jump = part[0][1]
            extent += (high - low) * dilation * abs(jump)
            start += ((low + high) / 2 * dilation - pad) * jump
            new: Part = ((size, jump * stride),)
        else:  # what a window over tokens sees depends on their order
            extent += reach if high > low else 0
            new = ((size, reach / max(1, size - 1)),)
        return Axis(extent, start, self._with(dim, new))

    def cut(self, dim: int, begin: int, step: int, size: int) -> "Axis":
        """Take some elements along a dimension."""
        part, start = self.parts[dim], self.start
        if len(part) == 1:
            jump = part[0][1]
            new: Part = ((size, jump * step),)
            start += begin * jump
        elif size == math.prod(count for count, _ in part):
            new = part
        else:
            new = ((size, _reach(part) / max(1, size - 1)),)
        return Axis(self.extent, start, self._with(dim, new))

    def order(self, order: Sequence[int]) -> "Axis":
        """Put the dimensions in another order."""
        return replace(self, parts=tuple(self.parts[dim] for dim in order))

    def _with(self, dim: int, part: Part) -> tuple[Part, ...]:
        return tidy([*self.parts[:dim], part, *self.parts[dim + 1 :]])

    def broadcast(self, rank: int) -> "Axis":
        """Put dimensions of size 1 before the others."""
        return replace(self, parts=((),) * (rank - len(self.parts)) + self.parts)


class Field(NamedTuple):
    """The receptive field of a value: along the height, along the width, and over the images."""

    height: Axis
    width: Axis
    images: Axis

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels that one element depends on."""
        return math.ceil(self.height.extent), math.ceil(self.width.extent)

    @property
    def jump(self) -> tuple[float, float]:
        """Pixels between neighbours of the map, 0 where there are none.

        Shifted copies of an image beside the images are no neighbours."""
        down, right = (
            max(
                (jump for part in axis.parts for _, jump in part if jump > 0),
                default=0.0,
            )
            for axis in self[:2]
        )
        return down, right

    @property
    def moves(self) -> bool:
        """Whether elements of one image differ in the pixels that they depend on."""
        return any(self.jump)

    def reach(self, dims: Iterable[int] | None = None) -> float:
        """Return how many pixels the elements along some or all dimensions are apart."""
        dims = range(len(self.height.parts)) if dims is None else list(dims)
        return self.height.reach(dims) + self.width.reach(dims)

    def shape_of_one(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return a value's shape for one image, or for one of the copies beside the images."""
        sizes = []
        for size, part in zip(shape, self.images.parts, strict=True):
            moving = [i for i, (_, jump) in enumerate(part) if jump]
            # Copies of the images lie outside of them, and channels inside.
            n_images = math.prod(count for count, _ in part[: moving[-1] + 1]) if moving else 1
            if n_images == 1 or size > n_images:
                sizes.append(size // n_images)
        return tuple(sizes)


def start(shape: Sequence[int]) -> Field:
    """Return the field of the images, shape (n, channels, height, width)."""
    axes = []
    for moving in (2, 3, 0):
        parts: list[Part] = [((size, float(dim == moving)),) for dim, size in enumerate(shape)]
        axes.append(Axis(1, 0, tidy(parts)))
    return Field(*axes)


def write_into(
    whole: Field | None, shape: Sequence[int], written: Field, written_shape: Sequence[int]
) -> Field:
    """Return the field of a value into which another one was written, as a whole or in part.

    Args:
        whole: The field of the value before. None: it did not depend on the images.
        shape: Its shape.
        written: The field of what was written.
        written_shape: The shape of that.
    """
    if tuple(shape) == tuple(written_shape):
        return written
    axes = []
    for side in range(3):
        axis = written[side]
        if len(shape) != len(written_shape):
            axis = axis.lose(shape)
        parts = [
            part if _reach(part) else plain(n) for part, n in zip(axis.parts, shape, strict=True)
        ]
        if whole is not None:
            before = whole[side]
            parts = [
                one if _reach(one) else other
                for one, other in zip(before.parts, parts, strict=True)
            ]
            axis = replace(before, extent=max(before.extent, axis.extent))
        sized = [
            part
            if math.prod(count for count, _ in part) in (1, n) or not part
            else ((n, _reach(part) / max(1, n - 1)),)
            for part, n in zip(parts, shape, strict=True)
        ]
        axes.append(replace(axis, parts=tidy(sized)))
    return Field(*axes)


def _reach(part: Part) -> float:
    return sum((size - 1) * abs(jump) for size, jump in part)


def tidy(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Drop what has one element, and merge what moves as one."""
    tidied = []
    for part in parts:
        found: list[tuple[int, float]] = []
        for size, jump in part:
            if size == 1:
                continue
            if found and math.isclose(found[-1][1], size * jump, abs_tol=1e-9):
                found[-1] = (found[-1][0] * size, jump)
            else:
                found.append((size, jump))
        tidied.append(tuple(found))
    return tuple(tidied)


def plain(size: int) -> Part:
    """Return a dimension along which nothing moves."""
    return ((size, 0.0),)


def join(axes: Sequence[Axis], shape: Sequence[int]) -> Axis:
    """Combine elements of several values at the same position, with broadcasting."""
    axes = [axis.broadcast(len(shape)) for axis in axes]
    placed = [axis for axis in axes if axis.moves]
    extent = max(axis.extent for axis in axes)
    first = (placed or axes)[0]
    begin = first.start
    if placed and all(axis.parts == first.parts for axis in placed):
        low = min(axis.start - axis.extent / 2 for axis in placed)
        high = max(axis.start + axis.extent / 2 for axis in placed)
        extent, begin = max(extent, high - low), (low + high) / 2
    parts = []
    for dim, size in enumerate(shape):
        part = max((axis.parts[dim] for axis in axes), key=_reach)
        parts.append(part if _reach(part) else plain(size))
    return Axis(extent, begin, tidy(parts))


def contract(
    axes: Sequence[tuple[Axis, Sequence[Any]]], labels: Sequence[Any], shape: Sequence[int]
) -> Axis:
    """Multiply and sum, as an einsum whose operands and result have dimensions with labels."""
    moved = []
    for axis, names in axes:
        gone = [dim for dim, name in enumerate(names) if name not in labels]
        reach = axis.reach(gone)
        part = {name: axis.parts[dim] for dim, name in enumerate(names)}
        moved.append(
            Axis(
                axis.extent + reach,
                axis.start + reach / 2,
                tuple(part.get(name, ()) for name in labels),
            )
        )
    return join(moved, shape)


def concatenate(axes: Sequence[Axis], dim: int, shape: Sequence[int], among_images: bool) -> Axis:
    """Join values along a dimension, which may be that of the images."""
    starts = [axis.start for axis in axes]
    longest = max(axes, key=lambda axis: (axis.moves, axis.extent))
    alike = all((axis.extent, axis.parts) == (longest.extent, longest.parts) for axis in axes)
    apart = (max(starts) - min(starts)) / max(1, len(axes) - 1) if alike else 0.0
    part, size = longest.parts[dim], shape[dim]
    new: Part
    if len(part) == 1 and part[0][1]:  # one beside the other
        new = ((size, part[0][1]),)
    elif apart:  # shifted copies
        new = ((len(axes), -apart if among_images else apart), *(part or plain(size // len(axes))))
    elif _reach(part):
        new = ((size, _reach(part) / max(1, size - 1)),)
    else:
        new = plain(size)
    parts = [
        max((axis.parts[each] for axis in axes), key=_reach) for each in range(len(longest.parts))
    ]
    extent = max(axis.extent for axis in axes)
    begin = min(starts) if longest.moves else longest.start
    return Axis(extent, begin, tidy([*parts[:dim], new, *parts[dim + 1 :]]))
