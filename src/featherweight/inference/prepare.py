"""Any photo, scan, screenshot or drawing of a digit -> the 28x28 that MNIST means by one.

    image = prepare(open_picture("photo.jpg"))          # (28, 28) uint8, white ink on black; None: no ink
    digits = split_number(open_picture("1905.png"))     # a list of such images, left to right

Numpy and Pillow alone. Ink is what differs from the paper, whichever of the two is darker.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError

MAX_PIXELS = 16_000_000  # of a picture; more are refused before they are decoded
# The formats that are read: Pillow's name for each, its media type, and how its files' names end.
FORMATS = {
    "PNG": ("image/png", (".png",)),
    "JPEG": ("image/jpeg", (".jpg", ".jpeg")),
    "WEBP": ("image/webp", (".webp",)),
    "BMP": ("image/bmp", (".bmp",)),
    "GIF": ("image/gif", (".gif",)),
    "TIFF": ("image/tiff", (".tif", ".tiff")),
}
MEDIA_TYPES = tuple(media_type for media_type, _ in FORMATS.values())
SUFFIXES = {suffix for _, suffixes in FORMATS.values() for suffix in suffixes}
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "I",
    "F",
    "I;16",
    "I;16L",
    "I;16B",
)
WORK = 512  # pixels; pictures are reduced to this longer side before anything is looked for
SIDE, FIT = 28, 20  # pixels: of MNIST's images, and of the box that a digit's longer side fills
FINE = 8  # pixels a pixel of MNIST, while strokes are thickened
STROKE = 2.0  # MNIST's pixels; thinner strokes are thickened to it (MNIST: median 2.3, 1 to 99 %: 1.5 to 4.1)
GRID = 64  # cells along the longer side, for the paper
MIN_HEIGHT, MIN_MASS = (
    0.6,
    0.1,
)  # of the tallest, of the heaviest: what stands beside it is a digit too
DUST = 0.03  # of the picture's longer side, or 8 pixels: where nothing is taller there is no number
MIN_CONTRAST = 0.04  # of the full range from paper to the farther end; what differs less is not ink

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)
_quiet_lock = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of damaged metadata; whoever reads strangers' files wants no such talk."""
    with _quiet_lock, warnings.catch_warnings():  # the filters are the whole process's
        warnings.simplefilter("ignore")
        yield


def is_picture(path: Path) -> bool:
    """Whether a file begins as one of FORMATS, or is named as one. Raises OSError for a file that can't be read."""
    if path.suffix.lower() in SUFFIXES:
        return True
    with _quiet(), path.open("rb") as file:
        try:
            Image.open(file, formats=list(FORMATS))
        except Exception:  # Pillow's decoders raise nearly anything
            return False
        return True


def open_picture(source: bytes | str | Path) -> Image.Image:
    """The picture in a file or in its bytes, upright (EXIF), the first frame of several.

    Raises ValueError for what is none of FORMATS, is damaged, or has over MAX_PIXELS; OSError for no file.
    """
    content, name = (
        (source, "picture")
        if isinstance(source, bytes)
        else (Path(source).read_bytes(), str(source))
    )
    with _quiet():
        try:
            file = Image.open(io.BytesIO(content), formats=list(FORMATS))
            width, height = file.size
            if width * height <= MAX_PIXELS:  # from the header; nothing is decoded yet
                file.load()
                picture = ImageOps.exif_transpose(file)
                return picture if picture.mode in MODES else picture.convert("RGB")
        except Image.DecompressionBombError as error:
            raise InputError(f"{name}: {error}, expected at most {MAX_PIXELS:,} pixels") from error
        except Exception as error:  # Pillow's decoders raise nearly anything for damaged files
            why = (
                ""
                if isinstance(error, UnidentifiedImageError)
                else f" ({' '.join(str(error).split())})"
            )
            raise InputError(
                f"{name}: got no readable image{why}, expected one of {', '.join(FORMATS)}"
            ) from error
    raise InputError(f"{name}: got {width:,} x {height:,} pixels, expected at most {MAX_PIXELS:,}")


def prepare(picture: Image.Image | Bytes) -> Bytes | None:
    """The digit in a picture as MNIST would hold it, or None where there is no ink.

    picture: of any mode, or an array (h, w) or (h, w, 3 or 4) uint8; ValueError for any other array.
    Returns (28, 28) uint8, 255 ink and 0 paper: the longer side 20 pixels, the centre of mass on pixel
    (14, 14), strokes of at least about 2 pixels (LeCun et al. 1998 for the first two).

    A picture that already is so passes unchanged, or inverted where the paper is white: 28x28, the median 0,
    the most above 200, all ink in a box of 18 to 20 pixels a longer side, the centre of mass within half a
    pixel of (14, 14). So it is with each of MNIST's first 60,000.
    """
    return prepare_and_count(picture)[0]


def prepare_and_count(picture: Image.Image | Bytes) -> tuple[Bytes | None, int]:
    """As `prepare`, and how many digits stand side by side in the picture: a loose stroke is none, nor is noise.

    Over 1 it is a number, which `split_number` reads; 0 where there is no ink."""
    picture = _upright(picture)
    as_mnist = _as_mnist(picture)
    if as_mnist is not None:
        return as_mnist, 1
    found = _find_ink(picture)
    if found is None:
        return None, 0
    ink, label = found
    parts = [np.isin(label, labels) for labels in _side_by_side(label)]
    heights = np.array([np.ptp(np.flatnonzero(part.any(1))) + 1 for part in parts])
    masses = np.array([ink[part].sum() for part in parts])
    if heights.max() < max(8, DUST * max(label.shape)):
        return _fit(ink), 1
    return _fit(ink), int(
        ((heights >= MIN_HEIGHT * heights.max()) & (masses >= MIN_MASS * masses.max())).sum()
    )


def split_number(picture: Image.Image | Bytes) -> list[Bytes]:
    """The digits of a written number, left to right, each as from `prepare`; empty where there is no ink.

    A digit is what hangs together, with the fragments that stand above or below it. Digits that touch are one.
    """
    found = _find_ink(_upright(picture))
    if found is None:
        return []
    ink, label = found
    return [_fit(ink * np.isin(label, labels)) for labels in _side_by_side(label)]


def _side_by_side(label: NDArray[np.intp]) -> list[list[int]]:
    """The parts, left to right, each with those that stand above or below it."""
    groups: list[tuple[int, int, list[int]]] = []  # left, right, labels
    for k in range(1, label.max() + 1):
        columns = np.flatnonzero((label == k).any(0))
        groups.append((columns[0], columns[-1] + 1, [k]))
    groups.sort()
    merged = groups[:1]
    for left, right, labels in groups[1:]:
        last_left, last_right, last_labels = merged[-1]
        if last_right - left > 0.5 * min(right - left, last_right - last_left):
            merged[-1] = (last_left, max(right, last_right), last_labels + labels)
        else:
            merged.append((left, right, labels))
    return [labels for _, _, labels in merged]


def _upright(picture: Image.Image | Bytes) -> Image.Image:
    """As Pillow's image, turned as its EXIF says. Raises ValueError for arrays that are no pictures."""
    if isinstance(picture, np.ndarray):
        if (
            picture.dtype != np.uint8
            or not picture.size
            or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4)))
        ):
            raise InputError(
                f"picture: got {picture.dtype} {picture.shape}, "
                "expected uint8 (height, width) or (height, width, 3 or 4)"
            )
        return Image.fromarray(np.ascontiguousarray(picture))
    with _quiet():
        return ImageOps.exif_transpose(picture)


def _as_mnist(picture: Image.Image) -> Bytes | None:
    if picture.size != (SIDE, SIDE) or picture.mode not in ("L", "RGB"):
        return None
    pixels = np.asarray(picture.convert("RGB"))
    if (pixels != pixels[..., :1]).any():
        return None
    image = np.ascontiguousarray(pixels[..., 0])
    if np.median(image) > 127:
        image = 255 - image
    if np.median(image) > 0 or image.max() < 200:
        return None
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    y, x = (
        (image.sum(1) @ np.arange(SIDE)) / image.sum(),
        (image.sum(0) @ np.arange(SIDE)) / image.sum(),
    )
    return image if FIT - 2 <= longer <= FIT and abs(y - 14) <= 0.5 and abs(x - 14) <= 0.5 else None


def _pixels(picture: Image.Image) -> Floats:
    """(h, w, 3) from 0 to 255, the longer side at most WORK; transparent parts become paper."""
    if picture.mode.startswith(("I", "F")):  # 16 bits or more, grey
        grey = np.nan_to_num(np.asarray(picture, np.float32))
        white = 65535 if grey.max() > 255 else 1 if picture.mode == "F" and grey.max() <= 1 else 255
        grey = grey * np.float32(255 / white)
        picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        rgba = np.asarray(picture)
        solid = rgba[..., 3] > 127
        # Mostly solid: a sheet with a hole or a corner cut off. Mostly clear: a drawing, on what shows it.
        if solid.mean() > 0.5:
            paper = [int(value) for value in np.median(rgba[solid][:, :3], 0)]
        else:
            paper = [0 if solid.any() and rgba[solid][:, :3].mean() > 127 else 255] * 3
        ground = Image.new("RGBA", picture.size, (*paper, 255))
        picture = Image.alpha_composite(ground, picture)
    picture = picture.convert("RGB")
    picture = picture.reduce(-(-max(picture.size) // WORK))
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture), 2, 0), np.float32)


def _paper(rgb: Floats) -> Floats:
    """The colour of the paper behind every pixel, (3, h, w), or (3, 1, 1) where a picture was drawn, not taken.

    Strokes are narrower than a third of the picture, shadows wider: opening or closing by a square (Serra 1982)
    takes away the first and leaves the second, their edges too. Which of the two, a channel, is the one whose
    paper is the evener and the nearer to the picture's border.
    """
    plain = np.median(_border(rgb), 1).astype(np.float32)[:, None, None]
    if (np.abs(rgb - plain).max(0) < 1.5).mean() > 0.4:
        return plain
    height, width = rgb.shape[1:]
    rows, columns = (round(n * min(1, GRID / max(height, width))) or 1 for n in (height, width))
    cells = _resize(rgb, rows, columns)
    span = 2 * int(0.17 * max(rows, columns)) + 1
    papers = [_most(-_most(-cells, span), span), -_most(-_most(cells, span), span)]
    costs = [paper.std((1, 2)) + np.abs(_border(paper - cells)).mean(1) for paper in papers]
    return _resize(np.where((costs[0] < costs[1])[:, None, None], *papers), height, width)


def _border(planes: NDArray[T]) -> NDArray[T]:
    """(..., h, w) -> (..., n): the pixels along the four sides."""
    return np.concatenate(
        [planes[..., 0, :], planes[..., -1, :], planes[..., 0], planes[..., -1]], -1
    )


def _most(planes: Floats, span: int) -> Floats:
    """The greatest in a square of `span` pixels about each, mirrored at the border; planes (n, h, w)."""
    for axis in (1, 2):
        pads = [(span // 2, span // 2) if a == axis else (0, 0) for a in range(3)]
        planes = np.lib.stride_tricks.sliding_window_view(
            np.pad(planes, pads, "symmetric"), span, axis
        ).max(-1)
    return planes


def _resize(planes: Floats, height: int, width: int) -> Floats:
    """(n, h, w) -> (n, height, width): the mean over each cell, or between cells linearly."""
    how = Image.Resampling.BOX if height <= planes.shape[1] else Image.Resampling.BILINEAR
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize((width, height), how)) for plane in planes]
    )


def _find_ink(picture: Image.Image) -> tuple[Floats, NDArray[np.intp]] | None:
    """Ink (h, w), 0 paper to 1, and which connected part each pixel is of (0 none); None where there is none."""
    rgb = _pixels(picture)
    paper = _paper(rgb)
    brightness = paper.mean(0)
    away = (rgb - paper) / np.maximum(
        brightness, 255 - brightness
    )  # divided: a shadow dims ink and paper alike
    # One colour of ink: along it, noise stays even and soft edges stay straight.
    direction = (away * (away**2).sum(0)).sum((1, 2))
    direction = direction / max(float(np.linalg.norm(direction)), 1e-9)
    strength = np.tensordot(direction, away, 1)
    noise = 1.4826 * float(np.median(np.abs(strength)))
    marked = strength[strength > max(4 * noise, MIN_CONTRAST)]
    if not len(marked):
        return None
    peak = float((marked**7).sum() / (marked**6).sum())
    low = max(0.1, 3 * noise / peak)
    if low > 0.5:
        return None
    label = _label(strength > max(0.3, low) * peak)
    area = np.bincount(label.ravel())
    mass = np.bincount(label.ravel(), strength.ravel())
    outside = np.bincount(_border(label), minlength=len(mass))
    mean = mass / np.maximum(area, 1)
    inner = (outside == 0) & (mass > 0.0005 * label.size * peak)
    pale = (outside > 0) & (mean < 0.75 * mean[inner].max(initial=0))  # what is left of a shadow
    deep = np.bincount(label[strength > 0.6 * peak], minlength=len(mass)) > 0
    mass[~deep | pale | (outside > 0.8 * outside.sum())] = 0  # the last: a frame
    mass[0] = 0
    kept = mass > 0.03 * mass.max()
    if not kept.any():
        return None
    number = np.where(kept, np.cumsum(kept), 0)
    label = number[label]
    rows, columns = np.flatnonzero(label.any(1)), np.flatnonzero(label.any(0))
    if max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 < max(5, 0.025 * max(label.shape)):
        return None
    steepest = max(
        float(np.abs(strength[3:] - strength[:-3]).max(initial=0)),
        float(np.abs(strength[:, 3:] - strength[:, :-3]).max(initial=0)),
    )
    if steepest < 0.15 * peak:  # a shade without an edge
        return None
    near = _grow(label)
    if peak < 5 * np.sqrt((strength[near == 0] ** 2).sum() / near.size):
        return None
    ink = np.clip((strength / peak - low) / (1 - 2 * low), 0, 1) * (near > 0)
    return ink.astype(np.float32), near


def _grow(label: NDArray[np.intp]) -> NDArray[np.intp]:
    """Each part with the pixels about it, where its soft edge is."""
    for axis in (0, 1):
        for step in (1, -1):
            moved = np.roll(label, step, axis)
            label = np.where(label == 0, moved, label)
    return label


def _label(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Numbers the parts of a mask that hang together, corners included; 0 outside."""
    padded = np.pad(mask, ((1, 1), (1, 1)))
    width = padded.shape[1]
    flat = padded.ravel()
    run = np.cumsum(flat & ~np.roll(flat, 1)) * flat  # 1, 2, ... a horizontal run; 0 outside
    root = np.arange(run.max() + 1)
    upper = np.flatnonzero(flat)
    pairs = np.concatenate(
        [np.stack([run[upper], run[upper + step]]) for step in (width - 1, width, width + 1)], 1
    )
    a, b = pairs[:, (pairs[1] > 0) & np.insert((pairs[:, 1:] != pairs[:, :-1]).any(0), 0, True)]
    while True:  # hang every root under the lowest it meets, until none moves
        lower = np.minimum(root[a], root[b])
        before = root.copy()
        np.minimum.at(root, before[a], lower)
        np.minimum.at(root, before[b], lower)
        root = root[root]
        if (root == before).all():
            break
    numbers = np.unique(root[1:], return_inverse=True)[1] + 1
    return np.concatenate([[0], numbers])[run].reshape(padded.shape)[1:-1, 1:-1]


def _fit(ink: Floats) -> Bytes:
    """Ink (h, w) of one digit -> (28, 28) as MNIST."""
    ink = _crop(ink, FIT * FINE, margin=3 * FINE)
    gy, gx = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    width = 2 * ink.sum() / np.hypot(gy, gx).sum() / FINE  # area over half the outline
    if width < STROKE:
        blurred = _box_blur(ink, round(STROKE * FINE))
        thick = np.minimum(1, blurred * STROKE / width)
        ink = ink + (thick - ink) * min(1.0, 2 * (STROKE - width))
        ink = _crop(ink, FIT * FINE, margin=3 * FINE)
    y, x = np.indices(ink.shape) + 0.5
    cy, cx = (ink * y).sum() / ink.sum(), (ink * x).sum() / ink.sum()
    rows, columns = _extent(ink)
    top, left = (
        min(
            max(c - 14.5 * FINE, span[-1] + 1 - SIDE * FINE), span[0]
        )  # all of the digit stays inside
        for c, span in ((cy, rows), (cx, columns))
    )
    pad = SIDE * FINE
    large = Image.fromarray(np.pad(ink, pad))
    small = large.resize(
        (SIDE, SIDE), Image.Resampling.BOX, (left + pad, top + pad, left + 2 * pad, top + 2 * pad)
    )
    image = np.asarray(small)
    return np.asarray(np.clip(image * (255 / image.max()) + 0.5, 0, 255), np.uint8)


def _extent(ink: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows and columns that have ink; specks that thickening has made pale all through are ink too."""
    inked = ink > min(0.5, 0.5 * float(ink.max()))
    return np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))


def _crop(ink: Floats, side: int, margin: int) -> Floats:
    """The ink with its longer side `side` pixels and a margin about it."""
    rows, columns = _extent(ink)
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    scale = side / max(height, width)
    around = int(np.ceil(margin / scale))
    size = (round((width + 2 * around) * scale), round((height + 2 * around) * scale))
    large = Image.fromarray(np.pad(ink, around))
    box = (columns[0], rows[0], columns[-1] + 1 + 2 * around, rows[-1] + 1 + 2 * around)
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(np.clip(np.asarray(large.resize(size, how, box)), 0, 1), np.float32)


def _box_blur(ink: Floats, side: int) -> Floats:
    """The mean over a square of `side` pixels about each."""
    for axis in (0, 1):
        total = np.cumsum(
            np.pad(ink, [(side, side) if a == axis else (0, 0) for a in (0, 1)]), axis, np.float32
        )
        first, n = side // 2, ink.shape[axis]
        ink = (
            np.take(total, range(first + side, first + side + n), axis)
            - np.take(total, range(first, first + n), axis)
        ) / np.float32(side)
    return ink
