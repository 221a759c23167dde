"""Read arrays from IDX and .npz files, whose headers and contents may be made to do harm.

    images = read_idx(Path("train-images-idx3-ubyte.gz"), ndim=3)
    images = read_npz(Path("data.npz"), "train_images")
    with open_npz(Path("data.npz"), "images") as (file, header):     # to read it piece by piece
        header.shape, header.dtype, file.read(784)

A header is read before anything is reserved for what it claims, and at most one byte more than it
claims is decompressed. One array may take up MAX_ARRAY_BYTES. No pickle is ever loaded.
"""

import gzip
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from ._files import reason
from .errors import InputError

MAX_ARRAY_BYTES = 2 * 1024**3  # 2 GiB: 2.7 million images of 28x28 pixels
PIECE = 1024**2  # bytes that are read at a time
# The codes of element types in an IDX header: pixels and labels, and the labels of QMNIST.
UINT8, INT32 = np.dtype(np.uint8), np.dtype(">i4")
IDX_CODES = {UINT8: 8, INT32: 12}
GZIP = b"\x1f\x8b"  # the first two bytes of a gzip file
NUMBERS, TEXTS = "biuf", "US"  # kinds of elements, as in `numpy.dtype.kind`


class Header(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    "Shape, of whole numbers from 0."
    dtype: np.dtype[Any]
    "Type of an element: a number, a truth value or a text."
    fortran: bool
    "Whether the first index changes fastest."

    @property
    def n_bytes(self) -> int:
        """Return the size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def _read_all(
    file: IO[bytes] | gzip.GzipFile, header: Header, where: str, most: int = MAX_ARRAY_BYTES
) -> np.ndarray:
    """Return the array that the rest of a file holds, which must be as long as its header says."""
    expected, content = header.n_bytes, bytearray()
    if expected > most:
        raise InputError(
            f"{where}: got a header that claims {' x '.join(map(str, header.shape))} values, "
            f"expected at most {most:,} bytes"
        )
    while piece := file.read(min(PIECE, expected + 1 - len(content))):
        content += piece
    if len(content) != expected:
        got = f"{len(content):,}" if len(content) < expected else "more"
        raise InputError(
            f"{where}: got {got} bytes of values, expected {expected:,} (truncated or damaged)"
        )
    array = np.frombuffer(content, header.dtype)
    return array.reshape(header.shape, order="F" if header.fortran else "C")


@contextmanager
def _open_unpacked(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open a file that may be gzipped, whatever its name says.

    Some browsers unpack what they download, and keep the name."""
    with path.open("rb") as raw:
        packed = raw.read(len(GZIP)) == GZIP
        raw.seek(0)
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as file:
            yield file


def read_idx(path: Path, ndim: int, dtype: np.dtype[Any] = UINT8) -> np.ndarray:
    """Return the array of an IDX file, gzipped or not; its type is one of IDX_CODES.

    Raises:
        InputError: The file is none of `ndim` dimensions and this type, is damaged, or claims more
            than MAX_ARRAY_BYTES.
        OSError: The file cannot be read.
    """
    # Two zero bytes, the type, the number of dimensions; then each dimension as a big-endian
    # 32-bit integer, then the values.
    magic = bytes([0, 0, IDX_CODES[dtype], ndim])
    try:
        with _open_unpacked(path) as file:
            found, sides = file.read(4), file.read(4 * ndim)
            if found != magic:
                raise InputError(
                    f"{path}: got magic number {found.hex() or 'of an empty file'}, "
                    f"expected {magic.hex()}"
                )
            if len(sides) < 4 * ndim:
                raise InputError(f"{path}: got a truncated header, expected {4 + 4 * ndim} bytes")
            shape = tuple(np.frombuffer(sides, ">u4").tolist())
            return _read_all(file, Header(shape, dtype, fortran=False), str(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file: {error}") from error


def _read_header(file: IO[bytes], where: str, kinds: str) -> Header:
    """Return the header of an open .npy file."""
    try:
        # NumPy writes other versions only for headers over 64 KiB, which an array of numbers lacks.
        if npy.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0 of the format")
        shape, fortran, dtype = npy.read_array_header_1_0(file)
    except Exception as error:  # NumPy raises many kinds: TokenError, MemoryError, TypeError, ...
        raise InputError(
            f"{where}: got a damaged header, expected that of an array of numbers"
        ) from error
    if dtype.kind not in kinds or not all(side >= 0 for side in shape):
        expected = "numbers" if kinds == NUMBERS else "texts"
        hint = None
        if dtype.kind in "OUS":
            kind = "int64" if kinds == NUMBERS else "str"
            hint = f'save it with a type of its own: array.astype("{kind}")'
        raise InputError(
            f"{where}: got an array {dtype} {shape}, expected one of {expected}", hint=hint
        )
    return Header(tuple(map(int, shape)), dtype, fortran)


def list_npz(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz file.

    Raises InputError if it is damaged, and OSError if it cannot be read."""
    with path.open("rb") as raw:
        try:
            with zipfile.ZipFile(raw) as archive:
                names = archive.namelist()
                return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
        except Exception as error:  # zipfile raises many kinds for damaged files
            raise InputError(f"{path}: damaged .npz file: {reason(error)}") from error


@contextmanager
def open_npz(path: Path, name: str, kinds: str = NUMBERS) -> Iterator[tuple[IO[bytes], Header]]:
    """Open an array of an .npz file, at its first value, and give its header too.

    `kinds` are those of its elements: NUMBERS or TEXTS.

    Raises:
        KeyError: There is no such array; its text names those that there are.
        InputError: The file is damaged, has the array twice, or claims that it is no array of
            these kinds.
        OSError: The file cannot be read.
    """
    where, member = f"{path} ({name})", f"{name}.npy"
    with path.open("rb") as raw:
        try:
            with zipfile.ZipFile(raw) as archive:
                names = archive.namelist()
                if member not in names:
                    raise KeyError(", ".join(names) or "nothing")
                if names.count(member) > 1:
                    raise InputError(f"{where}: got this array twice, expected it once")
                # What else ZIP allows is decompressed without a limit.
                method = archive.getinfo(member).compress_type
                if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise InputError(
                        f"{where}: got compression method {method}, expected that of "
                        "numpy.savez or numpy.savez_compressed"
                    )
                with archive.open(member) as file:
                    yield file, _read_header(file, where, kinds)
        except (InputError, KeyError, MemoryError):
            raise
        except Exception as error:  # zipfile and zlib raise many kinds for damaged files
            raise InputError(f"{where}: damaged .npz file: {reason(error)}") from error


def read_npz(
    path: Path, name: str, kinds: str = NUMBERS, most: int = MAX_ARRAY_BYTES
) -> np.ndarray:
    """Return an array of an .npz file, of at most `most` bytes. Raises what `open_npz` raises."""
    with open_npz(path, name, kinds) as (file, header):
        return _read_all(file, header, f"{path} ({name})", most)
