"""Find the class of a network that somebody wrote: in a module, or in a file.

    find_class("my_net:Net")            # a module, in the working directory or on Python's path
    find_class("pkg/my_net.py:Net")     # a file
    find_class("my_net.py")             # a file that defines one network

Each call reads the files again, so an edited network is the new one, and files of the same name in different
folders are never mistaken for each other.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from torch import nn

from .errors import InputError

_loaded: set[str] = set()  # names in sys.modules that came with networks, to be read again


def reason(error: BaseException) -> str:
    """What went wrong in somebody else's code, in one line."""
    if isinstance(error, SystemExit):
        return f"it ends the process, exit({'' if error.code is None else repr(error.code)})"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def find_class(path: str) -> type[nn.Module]:
    """The torch.nn.Module class that MODULE:CLASS, FILE.py:CLASS or FILE.py names. ValueError says what is wrong."""
    where, _, name = (path, "", "") if path.endswith(".py") else path.rpartition(":")
    if not where or not (name or where.endswith(".py")):
        raise InputError(
            f"model {path!r}: got no MODULE:CLASS, expected one such as my_net:Net or my_net.py:Net"
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
                f"model {path!r}: got {len(classes)} torch.nn.Module classes in it{several}, expected "
                f"one; hint: name it, as in {where}:{classes[-1] if classes else 'Net'}"
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


def describe(model: nn.Module) -> str:
    """The file and class of a network, as `my_net.py:Net`."""
    kind = type(model)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return f"{Path(file).name}:{kind.__qualname__}" if file else kind.__qualname__


def _load(path: str, where: str) -> ModuleType:
    """Import the module or file `where`, of the model `path`, with what stands beside it."""
    here = Path.cwd()
    if not where.endswith(".py"):
        with _imports([here], where):
            try:
                return importlib.import_module(where)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{where}.".startswith(f"{error.name}."):
                    raise InputError(f"model {path!r}: does not import: {reason(error)}") from error
                raise InputError(
                    f"model {path!r}: got no module {error.name}, looked for in the working directory, {here}, and "
                    "on Python's path; hint: run this in the folder of the model's file, or add that folder to "
                    "PYTHONPATH"
                ) from error
            except (Exception, SystemExit) as error:  # somebody else's module may raise anything
                raise InputError(f"model {path!r}: does not import: {reason(error)}") from error
    file = Path(where).absolute()
    if not file.is_file():
        raise InputError(
            f"model {path!r}: got no file {file}, expected one; hint: a relative path starts at the "
            f"working directory, {here}"
        )
    # Of its package, if it is in one, so that relative imports work; else a module of its own.
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
            # Under a name that nothing else has: a file may be called random.py, and so may another one.
            name = f"_{file.stem.replace('.', '_')}_{hashlib.sha256(bytes(file)).hexdigest()[:12]}"
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None  # the suffix is .py
            assert spec.loader is not None
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
        except (Exception, SystemExit) as error:
            raise InputError(f"model {path!r}: does not import: {reason(error)}") from error


@contextlib.contextmanager
def _imports(folders: list[Path], wanted: str) -> Iterator[None]:
    """Import within as a script in the first of `folders` does; what was imported so before is read again, and so is
    the module `wanted` if it stands there."""
    for name in _loaded | ({wanted} if _stands_in(folders, wanted) else set()):
        sys.modules.pop(name, None)
    _loaded.clear()
    importlib.invalidate_caches()
    before, path, bytecode = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.path[:0] = map(str, folders)
    sys.dont_write_bytecode = True  # nothing is written beside somebody else's files
    try:
        yield
    finally:
        for folder in folders:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(folder))
        sys.dont_write_bytecode = bytecode
        added = [
            Path(entry).absolute() for entry in sys.path if entry not in path
        ]  # by the module itself
        _loaded.update(
            name for name in sys.modules.keys() - before if _stands_in(folders + added, name)
        )


def _stands_in(folders: list[Path], name: str) -> bool:
    """Whether a module that was imported is somebody's own, from a file in one of these folders."""
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
