"""The networks that the audit is tried on are what they say they are, and are judged rightly.

Cheats that hide fewer numbers have graphs that take minutes: tools/try_audit.py judges them.
"""

import contextlib
import dataclasses
import io
import re
import runpy
from pathlib import Path

import pytest
import torch
import try_audit
from networks.cheats import CHEATS
from networks.honest import HONEST
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from featherweight.data import load_split

CLAUSES = {"parameters", "batch norm", "dropout", "head", "evaluation", "refused", None}
NOT_BUILT = {"Raises"}
# Built, but not a module that maps images (8, 1, 28, 28) to finite numbers (8, 10).
NOT_RUN = {
    "NotAModule",
    "TwoInputs",
    "NineOutputs",
    "TupleOutput",
    "OneImage",
    "NotANumber",
    "IntegerOutput",
}
# Honest networks that have no graph, and why. They can be watched.
REFUSED = {
    "OwnGenerator": "draws from a torch.Generator of its own",
    "CumulativeNorm": "it needs the values of a tensor.*give BatchNorm a momentum",
    "FakeQuantize": "at line .*`return torch.fake_quantize_per_tensor_affine",
    "Scripted": "has no graph in training mode at line",
    "Vmap": "got the operation torch._functorch.predispatch",
    "Subclass": "at line .*as_subclass",
    "ChecksValues": "at line .*`assert torch.isfinite",
}
# Cheats whose export takes minutes before it fails: lists of symbols.
SLOW = {"GlobalSeeds", "ChosenSeeds", "Counters", "Pickled", "ListTree"}
ISOLATED = sorted((Path(__file__).parent / "networks/isolation").glob("*.py"))
# PyTorch's own warnings: old weight norm and spectral norm, scripting, reentrant checkpoints,
# sparse and quantised tensors.
pytestmark = pytest.mark.filterwarnings("ignore")


def made(case):
    torch.manual_seed(0)
    return case.network()


def images(n=8):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_network_trains_and_is_steady_in_evaluation(name):
    case, x = HONEST[name], images()
    net = made(case)
    with contextlib.redirect_stdout(io.StringIO()):
        out = net.train()(x)
        F.nll_loss(out, torch.arange(8)).backward()
        with torch.no_grad():
            first, again, turned = net.eval()(x), net(x), net(x.flip(0)).flip(0)
    assert out.shape == first.shape == (8, 10)
    assert torch.isfinite(out).all()
    assert torch.equal(first, again)
    torch.testing.assert_close(first, turned, atol=1e-4, rtol=1e-4)
    for parameter in net.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    used = [p for p in net.parameters() if p.grad is not None or not p.requires_grad]
    assert sum(p.numel() for p in used) == case.n_params <= case.n_params_max < 20_000


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_runs_in_both_modes(name):
    case = CHEATS[name]
    assert case.clause in CLAUSES
    if name in NOT_BUILT:
        with pytest.raises(OSError, match="no such disk"):
            made(case)
        return
    net = made(case)
    if name in NOT_RUN:
        return
    assert isinstance(net, nn.Module)
    assert not any(is_lazy(value) for value in (*net.parameters(), *net.buffers()))
    assert net.train()(images()).shape == (8, 10)
    with torch.no_grad():
        out = net.eval()(images())
    assert out.shape == (8, 10)
    assert torch.isfinite(out).all()


def test_every_cheat_and_every_honest_network_has_a_note_of_its_own():
    for cases in (CHEATS, HONEST):
        notes = [case.note for case in cases.values()]
        assert len(set(notes)) == len(notes)


@pytest.mark.parametrize("path", ISOLATED, ids=lambda path: path.stem)
def test_a_network_to_be_held_apart_compiles_and_has_a_class(path, monkeypatch):
    monkeypatch.delenv("EXITS_AT_IMPORT", raising=False)
    assert issubclass(runpy.run_path(str(path))["Net"], nn.Module)


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000)


# Every third one, as each takes half a second or more; tools/try_audit.py judges all.
@pytest.mark.parametrize("name", sorted({*list(HONEST)[::3], *REFUSED}))
def test_an_honest_network_passes_with_the_right_count(name, mnist):
    judged = try_audit.judge("honest", name, mnist)
    if name in REFUSED:
        assert judged.result == "refused", judged
        assert re.search(REFUSED[name], judged.found), judged.found
    else:
        assert judged.result == "passed", judged


@pytest.mark.parametrize(
    "name",
    [name for name, case in CHEATS.items() if case.n_hidden >= 20_000 and name not in SLOW][::3],
)
def test_a_cheat_fails_or_is_refused(name, mnist):
    judged = try_audit.judge("cheats", name, mnist)
    assert judged.result in ("caught", "refused"), judged
    if CHEATS[name].clause == "refused":
        assert judged.result == "refused", judged
    if judged.result == "refused":
        assert "\n" not in judged.found


def test_the_tool_counts_what_is_right_and_what_is_not(capsys, monkeypatch, mnist):
    monkeypatch.setattr(try_audit, "load_split", lambda *of: mnist)
    assert try_audit.main(["Lstm", "Scripted", "Decoy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"honest Lstm: passed, .* s: passes with [\d,]+ parameters", lines[0])
    assert lines[1].startswith("honest Scripted: refused")
    assert lines[2].startswith("cheats Decoy: caught")
    assert [line.split()[:5] for line in lines[-2:]] == [
        ["honest", "2", "1", "1", "0"],
        ["cheats", "1", "1", "0", "0"],
    ]
    # A network that is not judged rightly: an honest one of which a wrong count is expected.
    case = dataclasses.replace(HONEST["Lstm"], n_params=1, n_params_max=2)
    monkeypatch.setitem(HONEST, "Lstm", case)
    assert try_audit.main(["--list", "honest", "Lstm"]) == 1
    assert "WRONG" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        try_audit.main(["Nobody"])
    assert "got Nobody, expected names of honest or cheats" in capsys.readouterr().err
