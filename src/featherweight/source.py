"""Write the source of a class, with all that it uses, as a module that another process can import.

    text = module_source(Net)       # Net may have been defined in a notebook's cell

A notebook's classes live in no file, so a run that is trained with one keeps this text as its
model.py.
"""

import ast
import builtins
import dis
import inspect
import linecache
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .errors import InputError

CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def functions(definition: Any) -> Iterator[FunctionType]:
    """Yield a function itself, or the functions that a class defines."""
    values = vars(definition).values() if inspect.isclass(definition) else [definition]
    for value in values:
        function = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))
        if inspect.isfunction(function):
            yield function


def _find(definition: Any) -> tuple[str, ast.Module, dict[str, Any]]:
    """Return the source of a class or function, its syntax tree, and its global names."""
    kind = ast.ClassDef if inspect.isclass(definition) else ast.FunctionDef
    for function in functions(definition):
        # inspect.getsource finds no class that was defined in a cell (Python 3.11).
        text = "".join(linecache.getlines(function.__code__.co_filename))
        for node in ast.parse(text).body if text else []:
            if (
                isinstance(node, kind)
                and node.name == definition.__name__
                and (
                    node.lineno <= function.__code__.co_firstlineno <= (node.end_lineno or 0)
                    or any(
                        each.lineno <= function.__code__.co_firstlineno
                        for each in node.decorator_list
                    )
                )
            ):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                lines = text.splitlines()[first - 1 : node.end_lineno]
                return "\n".join(lines), ast.Module([node], []), function.__globals__
    raise InputError(
        f"{definition.__name__}: its source is not to be had; expected a class with methods, "
        "defined at the top of a cell or file"
    )


def global_names(code: CodeType) -> Iterator[str]:
    """Yield the global names that a code object, or one inside it, reads."""
    stored = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_NAME"}
    for each in dis.get_instructions(code):
        if each.opname in ("LOAD_GLOBAL", "LOAD_NAME") and each.argval not in stored:
            yield str(each.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from global_names(constant)


def _is_constant(value: Any) -> bool:
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(_is_constant, value))
    if isinstance(value, dict):
        return all(_is_constant(key) and _is_constant(each) for key, each in value.items())
    return isinstance(value, CONSTANTS)


def module_source(definition: type) -> str:
    """Return the text of a module that defines the class again.

    What the class uses goes along: imports as imports, other classes and functions of the same
    module as their source, numbers and texts as they are now. Raises InputError, which names it,
    for anything else that it uses, such as a tensor that was made in another cell."""
    parts: dict[str, str] = {}  # in the order in which a module must have them
    begun: set[str] = set()

    def add(found: Any, owner: ModuleType | None, user: str) -> None:
        text, tree, scope = _find(found)
        for name in dict.fromkeys(global_names(compile(tree, "<source>", "exec"))):
            if (
                name in begun
                or (name not in scope and hasattr(builtins, name))
                or name.startswith("__")
            ):
                continue
            begun.add(name)
            if name not in scope:
                raise InputError(f"{user}: uses {name}, which is not defined")
            value = scope[name]
            module = sys.modules.get(getattr(value, "__module__", None) or "")
            called = getattr(value, "__name__", "")
            renamed = "" if called == name else f" as {name}"
            if inspect.ismodule(value):
                parts[name] = f"import {called}{renamed}"
            elif (
                module is not None
                and module is not owner
                and getattr(module, called, None) is value
            ):
                parts[name] = f"from {module.__name__} import {called}{renamed}"
            elif inspect.isclass(value) or inspect.isfunction(value):
                add(value, owner, name)
                if renamed:
                    parts[name] = f"{name} = {called}"
            elif _is_constant(value):
                parts[name] = f"{name} = {value!r}"
            else:
                raise InputError(
                    f"{user}: uses {name}, {type(value).__name__} from outside of it, which "
                    "another process does not have; define it inside the class"
                )
        parts[found.__name__] = text

    begun.add(definition.__name__)
    add(definition, sys.modules.get(definition.__module__), definition.__name__)
    imports = [text for text in parts.values() if text.startswith(("import ", "from "))]
    rest = [text for text in parts.values() if not text.startswith(("import ", "from "))]
    return "\n".join(imports) + "\n\n\n" + "\n\n\n".join(rest) + "\n"
