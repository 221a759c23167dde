"""Commands that ship and read: export, predict, serve."""

import csv
import glob
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn, track
from rich.table import Table

from .base import BROKEN, DONE, INTERRUPTED, USAGE, app, cores, model_file, out, print_json, talk, telling

if TYPE_CHECKING:
    from ..reader import Reader, Reading
    from ..run import Run

MANY = 200  # pictures from which on a progress bar is shown
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}  # what is read of a folder


@app.command
def export(run: str, /, *, format: Literal["onnx", "onnx-int8", "c"], bits: Literal[2, 4, 8] | None = None,
           data: str | None = None) -> int:
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
        raise ValueError(f"--bits with --format {format}: got {bits}, expected it with --format c alone")
    from ..export import BATCHES, Unfaithful, export_onnx

    split = opened.load_split(data)
    try:
        with telling() as tell:
            exported = export_onnx(opened, split, format == "onnx-int8", tell)
    except Unfaithful as error:
        talk.print(f"error: {error}; nothing was written", markup=False)
        return BROKEN
    before, after = exported.float_result, exported.result
    talk.print(f"{exported.path.stat().st_size:,} bytes, {exported.metadata['parameters']} parameters\n"
               f"PyTorch:      {percent(before.correct, before.total)}\n"
               f"ONNX Runtime: {percent(after.correct, after.total)} in batches of {', '.join(map(str, BATCHES))}; "
               f"probabilities differ by {exported.max_difference:.1e} at most\n"
               f"expected calibration error {100 * before.calibration_error:.2f} %, at temperature "
               f"{exported.metadata['temperature']} {100 * after.calibration_error:.2f} %; "
               f"sure from {exported.metadata['sure_from']}\n"
               f"verdict: {exported.metadata['verdict']}", markup=False)
    out.write(f"{exported.path}\n")
    return DONE


def _export_c(run: "Run", data: str | None, bits: int | None) -> int:
    from ..c99 import export_c
    from ..evaluate import percent

    split, bits, verdict = run.load_split(data), bits or run.recipe.weight_bits or 8, run.read_verdict()
    with telling() as tell:
        tell(f"evaluating {len(split.val):,} images with PyTorch and in integers of {bits} bits")
        firmware = export_c(run, split, bits)
    talk.print(f"{firmware.flash:,} bytes of constants, {firmware.ram:,} of RAM, {firmware.network.macs:,} "
               f"multiply-accumulates an image\n"
               f"PyTorch:  {percent(firmware.float_correct, len(firmware.scores))}\n"
               f"integers: {percent(firmware.correct, len(firmware.scores))}\n"
               f"verdict: {verdict}", markup=False)
    out.write(f"{firmware.path}\n")
    return DONE


def _sources(words: list[str]) -> Iterator[str]:
    """Files, the pictures in folders and what matches globs, in order; - is standard input."""
    for word in words:
        if word != "-" and Path(word).is_dir():
            yield from sorted(str(path) for path in Path(word).rglob("*") if path.suffix.lower() in SUFFIXES)
        elif word != "-" and not Path(word).exists() and (found := sorted(glob.glob(word, recursive=True))):
            yield from found
        else:
            yield word


def _read_file(reader: "Reader", source: str, number: bool) -> "list[Reading]":
    from ..image import open_picture, prepare, split_number

    picture = open_picture(sys.stdin.buffer.read() if source == "-" else Path(source))
    return reader.read_prepared(split_number(picture) if number else [prepare(picture)])


def _row(source: str, readings: "list[Reading]", number: bool) -> dict[str, Any]:
    found = [reading.to_dict() for reading in readings]
    if not number:
        return {"file": source, **found[0]}
    return {"file": source, "label": "".join(each["label"] for each in found) or None,
            "confidence": min((each["confidence"] for each in found), default=0.0),
            "unsure": any(each["unsure"] for each in found) or not found, "digits": found}


@app.command
def predict(model: str, images: Annotated[list[str], Parameter(allow_leading_hyphen=True)], *,
            number: Annotated[bool, Parameter(negative="")] = False,
            json: Annotated[bool, Parameter(negative="")] = False,
            csv_: Annotated[bool, Parameter(name="--csv", negative="")] = False,
            ray: Annotated[list[str] | None, Parameter(negative="", consume_multiple=(0, 1))] = None,
            into: Annotated[str | None, Parameter(name="--out")] = None) -> int:
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
    if json and csv_:
        raise ValueError("--json with --csv: expected one of them")
    if ray is not None:
        if number or json or len(images) != 1 or into is None:
            raise ValueError("--ray: expected one source and --out FOLDER, and neither --number nor --json")
        file = model_file(model)
        return _predict_on_ray(file, images[0], into, "csv" if csv_ else "parquet", ray[0] if ray else "local")
    if into is not None:
        raise ValueError("--out without --ray: readings are printed")
    from ..reader import Reader

    reader = Reader(model_file(model))
    sources, rows, bad = list(_sources(images)), [], 0
    for source in track(sources, "", console=talk, transient=True,
                        disable=len(sources) < MANY or not talk.is_terminal):
        try:
            rows.append(_row(source, _read_file(reader, source, number), number))
        except (ValueError, OSError) as error:
            bad += 1
            talk.print(f"error: {' '.join(str(error).split())}", markup=False)
    if json:
        print_json(rows)
    elif csv_:
        writer = csv.DictWriter(sys.stdout, ["file", "label", "confidence", "unsure"], extrasaction="ignore",
                                lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        table = Table("file", "number" if number else "digit", "confidence", "")
        for row in rows:
            table.add_row(row["file"], row["label"] or "no ink", f"{100 * row['confidence']:.1f} %" if row["label"]
                          else "", "unsure" if row["label"] and row["unsure"] else "")
        out.print(table)
    if bad or not sources:
        talk.print(f"error: {bad} of {len(sources)} could not be read\nhint: {', '.join(sorted(SUFFIXES))} are read")
        return USAGE
    return DONE


def _predict_on_ray(model: Path, source: str, folder: str, form: str, address: str) -> int:
    from ..bulk import read_all

    columns = (TextColumn("{task.completed:,.0f} of {task.total:,.0f} images"), BarColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        try:
            totals = read_all(str(model), source, Path(folder), form, SUFFIXES, address, cores(),
                              lambda images, total: progress.update(bar, completed=images, total=total))
        except KeyboardInterrupt:
            talk.print("interrupted; the same command goes on")
            return INTERRUPTED
    talk.print(f"{totals.images:,} images read, {totals.before:,} before; {totals.unsure:,} unsure"
               f"{f', {totals.bad:,} could not be read' if totals.bad else ''}")
    out.print(folder, soft_wrap=True)
    return USAGE if totals.bad else DONE


@app.command
def serve(model: str, *, host: str = "127.0.0.1", port: int = 8000) -> int:
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

    from ..reader import Reader
    from ..serve import create_app

    if not 0 <= port < 65536:
        raise ValueError(f"--port: got {port}, expected 0 to 65535")
    reader = Reader(model_file(model))
    with socket.create_server((host, port), backlog=2048) as listening:
        talk.print(f"http://{host}:{listening.getsockname()[1]} (Ctrl-C ends it)", markup=False)
        config = uvicorn.Config(create_app(reader), log_level="warning", timeout_graceful_shutdown=15)
        uvicorn.Server(config).run(sockets=[listening])
    return DONE
