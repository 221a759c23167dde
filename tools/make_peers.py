"""Write the table of other engines' digit readers into docs/guides/microcontrollers.md.

python tools/make_peers.py

Their figures are results/peers-mcu.csv, and ours the means of results/c99.csv over seeds.
"""

from statistics import fmean

from make_boards import PAGE, TABLE, put_table

from featherweight.export.firmware import FIRMWARE_COLUMNS
from featherweight.tables import Row, read_table

PEERS = TABLE.parent / "peers-mcu.csv"
# Sizes in bytes, accuracies as fractions. An empty cell means that no figure is known.
PEER_COLUMNS = (
    "engine",
    "model",
    "macs",
    "flash_bytes",
    "ram_bytes",
    "instructions_m0",
    "instructions_m4",
    "instructions_m0_o3",
    "instructions_m4_o3",
    "accuracy",
    "published_accuracy",
    "accuracy_from",
    "counted",
    "protocol",
    "source",
    "remarks",
)
START = (
    "<!-- The table is generated from results/c99.csv and results/peers-mcu.csv: "
    "python tools/make_peers.py -->\n"
)
HEADER = (
    "engine and model",
    "multiply-accumulates",
    "flash, kB",
    "RAM, kB",
    "million instructions, M0: -Os (-O3)",
    "M4: -Os (-O3)",
    "accuracy",
)


def peer_cells(row: Row) -> list[str]:
    """Return the cells of an engine's model."""
    accuracy = f"{100 * float(row['accuracy']):.2f} %" if row["accuracy"] else ""
    if row["accuracy_from"].startswith("quoted"):
        accuracy += ", quoted"
    elif row["published_accuracy"]:
        accuracy += f" (published: {100 * float(row['published_accuracy']):.2f})"
    return [
        f"{row['engine']} {row['model']}",
        f"{int(row['macs']):,}" if row["macs"] else "",
        scaled(row["flash_bytes"], 1e3),
        scaled(row["ram_bytes"], 1e3),
        *(
            scaled(row[f"instructions_{core}"], 1e6)
            + (f" ({faster})" if (faster := scaled(row[f"instructions_{core}_o3"], 1e6)) else "")
            for core in ("m0", "m4")
        ),
        accuracy,
    ]


def our_cells(rows: list[Row]) -> list[str]:
    """Return the cells of our rows of one recipe, which were counted on a chip."""

    def mean(*columns: str) -> str:
        return str(round(fmean(sum(int(row[column]) for column in columns) for row in rows)))

    tested = [row for row in rows if row["test_correct"]]
    part, of = ("test", tested) if tested else ("val", rows)
    correct = fmean(int(row[f"{part}_correct"]) / int(row[f"{part}_total"]) for row in of)
    return [
        f"**ours: `{rows[0]['recipe']}`**",
        f"{int(mean('macs')):,}",
        scaled(mean("constants", "code_m0"), 1e3),
        scaled(mean("ram", "stack_m0"), 1e3),
        scaled(mean("instructions_m0"), 1e6),
        scaled(mean("instructions_m4"), 1e6),
        f"{100 * correct:.2f} %" + ("" if tested else ", validation"),
    ]


def scaled(number: str, unit: float) -> str:
    """Return a number in a unit, with three digits at most; an empty cell stays empty."""
    return f"{float(number) / unit:.3g}" if number else ""


def make_table(ours: list[Row], peers: list[Row]) -> str:
    """Return the table in Markdown: our recipes that were counted on a chip, then the peers."""
    counted = [row for row in ours if row["instructions_m0"] and row["instructions_m4"]]
    recipes = dict.fromkeys(row["recipe"] for row in counted)
    lines = [list(HEADER), ["---"] * len(HEADER)]
    lines += [our_cells([row for row in counted if row["recipe"] == name]) for name in recipes]
    lines += [peer_cells(row) for row in peers]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def read_tables() -> tuple[list[Row], list[Row]]:
    """Return our rows and those of the peers."""
    ours = read_table(TABLE, FIRMWARE_COLUMNS, must_exist=True)
    return ours, read_table(PEERS, PEER_COLUMNS, must_exist=True)


def main() -> None:
    """Replace the table in the guide."""
    page = put_table(PAGE.read_text(encoding="utf-8"), make_table(*read_tables()), START)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
