import dataclasses
import json
import sys

import pytest
import torch
from torch import nn

from featherweight.errors import InputError
from featherweight.grading import networks as module
from featherweight.grading.definitions import definitions
from featherweight.grading.networks import choose, export, networks
from featherweight.passes import audit_passes

IMPORTS = "import torch\nfrom torch import nn\n"
NET = """
class {0}(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, x):
        return self.head(x.flatten(1))
"""
BLOCK = "\nclass Block(nn.Module):\n    def forward(self, x):\n        return x\n"
LOSS = "\nclass Loss(nn.Module):\n    def forward(self, outputs, labels):\n        return outputs\n"


@pytest.fixture(autouse=True)
def _path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def notebook(path, *cells):
    made = [{"cell_type": "code", "source": cell.splitlines(True)} for cell in cells]
    made.insert(1, {"cell_type": "markdown", "source": "# class Fake(nn.Module): pass"})
    path.write_text(json.dumps({"cells": made}))
    return path


def chosen(tmp_path, text, forced=None):
    file = tmp_path / "net.py"
    file.write_text(IMPORTS + text)
    module, _ = definitions(file)
    network, how = choose(networks(module, tmp_path), "net.py", forced)
    return network.__name__, how


def test_what_trains_is_not_run_and_what_defines_is(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(
        IMPORTS
        + "import not_installed\nfrom not_there import thing as other\n"
        + "WIDTH = 8\ndevice = torch.device('cpu')\nmask = torch.ones(3, 3)\nsizes = [2 * WIDTH]\n"
        + "if WIDTH > 4:\n    DEPTH = 2\nelse:\n    DEPTH = 3\n"
        + "try:\n    import also_missing\nexcept ImportError:\n    also_missing = None\n"
        + NET.format("Net")
        + "net = Net()\nwhile True:\n    steps = 1\n"
    )
    module, skipped = definitions(file)
    assert (module.WIDTH, module.DEPTH, module.sizes, module.also_missing) == (8, 2, [16], None)
    assert torch.equal(module.mask, torch.ones(3, 3))
    assert module.Net()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert skipped.keys() == {"not_installed", "other", "net", "steps"}
    assert "line 3 of train.py failed: ModuleNotFoundError" in skipped["not_installed"]
    assert skipped["net"].endswith("is code that was not run")


@pytest.mark.parametrize(
    "line",
    [
        *("net = Net()", "print(1)", "x = open('x')", "x = data.load()", "x = (y := 1)"),
        *("for i in range(3): x = i", "with torch.no_grad(): x = 1", "x = input()", "del nn"),
        *("x += 1", "x[0] = f(1)", "if f(): x = 1", "assert False", "raise SystemExit"),
    ],
)
def test_a_statement_that_could_do_more_than_define_is_not_run(tmp_path, line):
    file = tmp_path / "net.py"
    file.write_text(f"{IMPORTS}x = 0\n{line}\n")
    module, _ = definitions(file)
    assert module.x == 0


def test_a_notebook_is_read_without_its_magics(tmp_path):
    file = notebook(
        tmp_path / "S6.ipynb",
        f"%matplotlib inline\n!pip install x \\\n  y\n{IMPORTS}if True:\n    !ls\n",
        "%%bash\nclass Net(nn.Module): pass\n",
        "%%time\n" + NET.format("Net").lstrip(),
        "files = !ls\nWIDTH = 3\n",
        "TEXT = '''\n%d values\n!'''\n",
        "this is no Python\n",
        "Net()\nraise SystemExit\n",
    )
    module, skipped = definitions(file)
    assert [each.__name__ for each in networks(module, tmp_path)] == ["Net"]
    assert (module.WIDTH, module.TEXT) == (3, "\n%d values\n!")
    assert list(skipped) == ["S6.ipynb, cell 6"]
    assert "SyntaxError" in skipped["S6.ipynb, cell 6"]


def test_a_notebook_runs_other_files_as_ipython_does(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/widths.py").write_text("WIDTH = 3\nwhile True:\n    pass\n")
    (tmp_path / "parts.py").write_text(f"import lost\n{IMPORTS}{BLOCK}")
    notebook(tmp_path / "more.IPYNB", "%run S6.ipynb\nDEPTH = WIDTH + 1\n")
    file = notebook(
        tmp_path / "S6.ipynb",
        "%cd src\n%run -i widths.py\n%cd ..\n%run more.IPYNB\n%run 'parts'\n%run lost.py\n",
        "if WIDTH:\n    print(1)\n    %run absent.py\n",
        NET.format("Net"),
    )
    module, skipped = definitions(file)
    assert (module.WIDTH, module.DEPTH) == (3, 4)
    assert [each.__name__ for each in networks(module, tmp_path)] == ["Block", "Net"]
    assert skipped["%run lost.py"] == "line 6 of S6.ipynb, cell 1 failed: lost.py: no such file"
    assert "line 1 of S6.ipynb, cell 2 failed" in skipped["%run absent.py"]


@pytest.mark.parametrize(
    "cell",
    [
        "pip install torchsummary\nWIDTH = 3\n",
        "%time WIDTH = 3\n%time !ls\n",
        "nn.Conv2d?\n?print\nWIDTH = 3\n",
        "%%capture output\nWIDTH = 3\n",
        "%%some_extension --option\n!ls\nWIDTH = 3\n",
        "a, b = !ls\ntime = !date\nWIDTH = 3\n",
        '!ls\nWIDTH = (7\n    % 4)\nTEXT = """\n!ls\n%run x\n"""\n',
        "!ls\nclass Old:\n    def show(self):\n        print('%s'\n        % self)\nWIDTH = 3\n",
        "uploaded = files.upload()\ndrive.mount('/content')\nWIDTH = 3\n",
        "try:\n    import lost\n    assert lost.__version__\nexcept:\n    print('installing')\n"
        "    !pip install lost\n    import lost\nWIDTH = 3\n",
        "if True:\n    WIDTH = 3\n    print(WIDTH)\n    torch.manual_seed(1)\nelse:\n    Net()\n",
        "%%writefile widths.py\nWIDTH = 3\nprint(WIDTH)\n",
        "%%writefile 'widths.py'\nWIDTH = 3\n",
        "get_ipython().system('ls')\n"
        "get_ipython().run_cell_magic('time', '', 'WIDTH = 3\\nlost()')\n",
    ],
)
def test_the_idioms_of_course_notebooks_are_read(tmp_path, cell):
    module, _ = definitions(notebook(tmp_path / "S6.ipynb", cell))
    assert module.WIDTH == 3


@pytest.mark.parametrize("first", ["%%bash", "%%writefile notes.txt", "%%javascript", "%%script x"])
def test_a_cell_that_is_no_python_is_left_out(tmp_path, first):
    file = notebook(tmp_path / "S6.ipynb", f"{first}\nWIDTH = 3\nfor x in y do\n")
    module, skipped = definitions(file)
    assert not hasattr(module, "WIDTH")
    assert skipped == {}


def test_a_cell_that_writes_a_module_is_that_module(tmp_path):
    file = notebook(
        tmp_path / "S6.ipynb",
        "%%writefile net_of_cell.py\n" + IMPORTS + NET.format("Net"),
        "from net_of_cell import Net as Mine\n",
    )
    module, _ = definitions(file)
    assert module.Mine is module.Net


def test_a_module_that_can_not_be_imported_is_what_it_defines(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/sizes.py").write_text("import lost\nWIDTH = 3\nlost.train()\n")
    cell = "import sys\nsys.path.append('src')\nfrom sizes import WIDTH, lost\n"
    module, skipped = definitions(notebook(tmp_path / "S6.ipynb", cell))
    assert not hasattr(module, "lost")
    assert "line 3 of S6.ipynb, cell 1 failed: ImportError" in skipped["WIDTH"]
    module, _ = definitions(notebook(tmp_path / "S7.ipynb", cell.replace(", lost", "")))
    assert module.WIDTH == 3


def test_the_last_of_several_definitions_of_a_name_counts(tmp_path):
    first = NET.format("Net").replace("784", "1")
    file = notebook(tmp_path / "a.ipynb", IMPORTS, first, NET.format("Net"))
    module, _ = definitions(file)
    assert module.Net().head.in_features == 784


def test_what_is_no_notebook_or_no_python_is_refused_in_a_line(tmp_path):
    file = tmp_path / "a.ipynb"
    file.write_text("{}")
    with pytest.raises(InputError, match=r"a.ipynb: not a Jupyter notebook.*save it again"):
        definitions(file)
    broken = tmp_path / "net.py"
    broken.write_text("class Net(:\n")
    with pytest.raises(InputError, match=r"net.py: SyntaxError.*line 1"):
        definitions(broken)


@pytest.mark.parametrize(
    ("text", "name", "how"),
    [
        (NET.format("A"), "A", "the only network"),
        (NET.format("A") + LOSS, "A", "the only one of 2 that is no part of another"),
        (NET.format("A").replace("nn.Linear(784, 10)", "Block()") + BLOCK, "A", "no part"),
        (BLOCK + NET.format("A").replace("nn.Module", "Block"), "A", "no part of another"),
        (NET.format("A") + NET.format("Net") + NET.format("B"), "Net", "by its name, of 3"),
        (NET.format("Net1") + NET.format("Net2"), "Net2", "the last of 2 networks"),
        (NET.format("A") + "\nclass Empty(nn.Module):\n    pass\n", "A", "the only one of 2"),
    ],
)
def test_which_class_is_the_network(tmp_path, text, name, how):
    found, said = chosen(tmp_path, text)
    assert found == name
    assert how in said


def test_a_class_can_be_forced_and_must_be_there(tmp_path):
    text = NET.format("A") + NET.format("B")
    assert chosen(tmp_path, text, "A") == ("A", "as it was named")
    with pytest.raises(InputError, match="got no class C, only A, B"):
        chosen(tmp_path, text, "C")
    with pytest.raises(InputError, match="got no network in it"):
        chosen(tmp_path, "x = 1\n")


def test_networks_of_another_file_count_where_a_file_has_none(tmp_path):
    (tmp_path / "mine.py").write_text(IMPORTS + NET.format("Net"))
    file = tmp_path / "main.py"
    file.write_text("from mine import Net\nfrom torch.nn import Linear\n")
    module, _ = definitions(file)
    assert [each.__name__ for each in networks(module, tmp_path)] == ["Net"]
    assert issubclass(module.Net, nn.Module)


class Graph:
    """What stands for a graph where only the header of a result is looked at."""

    def to_bytes(self):
        return b""


def exported(file, folder, monkeypatch, *, whole=True):
    """Return the header of what comes back of a file in a folder."""
    monkeypatch.setattr(module, "capture", lambda *given: Graph())
    content = export(
        {
            "file": str(file),
            "folder": str(folder),
            "definitions": not whole,
            "network": None,
            "seed": 0,
            "num_classes": 10,
            "passes": [dataclasses.asdict(each) for each in audit_passes((1, 28, 28))],
            "all": False,
        },
        lambda: None,
    )
    return json.loads(content[4 : 4 + int.from_bytes(content[:4], "little")])


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_in_a_folder_may_import_what_lies_above_it(tmp_path, monkeypatch, whole):
    folder = tmp_path / "anna"
    (folder / "models").mkdir(parents=True)
    (folder / "widths_of_anna.py").write_text("WIDTH = 784\n")
    file = folder / "models/net.py"
    text = NET.format("Net").replace("784", "WIDTH")
    file.write_text(f"{IMPORTS}from widths_of_anna import *\n{text}")
    assert exported(file, folder, monkeypatch, whole=whole)["networks"][0]["class"] == "Net"


def test_a_file_in_a_folder_may_import_what_lies_beside_it_with_a_dot(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/widths.py").write_text("WIDTH = 784\n")
    file = tmp_path / "nets/net.py"
    text = NET.format("Net").replace("784", "WIDTH")
    file.write_text(f"{IMPORTS}from .widths import WIDTH\n{text}")
    found = exported(file, tmp_path, monkeypatch, whole=False)
    assert (found["networks"][0]["class"], found["skipped"]) == ("Net", {})


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            ["import lost", IMPORTS + NET.format("Net").replace("nn.Module", "lost.Base")],
            r"got no network.*cell 2 failed: NameError: name 'lost'.*cell 1 failed: ModuleNotF",
        ),
        ([IMPORTS, NET.format("Net").replace("):", ")")], "got no network.*cell 2: SyntaxError"),
        ([IMPORTS, "%run lost.py\n"], r"got no network.*%run lost.py: line 1 of S6.ipynb, cell 2"),
        (
            [IMPORTS + "%run lost.py\n", NET.format("Net").replace("784", "WIDTH")],
            r"'WIDTH' is not defined.*hint: %run lost.py: line 3 .*failed: lost.py: no such file; ",
        ),
        (
            [IMPORTS + "from lost import *\n", "class Net(Base):\n    pass\n"],
            r"got no network.*\*: line 3 .*failed: ModuleNotFoundError: No module named 'lost'",
        ),
        ([IMPORTS, "x = 1\n"], "got no network in it.*hint: write the network as class Net"),
    ],
)
def test_a_class_that_failed_is_said_where_there_is_no_network(tmp_path, monkeypatch, cells, said):
    file = notebook(tmp_path / "S6.ipynb", *cells)
    with pytest.raises(InputError, match=said):
        exported(file, tmp_path, monkeypatch, whole=False)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has no such names")
def test_a_file_whose_name_is_no_utf_8_has_one_that_can_be_written(tmp_path):
    file = tmp_path / "r\udce9seau.py"
    file.write_text(IMPORTS + NET.format("Net"))
    module, _ = definitions(file)
    assert module.Net.forward.__code__.co_filename == r"r\udce9seau.py"
