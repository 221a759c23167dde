"""Write the table of times on common boards into docs/guides/microcontrollers.md.

python tools/make_boards.py

Instructions are the means of results/c99.csv over seeds. A time is the instructions over
the clock, as if each took one cycle; a real processor takes longer.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from featherweight.errors import InputError
from featherweight.export.firmware import FIRMWARE_COLUMNS
from featherweight.tables import Row, read_table

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "results" / "c99.csv"
PAGE = ROOT / "docs" / "guides" / "microcontrollers.md"
START = "<!-- The table is generated from results/c99.csv: python tools/make_boards.py -->\n"
END = "<!-- End of the generated table. -->\n"


@dataclass(frozen=True)
class Board:
    """A board, and what its maker says of the processor."""

    name: str
    core: str
    "m0 or m4: the column of instructions that holds for it."
    megahertz: int
    milliamperes: float | None = None
    "Supply current of the processor while it computes; None where no source was found."
    volts: float = 3.0


# The guide names the source of the current.
BOARDS = (
    Board("micro:bit v1 (nRF51822, M0, 16 MHz)", "m0", 16, milliamperes=4.4),
    Board("Raspberry Pi Pico (RP2040, M0+, 133 MHz)", "m0", 133),
    Board("Arduino Nano 33 BLE (nRF52840, M4, 64 MHz)", "m4", 64),
    Board("STM32F407 (M4, 168 MHz)", "m4", 168),
)


def count_instructions(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return the instructions of an image by core, by recipe and bits: means over seeds.

    A recipe without a count, which was measured without a chip, is left out.
    """
    names = dict.fromkeys(f"{row['recipe']}, {row['bits']} bits" for row in rows)
    counts = {}
    for name in names:
        own = [row for row in rows if f"{row['recipe']}, {row['bits']} bits" == name]
        own = [row for row in own if row["instructions_m0"] and row["instructions_m4"]]
        if own:
            counts[name] = {
                core: fmean(int(row[f"instructions_{core}"]) for row in own)
                for core in ("m0", "m4")
            }
    return counts


def make_table(counts: dict[str, dict[str, float]]) -> str:
    """Return the table in Markdown: a row for each network, a column for each board."""
    header = ["network", "instructions, M0 and M4"]
    for board in BOARDS:
        header.append(board.name + (": time and energy" if board.milliamperes else ""))
    lines = [header, ["---"] * len(header)]
    for name, own in counts.items():
        cells = [name, " and ".join(f"{own[core] / 1e6:.3g}" for core in ("m0", "m4")) + " million"]
        for board in BOARDS:
            milliseconds = own[board.core] / board.megahertz / 1e3
            cell = f"{format_number(milliseconds)} ms"
            if board.milliamperes:
                millijoules = milliseconds * board.milliamperes * board.volts / 1e3
                cell += f", {format_number(millijoules)} mJ"
            cells.append(cell)
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def format_number(value: float) -> str:
    """Return a positive number with three digits, or all before its point if they are more."""
    digits = max(0, 2 - len(str(int(value))) + 1)
    return f"{value:,.{digits}f}"


def put_table(page: str, table: str, start: str = START) -> str:
    """Return the text of the page with another table after the line `start`.

    Raises:
        InputError: The page has no place for a table.
    """
    before, found, rest = page.partition(start)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise InputError(f"{PAGE.name}: expected the lines {start.strip()} and {END.strip()}")
    return f"{before}{start}\n{table}\n{end}{after}"


def main() -> None:
    """Replace the table in the guide."""
    counts = count_instructions(read_table(TABLE, FIRMWARE_COLUMNS))
    page = put_table(PAGE.read_text(encoding="utf-8"), make_table(counts))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
