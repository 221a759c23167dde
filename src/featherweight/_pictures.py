"""Decode files of pictures, whose headers and contents may be made to do harm.

    picture = open_image(content, "photo.jpg", "16,000,000 pixels")     # only its header is read
    picture = decode(picture, "photo.jpg")                              # upright

What is a data set's picture and what is read for a network are files of the same formats.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import InputError

# The formats that are read: Pillow's name, the media type, and the suffixes of file names.
FORMATS = {
    "PNG": ("image/png", (".png",)),
    "JPEG": ("image/jpeg", (".jpg", ".jpeg", ".jpe", ".jfif")),
    "WEBP": ("image/webp", (".webp",)),
    "BMP": ("image/bmp", (".bmp",)),
    "GIF": ("image/gif", (".gif",)),
    "TIFF": ("image/tiff", (".tif", ".tiff")),
    "PPM": ("image/x-portable-anymap", (".pgm", ".ppm", ".pnm", ".pbm")),
}
MEDIA_TYPES = tuple(media_type for media_type, _ in FORMATS.values())
SUFFIXES = {suffix for _, suffixes in FORMATS.values() for suffix in suffixes}
# Pictures of formats that are not read.
OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".ico", ".tga", ".svg", ".pcx")


def is_named_as_picture(name: str) -> bool:
    """Return whether a file is named as a picture. Names that begin with a dot are hidden."""
    return not name.startswith(".") and name.lower().endswith(tuple(SUFFIXES))


class _Quiet:
    """A context in which Pillow's warnings about damaged metadata are suppressed.

    Warning filters belong to the whole process. So the first thread that enters sets them and the
    last one that leaves puts them back, and none waits while another decodes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


quiet = _Quiet()


def open_image(content: bytes, name: str, most: str) -> Image.Image:
    """Return a picture of which the header is read, and nothing decoded yet.

    `most` is the size that a message says is the largest. Raises InputError if it is none of
    FORMATS, is damaged, or is so large that Pillow refuses it.
    """
    with readable(name):
        try:
            return Image.open(io.BytesIO(content), formats=list(FORMATS))
        except Image.DecompressionBombError as error:
            why = str(error).rstrip(".")
            raise InputError(f"{name}: {why}; expected at most {most}") from error


def decode(picture: Image.Image, name: str) -> Image.Image:
    """Decode a picture of which the header is read, and turn it upright as its EXIF data says.

    Raises InputError if it is damaged.
    """
    with readable(name):
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        return picture


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for a damaged picture into an InputError."""
    with quiet:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise exceptions of nearly every class
            why = (
                ""
                if isinstance(error, UnidentifiedImageError)
                else f" ({' '.join(str(error).split())})"
            )
            raise InputError(
                f"{name}: got no readable image{why}, expected one of {', '.join(FORMATS)}"
            ) from error
