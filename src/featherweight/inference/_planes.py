"""Morphology, smoothing and resizing of planes of floats, with NumPy and Pillow.

    opening(planes, 9)          # planes (n, height, width) float32

SciPy's `ndimage` has the same; `_components` says why reading does not depend on it.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)


def opening(planes: Floats, span: int) -> Floats:
    """Remove what is lighter than its surroundings and narrower than `span` pixels."""
    return dilation(erosion(planes, span), span)


def closing(planes: Floats, span: int) -> Floats:
    """Remove what is darker than its surroundings and narrower than `span` pixels."""
    return erosion(dilation(planes, span), span)


def erosion(planes: Floats, span: int) -> Floats:
    """Return the minimum in a square of `span` pixels around each pixel; planes (n, h, w)."""
    return -dilation(-planes, span)


def dilation(planes: Floats, span: int) -> Floats:
    """Return the maximum in a square of `span` pixels around each pixel; planes (n, h, w).

    Pixels beyond the border are mirrored. The square is separable: rows first, then columns.
    """
    for axis in (1, 2):
        pads = [(span // 2, span // 2) if a == axis else (0, 0) for a in range(3)]
        planes = np.pad(planes, pads, "symmetric")
        done = 1  # pixels whose maximum each value is; it is doubled until the rest is less
        while done < span:
            step = min(done, span - done)
            lower, upper = [slice(None)] * 3, [slice(None)] * 3
            lower[axis], upper[axis] = slice(None, -step), slice(step, None)
            planes = np.maximum(planes[tuple(lower)], planes[tuple(upper)])
            done += step
    return planes


def border(planes: NDArray[T]) -> NDArray[T]:
    """Return the pixels along the four sides, (..., h, w) -> (..., n)."""
    return np.concatenate(
        [planes[..., 0, :], planes[..., -1, :], planes[..., 0], planes[..., -1]], -1
    )


def resize(planes: Floats, height: int, width: int) -> Floats:
    """Resize (n, h, w) -> (n, height, width): down by cell means, up by linear interpolation."""
    how = Image.Resampling.BOX if height <= planes.shape[1] else Image.Resampling.BILINEAR
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize((width, height), how)) for plane in planes]
    )


def pad(ink: Floats, rows: tuple[int, int], columns: tuple[int, int]) -> Floats:
    """Add rows (above, below) and columns (left, right) of paper; `np.pad` is much slower."""
    height, width = ink.shape
    padded = np.zeros((height + sum(rows), width + sum(columns)), np.float32)
    padded[rows[0] : rows[0] + height, columns[0] : columns[0] + width] = ink
    return padded


def box_blur(ink: Floats, side: int) -> Floats:
    """Return the mean over a square of `side` pixels around each pixel."""
    for axis in (0, 1):
        pads = [(side, side) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(pad(ink, *pads), axis, np.float32)
        first, n = side // 2, ink.shape[axis]
        low, high = slice(first, first + n), slice(first + side, first + side + n)
        totals = total[high] - total[low] if axis == 0 else total[:, high] - total[:, low]
        ink = totals / np.float32(side)
    return ink
