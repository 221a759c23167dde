"""What every command shares: the parser, the two streams, exit codes, errors in one line."""

import contextlib
import errno
import json
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter as Argument
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError
from rich.console import Console

from .. import __version__
from .._files import reason
from .._openmp import share_cores
from ..contract import CONTRACTS
from ..errors import InputError
from ..recipe import RECIPES

# Packages that only some commands need, and the extra that brings each.
EXTRAS = {
    **dict.fromkeys(("torch", "safetensors", "scipy", "matplotlib", "filelock"), "train"),
    "onnx": "export",
    "onnxscript": "export",
    "fastapi": "serve",
    "fastapi_offline": "serve",
    "python_multipart": "serve",
    "uvicorn": "serve",
    "ray": "ray",
    "pyarrow": "ray",
    "optuna": "search",
}
DONE, BROKEN, USAGE, BUG, INTERRUPTED = 0, 1, 2, 70, 130


class Stream(Console):
    """A console whose reader may be gone, as `head` soon is, or never was there: what is left to say is dropped, and
    the command ends with its own exit code. A full disk below stdout stays an error."""

    def print(self, *objects: Any, **options: Any) -> None:
        with self._unheard():
            super().print(*objects, **options)

    def write(self, text: str) -> None:
        """Text as it is: data for other programs."""
        if not self.quiet:
            with self._unheard():
                self.file.write(text)
                self.file.flush()

    def on_broken_pipe(
        self,
    ) -> None:  # rich's ends the process with 1, which means that a contract does not hold
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    @contextmanager
    def _unheard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.stderr and error.errno not in (errno.EPIPE, errno.EBADF):
                raise
            self.quiet = True
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), self.file.fileno()
            )  # else what is left fails at the exit


def _width() -> int | None:
    """A table in a pipe or a file is as wide as it needs to be, unless COLUMNS says otherwise."""
    for name in ("COLUMNS", "LINES"):
        if not os.environ.get(name, "").lstrip(
            "0"
        ):  # Emacs and CI say 0 for a width that they don't know
            os.environ.pop(name, None)
    return (
        None if "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty()) else 160
    )


out = Stream(highlight=False, emoji=False, soft_wrap=False, width=_width())
talk = Stream(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def _show_default(value: object) -> str | None:
    return None if value is None or value is False else str(value)


# A flag has no opposite, a list no empty one.
app = App(
    name="featherweight",
    version=__version__,
    version_flags=["--version", "-V"],
    help_format="markdown",
    help="Train, prove and ship image classifiers that must fit a hard budget.",
    console=Stream(emoji=False),
    default_parameter=Parameter(negative=(), show_default=_show_default),
)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model_file(model: str) -> Path:
    """An exported file, or the one in a run folder. ValueError for a folder without one, and for a picture."""
    from ..inference.prepare import is_picture

    path, what = Path(model), "a picture"
    if path.is_dir():
        if (path / "model.onnx").is_file():
            return path / "model.onnx"
        if (path / "config.json").is_file():
            raise InputError(
                f"{model}: got no model.onnx in it; "
                f"hint: featherweight export {shlex.quote(model)} --format onnx"
            )
        if not any(is_picture(each) for each in path.iterdir() if each.is_file()):
            raise InputError(
                f"{model}: got neither a run folder nor an exported file, expected one of them"
            )
        what = "a folder of pictures"
    elif not is_picture(path):
        return path
    raise InputError(
        f"{model} is {what}: the model comes first; "
        f"hint: featherweight predict MODEL {shlex.quote(model)}"
    )


def print_json(values: Any) -> None:
    out.write(json.dumps(values, indent=2) + "\n")


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done: on a terminal in one line that goes in the end, elsewhere a line each."""
    if not talk.is_terminal:
        yield lambda text: talk.print(text, markup=False)
        return
    with talk.status("") as status:
        yield lambda text: status.update(text)


def _open_streams() -> None:
    """Something to read from and write to where a daemon or `>&-` has closed a stream; and no character that a
    stream has no bytes for ends a command."""
    for name, mode in (
        ("stdin", "r"),
        ("stdout", "w"),
        ("stderr", "w"),
    ):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _refuse(message: str, hint: str) -> int:
    talk.quiet = False
    if hint.startswith("featherweight "):
        hint = program() + hint.removeprefix("featherweight")
    talk.print(f"error: {message}\nhint: {hint}", markup=False)
    return USAGE


@app.command(name="--install-completion")
def install_completion(*, shell: Literal["bash", "zsh", "fish", "powershell"] | None = None) -> int:
    """Let the shell complete commands and options.

    Parameters
    ----------
    shell
        Another than the one that this runs in.
    """
    from cyclopts.completion.detect import ShellDetectionError

    try:
        path = app.install_completion(shell=shell)
    except ShellDetectionError as error:
        raise InputError(
            "got no known shell, expected bash, zsh, fish or powershell; "
            "hint: featherweight --install-completion --shell bash"
        ) from error
    out.write(f"{path}: loaded by every new shell\n")
    return DONE


def _command(words: list[str]) -> str:
    """The command that a command line names; an empty text where there is none."""
    return words[0] if words and not words[0].startswith("-") and words[0] in app else ""


def _help(words: list[str]) -> str:
    """What shows how a command line should be."""
    return " ".join(["featherweight", *_command(words).split(), "--help"])


def _explain(error: CycloptsError, words: list[str]) -> tuple[str, str]:
    """What is wrong with the words of a command line, and a hint."""
    command = _command(words)
    hint = _help(words)
    if (
        isinstance(error, MissingArgumentError)
        and error.argument is not None
        and error.keyword is None
    ):
        function = app[command].default_command
        assert function is not None
        names = [
            name.upper()
            for name, each in signature(function).parameters.items()
            if each.kind in (Argument.POSITIONAL_ONLY, Argument.VAR_POSITIONAL)
        ]
        name = error.argument.name
        return f"got no {name}, expected: featherweight {' '.join([command, *names])}" + (
            f" {name} {'|'.join(error.argument.get_choices() or ())}"
            if name.startswith("-")
            else ""
        ), hint
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        word = error.unused_tokens[0]
        known = {
            "--recipe": [recipe.name for recipe in RECIPES],
            "--contract": [each.name for each in CONTRACTS],
        }
        option = next(
            (option for option, names in known.items() if word in names),
            "--model" if ":" in word else "",
        )
        if option and any(
            option in argument.names for argument in app[command].assemble_argument_collection()
        ):
            return f"got {word}, expected an option before it: did you mean {option} {word}?", hint
        return f"got one word too many, {word}", hint
    return reason(error), hint


def _here(path: str) -> str:
    """A path as one types it in the working directory."""
    short = os.path.relpath(path)
    return shlex.quote(path if short.startswith(os.pardir) else short)


def program() -> str:
    """What starts this command line in this environment, whose folder a shell may not look in."""
    found = shutil.which("featherweight")
    script = Path(sys.executable).parent / "featherweight"
    if found is not None and Path(found).parent == script.parent:
        return "featherweight"
    return _here(str(script)) if script.is_file() else f"{_here(sys.executable)} -m featherweight"


@contextlib.contextmanager
def networks_apart() -> Iterator[None]:
    """While networks run: what they print goes to stderr, since stdout is for data. So does what their C code and
    their processes write."""
    kept = None
    with contextlib.suppress(
        OSError, ValueError, AttributeError
    ):  # stdout or stderr may be closed, or no file
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def main() -> None:
    """Run one command. What is wrong with the input is one line on stderr and exit code 2; a bug is a traceback and
    exit code 70."""
    share_cores()
    _open_streams()
    words = sys.argv[1:]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    code: int | None
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        code = _refuse(*_explain(error, words))
    except (InputError, OSError) as error:
        message, _, hint = reason(error).partition("hint: ")
        code = _refuse(message.rstrip("; "), hint or _help(words))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        extra = EXTRAS.get(missing.partition(".")[0])
        if extra is None:
            traceback.print_exc()
            code = BUG
        else:
            code = _refuse(
                f"this needs {missing}, which is not installed",
                f"{_here(sys.executable)} -m pip install 'featherweight[{extra}]'",
            )
    sys.exit(code or DONE)
