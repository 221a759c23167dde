"""The table of other engines: worked examples, what its CSV may say, and the page has today's."""

import make_peers
from make_boards import PAGE, put_table

from featherweight.export.firmware import FIRMWARE_COLUMNS
from featherweight.tables import make_cells


def ours(**values):
    parts = {"constants": 900, "code_m0": 100, "ram": 1400, "stack_m0": 100, "macs": 5000}
    parts |= {"instructions_m0": 2_000_000, "instructions_m4": 1_250_000, "val_total": 100}
    return make_cells({"recipe": "a", "val_correct": 90, "test_total": 100} | parts | values,
                      FIRMWARE_COLUMNS)  # fmt: skip


def peer(**values):
    return make_cells({"engine": "E", "model": "m"} | values, make_peers.PEER_COLUMNS)


def test_our_row_is_the_mean_and_says_which_images():
    header, rule, row = make_peers.make_table(
        [ours(), ours(constants=1000, val_correct=92), ours(constants=1400, val_correct=94),
         ours(recipe="uncounted", instructions_m0=None)],
        [],
    ).splitlines()  # fmt: skip
    assert header.count("|") == rule.count("|") == row.count("|")
    cells = "| **ours: `a`** | 5,000 | 1.2 | 1.5 | 2 | 1.25 | "
    assert row == cells + "92.00 %, validation |"
    tested = make_peers.make_table([ours(test_correct=95), ours()], []).splitlines()[2]
    assert tested.endswith("| 95.00 % |")


def test_an_empty_cell_of_a_peer_stays_empty():
    rows = [
        peer(macs=1234, flash_bytes=12_700, ram_bytes=340, instructions_m0=435_000,
             instructions_m4=23_300_000, instructions_m4_o3=9_200_000, accuracy=0.9954,
             published_accuracy=0.9955, accuracy_from="run by us: C"),
        peer(accuracy=0.9702, accuracy_from="quoted: all test images"),
        peer(),
    ]  # fmt: skip
    assert make_peers.make_table([], rows).splitlines()[2:] == [
        "| E m | 1,234 | 12.7 | 0.34 | 0.435 | 23.3 (9.2) | 99.54 % (published: 99.55) |",
        "| E m |  |  |  |  |  | 97.02 %, quoted |",
        "| E m |  |  |  |  |  |  |",
    ]


def test_every_peer_says_what_was_counted_and_where_it_is_from():
    _, peers = make_peers.read_tables()
    assert len({(row["engine"], row["model"]) for row in peers}) == len(peers) > 10
    numbers = [column for column in make_peers.PEER_COLUMNS if column.startswith("instructions")]
    for row in peers:
        name = row["engine"], row["model"]
        assert all(row[column] for column in ("counted", "protocol", "source")), name
        assert bool(row["accuracy"]) == bool(row["accuracy_from"]), name
        known = row["accuracy_from"].partition(":")[0]
        assert known in ("run by us", "quoted", ""), name
        for column in ("accuracy", "published_accuracy"):
            assert not row[column] or 0.5 < float(row[column]) < 1, name
        for column in (*numbers, "macs", "flash_bytes", "ram_bytes"):
            assert not row[column] or int(row[column]) > 0, name
        for core in ("m0", "m4"):
            counted, faster = (row[f"instructions_{core}{o3}"] for o3 in ("", "_o3"))
            # No engine computes a product in less than an instruction.
            assert not counted or int(counted) >= int(row["macs"]), name
            assert not faster or int(faster) < int(counted), name
        assert bool(row["instructions_m0"]) == ("QEMU" in row["counted"]), name


def test_the_page_has_the_table_of_the_results():
    page = PAGE.read_text(encoding="utf-8")
    table = make_peers.make_table(*make_peers.read_tables())
    assert put_table(page, table, make_peers.START) == page
