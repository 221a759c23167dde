"""Connected components of a mask, and where each lies.

    numbers = label(mask)           # (height, width): 1, 2, ... and 0 outside
    parts = Components.of(numbers)  # sides, area and contact with the border of each

SciPy's `ndimage` has the same labelling. It is no dependency of reading, because its wheel is as
large as everything else that reading needs: on disk it would add 140 MB to 180.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
Labels = NDArray[np.intp]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]
"Rows and columns of a picture."


@dataclass(frozen=True, eq=False)
class Components:
    """Where components lie. Each array has a value for every number; 0 is what lies outside."""

    numbers: Labels
    "Number of the component that each pixel belongs to, (height, width)."
    area: Labels
    "Number of pixels (n + 1,)."
    top: Labels
    "First row (n + 1,)."
    bottom: Labels
    "Last row + 1."
    left: Labels
    "First column."
    right: Labels
    "Last column + 1."
    at_sides: Labels
    "Number of pixels at the top, bottom, left and right side of the picture, (4, n + 1)."

    @classmethod
    def of(cls, numbers: Labels) -> "Components":
        """Return where the components lie whose numbers (height, width) are given."""
        height, width = numbers.shape
        n = int(numbers.max(initial=0)) + 1
        rows, columns = np.nonzero(numbers)
        of = numbers[rows, columns]
        top, bottom = np.full(n, height), np.zeros(n, np.intp)
        left, right = np.full(n, width), np.zeros(n, np.intp)
        np.minimum.at(top, of, rows)
        np.maximum.at(bottom, of, rows + 1)
        np.minimum.at(left, of, columns)
        np.maximum.at(right, of, columns + 1)
        sides = (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1])
        at_sides = np.stack([np.bincount(side, minlength=n) for side in sides])
        at_sides[:, 0] = 0
        return cls(numbers, np.bincount(of, minlength=n), top, bottom, left, right, at_sides)

    @property
    def heights(self) -> Labels:
        """Return the height of each in pixels, (n + 1,)."""
        return np.asarray(np.maximum(self.bottom - self.top, 0))

    @property
    def widths(self) -> Labels:
        """Return the width of each in pixels, (n + 1,)."""
        return np.asarray(np.maximum(self.right - self.left, 0))

    def select(self, chosen: Mask) -> Mask:
        """Return the pixels (height, width) of the chosen components (n + 1,)."""
        return np.take(chosen, self.numbers)


def window(mask: Mask) -> Window:
    """Return the rows and columns that hold the True pixels of a mask and one pixel around them."""
    held = []
    for axis in (0, 1):
        lines = np.flatnonzero(mask.any(1 - axis))
        held.append(slice(max(lines[0] - 1, 0), lines[-1] + 2))
    return held[0], held[1]


def grow(components: NDArray[T], by: int = 1) -> NDArray[T]:
    """Extend each component, or the True pixels of a mask, by some pixels on every side.

    Where two of them meet, each keeps its own.
    """
    grown, done = components.copy(), 0
    while done < by:
        step = min(2 * done + 1, by - done)  # what has grown so far is wider: no gap is left
        for each in (grown, grown.T):
            for to, source in ((each[step:], each[:-step]), (each[:-step], each[step:])):
                np.copyto(to, source.copy(), where=to == 0)
        done += step
    return grown


def label(mask: Mask) -> Labels:
    """Return the numbers of the 8-connected components of a mask, from 1; 0 outside.

    Horizontal runs of pixels are joined by union-find.
    """
    padded = np.pad(mask, ((1, 1), (1, 1)))
    width = padded.shape[1]
    flat = padded.ravel()
    run = np.cumsum(flat & ~np.roll(flat, 1)) * flat  # the number of each pixel's run; 0 outside
    root = np.arange(run.max() + 1)
    upper = np.flatnonzero(flat)
    # Pairs of runs that touch, (2, n): each pixel with the three below it.
    pairs = np.concatenate(
        [np.stack([run[upper], run[upper + step]]) for step in (width - 1, width, width + 1)], 1
    )
    a, b = pairs[:, (pairs[1] > 0) & np.insert((pairs[:, 1:] != pairs[:, :-1]).any(0), 0, True)]
    while True:  # attach every root to the lowest root that it touches, until nothing changes
        lower = np.minimum(root[a], root[b])
        before = root.copy()
        np.minimum.at(root, before[a], lower)
        np.minimum.at(root, before[b], lower)
        root = root[root]
        if (root == before).all():
            break
    numbers = np.unique(root[1:], return_inverse=True)[1] + 1
    return np.take(np.concatenate([[0], numbers]), run).reshape(padded.shape)[1:-1, 1:-1]
