"""Turn any photo, scan, screenshot or drawing of a digit into the 28x28 image of MNIST.

    image = prepare("photo.jpg")            # (28, 28) uint8, white ink on black; None if no ink
    digits = split_number("1905.png")       # a list of such images, from left to right

This uses NumPy and Pillow only. Ink is whatever differs from the paper, darker or lighter; `_ink`
finds it.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError
from ._ink import THRESHOLDS, Floats, Labels, find_ink

MAX_PIXELS = 16_000_000  # larger pictures are refused before they are decoded
# The formats that are read: Pillow's name, the media type, and the suffixes of file names.
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
# Pillow's modes that `_planes` reads; pictures of other modes are converted to RGB first.
MODES = {
    *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"),
    *("I", "F", "I;16", "I;16L", "I;16B"),
}
MAX_SIDE = 512  # pixels; larger pictures are reduced to it, since strokes stay wide enough there
SIDE, FIT = 28, 20  # pixels: an MNIST image, and the box that holds a digit (LeCun et al. 1998)
FINE = 8  # subpixels of an MNIST pixel while a digit is placed, so that rounding does not show
# MNIST pixels; thinner strokes are thickened to it. MNIST's strokes have a median of 2.3, and 98 %
# are between 1.5 and 4.1.
STROKE = 2.0

Bytes = NDArray[np.uint8]
PictureSource = str | Path | bytes | Bytes | Image.Image
"A picture: the path of a file, its bytes, an array, or a Pillow image."
_quiet_lock = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Pillow's warnings about damaged metadata."""
    with _quiet_lock, warnings.catch_warnings():  # warning filters belong to the whole process
        warnings.simplefilter("ignore")
        yield


def is_picture(path: Path) -> bool:
    """Return whether a file has the content or the name of one of FORMATS.

    Raises:
        OSError: The file cannot be read.
    """
    if path.suffix.lower() in SUFFIXES:
        return True
    with _quiet(), path.open("rb") as file:
        try:
            Image.open(file, formats=list(FORMATS))
        except Exception:  # Pillow's decoders raise exceptions of nearly every class
            return False
        return True


def open_picture(source: bytes | str | Path) -> Image.Image:
    """Open a picture from a file or from its bytes, and turn it upright as its EXIF data says.

    Only the first of several frames is read.

    Raises:
        InputError: It is none of FORMATS, is damaged, or has more than MAX_PIXELS pixels.
        OSError: The file cannot be read.
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
            if width * height <= MAX_PIXELS:  # the size is in the header: nothing is decoded yet
                file.load()
                picture = ImageOps.exif_transpose(file)
                return picture if picture.mode in MODES else picture.convert("RGB")
        except Image.DecompressionBombError as error:
            raise InputError(f"{name}: {error}, expected at most {MAX_PIXELS:,} pixels") from error
        except Exception as error:  # Pillow's decoders raise exceptions of nearly every class
            why = (
                ""
                if isinstance(error, UnidentifiedImageError)
                else f" ({' '.join(str(error).split())})"
            )
            raise InputError(
                f"{name}: got no readable image{why}, expected one of {', '.join(FORMATS)}"
            ) from error
    raise InputError(f"{name}: got {width:,} x {height:,} pixels, expected at most {MAX_PIXELS:,}")


def prepare(picture: PictureSource) -> Bytes | None:
    """Return the digit in a picture as an MNIST image, or None if there is no ink.

    The result is (28, 28) uint8, 255 for ink and 0 for paper. The longer side of the digit is 20
    pixels, its centre of mass is at pixel (14, 14) (LeCun et al. 1998), and its strokes are at
    least about 2 pixels wide.

    An image that is already in MNIST's form passes unchanged, or inverted if its paper is white:
    28x28, median 0, maximum above 200, the longer side of the ink 18 to 20 pixels, and the centre
    of mass within half a pixel of (14, 14). All of MNIST's first 60,000 images meet this.

    Args:
        picture: The path of a file, its bytes, a Pillow image of any mode, or an array (height,
            width) or (height, width, 3 or 4) of uint8.

    Raises:
        InputError: The file is no readable picture, or the array has another shape or type.
        OSError: The file cannot be read.
    """
    return prepare_and_count(picture)[0]


def prepare_and_count(picture: PictureSource) -> tuple[Bytes | None, int]:
    """Return what `prepare` returns, and the number of digits that stand side by side.

    Loose strokes and noise are not counted. A count above 1 means a number, which `split_number`
    splits; 0 means no ink.
    """
    image = _upright(picture)
    as_mnist = _as_mnist(image)
    if as_mnist is not None:
        return as_mnist, 1
    found = find_ink(_planes(image))
    if found is None:
        return None, 0
    ink, components = found
    masks = [np.isin(components, group) for group in _group_digits(components)]
    heights = np.array([np.ptp(np.flatnonzero(mask.any(1))) + 1 for mask in masks])
    masses = np.array([ink[mask].sum() for mask in masks])
    limits = THRESHOLDS
    if heights.max() < max(limits.min_number_pixels, limits.min_number * max(components.shape)):
        return _fit(ink), 1
    tall = heights >= limits.min_height * heights.max()
    heavy = masses >= limits.min_digit_mass * masses.max()
    return _fit(ink), int((tall & heavy).sum())


def split_number(picture: PictureSource) -> list[Bytes]:
    """Return the digits of a written number from left to right, each as `prepare` returns it.

    A digit is a connected component with the fragments above and below it, so digits that touch
    are returned as one. The list is empty if there is no ink.
    """
    found = find_ink(_planes(_upright(picture)))
    if found is None:
        return []
    ink, components = found
    return [_fit(ink * np.isin(components, group)) for group in _group_digits(components)]


def _group_digits(components: Labels) -> list[list[int]]:
    """Group components that stand above or below each other; return the groups left to right."""
    groups: list[tuple[int, int, list[int]]] = []  # left, right, numbers of the components
    for k in range(1, components.max() + 1):
        columns = np.flatnonzero((components == k).any(0))
        groups.append((columns[0], columns[-1] + 1, [k]))
    groups.sort()
    merged = groups[:1]
    for left, right, numbers in groups[1:]:
        last_left, last_right, last_numbers = merged[-1]
        narrower = min(right - left, last_right - last_left)
        if last_right - left > THRESHOLDS.overlap * narrower:
            merged[-1] = (last_left, max(right, last_right), last_numbers + numbers)
        else:
            merged.append((left, right, numbers))
    return [numbers for _, _, numbers in merged]


def _upright(picture: PictureSource) -> Image.Image:
    """Return a picture as a Pillow image, turned as its EXIF data says."""
    if isinstance(picture, (str, Path, bytes)):
        return open_picture(picture)
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
    """Return the image, light on dark, if it is already in MNIST's form; see `prepare`."""
    if picture.size != (SIDE, SIDE) or picture.mode not in ("L", "RGB"):
        return None
    pixels = np.asarray(picture.convert("RGB"))
    if (pixels != pixels[..., :1]).any():  # coloured
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


def _planes(picture: Image.Image) -> Floats:
    """Return (3, height, width) from 0 to 255, reduced to a longer side of at most MAX_SIDE.

    Transparent pixels get the colour of the paper.
    """
    if picture.mode.startswith(("I", "F")):  # grey with 16 bits or more, or floating point
        grey = np.nan_to_num(np.asarray(picture, np.float32))
        # No header says which value is white: take the smallest usual range that holds them all.
        white = 65535 if grey.max() > 255 else 1 if picture.mode == "F" and grey.max() <= 1 else 255
        grey = grey * np.float32(255 / white)
        picture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        rgba = np.asarray(picture)  # (height, width, 4)
        solid = rgba[..., 3] > 127
        if solid.mean() > 0.5:  # mostly opaque: a sheet with a hole or with a corner cut off
            paper = [int(value) for value in np.median(rgba[solid][:, :3], 0)]
        else:  # mostly transparent: a drawing, put on the paper that it contrasts with
            paper = [0 if solid.any() and rgba[solid][:, :3].mean() > 127 else 255] * 3
        ground = Image.new("RGBA", picture.size, (*paper, 255))
        picture = Image.alpha_composite(ground, picture)
    picture = picture.convert("RGB")
    picture = picture.reduce(-(-max(picture.size) // MAX_SIDE))
    # (height, width, 3) -> (3, height, width)
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture), 2, 0), np.float32)


def _fit(ink: Floats) -> Bytes:
    """Scale, thicken and centre the ink (h, w) of one digit into an MNIST image (28, 28)."""
    ink = _crop(ink, FIT * FINE, margin=3 * FINE)
    gy, gx = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    width = 2 * ink.sum() / np.hypot(gy, gx).sum() / FINE  # area divided by half the outline
    if width < STROKE:
        blurred = _box_blur(ink, round(STROKE * FINE))
        thick = np.minimum(1, blurred * STROKE / width)
        ink = ink + (thick - ink) * min(1.0, 2 * (STROKE - width))  # without a jump at STROKE
        ink = _crop(ink, FIT * FINE, margin=3 * FINE)
    y, x = np.indices(ink.shape) + 0.5
    cy, cx = (ink * y).sum() / ink.sum(), (ink * x).sum() / ink.sum()
    rows, columns = _extent(ink)
    # The centre of mass goes to (14, 14), whose middle is at 14.5, unless that cuts off ink.
    top, left = (
        min(max(c - 14.5 * FINE, span[-1] + 1 - SIDE * FINE), span[0])
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
    """Return the rows and the columns that have ink.

    Ink is at least half of full ink, or half of the strongest pixel if thickening has made a speck
    paler than that.
    """
    inked = ink > min(0.5, 0.5 * float(ink.max()))
    return np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))


def _crop(ink: Floats, side: int, margin: int) -> Floats:
    """Crop to the ink, scale its longer side to `side` pixels, and add a margin on all sides."""
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
    """Return the mean over a square of `side` pixels around each pixel."""
    for axis in (0, 1):
        pads = [(side, side) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(ink, pads), axis, np.float32)
        first, n = side // 2, ink.shape[axis]
        ink = (
            np.take(total, range(first + side, first + side + n), axis)
            - np.take(total, range(first, first + n), axis)
        ) / np.float32(side)
    return ink
