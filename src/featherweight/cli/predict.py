"""The commands that read digits: predict, stress."""

import glob
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

from .._files import reason
from ..errors import InputError
from ..pretrained import DEFAULT_MODEL, find_pretrained
from ..tables import format_table
from .base import (
    DONE,
    INTERRUPTED,
    USAGE,
    app,
    cores,
    literal,
    load_mnist,
    print_json,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    import numpy as np

    from ..inference.reader import Reader, Reading
    from ..inference.stress import Score

Unit = Literal["digit", "number", "line"]
"What is read of a picture: one digit, all as a number, or each line as a number."
PROGRESS_FROM = 200  # pictures; fewer are read before a progress bar would help


@app.command(name="predict", usage="Usage: featherweight predict [OPTIONS] IMAGES...")
def cmd_predict(
    *images: Annotated[str, Parameter(allow_leading_hyphen=True)],
    model: str = DEFAULT_MODEL,
    number: bool = False,
    lines: bool = False,
    json: bool = False,
    csv: bool = False,
    ray: Annotated[list[str] | None, Parameter(consume_multiple=(0, 1))] = None,
    out: str | None = None,
) -> int:
    """Read pictures: of digits, or of whatever the network was trained on.

    Parameters
    ----------
    images
        Pictures, folders of pictures, or glob patterns; - is standard input.
    model
        Network that reads them: the name of a pretrained one (`featherweight models` lists them),
        a run folder, or an ONNX file that `featherweight export` wrote.
    number
        Read all digits of each picture, line by line from left to right, as one number.
    lines
        Read each line of writing of a picture, from top to bottom, as a number.
    json
        Print a JSON list, with the probability of every class.
    csv
        Print CSV with the columns file, line (with `--lines` only), label, confidence, unsure,
        reason and doubts.
    ray
        Read one source on a Ray cluster: a folder or file of pictures, .npz or Parquet. Takes the
        cluster's address, auto for the cluster that this machine belongs to, or nothing to start
        one here.
    out
        With `--ray`: folder to write the readings to, as Parquet, or as CSV with `--csv`. Images
        that it has readings of are not read again.
    """
    from .._pictures import SUFFIXES
    from ..inference.reader import Reader, find_model
    from ..inference.reading import are_digits

    if not images:
        raise InputError(
            "got no IMAGES, expected: featherweight predict IMAGES",
            hint="featherweight predict photo.jpg",
        )
    _refuse_others(images)
    if json and csv:
        raise InputError("--json with --csv: expected one of them")
    if number and lines:
        raise InputError("--number with --lines: expected one of them")
    if ray is not None:
        if number or lines or json or len(images) != 1 or out is None:
            raise InputError(
                "--ray: expected one source and --out FOLDER, without --number, --lines and --json"
            )
        address = ray[0] if ray else "local"
        format = "csv" if csv else "parquet"
        return _predict_on_ray(find_model(model), images[0], out, format, address)
    if out is not None:
        raise InputError("--out without --ray: expected it with --ray only")
    reader, sources = Reader(model), list(_sources(images))
    if (number or lines) and not reader.form.reads_ink:
        raise InputError(
            f"{'--lines' if lines else '--number'}: {model} reads whole pictures, expected a "
            "network that reads ink",
            hint=f"featherweight predict {shlex.join(images)} --model {shlex.quote(model)}",
        )
    if not sources:
        raise InputError(
            f"{', '.join(images)}: got no picture, expected names that end in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    unit: Unit = "line" if lines else "number" if number else "digit"
    rows, n_failed, several = _read_all(reader, sources, unit)
    if json:
        print_json(rows)
    elif csv:
        _print_csv(rows, unit)
    else:
        what = "number" if unit != "digit" else "digit" if are_digits(reader.labels) else "label"
        _print_readings(rows, what, reader.sure_from)
    if several:
        which, hint = several[0], "--number reads them"
        if len(several) > 1:
            which = f"{len(several):,} pictures: several digits side by side"
        if unit == "number":
            hint = "--lines reads each line as a number"
            if len(several) > 1:
                which = f"{len(several):,} pictures: several lines of writing, read as one number"
        stderr.print(f"{which}; hint: {hint}", markup=False)
    if n_failed and len(sources) > 1:
        stderr.print(f"error: {n_failed:,} of {len(sources):,} could not be read")
    return USAGE if n_failed else DONE


def _refuse_others(words: tuple[str, ...]) -> None:
    """Raise InputError if a word that should name pictures names a network or an address."""
    for word in words:
        if word.startswith(("http://", "https://")):
            raise InputError(
                f"{word}: an address, expected a file",
                hint="featherweight predict - reads what a download pipes into it",
            )
        is_run = (Path(word) / "config.json").is_file()
        is_name = find_pretrained(word) is not None and not Path(word).exists()
        if is_run or is_name or Path(word).suffix == ".onnx":
            others = [other for other in words if other != word] or ["photo.jpg"]
            raise InputError(
                f"{word} is a network, expected pictures",
                hint=f"featherweight predict {shlex.join(others)} --model {shlex.quote(word)}",
            )


def _sources(words: Iterable[str]) -> Iterator[str]:
    """Yield the pictures that arguments name: files, folders and glob patterns, in order."""
    from .._pictures import is_named_as_picture

    for word in words:
        if word == "-":  # standard input
            yield word
        elif Path(word).is_dir():
            inside = (path.relative_to(word) for path in Path(word).rglob("*"))
            pictures = (
                str(Path(word, path))
                for path in inside
                if is_named_as_picture(path.name) and not any(p[0] == "." for p in path.parts)
            )
            yield from sorted(pictures)
        elif not Path(word).exists() and (found := sorted(glob.glob(word, recursive=True))):
            yield from found
        else:
            yield word


def _read_all(
    reader: "Reader", sources: list[str], unit: Unit
) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Read every source and print an error for each that cannot be read.

    Returns the readings, the number of errors, and a note for each picture that seems to show
    several digits where one is read, or several lines where one number is."""
    rows, n_failed, several = [], 0, []
    hidden = len(sources) < PROGRESS_FROM or not stderr.is_terminal
    for source in track(sources, "", console=stderr, transient=True, disable=hidden):
        try:
            lines = _read_file(reader, source, unit)
        except (ValueError, OSError) as error:
            n_failed += 1
            stderr.print(f"error: {reason(error)}", markup=False)
            continue
        if unit == "digit" and lines[0][0].side_by_side > 1:
            several.append(f"{source}: {lines[0][0].side_by_side} digits side by side")
        if unit == "number" and len(lines) > 1:
            several.append(f"{source}: {len(lines)} lines of writing, read as one number")
            lines = [[reading for line in lines for reading in line]]
        for i, readings in enumerate(lines, 1):
            row = _to_row(source, readings, many=unit != "digit")
            rows.append({**row, "line": i} if unit == "line" else row)
    return rows, n_failed, several


def _read_file(reader: "Reader", source: str, unit: Unit) -> "list[list[Reading]]":
    """Return the readings of each line of writing, of which a digit is the only one."""
    from ..inference.prepare import MAX_FILE_BYTES

    # One byte more than is accepted: a stream need not end.
    picture = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if source == "-" else Path(source)
    return [[reader.read(picture)]] if unit == "digit" else reader.read_lines(picture) or [[]]


def _to_row(source: str, readings: "list[Reading]", *, many: bool) -> dict[str, Any]:
    """Return the reading of a picture; a number is as unsure as its least sure digit."""
    from ..inference.reading import NO_INK, number

    digits = [{**reading.to_dict(), "box": reading.box} for reading in readings]
    if not many:
        return {"file": source, **digits[0]}
    return {
        "file": source,
        "label": number(readings),
        "reason": None if readings else NO_INK,
        "confidence": min((digit["confidence"] for digit in digits), default=0.0),
        "unsure": any(digit["unsure"] for digit in digits) or not digits,
        "doubts": sorted({doubt for digit in digits for doubt in digit["doubts"]}),
        "digits": digits,
    }


def _print_csv(rows: list[dict[str, Any]], unit: Unit) -> None:
    lines = ["line"] if unit == "line" else []
    columns = ["file", *lines, "label", "confidence", "unsure", "reason", "doubts"]
    texts = ({**row, "doubts": "; ".join(row["doubts"])} for row in rows)
    stdout.write(format_table(([row[key] for key in columns] for row in texts), columns))


def _print_readings(rows: list[dict[str, Any]], what: str, sure_from: float) -> None:
    """Print a table of readings of digits, numbers or other labels, which `what` names."""
    if not rows:
        return
    table = Table("file", what, "confidence", "unsure")
    for row in rows:
        low = ["low confidence"] if row["label"] and row["confidence"] < sure_from else []
        table.add_row(
            literal(row["file"]),
            literal(row["label"] or row["reason"]),
            f"{100 * row['confidence']:.1f} %" if row["label"] else "",
            ", ".join([*low, *row["doubts"]]),
        )
    stdout.print(table)


def _predict_on_ray(model: Path, source: str, folder: str, format: str, address: str) -> int:
    from .._pictures import SUFFIXES
    from ..inference.ray_predict import read_all

    columns = (
        TextColumn("{task.fields[count]}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    hidden = not stderr.is_terminal
    with Progress(*columns, console=stderr, transient=True, disable=hidden) as progress:
        # The total is not known until the images are counted.
        bar = progress.add_task("", total=None, count="listing images")

        def on_part(images: int, total: int) -> None:
            count = f"{images:,} of {total:,} images"
            progress.update(bar, completed=images, total=total, count=count)

        try:
            totals = read_all(
                str(model), source, Path(folder), format, SUFFIXES, address, cores(), on_part
            )
        except KeyboardInterrupt:
            stderr.print("interrupted; run the same command again to continue")
            return INTERRUPTED
    stderr.print(
        f"{totals.images:,} images read, {totals.before:,} read before; {totals.unsure:,} unsure"
        f"{f', {totals.bad:,} could not be read' if totals.bad else ''}"
    )
    stdout.write(f"{folder}\n")
    return USAGE if totals.bad else DONE


@app.command(name="stress")
def cmd_stress(
    *,
    model: str = DEFAULT_MODEL,
    split: Literal["val", "test"] = "val",
    per_category: int = 200,
    seed: int = 0,
    save: str | None = None,
    json: bool = False,
) -> int:
    """Read generated pictures that imitate drawings, prints and photographs.

    The pictures are made at random. Most categories change MNIST images: how they are drawn, the
    paper and boxes that they are on, and several side by side as a number. Others write a digit in
    a font, draw it as pen strokes, or show blank paper.

    Parameters
    ----------
    model
        Network that reads: the name of a pretrained one, a run folder, or an exported file.
    split
        MNIST images to make the pictures from: val, or test. Never choose anything by the result
        on test.
    per_category
        Number of pictures per category.
    seed
        Seed of the random generator.
    save
        New folder to write the pictures to, as CATEGORY/NUMBER-LABEL.png.
    json
        Print the counts as JSON.
    """
    from dataclasses import asdict

    from ..data import load_test
    from ..inference.reader import Reader
    from ..inference.stress import (
        CATEGORIES,
        check_reader,
        make_stress,
        score_stress,
    )

    if per_category < 1:
        raise InputError(f"--per-category: got {per_category}, expected 1 or more")
    if seed < 0:
        raise InputError(f"--seed: got {seed}, expected 0 or more")
    reader = Reader(model)
    check_reader(reader)
    mnist = load_mnist()
    part = mnist.val if split == "val" else load_test(mnist)
    pictures = list(
        track(
            make_stress(part.pixels[:, 0].numpy(), part.labels.numpy(), seed, per_category),
            "",
            total=per_category * len(CATEGORIES),
            console=stderr,
            transient=True,
            disable=not stderr.is_terminal,
        )
    )
    if save is not None:
        _save_pictures(pictures, Path(save))
        stderr.print(f"see {save}", markup=False)
    scores = score_stress(reader, pictures)
    if json:
        print_json([asdict(score) for score in scores])
    else:
        _print_scores(scores, split)
    return DONE


def _save_pictures(pictures: "list[tuple[str, np.ndarray, str | None]]", folder: Path) -> None:
    import itertools

    from PIL import Image

    folder.mkdir(parents=True)
    for category, group in itertools.groupby(pictures, lambda picture: picture[0]):
        (folder / category).mkdir()
        for i, (_, pixels, label) in enumerate(group):
            Image.fromarray(pixels).save(folder / category / f"{i}-{label or 'none'}.png")


def _print_scores(scores: "list[Score]", split: str) -> None:
    """Print a line per category, and one for all categories that are made from MNIST."""

    def share(right: int, n: int) -> str:
        return f"{100 * right / n:.2f} % ({n - right:,})"  # a line has to fit in 80 columns

    table = Table("category", "from", "pictures", "prepared (wrong)", "resized (wrong)")
    for score in scores:
        table.add_row(
            score.category.replace("_", " "),
            split if score.from_mnist else "nothing",
            f"{score.n:,}",
            share(score.prepared, score.n),
            "" if score.resized is None else share(score.resized, score.n),
        )
    digits = [(score, score.resized) for score in scores if score.from_mnist]
    both = [(score, resized) for score, resized in digits if resized is not None]
    n = sum(score.n for score, _ in both)
    table.add_row(
        "all digits",
        split,
        f"{n:,}",
        share(sum(score.prepared for score, _ in both), n),
        share(sum(resized for _, resized in both), n),
    )
    stdout.print(table)
