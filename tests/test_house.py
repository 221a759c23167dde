"""Which module may import which, and which modules work without PyTorch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featherweight

PACKAGE = Path(featherweight.__file__).parent
# The trunk in order: a module imports only from those before it.
TRUNK = (
    "errors",
    "_extras",
    "_files",
    "_locks",
    "_confine",
    "passes",
    "_arrays",
    "_pictures",
    "_html",
    "badge",
    "_layers",
    "_format",
    "_ray",
    "_openmp",
    "device",
    "tables",
    "counts",
    "image_kind",
    "layout",
    "formats",
    "facts",
    "verdict",
    "_markdown",
    "requirements",
    "contract",
    "recipe",
    "pretrained",
    "synthetic",
    "data",
    "splits",
    "model",
    "locate",
    "build",
    "exported",
    "fields",
    "follow",
    "flow",
    "norms",
    "operations",
    "views",
    "layers",
    "capture",
    "apart",
    "weights",
    "augment",
    "muon",
    "quantise",
    "evaluate",
    "confidence",
    "distributed",
    "source",
    "run",
    "distil",
    "progress",
    "trainer",
    "train",
    "workers",
    "retrain",
    "trace",
    "structure",
    "fresh",
    "audit",
    "card",
    "report",
)
WINGS = ("export", "inference", "studies", "grading")
# These may import everything before them.
ON_TOP = ("bench", "api", "cli", "__main__")
# `__init__` holds the version and the public names, which it imports when they are first used.
# `import featherweight` runs it first, so every module may import it.
INIT = "__init__"
PLAIN_DATA = (
    "badge",
    "_markdown",
    "errors",
    "_extras",
    "_files",
    "_arrays",
    "_pictures",
    "_html",
    "_layers",
    "tables",
    "counts",
    "image_kind",
    "layout",
    "formats",
    "facts",
    "verdict",
    "requirements",
    "contract",
    "recipe",
    "pretrained",
)


def _modules(package):
    """Yield the path and the dotted name, relative to the package, of each module."""
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        yield path, name if name == INIT else name.removesuffix(f".{INIT}")


def _imports(path, name, known, lazy=True):
    """Yield the project's modules that a file imports; with `lazy`, those inside functions too."""
    parts = name.split(".")
    parts = [] if name == INIT else parts if path.name == f"{INIT}.py" else parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazy else _run_at_import(tree):
        if isinstance(node, ast.Import):
            absolute = [each.name for each in node.names if each.name.startswith(PACKAGE.name)]
            assert not absolute, f"{name}: imports {absolute}; within the package use `from .`"
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level + 1]
            base += node.module.split(".") if node.module else []
            for each in node.names:
                whole = ".".join([*base, each.name])
                yield whole if whole in known else ".".join(base) or INIT


def _run_at_import(tree):
    """Yield the nodes that run when a module is imported, so none of a function's body."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        pending.extend(ast.iter_child_nodes(node))


def _top(module):
    return module.split(".")[0]


def _may_import(importer, imported):
    """Return whether a module may import another one; both are dotted names inside the package."""
    here, there = _top(importer), _top(imported)
    if here in (INIT, there) or imported == INIT:
        return True
    if here in TRUNK:
        return there in TRUNK[: TRUNK.index(here)]
    if here in WINGS:
        return there in TRUNK
    return there in (*TRUNK, *WINGS, *ON_TOP[: ON_TOP.index(here)])


def _wrong_imports(package):
    modules = list(_modules(package))
    known = {name for _, name in modules}
    return [
        f"{name} imports {target}"
        for path, name in modules
        for target in _imports(path, name, known)
        if not _may_import(name, target)
    ]


def _circle(package):
    """Return modules that import one another in a circle at import time, or None."""
    modules = list(_modules(package))
    known = {name for _, name in modules}
    graph = {name: set(_imports(path, name, known, lazy=False)) - {name} for path, name in modules}
    finished, stack = set(), []

    def visit(module):
        if module in stack:
            return [*stack[stack.index(module) :], module]
        if module not in finished and module in graph:
            stack.append(module)
            for each in sorted(graph[module]):
                if found := visit(each):
                    return found
            finished.add(stack.pop())
        return None

    return next((found for module in graph if (found := visit(module))), None)


def test_every_module_has_its_place():
    tops = {_top(name) for _, name in _modules(PACKAGE)}
    assert tops <= {*TRUNK, *WINGS, *ON_TOP, INIT}


def test_modules_import_only_from_those_before_them():
    assert _wrong_imports(PACKAGE) == []


def test_no_modules_import_one_another_in_a_circle():
    assert _circle(PACKAGE) is None


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("recipe", "from .train import train"),
        ("data", "from .studies.plan import load_plan"),
        ("studies.frontier", "from ..export.c import export_c"),
        ("export.onnx", "from ..inference import reader"),
        ("bench.training", "from ..cli.base import app"),
        ("train", "def later():\n    from .audit import audit_run"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, module, line):
    for path, name in _modules(PACKAGE):
        file = tmp_path / path.relative_to(PACKAGE)
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(
            path.read_text(encoding="utf-8") + (f"\n{line}\n" if name == module else "")
        )
    (wrong,) = set(_wrong_imports(tmp_path)) - set(_wrong_imports(PACKAGE))
    assert wrong.startswith(f"{module} imports ")


def test_a_circle_is_found(tmp_path):
    for name, line in (
        ("a", "from .b import f"),
        ("b", "from .c import f"),
        ("c", "from . import a"),
    ):
        (tmp_path / f"{name}.py").write_text(line)
    assert _circle(tmp_path) == ["a", "b", "c", "a"]
    (tmp_path / "c.py").write_text("def later():\n    from . import a")
    assert _circle(tmp_path) is None


def test_reading_and_plain_data_need_no_torch():
    names = {name for _, name in _modules(PACKAGE)}
    light = [name for name in PLAIN_DATA if name in names]
    # The server and bulk reading need further extras, which must not bring PyTorch either.
    light += [name for name in names if _top(name) == "inference"]
    code = (
        "import sys\nsys.modules['torch'] = None  # any import of it fails\nimport featherweight\n"
    )
    code += "".join(f"import featherweight.{name}\n" for name in sorted(light))
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_import_featherweight_loads_no_large_package():
    code = (
        "import sys, featherweight\n"
        "print({'torch', 'numpy', 'onnxruntime', 'PIL', 'cyclopts'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
