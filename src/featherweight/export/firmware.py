"""Compile an exported C folder, measure it, and compare it with the reference on every image.

Example:
    scores = read_c(folder, pixels)                                     # (n, classes)
    read_on_chip(folder, pixels, CHIPS["m4"]).instructions              # on a Cortex-M4 in QEMU
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
    "first_macs",
    "margin",
    "code_m0",
    "code_m4",
    "code_rv32",
    "code_host",
    "stack_m0",
    "stack_m4",
    "stack_rv32",
    "instructions_m0",
    "instructions_m4",
    "instructions_rv32",
    "most_instructions_m0",
    "most_instructions_m4",
    "most_instructions_rv32",
    "doubtful",
    "float_val_correct",
    "val_correct",
    "val_total",
    "test_correct",
    "test_total",
    "equal",
    "images",
    "equal_m0",
    "equal_m4",
    "equal_rv32",
    "images_on_chip",
    "compiler",
    "arm_compiler",
    "riscv_compiler",
    "commit",
    "data_sha256",
)
ARM_COMPILER, RISCV_COMPILER = "arm-none-eabi-gcc", "riscv64-unknown-elf-gcc"
SOURCE = "src/digit.c"

# Debian's compiler for RISC-V comes without a C library, so that it must not make loops into calls.
BARE = ("-ffreestanding", "-fno-tree-loop-distribute-patterns", "-nodefaultlibs")


@dataclass(frozen=True)
class Chip:
    """A processor, and a machine of QEMU that has it."""

    compiler: str
    "Name of the compiler."
    flags: tuple[str, ...]
    "Compiler flags that select the processor."
    emulator: str
    "Name of the program that emulates it."
    machine: tuple[str, ...]
    "Its options that select the machine."
    flash: int
    "Address of the flash."
    ram: int
    "Address of the RAM."
    nanoseconds: float
    """Nanoseconds of one tick of what counts. QEMU is told to take one nanosecond for each
    instruction, so that this is also the number of instructions in a tick."""


def _cortex_m(processor: str, machine: str, nanoseconds: float) -> Chip:
    flags = (f"-mcpu={processor}", "-mthumb")
    emulator = "qemu-system-arm"
    return Chip(ARM_COMPILER, flags, emulator, ("-M", machine), 0, 0x20000000, nanoseconds)


CHIPS = {
    "m0": _cortex_m("cortex-m0", "microbit", 62.5),
    "m4": _cortex_m("cortex-m4", "mps2-an386", 40.0),
    "rv32": Chip(
        RISCV_COMPILER,
        ("-march=rv32imac", "-misa-spec=2.2", "-mabi=ilp32", *BARE),
        "qemu-system-riscv32",
        ("-M", "virt", "-bios", "none"),
        0x80000000,
        0x80100000,
        1.0,
    ),
}


@dataclass(frozen=True)
class OnChip:
    """What a program did on a processor in the emulator."""

    scores: Tensor
    "Scores (n, classes) int64 of the images."
    looks: Tensor
    "Number of looks at each image (n,) int64."
    instructions: Tensor
    "Instructions for each image (n,) float64."
    stack: int
    "Bytes of stack, at most."


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


def measure(folder: Path, compiler: str, *flags: str, source: str = SOURCE) -> Sizes:
    """Compile a source of a folder for size, and return the sizes of the object's sections.

    Raises:
        InputError: The compiler does not exist or fails.
    """
    tool = f"{compiler.removesuffix('gcc')}size" if compiler.endswith("-gcc") else "size"
    with tempfile.TemporaryDirectory() as work:
        target = f"{work}/digit.o"
        _call(compiler, "-std=c99", "-Os", *flags, "-c", str(folder / source), "-o", target)
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
        sources = [f"-I{folder / 'src'}", str(folder / SOURCE), str(folder / "main.c")]
        _call(compiler, "-std=c99", "-O3", *sources, "-o", f"{work}/digit")
        output = _call(f"{work}/digit", given=pixels.numpy().tobytes()).stdout
    return _parse_scores(output.decode().splitlines())


def read_on_chip(folder: Path, pixels: Tensor, chip: Chip) -> OnChip:
    """Run the program on a processor in QEMU, with 256 kB of flash and 16 kB of RAM.

    The program is compiled with -Os. The flash holds the images (n, 1, height, width) uint8 too:
    about 200 of 28x28.

    Raises:
        InputError: The compiler or QEMU does not exist or fails.
    """
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for file in ("chip.c", "chip.ld"):
            shutil.copy(TEMPLATES / file, work)
        (work / "images.raw").write_bytes(pixels.numpy().tobytes())
        _call(
            *(chip.compiler, "-std=gnu99", "-Os", *chip.flags, f"-I{folder.resolve() / 'src'}"),
            *("-nostartfiles", "-T", "chip.ld"),
            *(f"-Wl,--defsym=FLASH={chip.flash}", f"-Wl,--defsym=RAM={chip.ram}"),
            *(str(folder.resolve() / SOURCE), "chip.c", "-o", "digit.elf", "-lgcc"),
            cwd=work,
        )
        # -icount shift=0: an instruction takes one nanosecond of the machine's time. Semihosting
        # writes to standard error.
        output = _call(
            *(chip.emulator, *chip.machine, "-icount", "shift=0"),
            *("-nographic", "-monitor", "none", "-serial", "none"),
            *("-semihosting-config", "enable=on,target=native", "-kernel", "digit.elf"),
            cwd=work,
        ).stderr.decode()
    *lines, stack = output.splitlines()
    numbers = torch.tensor([list(map(int, line.split()[1:])) for line in lines])
    ticks = numbers[:, -1].double()
    return OnChip(numbers[:, :-2], numbers[:, -2], ticks * chip.nanoseconds, int(stack))


def make_row(
    firmware: Firmware, run: Run, split: Split, *, test: bool, on_chip: int
) -> dict[str, str]:
    """Return a row of FIRMWARE_COLUMNS: sizes, and results of the compiled program.

    `equal` counts the images for which the program returns exactly the scores of the Python
    reference, out of `images`; `equal_m0`, `equal_m4` and `equal_rv32` count them on the chips, out
    of `images_on_chip`, where the number of looks is compared too. `doubtful` counts the validation
    images that are looked at again. `instructions_m0` and the like are the mean of a validation
    image: those of an image that is looked at once, and of one that is looked at again
    (`most_instructions_m0`), in the proportion of all validation images.

    Args:
        firmware: The exported C folder.
        run: The run that it was exported from.
        split: The run's data set.
        test: Whether to read the test images too, not only the validation images.
        on_chip: Number of validation images to read on each chip in QEMU, the first ones; one more
            if these are all looked at once, or all again, and others are not. 0 needs neither
            compilers for chips nor QEMU, and leaves the columns of the chips empty.
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
        "first_macs": network.first_macs,
        "margin": network.margin,
        "doubtful": int((firmware.looks > 1).sum()),
        "code_host": host.code,
        "float_val_correct": firmware.float_correct,
        "compiler": _compiler_version("cc"),
        "data_sha256": split.sha256,
        "commit": run.environment["commit"],
    }
    if on_chip:
        values |= _measure_chips(firmware, split.val.pixels, on_chip)
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


def _measure_chips(firmware: Firmware, pixels: Tensor, n: int) -> dict[str, object]:
    """Return the columns of the chips for `n` of the validation images (m, 1, height, width)."""
    again = firmware.looks > 1
    chosen = list(range(n))
    for kind in (again, ~again):
        if kind.any() and not kind[:n].any():
            chosen.append(int(kind.nonzero()[0]))
    pixels = pixels[chosen]
    values: dict[str, object] = {
        "arm_compiler": _compiler_version(ARM_COMPILER),
        "riscv_compiler": _compiler_version(RISCV_COMPILER),
        "images_on_chip": len(pixels),
        "constants": measure(firmware.path, ARM_COMPILER, *CHIPS["m0"].flags).constants,
    }
    for name, chip in CHIPS.items():
        found = read_on_chip(firmware.path, pixels, chip)
        equal = (found.scores == firmware.scores[chosen]).all(1)
        equal &= found.looks == firmware.looks[chosen]
        # Images that take as many looks take nearly as many instructions.
        mean = {
            bool(kind): float(found.instructions[again[chosen] == kind].mean())
            for kind in again.unique()
        }
        values |= {
            f"code_{name}": measure(firmware.path, chip.compiler, *chip.flags).code,
            f"stack_{name}": found.stack,
            f"instructions_{name}": round(
                sum(mean[bool(kind)] * int((again == kind).sum()) for kind in again.unique())
                / len(again)
            ),
            f"most_instructions_{name}": round(float(found.instructions.max())),
            f"equal_{name}": int(equal.sum()),
        }
    return values
