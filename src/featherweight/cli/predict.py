"""Commands that ship and read: export, predict, serve."""

import csv
import errno
import glob
import io
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from rich.table import Table
from rich.text import Text

from .._files import reason
from ..errors import InputError
from .base import (
    BROKEN,
    DONE,
    INTERRUPTED,
    USAGE,
    app,
    cores,
    model_file,
    out,
    print_json,
    talk,
    telling,
)

if TYPE_CHECKING:
    from ..inference.reader import Reader, Reading
    from ..run import Run

MANY = 200  # pictures from which on a progress bar is shown


@app.command
def export(
    run: str,
    /,
    *,
    format: Literal["onnx", "onnx-int8", "c"],
    bits: Literal[2, 4, 8] | None = None,
    data: str | None = None,
) -> int:
    """Write a finished run as one file that needs no PyTorch, or as C, checked on every validation image.

    Parameters
    ----------
    run
        a run folder, in which model.onnx, model-int8.onnx or the folder c-int8 is written.
    format
        onnx: 32-bit floats; onnx-int8: weights and activations of 8 bits; c: C99 for a microcontroller, integers
        alone.
    bits
        of a weight, in C (what the run was trained for, else 8).
    data
        where the run's data set is now.
    """
    from ..evaluate import percent
    from ..run import open_run

    opened = open_run(run)
    if format == "c":
        return _export_c(opened, data, bits)
    if bits is not None:
        raise InputError(
            f"--bits with --format {format}: got {bits}, expected it with --format c alone"
        )
    from ..export.onnx import CHECKED_BATCHES, UnfaithfulError, export_onnx

    split = opened.load_split(data)
    try:
        with telling() as tell:
            exported = export_onnx(opened, split, format == "onnx-int8", tell)
    except UnfaithfulError as error:
        talk.print(f"error: {error}; nothing was written", markup=False)
        return BROKEN
    before, after = exported.float_result, exported.result
    talk.print(
        f"{exported.path.stat().st_size:,} bytes, {exported.metadata['parameters']} parameters\n"
        f"PyTorch:      {percent(before.correct, before.total)}\n"
        f"ONNX Runtime: {percent(after.correct, after.total)} in batches of {', '.join(map(str, CHECKED_BATCHES))}; "
        f"probabilities differ by {exported.max_difference:.1e} at most\n"
        f"expected calibration error {100 * before.calibration_error:.2f} %, at temperature "
        f"{exported.metadata['temperature']} {100 * after.calibration_error:.2f} %; "
        f"sure from {exported.metadata['sure_from']}\n"
        f"verdict: {exported.metadata['verdict']}",
        markup=False,
    )
    out.write(f"{exported.path}\n")
    return DONE


def _export_c(run: "Run", data: str | None, bits: int | None) -> int:
    from ..evaluate import percent
    from ..export.c import export_c

    split, bits, verdict = (
        run.load_split(data),
        bits or run.recipe.weight_bits or 8,
        run.read_verdict(),
    )
    with telling() as tell:
        tell(f"evaluating {len(split.val):,} images with PyTorch and in integers of {bits} bits")
        firmware = export_c(run, split, bits)
    talk.print(
        f"{firmware.flash:,} bytes of constants, {firmware.ram:,} of RAM, {firmware.network.macs:,} "
        f"multiply-accumulates an image\n"
        f"PyTorch:  {percent(firmware.float_correct, len(firmware.scores))}\n"
        f"integers: {percent(firmware.correct, len(firmware.scores))}\n"
        f"verdict: {verdict}",
        markup=False,
    )
    out.write(f"{firmware.path}\n")
    return DONE


def _sources(words: Iterable[str]) -> Iterator[str]:
    """Files, the pictures in folders and what matches globs, in order; - is standard input."""
    from ..inference.prepare import SUFFIXES

    for word in words:
        if word != "-" and Path(word).is_dir():
            yield from sorted(
                str(path) for path in Path(word).rglob("*") if path.suffix.lower() in SUFFIXES
            )
        elif (
            word != "-"
            and not Path(word).exists()
            and (found := sorted(glob.glob(word, recursive=True)))
        ):
            yield from found
        else:
            yield word


def _read_file(reader: "Reader", source: str, number: bool) -> "list[Reading]":
    from ..inference.prepare import open_picture, split_number

    picture = open_picture(sys.stdin.buffer.read() if source == "-" else Path(source))
    return reader.read_prepared(split_number(picture)) if number else [reader.read(picture)]


def _row(source: str, readings: "list[Reading]", number: bool) -> dict[str, Any]:
    found = [reading.to_dict() for reading in readings]
    if not number:
        return {"file": source, **found[0]}
    return {
        "file": source,
        "label": "".join(each["label"] for each in found) or None,
        "confidence": min((each["confidence"] for each in found), default=0.0),
        "unsure": any(each["unsure"] for each in found) or not found,
        "digits": found,
    }


@app.command(usage="Usage: featherweight predict [OPTIONS] MODEL IMAGES...")
def predict(
    model: str,
    /,
    *images: Annotated[str, Parameter(allow_leading_hyphen=True)],
    number: bool = False,
    json: bool = False,
    csv_: Annotated[bool, Parameter(name="--csv")] = False,
    ray: Annotated[list[str] | None, Parameter(consume_multiple=(0, 1))] = None,
    into: Annotated[str | None, Parameter(name="--out")] = None,
) -> int:
    """Read pictures of digits with an exported file.

    Parameters
    ----------
    model
        an ONNX file that `featherweight export` wrote, or the run folder that holds one.
    images
        pictures, folders of them, globs; - is standard input.
    number
        read all digits of each picture, left to right.
    json
        print a JSON list, with every class's probability.
    csv_
        print file, label, confidence and unsure as CSV.
    ray
        read one source, a folder or file of pictures, .npz or Parquet, on a Ray cluster: its address, auto for the
        one that this machine is in, or nothing to start one here.
    into
        with --ray: the folder for the readings, as Parquet, or as CSV with --csv; what it has is not read again.
    """
    from ..inference.prepare import SUFFIXES

    if not images:
        known = Path(model).suffix.lower() in SUFFIXES
        example = ["runs/feather-20k-s0-1", model] if known else [model, "photo.jpg"]
        raise InputError(
            f"got one argument, {model}, expected a model and pictures; "
            f"hint: featherweight predict {shlex.join(example)}"
        )
    if json and csv_:
        raise InputError("--json with --csv: expected one of them")
    if ray is not None:
        if number or json or len(images) != 1 or into is None:
            raise InputError(
                "--ray: expected one source and --out FOLDER, and neither --number nor --json"
            )
        file = model_file(model)
        return _predict_on_ray(
            file, images[0], into, "csv" if csv_ else "parquet", ray[0] if ray else "local"
        )
    if into is not None:
        raise InputError("--out without --ray: readings are printed")
    from ..inference.reader import Reader

    reader, sources = Reader(model_file(model)), list(_sources(images))
    if not sources:
        raise InputError(
            f"{', '.join(images)}: got no picture, expected names that end in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    rows, bad, several = [], 0, []
    for source in track(
        sources,
        "",
        console=talk,
        transient=True,
        disable=len(sources) < MANY or not talk.is_terminal,
    ):
        try:
            readings = _read_file(reader, source, number)
        except (ValueError, OSError) as error:
            bad += 1
            talk.print(f"error: {reason(error)}", markup=False)
            continue
        rows.append(_row(source, readings, number))
        if not number and readings[0].side_by_side > 1:
            several.append(f"{source}: {readings[0].side_by_side} digits side by side")
    _print_readings(rows, number, "json" if json else "csv" if csv_ else "table")
    if several:
        several = (
            several
            if len(several) == 1
            else [f"{len(several):,} pictures: several digits side by side"]
        )
        talk.print(f"{several[0]}; hint: --number reads them", markup=False)
    if bad and len(sources) > 1:
        talk.print(f"error: {bad:,} of {len(sources):,} could not be read")
    return USAGE if bad else DONE


def _print_readings(rows: list[dict[str, Any]], number: bool, form: str) -> None:
    if form == "json":
        print_json(rows)
    elif form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(
            text,
            ["file", "label", "confidence", "unsure"],
            extrasaction="ignore",
            lineterminator="\n",
        )
        writer.writeheader()
        writer.writerows(rows)
        out.write(text.getvalue())
    elif rows:
        table = Table("file", "number" if number else "digit", "confidence", "")
        for row in rows:
            table.add_row(
                Text(row["file"]),
                row["label"] or "no ink",
                f"{100 * row['confidence']:.1f} %" if row["label"] else "",
                "unsure" if row["label"] and row["unsure"] else "",
            )
        out.print(table)


def _predict_on_ray(model: Path, source: str, folder: str, form: str, address: str) -> int:
    from ..inference.prepare import SUFFIXES
    from ..inference.ray_predict import read_all

    columns = (
        TextColumn("{task.fields[count]}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as progress:
        bar = progress.add_task("", total=None, count="listing images")  # until they are counted

        def on_part(images: int, total: int) -> None:
            progress.update(
                bar, completed=images, total=total, count=f"{images:,} of {total:,} images"
            )

        try:
            totals = read_all(
                str(model), source, Path(folder), form, SUFFIXES, address, cores(), on_part
            )
        except KeyboardInterrupt:
            talk.print("interrupted; the same command goes on")
            return INTERRUPTED
    talk.print(
        f"{totals.images:,} images read, {totals.before:,} before; {totals.unsure:,} unsure"
        f"{f', {totals.bad:,} could not be read' if totals.bad else ''}"
    )
    out.write(f"{folder}\n")
    return USAGE if totals.bad else DONE


@app.command
def serve(model: str, /, *, host: str = "127.0.0.1", port: int = 8000) -> int:
    """Serve a page on which one draws a digit, and the HTTP interface behind it.

    Parameters
    ----------
    model
        an ONNX file that `featherweight export` wrote, or the run folder that holds one.
    host
        the address to listen on; 0.0.0.0 is everybody's network.
    port
        to listen on; 0 takes a free one.
    """
    import socket

    import uvicorn

    from ..inference.reader import Reader
    from ..inference.server import create_app

    if not 0 <= port < 65536:
        raise InputError(f"--port: got {port}, expected 0 to 65535")
    reader = Reader(model_file(model))
    try:
        listening = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is taken; "
                f"hint: featherweight serve {shlex.quote(model)} --port 0"
            ) from error
        words = (error.strerror or str(error)).partition(" (")[0]
        raise InputError(f"port {port} of {host}: {words[:1].lower()}{words[1:]}") from error
    with listening:
        talk.print(f"http://{host}:{listening.getsockname()[1]} (Ctrl-C ends it)", markup=False)
        config = uvicorn.Config(
            create_app(reader), log_level="warning", timeout_graceful_shutdown=15
        )
        uvicorn.Server(config).run(sockets=[listening])
    return DONE
