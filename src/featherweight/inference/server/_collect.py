"""Pictures that were read wrong, kept on the user's disk as a test set of their own.

Example:
    collection = Collection(Path("my-digits"))
    collection.keep("7", open_png(content))     # my-digits/7/20260102-030405-1a2b3c4d5e6f7a8b.png
"""

import io
import os
import secrets
import threading
import time
from pathlib import Path

from PIL import Image

from ..._files import check_name, write_atomic
from ...errors import InputError
from ..prepare import decode, open_header

MAX_PICTURES = 10_000  # in a collection
MAX_PICTURE_BYTES = 1024 * 1024  # of one
PNG = b"\x89PNG\r\n\x1a\n"


def open_png(content: bytes) -> Image.Image:
    """Return the picture in a PNG file, of which only the header is read yet.

    Raises InputError if it is none.
    """
    if not content.startswith(PNG):
        raise InputError("picture: got another format, expected PNG")
    return open_header(content)


def can_write(folder: Path) -> bool:
    """Return whether a folder can be written to, or made."""
    folder = folder.absolute()
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK)


class FullError(Exception):
    """A collection has as many pictures as it may have."""


class Collection:
    """A folder with a folder of PNG files for each label. It is made with the first picture.

    Args:
        folder: The folder.
        from_anywhere: Whether it takes pictures of pages that another machine shows.
    """

    def __init__(self, folder: Path, from_anywhere: bool = True) -> None:
        self.folder, self.from_anywhere = folder, from_anywhere
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return sum(1 for _ in self.folder.glob("*/*.png"))

    def keep(self, label: str, picture: Image.Image) -> int:
        """Keep a picture, without metadata, and return how many there are now.

        Other processes may keep pictures in the same folder at the same time. Each then has a name
        of its own, and there may be a few more than MAX_PICTURES.

        Args:
            label: What the picture shows, one of the model's labels: it becomes a folder's name.
            picture: The picture as `open_png` returns it.

        Raises:
            InputError: It can't be decoded, or the label is no name of a folder.
            FullError: There are MAX_PICTURES already.
            OSError: It can't be written.
        """
        check_name("label", label, in_paths=True)
        picture, file = decode(picture), io.BytesIO()
        picture.info = {}  # comments and the like, which would be written again
        picture.save(file, "PNG")
        with self._lock:
            count = len(self)
            if count >= MAX_PICTURES:
                raise FullError(f"got {count:,} pictures already, expected fewer")
            folder = self.folder / label
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(8)}.png"
            write_atomic(folder / name, file.getvalue())
            return count + 1
