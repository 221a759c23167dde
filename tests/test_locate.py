"""Finding a network's class in a module or file, always in its current version."""

import importlib
import sys

import pytest

from featherweight.build import build
from featherweight.errors import InputError
from featherweight.locate import find_class
from featherweight.model import Feather

NETS = """
from torch import nn
class Plain(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(784, 10))
class Classes(nn.Sequential):
    def __init__(self, num_classes): super().__init__(nn.Flatten(), nn.Linear(784, num_classes))
class Wants(nn.Module):
    def __init__(self, width): super().__init__()
class Width(nn.Linear):
    def __init__(self, width, num_classes=2): super().__init__(width, num_classes)
class Raises(nn.Module):
    def __init__(self): raise RuntimeError("no luck")
class Number: pass
def function(): pass
"""


def test_a_strangers_network_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "nets_of_a_stranger.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    assert build("nets_of_a_stranger:Plain", {}, 10)[1].out_features == 10
    assert build("nets_of_a_stranger:Classes", {}, 26)[1].out_features == 26
    assert build("nets_of_a_stranger:Width", {"width": 3}, 26).weight.shape == (26, 3)
    (tmp_path / "broken_of_a_stranger.py").write_text("1 / 0")
    path_before = list(sys.path)
    for path, message in (
        ("Plain", "MODULE:CLASS"),
        (":Net", "MODULE:CLASS"),
        ("nets_of_a_stranger:Nope", "Nope"),
        ("no_such_module:Net", "no_such_module"),
        ("broken_of_a_stranger:Net", "ZeroDivision"),
        ("nets_of_a_stranger:function", "Module class"),
        ("nets_of_a_stranger:Number", "Module class"),
        ("nets_of_a_stranger:Wants", "width"),
        ("nets_of_a_stranger:Raises", "no luck"),
    ):
        with pytest.raises(ValueError, match=message):
            build(path, {}, 10)
    with pytest.raises(ValueError, match="colour"):
        build("nets_of_a_stranger:Plain", {"colour": 1}, 10)
    assert sys.path == path_before


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path


def net(value, more=""):
    return f"from torch import nn\n{more}\nclass Net(nn.Module):\n    value = {value}\n"


def test_a_file_is_a_module_too(here):
    (here / "some_net.py").write_text(net(1))
    (here / "lib").mkdir()
    (here / "lib" / "other_net.py").write_text(net(2))
    (here / "lib" / "my-net.v2.py").write_text(net(3))
    for path, value in (
        ("some_net:Net", 1),
        ("some_net.py:Net", 1),
        ("some_net.py", 1),
        (f"{here}/some_net.py:Net", 1),
        ("lib/other_net.py:Net", 2),
        ("./lib/other_net.py", 2),
        ("lib.other_net:Net", 2),
        ("lib/my-net.v2.py:Net", 3),
    ):
        assert find_class(path).value == value
    assert not list(here.rglob("__pycache__"))


def test_a_files_suffix_may_be_in_capitals(here):
    (here / "NETS.PY").write_text(NETS)
    assert find_class("NETS.PY:Plain").__name__ == "Plain"


def test_neighbours_import_and_stay_apart(here):
    for name, value in (("one", 1), ("two", 2)):
        (here / name).mkdir()
        (here / name / "same_net.py").write_text(net("layers_beside.VALUE", "import layers_beside"))
        (here / name / "layers_beside.py").write_text(f"VALUE = {value}\n")
    path = list(sys.path)
    first, second = find_class("one/same_net.py:Net"), find_class("two/same_net.py:Net")
    assert (first.value, second.value, find_class("one/same_net.py:Net").value) == (1, 2, 1)
    assert sys.path == path


@pytest.mark.parametrize("path", ["edited_net:Net", "edited_net.py:Net"])
def test_an_edited_file_is_read_again(here, path):
    for value in (1, 2):  # of the same length, within the same second
        (here / "edited_net.py").write_text(net("beside_edited.VALUE", "import beside_edited"))
        (here / "beside_edited.py").write_text(f"VALUE = {value}\n")
        assert find_class(path).value == value


def test_a_module_that_the_caller_imported_is_read_again_too(here, monkeypatch):
    (here / "hosted_net.py").write_text(net(1))
    monkeypatch.syspath_prepend(here)
    hosted = importlib.import_module("hosted_net")
    (here / "hosted_net.py").write_text(net(23))
    assert (hosted.Net.value, find_class("hosted_net:Net").value) == (1, 23)


def test_a_file_called_as_a_module_of_pythons_replaces_it_for_nobody(here):
    import random

    (here / "random.py").write_text(net(7))
    assert find_class("random.py:Net").value == 7
    assert sys.modules["random"] is random


def test_a_file_of_a_package_imports_relatively(here):
    package = here / "packed_nets" / "small"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "net.py").write_text(net("VALUE", "from ..numbers import VALUE"))
    (package.parent / "numbers.py").write_text("VALUE = 5\n")
    assert find_class("packed_nets/small/net.py:Net").value == 5
    assert find_class("packed_nets.small.net:Net").value == 5


def test_the_projects_own_networks_are_one_class(here):
    assert find_class("featherweight.model:Feather") is Feather
    file = sys.modules["featherweight.model"].__file__
    assert find_class(f"{file}:Feather") is Feather


def test_a_file_with_several_networks_or_none_names_them(here):
    (here / "several.py").write_text(net(1) + "class Other(Net): pass\n")
    (here / "none_here.py").write_text("from torch.nn import Linear\nclass Plain: pass\n")
    (here / "one_here.py").write_text("from several import Other\nclass Mine(Other): pass\n")
    with pytest.raises(
        ValueError, match=r"2 torch.nn.Module classes in it, Net, Other, .*hint: .*several.py:Other"
    ):
        find_class("several.py")
    with pytest.raises(ValueError, match=r"0 torch.nn.Module classes in it"):
        find_class("none_here.py")
    assert find_class("one_here.py").__name__ == "Mine"
    with pytest.raises(
        ValueError, match=r"got no class Nope in .*several.py, expected Net or Other"
    ):
        find_class("several.py:Nope")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("meant_net", "meant_net.py"),
        ("meant_net.Net", "meant_net.py:Net"),
        ("nets/deep_net:Net", "nets/deep_net.py:Net"),
        ("nets/deep_net", "nets/deep_net.py"),
        ("./meant_net:Net", "./meant_net.py:Net"),
        ("nets.deep_net.Net", "nets/deep_net.py:Net"),
        ("elsewhere/deep_net:Net", None),
    ],
)
def test_a_path_that_is_spelt_otherwise_is_guessed(here, path, meant):
    (here / "nets").mkdir()
    for file in ("meant_net.py", "nets/deep_net.py"):
        (here / file).write_text(net(1))
    with pytest.raises(InputError) as caught:
        find_class(path)
    assert repr(path) in caught.value.message
    assert caught.value.hint == (meant and f"did you mean {meant}?")


def test_a_notebook_is_no_file_of_a_class(here):
    for path in ("net.ipynb", "net.ipynb:Net"):
        with pytest.raises(InputError, match=r"got a notebook.*featherweight.audit\(Net\)"):
            find_class(path)


def test_what_is_not_found_says_where_it_was_looked_for(here):
    for path in ("missing_net:Net", "missing_net.py:Net"):
        with pytest.raises(ValueError, match=rf"{here}.*hint: .*folder|{here}.*hint: .*directory"):
            find_class(path)
    with pytest.raises(ValueError, match="PYTHONPATH"):
        find_class("missing_net:Net")
    (here / "wants_more.py").write_text("import not_installed_here\n")
    with pytest.raises(
        ValueError, match=r"can't be imported: ModuleNotFoundError: .*'not_installed_here'"
    ):
        find_class("wants_more:Net")


@pytest.mark.parametrize(
    "ending", ["import sys; sys.exit(0)", "exit()", "raise SystemExit('done')", "quit(3)"]
)
@pytest.mark.parametrize("path", ["leaves:Net", "leaves.py:Net"])
def test_a_module_that_ends_the_process_is_refused(here, ending, path):
    (here / "leaves.py").write_text(net(1) + ending)
    with pytest.raises(
        ValueError,
        match=r"'leaves.*Net': can't be imported: it ends the process, exit.*hint: .*__main__",
    ):
        find_class(path)


@pytest.mark.parametrize("path", ["stopped:Net", "stopped.py:Net"])
def test_an_interrupt_stays_one(here, path):
    (here / "stopped.py").write_text("raise KeyboardInterrupt")
    before = list(sys.path)
    with pytest.raises(KeyboardInterrupt):
        find_class(path)
    assert sys.path == before
