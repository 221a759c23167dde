"""Find the class of a network in a module or a file.

    find_class("my_net:Net")            # a module in the working directory or on Python's path
    find_class("pkg/my_net.py:Net")     # a file
    find_class("my_net.py")             # a file that defines exactly one network

Each call reads the files again, so it sees the user's edits, and files of the same name in
different folders are kept apart.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from torch import nn

from ._files import meant_file
from .errors import AS_SCRIPT, InputError

MAX_REASON = 300  # characters of an exception's text that are shown
_loaded: set[str] = set()  # names in sys.modules that users' networks imported, to be reloaded
_imported: list[str] = []  # the modules and files that `find_class` has imported


def reason(error: BaseException) -> str:
    """Return one line about an exception raised by a user's code."""
    if isinstance(error, SystemExit):
        return f"it ends the process, exit({'' if error.code is None else repr(error.code)})"
    name = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # its text is the code's too
        lines = []
    # Nothing that colours a terminal's text or moves its cursor.
    lines = [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line) for line in lines]
    shown = "".join(c if c.isprintable() else "?" for c in lines[0][:MAX_REASON]) if lines else ""
    return f"{name}: {shown}" if shown else name


def find_class(path: str) -> type[nn.Module]:
    """Return the torch.nn.Module class that MODULE:CLASS, FILE.py:CLASS or FILE.py names.

    Raises InputError if there is no such class, or its module can't be imported.
    """
    where, _, name = (path, "", "") if _is_python(path) else path.rpartition(":")
    a_path = where.startswith(".") or bool({"/", "\\"}.intersection(where))
    if any(each.casefold().endswith(".ipynb") for each in (where, path)):
        raise InputError(
            f"model {path!r}: got a notebook, expected MODULE:CLASS or FILE.py:CLASS",
            hint="in the notebook: featherweight.audit(Net), featherweight.train(model=Net); or "
            "save the class as a file, my_net.py",
        )
    if not where or not (name or _is_python(where)) or (a_path and not _is_python(where)):
        meant = meant_file(path)
        raise InputError(
            f"model {path!r}: expected MODULE:CLASS or FILE.py:CLASS, "
            "such as my_net:Net or my_net.py:Net",
            hint=meant and f"did you mean {meant}?",
        )
    module = _load(path, where)
    classes = [
        each.__name__
        for each in vars(module).values()
        if inspect.isclass(each)
        and issubclass(each, nn.Module)
        and each.__module__ == module.__name__
    ]
    if not name:
        if len(classes) != 1:
            several = f", {', '.join(classes)}" if classes else ""
            raise InputError(
                f"model {path!r}: got {len(classes)} torch.nn.Module classes in it{several}, "
                "expected one",
                hint=f"name it, as in {where}:{classes[-1] if classes else 'Net'}",
            )
        name = classes[0]
    if not hasattr(module, name):
        raise InputError(
            f"model {path!r}: got no class {name} in {getattr(module, '__file__', where)}, "
            f"expected {' or '.join(classes) or 'a torch.nn.Module class'}"
        )
    found = getattr(module, name)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise InputError(f"model {path!r}: got {found!r}, expected a torch.nn.Module class")
    return found


def _is_python(path: str) -> bool:
    return path.casefold().endswith(".py")


def describe(model: nn.Module) -> str:
    """Return the file and class of a network, such as `my_net.py:Net`.

    A network as graphs has them as its title."""
    kind = type(model)
    if isinstance(title := getattr(model, "title", None), str):
        return title
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return f"{Path(file).name}:{kind.__qualname__}" if file else kind.__qualname__


def load_file(file: Path) -> ModuleType:
    """Return a file as a module, which imports it. Raises InputError if that fails."""
    return _load(str(file), str(file))


def has_imported() -> bool:
    """Return whether this process has run the code of a network that is not this package's."""
    return bool(_imported)


def _load(path: str, where: str) -> ModuleType:
    """Import the module or file `where` of the model `path`, with its folder on Python's path."""
    here = Path.cwd()
    if not where.startswith(f"{__package__}."):
        _imported.append(where)
    if not _is_python(where):
        with _imports([here], where):
            try:
                return importlib.import_module(where)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{where}.".startswith(f"{error.name}."):
                    raise InputError(
                        f"model {path!r}: can't be imported: {reason(error)}"
                    ) from error
                meant = meant_file(path)
                raise InputError(
                    f"model {path!r}: got no module {error.name} in the working directory, {here}, "
                    "or on Python's path",
                    hint=f"did you mean {meant}?"
                    if meant is not None
                    else "run this in the folder of the model's file, or add that folder to "
                    "PYTHONPATH",
                ) from error
            except (Exception, SystemExit) as error:  # a user's module may raise anything
                raise _not_imported(path, error) from error
    file = Path(where).expanduser().absolute()
    if not file.is_file():
        raise InputError(
            f"model {path!r}: got no file {file}, expected one",
            hint=f"a relative path starts at the working directory, {here}",
        )
    # A file in a package is imported as part of it, so that relative imports work.
    root, names = file.parent, [file.stem]
    while (root / "__init__.py").is_file():
        root, names = root.parent, [root.name, *names]
    with _imports([root, file.parent], ".".join(names)):
        package = sys.modules.get(names[0])
        known = (
            package is None
            or Path(getattr(package, "__file__", None) or "").parent == root / names[0]
        )
        try:
            if len(names) > 1 and known:
                return importlib.import_module(".".join(names))
            # A unique module name: the file may be called random.py, and so may another one.
            name = f"_{file.stem.replace('.', '_')}_{hashlib.sha256(bytes(file)).hexdigest()[:12]}"
            loader = SourceFileLoader(name, str(file))  # named, as a suffix .PY says none
            spec = importlib.util.spec_from_file_location(name, file, loader=loader)
            assert spec is not None  # it has a loader
            assert spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
        except (Exception, SystemExit) as error:
            raise _not_imported(path, error) from error


def _not_imported(path: str, error: BaseException) -> InputError:
    hint = AS_SCRIPT if isinstance(error, SystemExit) else None
    return InputError(f"model {path!r}: can't be imported: {reason(error)}", hint=hint)


@contextlib.contextmanager
def _imports(folders: list[Path], wanted: str) -> Iterator[None]:
    """Put `folders` first on Python's path inside the context, as for a script in the first one.

    Modules that earlier calls imported, and the module `wanted` if it is in these folders, are
    removed from sys.modules first, so that they are read again.
    """
    for name in _loaded | ({wanted} if _is_users(folders, wanted) else set()):
        sys.modules.pop(name, None)
    _loaded.clear()
    importlib.invalidate_caches()
    before, path, bytecode = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.path[:0] = map(str, folders)
    sys.dont_write_bytecode = True  # write nothing next to a user's files
    try:
        yield
    finally:
        for folder in folders:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))
        sys.dont_write_bytecode = bytecode
        # Folders that the module itself added to sys.path.
        added = [Path(entry).absolute() for entry in sys.path if entry not in path]
        _loaded.update(
            name for name in sys.modules.keys() - before if _is_users(folders + added, name)
        )


def _is_users(folders: list[Path], name: str) -> bool:
    """Return whether an imported module is a user's, from a file in one of these folders."""
    module, top = sys.modules.get(name), name.partition(".")[0]
    if module is None or top in sys.stdlib_module_names or top in ("__main__", __package__):
        return False
    file = Path(
        getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
    )
    installed = {"site-packages", "dist-packages"}.intersection(file.parts)
    return (
        file.is_absolute()
        and not installed
        and any(file.is_relative_to(folder) for folder in folders)
    )
