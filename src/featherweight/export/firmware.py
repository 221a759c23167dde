"""An exported C folder compiled, measured, and compared with its definition on every image.

scores = read_c(folder, pixels)                                     # (n, classes), by the compiled program
scores, instructions = read_on_chip(folder, pixels, CHIPS["m4"])    # the same on a Cortex-M in QEMU
row = make_row(export_c(run, split, 8), run, split, True, 40)        # a row of results/c99.csv
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
from ..tables import Row
from .c import TEMPLATES, Firmware

COLUMNS = (
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
ARM = "arm-none-eabi-gcc"


@dataclass(frozen=True)
class Chip:
    """A processor, and a machine of QEMU that has it."""

    flags: tuple[str, ...]
    machine: str
    nanoseconds: float
    "Of a tick of its system timer; where QEMU takes one for an instruction, also instructions."


CHIPS = {
    "m0": Chip(("-mcpu=cortex-m0", "-mthumb"), "microbit", 62.5),
    "m4": Chip(("-mcpu=cortex-m4", "-mthumb"), "mps2-an386", 40.0),
}


@dataclass(frozen=True)
class Sizes:
    """Bytes of digit.c's object, as a compiler made them with -Os."""

    code: int
    constants: int
    ram: int


def _call(
    *command: str, given: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a tool; ValueError where there is none, or where it fails."""
    try:
        return subprocess.run(command, input=given, check=True, capture_output=True, cwd=cwd)
    except OSError as error:
        raise InputError(f"{command[0]}: does not run: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        raise InputError(
            f"{command[0]} failed: {said[0] if said else f'exit code {error.returncode}'}"
        ) from error


def measure(folder: Path, compiler: str, *flags: str) -> Sizes:
    """Compile a folder's digit.c for size and read the sections of the object."""
    tool = f"{compiler.removesuffix('gcc')}size" if compiler.endswith("-gcc") else "size"
    with tempfile.TemporaryDirectory() as work:
        _call(
            compiler,
            "-std=c99",
            "-Os",
            *flags,
            "-c",
            str(folder / "digit.c"),
            "-o",
            f"{work}/digit.o",
        )
        rows = [
            line.split()
            for line in _call(tool, "-A", f"{work}/digit.o").stdout.decode().splitlines()
        ]
    code, constants, ram = (
        sum(int(row[1]) for row in rows if len(row) == 3 and row[0].startswith(kinds))
        for kinds in (".text", (".rodata", ".data"), ".bss")
    )
    return Sizes(code, constants, ram)


def _scores(lines: list[str]) -> Tensor:
    return torch.tensor([list(map(int, line.split()[1:])) for line in lines], dtype=torch.int64)


def read_c(folder: Path, pixels: Tensor, compiler: str = "cc") -> Tensor:
    """pixels (n, 1, height, width) uint8 -> scores (n, classes) int64, by the folder's program, compiled here."""
    with tempfile.TemporaryDirectory() as work:
        _call(
            compiler,
            "-std=c99",
            "-O3",
            str(folder / "digit.c"),
            str(folder / "main.c"),
            "-o",
            f"{work}/digit",
        )
        return _scores(
            _call(f"{work}/digit", given=pixels.numpy().tobytes()).stdout.decode().splitlines()
        )


def read_on_chip(folder: Path, pixels: Tensor, chip: Chip) -> tuple[Tensor, int]:
    """The same in QEMU, from 256 kB of flash and 16 kB of RAM; and the instructions that the last image took.

    Built with -Os. The flash holds the images too: about 200 of 28x28."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for file in ("cortex_m.c", "cortex_m.ld"):
            shutil.copy(TEMPLATES / file, work)
        (work / "images.raw").write_bytes(pixels.numpy().tobytes())
        _call(
            ARM,
            "-std=gnu99",
            "-Os",
            *chip.flags,
            f"-I{folder.resolve()}",
            "-nostartfiles",
            "-T",
            "cortex_m.ld",
            str(folder.resolve() / "digit.c"),
            "cortex_m.c",
            "-o",
            "digit.elf",
            cwd=work,
        )
        # A nanosecond of the machine's time for an instruction; what it prints comes on standard error.
        said = _call(
            "qemu-system-arm",
            "-M",
            chip.machine,
            "-icount",
            "shift=0",
            "-nographic",
            "-monitor",
            "none",
            "-serial",
            "none",
            "-semihosting-config",
            "enable=on,target=native",
            "-kernel",
            "digit.elf",
            cwd=work,
        ).stderr.decode()
    *lines, ticks = said.splitlines()
    return _scores(lines), round(int(ticks) * chip.nanoseconds)


def make_row(firmware: Firmware, run: Run, split: Split, test: bool, on_chip: int) -> Row:
    """Sizes, and what the compiled program makes of every validation image and, if `test`, of every test image.

    `equal` of `images` images have the scores of the Python definition, all of them and to the bit; so do `equal_m0`
    and `equal_m4` of the first `on_chip` validation images. With none, no ARM compiler and no QEMU are needed, and
    the chips' columns stay empty."""
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
        "compiler": _call("cc", "--version").stdout.decode().splitlines()[0],
        "data_sha256": split.sha256,
        "commit": run.environment["commit"],
    }
    if on_chip:
        values["arm_compiler"] = _call(ARM, "--version").stdout.decode().splitlines()[0]
        values["images_on_chip"] = on_chip
        for name, chip in CHIPS.items():
            sizes = measure(folder, ARM, *chip.flags)
            scores, instructions = read_on_chip(folder, split.val.pixels[:on_chip], chip)
            values |= {
                "constants": sizes.constants,
                "ram": sizes.ram,
                f"code_{name}": sizes.code,
                f"instructions_{name}": instructions,
                f"equal_{name}": int((scores == firmware.scores[:on_chip]).all(1).sum()),
            }
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
        column: "" if (value := values.get(column)) is None else str(value) for column in COLUMNS
    }
