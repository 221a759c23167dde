"""Run what a student's file or notebook defines, and nothing else of it.

    module, skipped = definitions(Path("S6.ipynb"))

Imports, classes, functions and constants run, each by itself, whatever stands between them; so a
training does not. Of IPython's own commands those run that define something: `%run utils.py` runs
what that file defines. Relative paths start at the working directory, as in a notebook at its
folder. This runs in the confined process.
"""

import ast
import contextlib
import copy
import io
import json
import linecache
import os
import re
import shlex
import sys
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

from .. import _files
from ..errors import InputError
from ..locate import reason

# Cell magics whose cell is no Python, or runs in a process of its own.
NOT_PYTHON = {
    *("!", "bash", "bigquery", "cython", "html", "javascript", "js", "latex", "markdown", "perl"),
    *("pypy", "python", "python2", "python3", "r", "ruby", "script", "sh", "shell", "sql", "svg"),
    *("sx", "system"),
}
WRITE = ("writefile", "file")  # cell magics that write the cell to a file
# Line magics that define something, in a notebook or as nbconvert writes them in a .py file.
DEFINING_MAGICS = ("run", "cd", *WRITE)
# Commands that IPython takes without their sign too.
AUTOMAGIC = re.compile(r"(pip3?|conda|mamba|cd|ls|mkdir|rm|cp|mv|cat|pwd|run)(\s+[^\s=(.,].*|\s*)$")
HELP = re.compile(r"\?{1,2}[\w.]+$|[\w.]+\?{1,2}$")  # nn.Conv2d?
SHELL_VALUE = re.compile(r"[\w.]+(\s*,\s*[\w.]+)*\s*=\s*[!%]")  # files = !ls
PATH_CALLS = ("append", "extend", "insert")  # of sys.path
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
    folder `root` a file's imports may begin with dots. Beside names, the second value has commands
    such as `%run lost.py`. Raises InputError where the file can't be read or parsed."""
    module = ModuleType(re.sub(r"\W", "_", f"_{file.stem}"))
    module.__file__ = str(file)
    if root is not None and file.is_relative_to(root):
        module.__package__ = ".".join(file.parent.relative_to(root).parts)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(file.parent))
    shell = _Shell(module)
    sys.meta_path.insert(0, _Importer((root or file.parent).resolve(), shell.skipped))
    shell.define(file)
    return module, shell.skipped


class _Shell:
    """What `get_ipython()` returns: it runs the magics that define something."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._where = module, ""
        vars(module)["get_ipython"] = lambda: self
        self._running: list[Path] = []
        self.skipped: dict[str, str] = {}

    def define(self, file: Path) -> None:
        """Run what a file defines, in the module."""
        self._running.append(file.resolve())
        for name, text in _pieces(file):
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
            try:
                tree = ast.parse(text, name)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                if not _is_notebook(file):
                    raise InputError(
                        f"{file.name}: {_syntax(error)}", hint="correct the line"
                    ) from error
                self.skipped[name] = _syntax(error)
                continue
            for node in tree.body:
                self._run(node, name)
        self._running.pop()

    def _run(self, node: ast.stmt, name: str) -> None:
        """Run what a statement defines."""
        self._where = where = f"line {node.lineno} of {name}"
        kept, dropped = _defining(node)
        self._skip(dropped, f"{where} is code that was not run")
        if kept is None:
            return
        try:
            exec(compile(ast.Module([kept], []), name, "exec"), vars(self._module))
        except (Exception, SystemExit) as error:
            self._skip([kept], f"{where} failed: {reason(error)}")

    def _skip(self, nodes: Iterable[ast.stmt], why: str) -> None:
        self.skipped |= {name: why for node in nodes for name in _assigned(node)}

    def magic(self, line: str) -> None:
        """Run a line magic, in the spelling of early notebooks."""
        name, _, rest = line.partition(" ")
        self.run_line_magic(name.removeprefix("%"), rest)

    def run_line_magic(self, name: str, line: str, *_: object) -> None:
        """Run a line magic of DEFINING_MAGICS; what it lacks is said."""
        where = self._where
        try:
            words = [word for word in shlex.split(line) if not word.startswith("-")]
            path = Path(words[0] if words else "").expanduser()
            if name in WRITE:  # what follows in the cell is the file, which can't be written here
                sys.modules[path.stem] = self._module
            elif name == "cd":
                os.chdir(path)
            else:
                path = path if path.suffix or not path.name else path.with_name(f"{path.name}.py")
                if path.resolve() not in self._running:
                    self.define(path)
        except (ValueError, OSError) as error:
            why = error.message if isinstance(error, InputError) else _files.reason(error)
            self.skipped[f"%{name} {line}"] = f"{where} failed: {why}"

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        """Run what a cell defines that nbconvert has written as a text."""
        for node in ast.parse(_without_magics(f"%%{name} {line}\n{cell}")).body:
            self._run(node, f"{self._where}, %%{name}")


class _Importer(MetaPathFinder):
    """Finds the modules of a folder; one that can't be imported is what it defines.

    Such as one that imports a package that is not installed here, and trains without it."""

    def __init__(self, root: Path, skipped: dict[str, str]) -> None:
        self._root, self._skipped = root, skipped

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module of the folder is loaded; None for others."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return None
        if not Path(spec.loader.path).resolve().is_relative_to(self._root):
            return None
        spec.loader = _Loader(name, spec.loader.path, self._skipped)
        return spec


class _Loader(SourceFileLoader):
    """Imports a file; where that fails, runs what it defines."""

    def __init__(self, name: str, path: str, skipped: dict[str, str]) -> None:
        super().__init__(name, path)
        self._skipped = skipped

    def exec_module(self, module: ModuleType) -> None:
        """Import the file into the module."""
        try:
            super().exec_module(module)
        except (Exception, SystemExit) as error:
            if isinstance(error, SyntaxError):
                raise
            shell = _Shell(module)
            shell.define(Path(self.path))
            self._skipped |= shell.skipped


def _is_notebook(file: Path) -> bool:
    return file.suffix.casefold() == ".ipynb"


def _syntax(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    return reason(error) + (f", line {line}" if line and "line" not in str(error) else "")


def _pieces(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the Python of a file, or of each cell of a notebook without its magics."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    title = file.name.encode(errors="backslashreplace").decode()
    if not _is_notebook(file):
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
    """Return a cell without IPython's own commands, but for those that define something."""
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        ast.parse(source)
        return source
    lines = source.splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines and (magic := re.match(r"%%(\S+)\s*(.*)", lines[first].strip())):
        kind, rest = magic[1].casefold(), magic[2].strip("'\" ")
        if kind in NOT_PYTHON or (kind in WRITE and not rest.casefold().endswith(".py")):
            return ""
        lines[first] = f"%{kind} {rest}" if kind in WRITE else ""
    kept: list[str] = []
    inside = False  # a command that goes on in the next line
    for line in lines:
        bare = line.strip()
        own = inside or (
            (
                bare.startswith(("!", "%"))
                or any(pattern.match(bare) for pattern in (HELP, SHELL_VALUE, AUTOMAGIC))
            )
            and not _is_open("\n".join(kept))
        )
        indent = "" if inside else line[: len(line) - len(line.lstrip())]
        kept.append(f"{indent}{_command(bare, inside)}".rstrip() if own else line)
        inside = bool(own) and bare.endswith("\\")
        if own and indent and not kept[-1].strip():
            kept[-1] = f"{indent}pass"
    return "\n".join(kept) + "\n"


def _is_open(text: str) -> bool:
    """Return whether Python's text ends inside brackets or a string of several lines."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(f"{text}\n").readline):
            pass
    except tokenize.TokenError as error:
        return any(word in str(error) for word in ("multi-line", "triple-quoted"))
    except SyntaxError:  # of its indentation
        pass
    return False


def _command(line: str, inside: bool) -> str:
    """Return the Python of a command; empty where it defines nothing."""
    name, _, rest = line.removeprefix("%").partition(" ")
    if inside or line.startswith("!") or SHELL_VALUE.match(line):
        return ""
    rest = rest.strip()
    if name == "time":
        return _command(rest, inside=False) if rest.startswith(("!", "%")) else rest
    if name in DEFINING_MAGICS and rest:
        return f"get_ipython().run_line_magic({name!r}, {rest!r})"
    return ""


def _defining(node: ast.stmt) -> tuple[ast.stmt | None, list[ast.stmt]]:
    """Return a statement with only what defines something, None if that is nothing; and the rest.

    Of an `if` and a `try`, what stands in them is looked at one by one."""
    if isinstance(node, ast.Try) or (isinstance(node, ast.If) and _is_plain(node.test)):
        kept = copy.copy(node)
        dropped: list[ast.stmt] = []
        kept.body = _only(node.body, dropped) or [ast.copy_location(ast.Pass(), node)]
        kept.orelse = _only(node.orelse, dropped)
        if isinstance(kept, ast.Try) and isinstance(node, ast.Try):
            kept.handlers = [copy.copy(handler) for handler in node.handlers]
            for handler in kept.handlers:
                handler.body = _only(handler.body, dropped) or [
                    ast.copy_location(ast.Pass(), handler)
                ]
            kept.finalbody = _only(node.finalbody, dropped)
        return kept, dropped
    return (node, []) if _defines(node) else (None, [node])


def _only(body: list[ast.stmt], dropped: list[ast.stmt]) -> list[ast.stmt]:
    """Return what statements define; what they do beside it is added to `dropped`."""
    found = []
    for each in body:
        kept, rest = _defining(each)
        dropped += rest
        if kept is not None:
            found.append(kept)
    return found


def _defines(node: ast.stmt) -> bool:
    """Return whether a statement only defines something."""
    if isinstance(
        node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    ):
        return True
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return node.value is None or _is_plain(node.value)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return _is_set_up(node.value)
    return isinstance(node, ast.Pass)


def _is_set_up(call: ast.Call) -> bool:
    """Return whether a call adds to Python's path, or is a magic that defines something."""
    function = ast.unparse(call.func)
    if function in (f"sys.path.{name}" for name in PATH_CALLS):
        return all(map(_is_plain, call.args))
    texts = [str(each.value) for each in call.args if isinstance(each, ast.Constant)]
    name = next(iter(texts[0].removeprefix("%").split()), "") if texts else ""
    if len(texts) != len(call.args):
        return False
    if function == "get_ipython().run_cell_magic":
        return len(texts) == 3 and name.casefold() not in NOT_PYTHON
    return name in DEFINING_MAGICS and function in (
        "get_ipython().run_line_magic",
        "get_ipython().magic",
    )


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
