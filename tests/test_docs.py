"""What the documentation says can be typed, does exist: commands, TOML, Python, links, the tree.

The Python examples of the pages and of the modules' docstrings are type-checked together by mypy,
which finds names that do not exist and arguments that a function does not take.
"""

import ast
import builtins
import contextlib
import csv
import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml
from cyclopts import MissingArgumentError

import featherweight
from featherweight.cli import app
from featherweight.contract import load_contract
from featherweight.formats._source import make_said
from featherweight.studies.plan import load_plan
from featherweight.studies.rows import read_rows
from featherweight.studies.summary import Spread, spread, summarise

ROOT = Path(__file__).parent.parent
PACKAGE = Path(featherweight.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RELEASE.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(featherweight [^`\n]+)`")
RULE = re.compile(r"^([\w. -]+):(?!=)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Other programs that the pages call; their arguments are not checked.
PROGRAMS = {"curl", "docker", "git", "python", "python3", "ray", "sudo", "."}
PROGRAMS |= {"apt-get", "cd", "python3.11", "set", "test"}
# Names that an example takes for granted, and their types.
GIVEN = {
    "contract": "featherweight.contract.Contract",
    "convolution": "torch.nn.Conv2d",
    "device": "torch.device",
    "grey": "typing.Any",
    "images": "torch.Tensor",
    "labels": "typing.Any",
    "loss": "torch.nn.Module",
    "model": "torch.nn.Module",
    "network": "featherweight.export.integer.IntegerNetwork",
    "recipe": "featherweight.recipe.Recipe",
    "run": "featherweight.run.Run",
    "split": "featherweight.data.Split",
    "test": "featherweight.data.Images",
    "verdict": "featherweight.verdict.Verdict",
    **dict.fromkeys(("Net", "console", "content", "error", "folder", "function"), "typing.Any"),
    **dict.fromkeys(("n_images", "node", "path", "plan", "reader", "result"), "typing.Any"),
    **dict.fromkeys(("columns", "jobs", "log_probabilities", "maps", "row", "rows"), "typing.Any"),
    **dict.fromkeys(
        ("cells", "content_type", "graph", "ink", "listening", "rest", "weights", "work"),
        "typing.Any",
    ),
    **dict.fromkeys(("components", "difference", "found", "gone", "grey", "image"), "typing.Any"),
    **dict.fromkeys(("mask", "parts", "planes", "sureness"), "typing.Any"),
    **dict.fromkeys(("pixels", "rng", "table", "text", "val"), "typing.Any"),
    **dict.fromkeys(("graded", "request", "settings", "submission", "export"), "typing.Any"),
}
# What an example may use without importing it.
KNOWN = {
    **{name: f"import {name}" for name in ("dataclasses", "json", "ray", "torch")},
    "Path": "from pathlib import Path",
    "fw": "import featherweight as fw",
}
# Modules whose docstring has indented lines that are neither Python nor commands: formulas.
FORMULAS = {"export/integer.py"}


def _blocks(kind):
    """Return one test parameter, file name and content, for each fenced block of a kind."""
    return [
        pytest.param(
            textwrap.dedent(match[3]),
            id=f"{path.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}",
        )
        for path, text in TEXTS.items()
        for match in FENCE.finditer(text)
        if match[2] == kind
    ]


def _paragraphs(path):
    """Yield the paragraphs of a module's docstring that follow the first, with their indent."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    for paragraph in re.split(r"\n(?: *\n)+", docstring)[1:]:
        paragraph = paragraph.removeprefix("Example:\n")
        yield textwrap.dedent(paragraph), paragraph.startswith(" ")


def _kind(paragraph, indented):
    """Return "sh", "toml" or "python", or None for prose."""
    if re.match(r"(featherweight|torchrun|make|pip) ", paragraph) and (
        indented or paragraph.count("\n") == 0
    ):
        return "sh"
    if not indented and not re.match(r"[\w., ()]+ = |[\w.]+\(|for .* in .*:|with .*:", paragraph):
        return None
    try:
        tomllib.loads(paragraph)
        return "toml"
    except tomllib.TOMLDecodeError:
        return "python"


EXAMPLES = [
    (path.relative_to(PACKAGE).as_posix(), paragraph, kind)
    for path in MODULES
    for paragraph, indented in _paragraphs(path)
    if (kind := _kind(paragraph, indented))
]


def _commands(text):
    """Yield the words of each command of a shell text, without comments and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="|><;")
        words.whitespace_split = True
        command = []
        skip = False
        for word in words:
            if set(word) <= {"|", ";"}:
                yield command
                command = []
            elif set(word) <= {">"}:
                skip = True
            elif skip:
                skip = False
            else:
                command.append(word)
        if command:
            yield command


def _parse(words):
    app.parse_args(words, exit_on_error=False, print_error=False)


def _check(words):
    """Fail unless a command of the documentation is one that works."""
    program, *rest = words
    program = program.rsplit("/", 1)[-1]
    if program == "featherweight":
        _parse(rest)
    elif program == "torchrun":
        _parse(rest[rest.index("featherweight") + 1 :])
    elif program == "make":
        makefiles = [ROOT / "Makefile", PACKAGE / "export/templates/Makefile"]
        rules = "".join(path.read_text(encoding="utf-8") for path in makefiles)
        targets = {target for left in RULE.findall(rules) for target in left.split()}
        assert rest[0] in targets, f"make {rest[0]}: no such target"
    elif program == "pip":
        extras = set(
            tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        )
        named = re.search(r"\[([\w,]+)\]", " ".join(rest))
        assert set(named[1].split(",") if named else ()) <= extras
    else:
        assert program in PROGRAMS, f"{program}: unknown program"


@pytest.mark.parametrize("block", _blocks("sh"))
def test_commands_of_a_page_are_understood(block):
    commands = list(_commands(block))
    assert commands
    for words in commands:
        _check(words)


@pytest.mark.parametrize("example", [text for _, text, kind in EXAMPLES if kind == "sh"])
def test_commands_of_a_docstring_are_understood(example):
    for words in _commands(example):
        _check(words)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_a_sentence_are_understood(path):
    for command in SPAN.findall(FENCE.sub("", TEXTS[path])):
        for words in _commands(command):
            # `featherweight predict` names a command; it is not meant to be typed alone.
            with contextlib.suppress(MissingArgumentError):
                _check(words)


def test_an_unknown_command_option_or_target_is_found():
    for wrong in (
        "featherweight fly",
        "featherweight train --fast",
        "make coffee",
        "pip install '.[x]'",
    ):
        (words,) = _commands(f"{wrong}  # for certain")
        with pytest.raises(Exception):  # noqa: B017, PT011
            _check(words)


def _check_toml(text, path):
    values = tomllib.loads(text)
    path.write_text(text)
    if "recipes" in values:
        load_plan(str(path))
    elif "polarity" in values:  # what a data set says about itself
        make_said(values, str(path))
    else:
        assert "train_size" in values, "neither a contract nor a plan"
        load_contract(str(path))


@pytest.mark.parametrize("block", _blocks("toml"))
def test_toml_of_a_page_is_accepted(block, tmp_path):
    _check_toml(block, tmp_path / "a.toml")


@pytest.mark.parametrize("example", [text for _, text, kind in EXAMPLES if kind == "toml"])
def test_toml_of_a_docstring_is_accepted(example, tmp_path):
    if "recipes" not in example:  # a part of a plan
        example = f'recipes = ["feather-20k"]\n{example}'
    _check_toml(example, tmp_path / "a.toml")


@pytest.mark.parametrize("block", _blocks("yaml"))
def test_a_workflow_uses_the_action_with_its_inputs(block):
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    steps = yaml.safe_load(block)["jobs"]["judge"]["steps"]
    given = next(step["with"] for step in steps if "featherweight" in step["uses"])
    required = {name for name, about in action["inputs"].items() if about.get("required")}
    assert required <= set(given) <= set(action["inputs"])


def test_every_kind_of_block_is_tested():
    kinds = {match[2] for text in TEXTS.values() for match in FENCE.finditer(text)}
    assert kinds <= {"sh", "toml", "python", "text", "console", "c", "js", "yaml"}
    assert len(_blocks("sh")) > 30
    assert len(_blocks("python")) > 10
    assert len(_blocks("toml")) > 3
    assert len(EXAMPLES) > 30


def _public_names(text):
    """Return the NAME of each fw.NAME in a piece of Python."""
    return {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "fw"
    }


@pytest.mark.parametrize("block", _blocks("python"))
def test_a_page_uses_public_names_only(block):
    assert _public_names(block) <= set(featherweight.__all__)


def _homes():
    """Return the modules of the package that define each public name."""
    homes = {}
    for path in MODULES:
        module = ".".join(("featherweight", *path.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [node.name] if hasattr(node, "name") else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                homes.setdefault(name, []).append(module.removesuffix(".__init__"))
    return homes


def _taken_for_granted(text):
    """Return the names that an example uses before it assigns or imports them."""
    free, bound = set(), set()
    for statement in ast.parse(text).body:
        nodes = list(ast.walk(statement))
        names = [node for node in nodes if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                stored |= {alias.asname or alias.name for alias in node.names}
        if not isinstance(statement, ast.Assign):  # `for` and `with` assign before their body
            bound |= stored
        free |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - bound
        bound |= stored
    return free


def _with_imports(module, text, homes):
    """Return an example with the names that it takes for granted imported or declared."""
    header = ["import typing", "import torch", "import featherweight", "..."]
    own = ".".join(("featherweight", *Path(module).with_suffix("").parts)).removesuffix(".__init__")
    for name in sorted(_taken_for_granted(text)):
        if name in KNOWN:
            header.append(KNOWN[name])
        elif own in homes.get(name, ()):
            header.append(f"from {own} import {name}")
        elif name in GIVEN:
            home = GIVEN[name].rsplit(".", 1)[0]
            header += [f"import {home}", f"{name}: {GIVEN[name]}"]
        elif name in homes:
            home = min(
                homes[name], key=lambda module: (module.split(".")[1] in ("api", "cli"), module)
            )
            header.append(f"from {home} import {name}")
        else:
            assert hasattr(builtins, name), f"{module}: no {name} in the package"
    # f(...) stands for a call whose arguments are left out.
    text = re.sub(r"(\w+)\(\.\.\.\)", r"(\1 and typing.cast(typing.Any, ...))", text)
    return "\n".join([*header, text])


@pytest.mark.slow
def test_python_examples_agree_with_the_code(tmp_path):
    homes = _homes()
    wrong = []
    for block in _blocks("python"):
        (text,) = block.values
        name = re.sub(r"\W", "_", block.id)
        (tmp_path / f"{name}.py").write_text(text)
        if "class Net(" in text:
            (tmp_path / "my_net.py").write_text(text)
    for i, (module, text, kind) in enumerate(EXAMPLES):
        if kind == "python":
            try:
                code = _with_imports(module, text, homes)
            except (SyntaxError, AssertionError) as error:
                if not (module in FORMULAS and isinstance(error, SyntaxError)):
                    wrong.append(f"{module}: {error}")
                continue
            (tmp_path / f"{re.sub(chr(92) + 'W', '_', module)}_{i}.py").write_text(code)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports"),
            *(
                "--follow-imports=silent",
                "--check-untyped-defs",
                "--no-strict-optional",
                "--no-error-summary",
            ),
            *("--allow-redefinition", "--cache-dir", str(ROOT / ".mypy_cache" / "examples")),
            str(tmp_path),
        ],
        env=os.environ | {"MYPYPATH": f"{PACKAGE.parent}:{tmp_path}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    wrong += (done.stdout + done.stderr).splitlines()
    assert not wrong, "\n".join(wrong)


def test_public_names_exist():
    for name in featherweight.__all__:
        assert getattr(featherweight, name) is not None


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_linked_file_exists(path):
    for link in LINK.findall(FENCE.sub("", TEXTS[path])):
        if not re.match(r"https?:|mailto:", link):
            target = link.split("#")[0]
            assert not target or (path.parent / target).exists(), link


def test_pages_and_api_reference_name_what_exists():
    for name in re.findall(r"^::: ([\w.]+)$", TEXTS[ROOT / "docs/reference/api.md"], re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_api_reference_has_every_public_name():
    text = TEXTS[ROOT / "docs/reference/api.md"]
    listed = {name.rsplit(".", 1)[-1] for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    assert listed == set(featherweight.__all__) - {"__version__"}


def test_the_architecture_page_lists_what_the_package_has():
    text = TEXTS[ROOT / "docs/architecture.md"]
    listed = set(re.findall(r"^      (\w+\.py|\w+/) ", text, re.MULTILINE))
    present = {path.name for path in PACKAGE.glob("*.py")}
    present |= {
        f"{path.name}/"
        for path in PACKAGE.iterdir()
        if path.is_dir() and path.name != "__pycache__"
    }
    assert listed == present


def _stated(found: Spread) -> str:
    """A mean and its 95 % interval, as the tables state them."""
    low, high = found.interval
    return f"**{100 * found.mean:.2f} %** ({100 * low:.2f} to {100 * high:.2f})"


def test_the_records_that_pages_state_are_those_of_the_rows():
    readme = TEXTS[ROOT / "README.md"]
    page = TEXTS[ROOT / "docs" / "results.md"].split("\n## The first records")[0]
    for each in summarise(read_rows(ROOT / "results" / "records.csv")):
        val, test, seconds = each.val, _stated(each.test), f"{each.seconds:.0f}"
        mean, least = f"{100 * val.mean:.2f} %", f"{100 * val.minimum:.2f}"
        line = rf"^\| `{each.recipe}`[^|]*\| {int(each.n_params):,} \|.*$"
        short, long = (re.search(line, text, re.MULTILINE)[0] for text in (readme, page))
        assert f"| {seconds} | {mean} ({least}) | {test} |" in short
        assert f"| {seconds} (" in long
        assert f"| {mean}, {val.sd * 100:.3f}, {least} |" in long
        assert all(words in long for words in test.split(" (")), long


def test_the_c_code_that_pages_state_is_that_of_the_rows():
    with (ROOT / "results" / "c99.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def found(own: list[dict[str, str]], part: str) -> Spread:
        return spread([int(row[f"{part}_correct"]) / int(row[f"{part}_total"]) for row in own])

    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        val = f"{100 * found(own, 'val').mean:.2f} %"
        test = _stated(found(own, "test")) if own[0]["test_correct"] else "not read"
        size = f"| {int(own[0]['constants']):,} bytes | {int(own[0]['ram']):,} "
        for page in ("README.md", "docs/results.md", "docs/guides/microcontrollers.md"):
            start = f"| `{recipe}`, {own[0]['bits']} bits"
            (line,) = (text for text in TEXTS[ROOT / page].splitlines() if text.startswith(start))
            assert size in line, page
            assert test in line, page
            assert val in line or page == "README.md", page
