"""The commands that write a network for other programs: export, firmware."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError
from .base import BROKEN, DONE, app, networks_apart, progress_line, stderr, stdout

if TYPE_CHECKING:
    from ..run import Run

MAX_ON_CHIP = 200  # images that fit in the simulated chip's flash beside the program


@app.command(name="export")
def cmd_export(
    run: str,
    /,
    *,
    format: Literal["onnx", "onnx-int8", "c", "html", "hub"],
    bits: Literal[2, 4, 8] | None = None,
    data: str | None = None,
) -> int:
    """Write the network of a finished run as an ONNX file, C code, a page, or for a model hub.

    The exported network is compared with PyTorch on every validation image. The file is written
    into the run folder: model.onnx, model-int8.onnx, digit-int8.html (digit-int4.html,
    digit-int2.html), or the folder c-int8 (c-int4, c-int2) or hub. That of a pretrained network is
    written to the working directory, as feather-20k-model.onnx.

    Parameters
    ----------
    run
        Run folder, or the name of a pretrained network.
    format
        onnx: float32. onnx-int8: 8-bit weights and activations. c: integer C99 for
        microcontrollers. html: one file that reads drawings and pictures in a browser, without a
        server or a network connection. hub: a folder to upload to a model hub, with a model card,
        the weights and a script that reads a picture without this package.
    bits
        Bits per weight in C or HTML (the recipe's weight_bits, else 8).
    data
        Where the run's data set is now, if it has moved.
    """
    from ..run import open_run

    opened = open_run(run)
    if format == "c" or format == "html":
        return _export_integers(opened, data, format, bits)
    if bits is not None:
        raise InputError(f"--bits with --format {format}: expected it with --format c or html only")
    return _export_onnx(opened, data, format)


def _export_onnx(run: "Run", data: str | None, format: Literal["onnx", "onnx-int8", "hub"]) -> int:
    from ..evaluate import percent
    from ..export.onnx import CHECKED_BATCHES, UnfaithfulError, export_onnx

    split = run.load_split(data)
    try:
        with networks_apart(), progress_line() as show:
            if format == "hub":
                from ..export.hub import export_hub

                exported = export_hub(run, split, on_step=show)
            else:
                exported = export_onnx(run, split, int8=format == "onnx-int8", on_step=show)
    except UnfaithfulError as error:
        stderr.print(f"error: {error}; nothing was written", markup=False)
        return BROKEN
    before, after, metadata = exported.float_result, exported.result, exported.metadata
    files = [exported.path] if exported.path.is_file() else exported.path.iterdir()
    size = sum(file.stat().st_size for file in files)
    rejection = ""
    if "digit_from" in metadata:
        rejection = (
            f"an image is no digit below a confidence of {metadata['digit_from']}: AUROC "
            f"{metadata['auroc']}; {metadata['no_digit_sure']} images of no digit are read and "
            f"sure, {metadata['right_rejected']} right digits rejected\n"
        )
    stderr.print(
        f"{size:,} bytes, {metadata['parameters']} parameters\n"
        f"PyTorch:      {percent(before.correct, before.total)}\n"
        f"ONNX Runtime: {percent(after.correct, after.total)} "
        f"in batches of {', '.join(map(str, CHECKED_BATCHES))}; "
        f"probabilities differ by at most {exported.max_difference:.1e}\n"
        f"expected calibration error: {100 * before.calibration_error:.2f} %, "
        f"{100 * after.calibration_error:.2f} % with temperature {metadata['temperature']}; "
        f"readings count as sure from a confidence of {metadata['sure_from']}\n"
        f"{rejection}verdict: {metadata['verdict']}",
        markup=False,
    )
    stdout.write(f"{exported.path}\n")
    return DONE


def _export_integers(
    run: "Run", data: str | None, format: Literal["c", "html"], bits: int | None
) -> int:
    from ..evaluate import percent
    from ..export.c import Firmware, describe_looks, describe_macs, export_c
    from ..export.html import export_html

    split, verdict = run.load_split(data), run.read_verdict()
    bits, total = bits or run.recipe.weight_bits or 8, len(split.val)
    with networks_apart(), progress_line() as show:
        show(f"evaluating {total:,} images with PyTorch and with {bits}-bit integers")
        exported = (export_c if format == "c" else export_html)(run, split, bits)
    size = (
        f"{exported.flash:,} bytes of constants, {exported.ram:,} bytes of RAM"
        if isinstance(exported, Firmware)
        else f"{exported.size:,} bytes"
    )
    stderr.print(
        f"{size}, {describe_macs(exported.network)} multiply-accumulates per image\n"
        f"{describe_looks(exported.looks)}\n"
        f"PyTorch:  {percent(exported.float_correct, total)}\n"
        f"integers: {percent(exported.correct, total)}\n"
        f"verdict: {verdict}",
        markup=False,
    )
    stdout.write(f"{exported.path}\n")
    return DONE


@app.command(name="firmware")
def cmd_firmware(
    runs: list[str],
    /,
    *,
    bits: Literal[2, 4, 8] | None = None,
    test: bool = False,
    on_chip: int = 0,
    results: str = "c99.csv",
    data: str | None = None,
) -> int:
    """Export runs as C, compile and measure the code, and compare it with Python on every image.

    Each run becomes one row of a CSV file.

    Parameters
    ----------
    runs
        Run folders, or names of pretrained networks. A run that the CSV file already has with the
        same bits is skipped.
    bits
        Bits per weight (each recipe's weight_bits, else 8).
    test
        Read the test images too. Never choose anything by their result.
    on_chip
        Number of validation images to read on a simulated Cortex-M0, Cortex-M4 and RV32 too, at
        most 200. Needs arm-none-eabi-gcc, riscv64-unknown-elf-gcc and QEMU.
    results
        CSV file.
    data
        Where the runs' data set is now, if it has moved.
    """
    from .._locks import hold
    from ..export.c import export_c
    from ..export.firmware import CHIPS, FIRMWARE_COLUMNS, make_row
    from ..run import open_run
    from ..tables import read_table, write_table

    if not 0 <= on_chip <= MAX_ON_CHIP:
        raise InputError(f"--on-chip: got {on_chip}, expected 0 to {MAX_ON_CHIP}")
    table = Path(results)
    rows = read_table(table, FIRMWARE_COLUMNS)
    for run in map(open_run, runs):
        width = bits or run.recipe.weight_bits or 8
        key = run.recipe.name, str(run.seed), str(width)
        if key in {(row["recipe"], row["seed"], row["bits"]) for row in rows}:
            continue
        split = run.load_split(data)
        with networks_apart():
            row = make_row(export_c(run, split, width), run, split, test=test, on_chip=on_chip)
        with hold(f"{table}.lock"):  # another process may have added rows meanwhile
            rows = [*read_table(table, FIRMWARE_COLUMNS), row]
            write_table(table, rows, FIRMWARE_COLUMNS)
        stderr.print(
            f"{row['recipe']} seed {row['seed']}, {row['bits']} bits: "
            f"{int(row['constants']):,} bytes of constants, {int(row['ram']):,} bytes of RAM, "
            f"val {row['val_correct']} of {row['val_total']}, "
            f"test {row['test_correct'] or 'not read'}, "
            f"scores of {row['equal']} of {row['images']} images equal to the bit",
            markup=False,
        )
    stderr.print(f"see {table}", markup=False)
    equal = all(
        row["equal"] == row["images"]
        # A row from before there was RV32 has an empty cell for it.
        and all(row[f"equal_{chip}"] in ("", row["images_on_chip"]) for chip in CHIPS)
        for row in rows
    )
    return DONE if equal else BROKEN
