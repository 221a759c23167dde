"""Judge every network of tests/networks, and print how many are judged rightly.

python tools/try_audit.py                               # all, about 20 minutes
python tools/try_audit.py --min-hidden 20000            # without the cheats of very long graphs
python tools/try_audit.py Lstm WhereTree ...            # these alone, and what was found

An honest network is judged rightly if it passes with the right number of parameters, a cheat if the
clause fails that it breaks, or if it is refused. A refused honest network is counted apart: it can
still be watched. The exit code is 1 if any is judged wrongly.
"""

import argparse
import contextlib
import dataclasses
import io
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from networks.cheats import CHEATS
from networks.honest import HONEST

from featherweight.audit import audit_model
from featherweight.build import build, check_model
from featherweight.contract import load_contract
from featherweight.data import Split, load_split
from featherweight.errors import InputError
from featherweight.requirements import Requirement

LISTS: dict[str, dict[str, Any]] = {"honest": HONEST, "cheats": CHEATS}
MAX_PARAMS = 20_000  # of the contract


@dataclass(frozen=True)
class Judged:
    """What an audit said of a network."""

    result: str
    "passed (honest), caught (cheat), refused, or WRONG."
    found: str
    "The clauses that failed, or why it was refused."
    seconds: float
    "Time to build and judge it."


def judge(kind: str, name: str, split: Split) -> Judged:
    """Build and judge a network of a list, honest or cheats.

    A cheat that hides fewer numbers than a contract allows, so that trying it is quick, is held to
    a contract that allows fewer."""
    case, contract = LISTS[kind][name], load_contract("era-v3-s6")
    if kind == "cheats":
        n = min(MAX_PARAMS, case.n_hidden)
        below = Requirement("parameters", {"fewer_than": n})
        clauses = [below, *(each for each in contract.clauses if each.kind != "parameters")]
        contract = dataclasses.replace(contract, name="own", clauses=tuple(clauses))
    started = time.perf_counter()
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = build(f"networks.{kind}:{name}", {}, split.num_classes, split.shape)
            check_model(model, split.normalise(split.train.pixels[:8]), split.num_classes)
            verdict = audit_model(model, split, contract)
    except InputError as error:
        return Judged("refused", str(error), time.perf_counter() - started)
    seconds = time.perf_counter() - started
    failed = {clause.clause: clause.found for clause in verdict.failed}
    found = "; ".join(f"{clause}: {what}" for clause, what in failed.items())
    found = found or f"passes with {verdict.n_params:,} parameters"
    if kind == "honest":
        counted = case.n_params <= (verdict.n_params or 0) <= case.n_params_max
        return Judged("passed" if counted and not failed else "WRONG", found, seconds)
    right = case.clause is None or case.clause in failed
    return Judged("caught" if right else "WRONG", found, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and the networks that are judged wrongly or are asked for by name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks; default: all")
    parser.add_argument("--list", choices=LISTS, help="one of the two lists; default: both")
    parser.add_argument("--min-hidden", type=int, default=0, help="numbers that a cheat hides")
    options = parser.parse_args(arguments)
    kinds = [options.list] if options.list else list(LISTS)
    if unknown := set(options.names) - {name for kind in kinds for name in LISTS[kind]}:
        parser.error(f"got {', '.join(sorted(unknown))}, expected names of {' or '.join(kinds)}")
    warnings.simplefilter("ignore")  # PyTorch's own, about old functions
    torch.set_num_threads(1)
    split = load_split(None, 50_000, 10_000)
    rows = []
    for kind in kinds:
        names = [
            name
            for name, case in LISTS[kind].items()
            if name in options.names
            or (not options.names and (kind == "honest" or case.n_hidden >= options.min_hidden))
        ]
        judged = []
        for name in names:
            judged.append(one := judge(kind, name, split))
            if (
                options.names
                or one.result == "WRONG"
                or (kind, one.result) == ("honest", "refused")
            ):
                print(f"{kind} {name}: {one.result}, {one.seconds:.1f} s: {one.found[:300]}")
        results = [one.result for one in judged]
        refused, wrong = results.count("refused"), results.count("WRONG")
        right = len(results) - refused - wrong
        rows.append((kind, len(results), right, refused, wrong, sum(o.seconds for o in judged)))
    print(f"{'':8}{'tried':>8}{'right':>8}{'refused':>9}{'wrong':>8}{'seconds':>9}")
    for kind, tried, right, refused, wrong, seconds in rows:
        print(f"{kind:8}{tried:8}{right:8}{refused:9}{wrong:8}{seconds:9.0f}")
    return 1 if any(row[4] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
