"""Compile an exported C folder, measure it, and compare it with the reference on every image.

Example:
    scores = read_c(folder, pixels)                                     # (n, classes)
    scores, instructions = read_on_chip(folder, pixels, CHIPS["m4"])    # a Cortex-M4 in QEMU
    row = make_row(export_c(run, split, 8), run, split, test=True, on_chip=40)
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import Split, load_test
from ..errors import InputError
from ..run import Run
from .c import TEMPLATES, Firmware

# Columns of results/c99.csv.
FIRMWARE_COLUMNS = (
    "recipe",
    "seed",
    "bits",
    "constants",
    "ram",
    "macs",
    "code_m0",
    "code_m4",
    "code_host",
    "instructions_m0",
    "instructions_m4",
    "float_val_correct",
    "val_correct",
    "val_total",
    "test_correct",
    "test_total",
    "equal",
    "images",
    "equal_m0",
    "equal_m4",
    "images_on_chip",
    "compiler",
    "arm_compiler",
    "commit",
    "data_sha256",
)
ARM_COMPILER = "arm-none-eabi-gcc"


@dataclass(frozen=True)
class Chip:
    """A processor, and a machine of QEMU that has it."""

    flags: tuple[str, ...]
    "Compiler flags that select the processor."
    machine: str
    "Name of the machine in QEMU."
    nanoseconds: float
    """Nanoseconds of one tick of the system timer. Where QEMU counts one nanosecond for each
    instruction, this is also the number of instructions in a tick."""


CHIPS = {
    "m0": Chip(("-mcpu=cortex-m0", "-mthumb"), "microbit", 62.5),
    "m4": Chip(("-mcpu=cortex-m4", "-mthumb"), "mps2-an386", 40.0),
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the object file of digit.c, or of prepare.c, compiled with -Os."""

    code: int
    "Bytes of code."
    constants: int
    "Bytes of constants."
    ram: int
    "Bytes of static memory."


def _call(
    *command: str, given: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a tool. Raise InputError if it does not exist or fails."""
    try:
        return subprocess.run(command, input=given, check=True, capture_output=True, cwd=cwd)
    except OSError as error:
        raise InputError(f"{command[0]}: does not run: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(
            f"{command[0]} failed: {lines[0] if lines else f'exit code {error.returncode}'}"
        ) from error


def measure(folder: Path, compiler: str, *flags: str, file: str = "digit.c") -> Sizes:
    """Compile a file of a folder for size, and return the sizes of the object's sections.

    Raises:
        InputError: The compiler does not exist or fails.
    """
    tool = f"{compiler.removesuffix('gcc')}size" if compiler.endswith("-gcc") else "size"
    with tempfile.TemporaryDirectory() as work:
        target = f"{work}/digit.o"
        _call(compiler, "-std=c99", "-Os", *flags, "-c", str(folder / file), "-o", target)
        lines = _call(tool, "-A", target).stdout.decode().splitlines()
    sections = [words for line in lines if len(words := line.split()) == 3]  # name, size, address
    code, constants, ram = (
        sum(int(size) for name, size, _ in sections if name.startswith(kinds))
        for kinds in (".text", (".rodata", ".data"), ".bss")
    )
    return Sizes(code, constants, ram)


def _parse_scores(lines: list[str]) -> Tensor:
    """Return the scores (n, classes) in lines of a class and its scores."""
    return torch.tensor([list(map(int, line.split()[1:])) for line in lines], dtype=torch.int64)


def read_c(folder: Path, pixels: Tensor, compiler: str = "cc") -> Tensor:
    """Return the scores (n, classes) int64 of a folder's program, compiled for this machine.

    Args:
        folder: The exported C folder.
        pixels: Images (n, 1, height, width) uint8.
        compiler: Name of a C compiler.

    Raises:
        InputError: The compiler does not exist or fails.
    """
    with tempfile.TemporaryDirectory() as work:
        sources = [str(folder / "digit.c"), str(folder / "main.c")]
        _call(compiler, "-std=c99", "-O3", *sources, "-o", f"{work}/digit")
        output = _call(f"{work}/digit", given=pixels.numpy().tobytes()).stdout
    return _parse_scores(output.decode().splitlines())


def read_on_chip(folder: Path, pixels: Tensor, chip: Chip) -> tuple[Tensor, int]:
    """Run the program on a Cortex-M in QEMU, with 256 kB of flash and 16 kB of RAM.

    The program is compiled with -Os. The flash holds the images too: about 200 of 28x28.

    Returns:
        The scores (n, classes) int64, and the number of instructions for the last image.

    Raises:
        InputError: The compiler or QEMU does not exist or fails.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for file in ("cortex_m.c", "cortex_m.ld"):
            shutil.copy(TEMPLATES / file, work)
        (work / "images.raw").write_bytes(pixels.numpy().tobytes())
        _call(
            *(ARM_COMPILER, "-std=gnu99", "-Os", *chip.flags, f"-I{folder.resolve()}"),
            *("-nostartfiles", "-T", "cortex_m.ld"),
            *(str(folder.resolve() / "digit.c"), "cortex_m.c", "-o", "digit.elf"),
            cwd=work,
        )
        # -icount shift=0: an instruction takes one nanosecond of the machine's time. Semihosting
        # writes to standard error.
        output = _call(
            *("qemu-system-arm", "-M", chip.machine, "-icount", "shift=0"),
            *("-nographic", "-monitor", "none", "-serial", "none"),
            *("-semihosting-config", "enable=on,target=native", "-kernel", "digit.elf"),
            cwd=work,
        ).stderr.decode()
    *lines, ticks = output.splitlines()
    return _parse_scores(lines), round(int(ticks) * chip.nanoseconds)


def make_row(
    firmware: Firmware, run: Run, split: Split, *, test: bool, on_chip: int
) -> dict[str, str]:
    """Return a row of FIRMWARE_COLUMNS: sizes, and results of the compiled program.

    `equal` counts the images for which the program returns exactly the scores of the Python
    reference, out of `images`; `equal_m0` and `equal_m4` count them on the chips, out of
    `images_on_chip`.

    Args:
        firmware: The exported C folder.
        run: The run that it was exported from.
        split: The run's data set.
        test: Whether to read the test images too, not only the validation images.
        on_chip: Number of validation images to read on each chip in QEMU. 0 needs neither an ARM
            compiler nor QEMU, and leaves the columns of the chips empty.
    """
    folder, network = firmware.path, firmware.network
    host = measure(folder, "cc")
    values: dict[str, object] = {
        "recipe": run.recipe.name,
        "seed": run.seed,
        "bits": network.bits,
        "constants": firmware.flash,
        "ram": host.ram,
        "macs": network.macs,
        "code_host": host.code,
        "float_val_correct": firmware.float_correct,
        "compiler": _compiler_version("cc"),
        "data_sha256": split.sha256,
        "commit": run.environment["commit"],
    }
    if on_chip:
        values |= _measure_chips(firmware, split.val.pixels[:on_chip])
    parts = {"val": (split.val, firmware.scores)}
    if test:
        images = load_test(split)
        parts["test"] = images, network.scores(images.pixels)
    equal = 0
    for part, (images, expected) in parts.items():
        scores = read_c(folder, images.pixels)
        equal += int((scores == expected).all(1).sum())
        values |= {
            f"{part}_correct": int((scores.argmax(1) == images.labels).sum()),
            f"{part}_total": len(images),
        }
    values |= {"equal": equal, "images": sum(len(images) for images, _ in parts.values())}
    return {
        column: "" if (value := values.get(column)) is None else str(value)
        for column in FIRMWARE_COLUMNS
    }


def _compiler_version(compiler: str) -> str:
    return _call(compiler, "--version").stdout.decode().splitlines()[0]


def _measure_chips(firmware: Firmware, pixels: Tensor) -> dict[str, object]:
    """Return the columns of the chips for the first validation images (n, 1, height, width)."""
    values: dict[str, object] = {
        "arm_compiler": _compiler_version(ARM_COMPILER),
        "images_on_chip": len(pixels),
    }
    for name, chip in CHIPS.items():
        sizes = measure(firmware.path, ARM_COMPILER, *chip.flags)
        scores, instructions = read_on_chip(firmware.path, pixels, chip)
        values |= {
            "constants": sizes.constants,
            f"code_{name}": sizes.code,
            f"instructions_{name}": instructions,
            f"equal_{name}": int((scores == firmware.scores[: len(pixels)]).all(1).sum()),
        }
    return values
