"""Run what a student's file or notebook defines, and nothing else of it.

    module, skipped = definitions(Path("S6.ipynb"))

Imports, classes, functions and constants run, each by itself, whatever stands between them; so a
training does not. This runs in the confined process.
"""

import ast
import contextlib
import json
import linecache
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ..errors import InputError
from ..locate import reason

# Cell magics whose cell is Python all the same.
PYTHON_MAGICS = ("%%time", "%%timeit", "%%capture", "%%writefile", "%%prun")
# Names that an expression of a constant may call, and modules whose functions it may.
PLAIN_CALLS = {
    *("abs", "bool", "bytes", "complex", "dict", "enumerate", "float", "frozenset", "int", "len"),
    *("list", "max", "min", "namedtuple", "partial", "pow", "range", "reversed", "round", "set"),
    *("slice", "sorted", "str", "sum", "tuple", "zip"),
}
PLAIN_MODULES = {"torch", "nn", "F", "math", "np", "numpy", "functools", "collections", "typing"}


def definitions(file: Path, root: Path | None = None) -> tuple[ModuleType, dict[str, str]]:
    """Return a module of what a file or notebook defines, and why each other name is missing.

    Each statement that defines something runs by itself, and one that fails is left out. Below the
    folder `root` a file's imports may begin with dots. Raises InputError where the file can't be
    read or parsed."""
    module = ModuleType(re.sub(r"\W", "_", f"_{file.stem}"))
    module.__file__ = str(file)
    if root is not None and file.is_relative_to(root):
        module.__package__ = ".".join(file.parent.relative_to(root).parts)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(file.parent))
    skipped: dict[str, str] = {}
    for name, text in _pieces(file):
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        try:
            tree = ast.parse(text, name)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if file.suffix == ".py":
                raise InputError(
                    f"{file.name}: {_syntax(error)}", hint="correct the line"
                ) from error
            skipped[name] = _syntax(error)
            continue
        for node in tree.body:
            where = f"line {node.lineno} of {name}"
            if not _defines(node):
                skipped |= dict.fromkeys(_assigned(node), f"{where} is code that was not run")
                continue
            try:
                exec(compile(ast.Module([node], []), name, "exec"), vars(module))
            except (Exception, SystemExit) as error:
                skipped |= dict.fromkeys(_assigned(node), f"{where} failed: {reason(error)}")
    return module, skipped


def _syntax(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    return reason(error) + (f", line {line}" if line and "line" not in str(error) else "")


def _pieces(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the Python of a file, or of each cell of a notebook without its magics."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    title = file.name.encode(errors="backslashreplace").decode()
    if file.suffix == ".py":
        yield title, text
        return
    try:
        cells = json.loads(text)["cells"]
        sources = [
            source if isinstance(source := cell["source"], str) else "".join(source)
            for cell in cells
            if cell["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file.name}: not a Jupyter notebook: {reason(error)}",
            hint="save it again, with File, Download, .ipynb",
        ) from error
    for number, source in enumerate(sources, 1):
        yield f"{title}, cell {number}", _without_magics(source)


def _without_magics(source: str) -> str:
    """Return a cell with blank lines in place of IPython's own commands."""
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        ast.parse(source)
        return source
    lines = source.splitlines()
    first = next((line for line in lines if line.strip()), "").strip()
    if first.startswith("%%") and not first.startswith(PYTHON_MAGICS):
        return ""
    kept: list[str] = []
    inside = False  # a command that goes on in the next line
    for line in lines:
        bare = line.strip()
        own = inside or bare.startswith(("!", "%", "?")) or re.match(r"[\w.]+\s*=\s*[!%]", bare)
        indent = "" if inside else line[: len(line) - len(line.lstrip())]
        inside = bool(own) and bare.endswith("\\")
        kept.append(f"{indent}pass" if own and indent else "" if own else line)
    return "\n".join(kept) + "\n"


def _defines(node: ast.stmt) -> bool:
    """Return whether a statement only defines something."""
    if isinstance(
        node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    ):
        return True
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return node.value is None or _is_plain(node.value)
    if isinstance(node, ast.If):
        return _is_plain(node.test) and all(map(_defines, [*node.body, *node.orelse]))
    if isinstance(node, ast.Try):
        caught = [each for handler in node.handlers for each in handler.body]
        return all(map(_defines, [*node.body, *caught, *node.orelse, *node.finalbody]))
    return isinstance(node, ast.Pass)


def _is_plain(value: ast.expr) -> bool:
    """Return whether an expression is one of a constant: it calls nothing that could train."""
    for node in ast.walk(value):
        if isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)):
            return False
        if isinstance(node, ast.Call):
            root: ast.expr = node.func
            while isinstance(root, ast.Attribute):
                root = root.value
            alone = node.func is root
            if not isinstance(root, ast.Name) or root.id not in (
                PLAIN_CALLS if alone else PLAIN_MODULES
            ):
                return False
    return True


def _assigned(node: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement, or one inside it, would have set."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id
        elif isinstance(each, ast.alias):
            yield (each.asname or each.name).partition(".")[0]
        elif isinstance(each, (ast.FunctionDef, ast.ClassDef)):
            yield each.name
