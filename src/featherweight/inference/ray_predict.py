"""Read many images on Ray with an exported file, into a folder of tables.

    suffixes, out = {".png", ".jpg"}, Path("readings")
    totals = read_all("model.onnx", "scans/", out, "parquet", suffixes, "local", cpus=2)

The source is a folder or a file of

- pictures,
- `.npz` with an array `images`, uint8 (n, height, width), or (n, height, width, 3) in colour,
- Parquet with a column `image`: lists of as many numbers as the network's input has, or the bytes
  of pictures, bare or as {bytes, path}.

Arrays of the size of the network's input are read unchanged, and numbers in a list are taken in the
input's order, in colour red, green and blue planes. All others go through `prepare`.

The source is always cut into the same parts. An actor of a Ray Data pipeline reads a part and
writes its readings as one file, which is whole or absent. A part that has its file is not read
again, so an interrupted call resumes where it stopped. An actor holds at most CHUNK images, arrays
of at most CHUNK_BYTES, and the readings of one part. All nodes must see the source, the model and
the output folder.
"""

import hashlib
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from filelock import Timeout
from ray.exceptions import RayError

from .._arrays import Header, open_npz
from .._files import reason, write_atomic
from .._locks import hold
from .._ray import connected
from ..errors import InputError
from ..tables import format_table
from ._form import Bytes, Form
from .prepare import MAX_PIXELS, Digit, Sheet
from .reader import Reader

CHUNK = 100  # images in an actor's memory; larger chunks are not faster
CHUNK_BYTES = 64 * 1024**2  # of the arrays in an actor's memory, or one image if that has more
MAX_DEFLATE_RATIO = 1032  # of the size of what DEFLATE packs to the packed size
# Sizes of a part. In Parquet a part is a row group.
PICTURES_PER_PART, ARRAY_ROWS_PER_PART = 500, 10_000
READING_COLUMNS = ("file", "index", "label", "confidence", "unsure", "error")
MANIFEST = "_parts.json"  # tools that read a folder of Parquet ignore names that begin with _


class PreparedImage(NamedTuple):
    """An image in the form of the network's input."""

    file: str
    "Path below the source."
    position: int
    "Index in the file."
    candidates: list[Digit]
    "As `Sheet.candidates` has them; none if there is no ink or it could not be read."
    digits: int
    "Number of digits side by side."
    error: str
    "Why the image could not be read, or an empty string."


class ReadingRow(NamedTuple):
    """One row of the tables, whose columns are READING_COLUMNS."""

    file: str
    "Path below the source."
    position: int
    "Index in the file."
    label: str | None
    "Label, or None if there is no ink or the image could not be read."
    confidence: float
    "Probability of the label."
    unsure: bool
    "Whether the reading should be checked; see `Reading.unsure`."
    error: str
    "Why the image could not be read, or an empty string."


@dataclass(frozen=True)
class Part:
    """Images that are read together: several files, or some of the images in one file."""

    number: int
    "Number of the part, from 0."
    files: tuple[str, ...]
    "Paths below the source, or the name of the source if that is a file."
    sizes: tuple[int, ...]
    "Sizes of the files in bytes."
    start: int
    "Index of the first image in the file; 0 if the part has several files."
    stop: int
    "Index behind the last image; the number of files if the part has several."
    group: int
    "Index of the row group in a Parquet file."

    def paths(self, source: Path) -> list[Path]:
        """Return the paths of the files."""
        return [source / file for file in self.files] if source.is_dir() else [source]


def _check_header(header: Header, path: Path) -> tuple[int, ...]:
    """Return the shape of an .npz file's images: (n, height, width) or (n, height, width, 3)."""
    shape = header.shape
    colour = len(shape) == 4 and shape[3] == 3
    if header.dtype != np.uint8 or not (len(shape) == 3 or colour) or header.fortran:
        raise InputError(
            f"{path}: images: got {header.dtype} {shape}, expected uint8 (n, height, width), or "
            "(n, height, width, 3) in colour"
        )
    _, height, width = shape[:3]
    if not 0 < height * width <= MAX_PIXELS:
        raise InputError(
            f"{path}: got images of {height:,} x {width:,} pixels, expected 1 to "
            f"{MAX_PIXELS:,} pixels"
        )
    return shape


@contextmanager
def _open_images(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Open the array `images` of an .npz file, and give its shape too."""
    try:
        with open_npz(path, "images") as (file, header):
            yield file, _check_header(header, path)
    except KeyError as error:
        raise InputError(f"{path}: got {error.args[0]}, expected an array images") from error


def list_parts(source: Path, pictures: set[str]) -> list[Part]:
    """Return the parts of a source, in order.

    Args:
        source: A folder or a file.
        pictures: Suffixes of the files that are pictures.

    Raises:
        InputError: There are no images, or a file is damaged.
    """
    inside = source.is_dir()
    files = sorted(path for path in source.rglob("*") if path.is_file()) if inside else [source]
    parts: list[Part] = []

    def add(found: list[Path], start: int, stop: int, group: int = 0) -> None:
        names = tuple(str(path.relative_to(source)) if inside else path.name for path in found)
        sizes = tuple(path.stat().st_size for path in found)
        parts.append(Part(len(parts), names, sizes, start, stop, group))

    named = [path for path in files if not path.name.startswith(".")]
    found = [path for path in named if path.suffix.lower() in pictures]
    for start in range(0, len(found), PICTURES_PER_PART):
        chunk = found[start : start + PICTURES_PER_PART]
        add(chunk, 0, len(chunk))
    for path in files:
        try:
            if path.suffix == ".npz":
                with _open_images(path) as (_, shape):
                    total, height, width = shape[:3]
                    # A short file that claims 2^40 images would be cut into as many parts.
                    if math.prod(shape) > MAX_DEFLATE_RATIO * path.stat().st_size:
                        raise InputError(
                            f"{path}: got a header that claims {total:,} images of "
                            f"{height}x{width} pixels, expected no more than the file can hold"
                        )
                for start in range(0, total, ARRAY_ROWS_PER_PART):
                    add([path], start, min(total, start + ARRAY_ROWS_PER_PART))
            elif path.suffix == ".parquet":
                metadata, start = pq.ParquetFile(path).metadata, 0
                for group in range(metadata.num_row_groups):
                    rows = metadata.row_group(group).num_rows
                    add([path], start, start + rows, group)
                    start += rows
        except pa.ArrowException as error:
            raise InputError(f"{path}: damaged: {error}") from error
    if not parts:
        raise InputError(
            f"{source}: got no images, expected {', '.join(sorted(pictures))}, .npz or .parquet"
        )
    return parts


def _prepare(file: str, index: int, picture: Bytes | bytes | Path, form: Form) -> PreparedImage:
    try:
        if isinstance(picture, np.ndarray):
            # (height, width, 3) -> (3, height, width)
            planes = np.moveaxis(picture, 2, 0) if picture.ndim == 3 else picture
            if planes.shape == form.shape:
                return PreparedImage(file, index, [Digit(planes)], 1, "")
        sheet = Sheet(picture, form)
        return PreparedImage(file, index, sheet.candidates(), sheet.count(), "")
    except (InputError, OSError) as error:
        return PreparedImage(file, index, [], 0, reason(error))


def _npz_chunks(path: Path, start: int, stop: int) -> Iterator[Bytes]:
    """Yield images start to stop - 1 in chunks (n, height, width), with a last axis of 3 in colour.

    The images before are skipped without being held in memory.
    """
    with _open_images(path) as (member, shape):
        size = math.prod(shape[1:])
        member.seek(start * size, 1)
        chunk = max(1, min(CHUNK, CHUNK_BYTES // size))
        for first in range(start, stop, chunk):
            n = min(chunk, stop - first)
            content = member.read(n * size)
            if len(content) != n * size:
                raise InputError(f"{path}: truncated")
            yield np.frombuffer(content, np.uint8).reshape(n, *shape[1:])


def _parquet_chunks(
    path: Path, group: int, shape: tuple[int, ...]
) -> Iterator[list[Bytes] | list[bytes]]:
    """Yield the images of a row group in chunks: arrays as `prepare` takes them, or bytes."""
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if "image" not in names:
            raise InputError(f"{path}: got columns {', '.join(names)}, expected one named image")
        for batch in file.iter_batches(CHUNK, row_groups=[group], columns=["image"]):
            column = batch.column(0)
            if pa.types.is_struct(column.type):  # {bytes, path}, as Hugging Face's datasets has it
                column = column.field("bytes")
            if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                yield [content or b"" for content in column.to_pylist()]
                continue
            n = len(column)
            while not pa.types.is_integer(column.type):  # lists, or lists of lists
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
            images = pixels.astype(np.uint8).reshape(n, *shape)
            # (n, 3, height, width) -> (n, height, width, 3)
            yield list(np.moveaxis(images, 1, 3) if len(shape) == 3 else images)


def _prepared_chunks(part: Part, source: Path, form: Form) -> Iterator[list[PreparedImage]]:
    """Yield the images of a part, at most CHUNK at a time."""
    paths = part.paths(source)
    if paths[0].suffix not in (".npz", ".parquet"):
        for first in range(0, len(paths), CHUNK):
            chunk = slice(first, first + CHUNK)
            yield [
                _prepare(name, 0, path, form)
                for name, path in zip(part.files[chunk], paths[chunk], strict=True)
            ]
        return
    chunks = (
        _npz_chunks(paths[0], part.start, part.stop)
        if paths[0].suffix == ".npz"
        else _parquet_chunks(paths[0], part.group, form.shape)
    )
    index = part.start
    for images in chunks:
        yield [
            _prepare(part.files[0], index + i, picture, form) for i, picture in enumerate(images)
        ]
        index += len(images)


def read_part(reader: Reader, part: Part, source: Path) -> list[ReadingRow]:
    """Return one row for each image of a part.

    Raises:
        InputError: The file is damaged, or the number of its images has changed.
    """
    rows: list[ReadingRow] = []
    for chunk in _prepared_chunks(part, source, reader.form):
        found = reader.read_candidates([each.candidates for each in chunk])
        readings = [
            reading.counted(each.digits) for each, reading in zip(chunk, found, strict=True)
        ]
        rows += [
            ReadingRow(
                each.file,
                each.position,
                reading.label,
                reading.confidence,
                reading.unsure,
                each.error,
            )
            for each, reading in zip(chunk, readings, strict=True)
        ]
    if len(rows) != part.stop - part.start:
        raise InputError(
            f"{source}: got {len(rows)} images in part {part.number}, expected "
            f"{part.stop - part.start}: the source has changed"
        )
    return rows


def _encode_table(rows: list[ReadingRow], form: str) -> bytes:
    """Return the content of a CSV or Parquet file."""
    if form == "csv":
        return format_table(rows, READING_COLUMNS).encode()
    types = (pa.string(), pa.int64(), pa.string(), pa.float32(), pa.bool_(), pa.string())
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, kind) for kind, column in zip(types, columns, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(zip(READING_COLUMNS, arrays, strict=True))), buffer)
    return buffer.getvalue()


def _part_file(out: Path, number: int, form: str) -> Path:
    return out / f"part-{number:06}.{form}"


class PartReader:
    """Actor that reads one part after the other and writes their tables."""

    def __init__(self, model: str, source: str, out: str, form: str) -> None:
        self._reader = Reader(model)
        self._source, self._out, self._form = Path(source), Path(out), form

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Read the part in a batch of one row, and return its counts as a batch of one row."""
        part = Part(**json.loads(batch["part"][0]))
        try:
            rows = read_part(self._reader, part, self._source)
            content = _encode_table(rows, self._form)
            write_atomic(_part_file(self._out, part.number, self._form), content)
        # Returned as a value, since Ray Data wraps what an actor raises. PyArrow's errors about
        # damaged files are ValueErrors.
        except (ValueError, OSError) as error:
            return {"images": [0], "unsure": [0], "bad": [0], "error": [reason(error)]}
        return {
            "images": [len(rows)],
            "unsure": [sum(row.unsure for row in rows)],
            "bad": [sum(row.error != "" for row in rows)],
            "error": [""],
        }


@dataclass(frozen=True)
class ReadTotals:
    """Counts of one call of `read_all`."""

    images: int
    "Images that this call read."
    before: int
    "Images that an earlier call had read."
    unsure: int
    "Unsure readings of this call."
    bad: int
    "Images that this call could not read; the column `error` says why."


def _check_same(out: Path, known: dict[str, Any]) -> None:
    """Write the manifest of a new folder; refuse a folder whose manifest differs."""
    file = out / MANIFEST
    if not file.exists():
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out}: got a folder with other files, expected a new one")
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(file, (json.dumps(known, indent=2) + "\n").encode())
    elif json.loads(file.read_text(encoding="utf-8")) != known:
        raise InputError(
            f"{out}: holds readings of other images, by another model, or in another format",
            hint="name a new folder",
        )


def read_all(
    model: str,
    source: str,
    out: Path,
    form: str,
    pictures: set[str],
    address: str,
    cpus: int,
    on_part: Callable[[int, int], None] | None = None,
) -> ReadTotals:
    """Read every image of a source that has no reading yet, into part-*.parquet or .csv.

    Args:
        model: An exported file.
        source: A folder or a file of images; see the module's docstring.
        out: Folder for the tables: a new one, or that of an interrupted call with equal arguments.
        form: "parquet" or "csv".
        pictures: Suffixes of the files that are pictures.
        address: Address of a Ray cluster, "auto" for the one that this machine belongs to, or
            "local" to start one.
        cpus: Number of CPUs of a cluster that is started.
        on_part: Called with the number of images read so far and in total, after each part.

    Raises:
        InputError: The source, the model or the folder cannot be used.
        OSError: A disk or a node fails.
    """
    Reader(model)  # refuse a wrong file here rather than on the nodes
    path = Path(source).absolute()
    parts = list_parts(path, pictures)
    digest = hashlib.sha256(json.dumps([asdict(part) for part in parts]).encode()).hexdigest()
    total = sum(part.stop - part.start for part in parts)
    _check_same(
        out,
        {
            "source": str(Path(source)),  # without a slash at the end
            "images": total,
            "parts": len(parts),
            "parts_sha256": digest,
            "format": form,
            "model_sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        },
    )
    try:
        with hold(out / "_lock", 0):
            todo = [part for part in parts if not _part_file(out, part.number, form).exists()]
            before = total - sum(part.stop - part.start for part in todo)
            if on_part:
                on_part(before, total)
            counts = {"images": 0, "unsure": 0, "bad": 0}
            if todo:
                where = (str(Path(model).absolute()), str(path), str(out.absolute()), form)
                with connected(address, cpus):
                    for row in _run_actors(todo, where):
                        counts = {key: value + row[key] for key, value in counts.items()}
                        if on_part:
                            on_part(before + counts["images"], total)
            return ReadTotals(before=before, **counts)
    except Timeout:
        raise InputError(f"{out}: another process is writing into it") from None


def _run_actors(parts: list[Part], where: tuple[str, str, str, str]) -> Iterator[dict[str, Any]]:
    """Read parts with one actor on each CPU; yield the counts of each part as it finishes."""
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if not cpus:
        raise InputError("the Ray cluster has no CPU, expected at least one")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about defaults that Ray sets itself
        ray.data.DataContext.get_current().enable_progress_bars = False
    items = [{"part": json.dumps(asdict(part))} for part in parts]
    rows = ray.data.from_items(items, override_num_blocks=len(items))
    counts = rows.map_batches(
        PartReader,
        fn_constructor_args=where,
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(cpus, len(parts))),
    )
    try:
        for row in counts.iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            yield row
    except RayError as error:
        raise OSError(f"Ray: {str(error).splitlines()[0]}") from error
