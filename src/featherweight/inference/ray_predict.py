"""Read very many images on Ray with an exported file, a part of them at a time, into a folder of tables.

    totals = read_all("model.onnx", "scans/", Path("readings"), "parquet", {".png", ".jpg"}, "local", cpus=2)

The source is a folder, or one file, of pictures, of `.npz` (an array `images`, uint8 (n, height, width)) or of
Parquet (a column `image`: pixels as lists of the network's size, or pictures' bytes, bare or as {bytes, path}).
Arrays of the network's size are read as they are, everything else as by `prepare`.

The source is cut into parts, always the same. An actor of a Ray Data pipeline reads a part and writes its readings
as one file, whole: no part that has its file is read again, and none without is left out. It holds BATCH images and
the readings of a part, however many there are. All nodes must see source, model and output. Imports no torch.
"""

import csv
import hashlib
import io
import json
import logging
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from filelock import FileLock, Timeout
from numpy.lib import format as npy
from ray.exceptions import RayError

from .._files import reason, write_atomic
from .._ray import connected
from ..errors import InputError
from .prepare import Bytes, open_picture, prepare_and_count
from .reader import Reader

BATCH = 100  # images in memory at a time, of an actor; more are no faster
PICTURES, ROWS = 500, 10_000  # of a part: files, or images in an .npz; of Parquet it is a row group
COLUMNS = ("file", "index", "label", "confidence", "unsure", "error")
Image = tuple[
    str, int, Bytes | None, int, str
]  # file, place in it, prepared (None: no ink), digits, why not read


@dataclass(frozen=True)
class Part:
    """Images that are read together: files, or some of the images in one."""

    number: int
    files: tuple[str, ...]
    "Names below the source, or the source's own."
    sizes: tuple[int, ...]
    "In bytes, of the files."
    start: int
    stop: int
    group: int
    "Of a Parquet file's row groups."

    def paths(self, source: Path) -> list[Path]:
        return [source / file for file in self.files] if source.is_dir() else [source]


def _shape(member: Any, where: str) -> tuple[int, ...]:
    """Of the array in an open .npy; leaves it at the first number."""
    read = (
        npy.read_array_header_1_0 if npy.read_magic(member) == (1, 0) else npy.read_array_header_2_0
    )
    shape, fortran, dtype = read(member)
    if dtype != np.uint8 or len(shape) != 3 or fortran:
        raise InputError(f"{where}: images: got {dtype} {shape}, expected uint8 (n, height, width)")
    return tuple(shape)


def _open_images(path: Path, archive: zipfile.ZipFile) -> Any:
    if "images.npy" not in archive.namelist():
        raise InputError(
            f"{path}: got {', '.join(archive.namelist()) or 'nothing'}, expected an array images"
        )
    return archive.open("images.npy")


def list_parts(source: Path, pictures: set[str]) -> list[Part]:
    """The parts of a source, in order. ValueError where there are no images or a file is none of images."""
    inside = source.is_dir()
    files = sorted(path for path in source.rglob("*") if path.is_file()) if inside else [source]
    parts: list[Part] = []

    def add(found: list[Path], start: int, stop: int, group: int = 0) -> None:
        names = tuple(str(path.relative_to(source)) if inside else path.name for path in found)
        parts.append(
            Part(
                len(parts), names, tuple(path.stat().st_size for path in found), start, stop, group
            )
        )

    found = [path for path in files if path.suffix.lower() in pictures]
    for start in range(0, len(found), PICTURES):
        chunk = found[start : start + PICTURES]
        add(chunk, 0, len(chunk))
    for path in files:
        try:
            if path.suffix == ".npz":
                with zipfile.ZipFile(path) as archive, _open_images(path, archive) as member:
                    total = _shape(member, str(path))[0]
                for start in range(0, total, ROWS):
                    add([path], start, min(total, start + ROWS))
            elif path.suffix == ".parquet":
                metadata, start = pq.ParquetFile(path).metadata, 0
                for group in range(metadata.num_row_groups):
                    rows = metadata.row_group(group).num_rows
                    add([path], start, start + rows, group)
                    start += rows
        except (zipfile.BadZipFile, pa.ArrowException) as error:
            raise InputError(f"{path}: damaged: {error}") from error
    if not parts:
        raise InputError(
            f"{source}: got no images, expected {', '.join(sorted(pictures))}, .npz or .parquet"
        )
    return parts


def _prepared(
    file: str, index: int, picture: Bytes | bytes | Path, shape: tuple[int, int]
) -> Image:
    try:
        if isinstance(picture, np.ndarray) and picture.shape == shape:
            return file, index, picture, 1, ""
        image, count = prepare_and_count(
            picture if isinstance(picture, np.ndarray) else open_picture(picture)
        )
        return file, index, image, count, ""
    except (ValueError, OSError) as error:
        return file, index, None, 0, reason(error)


def _npz_rows(path: Path, start: int, stop: int) -> Iterator[Bytes]:
    """Images start .. stop - 1, (n, height, width) at a time; the array is read past, not into memory."""
    with zipfile.ZipFile(path) as archive, _open_images(path, archive) as member:
        _, height, width = _shape(member, str(path))
        member.seek(start * height * width, 1)
        for first in range(start, stop, BATCH):
            n = min(BATCH, stop - first)
            content = member.read(n * height * width)
            if len(content) != n * height * width:
                raise InputError(f"{path}: truncated")
            yield np.frombuffer(content, np.uint8).reshape(n, height, width)


def _parquet_rows(
    path: Path, group: int, shape: tuple[int, int]
) -> Iterator[list[Bytes] | list[bytes]]:
    with pq.ParquetFile(path) as file:
        if "image" not in file.schema_arrow.names:
            raise InputError(
                f"{path}: got columns {', '.join(file.schema_arrow.names)}, expected one named image"
            )
        for batch in file.iter_batches(BATCH, row_groups=[group], columns=["image"]):
            column = batch.column(0)
            if pa.types.is_struct(column.type):
                column = column.field("bytes")
            if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                yield [content or b"" for content in column.to_pylist()]
                continue
            n = len(column)
            while not pa.types.is_integer(column.type):
                if not hasattr(column, "flatten"):
                    raise InputError(
                        f"{path}: image: got {column.type}, expected lists of pixels, or bytes"
                    )
                column = column.flatten()
            pixels = column.to_numpy(zero_copy_only=False)
            if len(pixels) != n * math.prod(shape) or pixels.min() < 0 or pixels.max() > 255:
                raise InputError(
                    f"{path}: image: got {len(pixels)} numbers for {n} images, expected "
                    f"{math.prod(shape)} each, of 0 to 255"
                )
            yield list(pixels.astype(np.uint8).reshape(n, *shape))


def _images(part: Part, source: Path, shape: tuple[int, int]) -> Iterator[list[Image]]:
    """The images of a part, BATCH at most at a time."""
    paths = part.paths(source)
    if paths[0].suffix not in (".npz", ".parquet"):
        for first in range(0, len(paths), BATCH):
            some = slice(first, first + BATCH)
            yield [
                _prepared(name, 0, path, shape)
                for name, path in zip(part.files[some], paths[some], strict=True)
            ]
        return
    rows = (
        _npz_rows(paths[0], part.start, part.stop)
        if paths[0].suffix == ".npz"
        else _parquet_rows(paths[0], part.group, shape)
    )
    index = part.start
    for batch in rows:
        yield [
            _prepared(part.files[0], index + i, picture, shape) for i, picture in enumerate(batch)
        ]
        index += len(batch)


def read_part(reader: Reader, part: Part, source: Path) -> list[tuple[Any, ...]]:
    """A row of COLUMNS an image; `label` is None where there is no ink, or an error."""
    rows: list[tuple[Any, ...]] = []
    for batch in _images(part, source, reader.shape):
        readings = reader.read_prepared([image for _, _, image, _, _ in batch])
        rows += [
            (file, index, reading.label, reading.confidence, reading.unsure or count > 1, error)
            for (file, index, _, count, error), reading in zip(batch, readings, strict=True)
        ]
    if len(rows) != part.stop - part.start:
        raise InputError(
            f"{source}: got {len(rows)} images in part {part.number}, expected "
            f"{part.stop - part.start}: it has changed"
        )
    return rows


def _table(rows: list[tuple[Any, ...]], form: str) -> bytes:
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
        return text.getvalue().encode()
    types = (pa.string(), pa.int64(), pa.string(), pa.float32(), pa.bool_(), pa.string())
    columns = zip(*rows, strict=True)
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(
            {
                name: pa.array(column, kind)
                for name, kind, column in zip(COLUMNS, types, columns, strict=True)
            }
        ),
        buffer,
    )
    return buffer.getvalue()


def _file(out: Path, number: int, form: str) -> Path:
    return out / f"part-{number:06}.{form}"


class PartReader:
    """An actor: a reader, and the parts that it is given one after the other."""

    def __init__(self, model: str, source: str, out: str, form: str) -> None:
        self._reader, self._source, self._out, self._form = (
            Reader(model),
            Path(source),
            Path(out),
            form,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        part = Part(**json.loads(batch["part"][0]))
        try:
            rows = read_part(self._reader, part, self._source)
            write_atomic(_file(self._out, part.number, self._form), _table(rows, self._form))
        except (ValueError, OSError) as error:  # as a value: Ray Data wraps what an actor raises
            return {"images": [0], "unsure": [0], "bad": [0], "error": [reason(error)]}
        return {
            "images": [len(rows)],
            "unsure": [sum(row[4] for row in rows)],
            "bad": [sum(row[5] != "" for row in rows)],
            "error": [""],
        }


@dataclass(frozen=True)
class Totals:
    """Of one call; `images` leaves out what an earlier one had read."""

    images: int
    before: int
    unsure: int
    bad: int
    "Could not be read; the column `error` says why."


def _check_same(out: Path, known: dict[str, Any]) -> None:
    file = out / "_parts.json"  # tools that read a folder of Parquet leave out names with _
    if not file.exists():
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out}: got a folder of other things, expected a new one")
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(file, (json.dumps(known, indent=2) + "\n").encode())
    elif json.loads(file.read_text(encoding="utf-8")) != known:
        raise InputError(
            f"{out}: holds readings of other images, by another model, or in another format; "
            "hint: name a new folder"
        )


def read_all(
    model: str,
    source: str,
    out: Path,
    form: str,
    pictures: set[str],
    address: str,
    cpus: int,
    on_part: Callable[[int, int], None] = lambda images, total: None,
) -> Totals:
    """Read every image of the source that `out` has no reading of, into part-*.parquet or .csv there.

    `pictures` are the suffixes of pictures; `on_part` is told how many images are read, and of how many. Raises
    ValueError for a source, model or folder that can't be used, OSError where a disk or node fails.
    """
    Reader(model)  # refuses what is none, here rather than on the nodes
    path = Path(source).absolute()
    parts = list_parts(path, pictures)
    digest = hashlib.sha256(json.dumps([asdict(part) for part in parts]).encode()).hexdigest()
    total = sum(part.stop - part.start for part in parts)
    _check_same(
        out,
        {
            "source": source,
            "images": total,
            "parts": len(parts),
            "parts_sha256": digest,
            "format": form,
            "model_sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        },
    )
    try:
        with FileLock(out / "_lock", timeout=0):
            todo = [part for part in parts if not _file(out, part.number, form).exists()]
            before = total - sum(part.stop - part.start for part in todo)
            on_part(before, total)
            counts = {"images": 0, "unsure": 0, "bad": 0}
            if todo:
                with connected(address, cpus):
                    for row in _pipeline(
                        todo, (str(Path(model).absolute()), str(path), str(out.absolute()), form)
                    ):
                        counts = {key: value + row[key] for key, value in counts.items()}
                        on_part(before + counts["images"], total)
            return Totals(before=before, **counts)
    except Timeout:
        raise InputError(f"{out}: another process reads into it") from None


def _pipeline(parts: list[Part], where: tuple[str, str, str, str]) -> Iterator[dict[str, Any]]:
    """What the actors say of each part, as they finish."""
    places = int(ray.cluster_resources().get("CPU", 0))
    if not places:
        raise InputError("the Ray cluster has no CPU, expected one at least")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of defaults that it sets itself
        ray.data.DataContext.get_current().enable_progress_bars = False
    items = [{"part": json.dumps(asdict(part))} for part in parts]
    rows = ray.data.from_items(items, override_num_blocks=len(items))
    read = rows.map_batches(
        PartReader,
        fn_constructor_args=where,
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(places, len(parts))),
    )
    try:
        for row in read.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            yield row
    except RayError as error:
        raise OSError(f"Ray: {str(error).splitlines()[0]}") from error
