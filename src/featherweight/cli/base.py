"""What all commands share: the parser, the two streams, exit codes and error messages."""

import contextlib
import errno
import json
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from inspect import Parameter as Argument
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnusedCliTokensError,
)
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from .. import __version__
from .._extras import extra_for
from .._files import reason, visible
from .._openmp import cores as cores
from .._openmp import share_cores
from ..contract import CONTRACTS, load_contract
from ..errors import InputError
from ..recipe import RECIPES

if TYPE_CHECKING:
    from ..data import Split

# Exit codes. BROKEN: a contract does not hold, or an exported file differs from PyTorch.
DONE, BROKEN, USAGE, BUG, INTERRUPTED = 0, 1, 2, 70, 130
PIPE_WIDTH = 160  # columns of a table that is not printed on a terminal
DEFAULT_CONTRACT = "era-v3-s6"


def literal(text: str) -> Text:
    """Return a stranger's text as one line for a table: no markup, and line ends shown as such."""
    return Text(visible(text).replace("\n", "\\n").replace("\t", "\\t"))


class Stream(Console):
    """A console that does not fail when nobody reads its output.

    The reader of a pipe may be gone, as `head` soon is, or the stream may be closed. The rest of
    the output is then dropped, and the command ends with its usual exit code. A full disk under
    stdout stays an error."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich.console.Console.print` does."""
        with self._ignore_closed():
            super().print(*objects, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as `rich.console.Console.render` does, with control characters shown as such.

        A stranger's name may hold some, which a terminal would obey."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def write(self, text: str) -> None:
        """Write text unchanged: data for other programs."""
        if not self.quiet:
            with self._ignore_closed():
                self.file.write(text)
                self.file.flush()

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, which `print` ignores.

        Rich would exit with 1, which means here that a contract does not hold."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    @contextlib.contextmanager
    def _ignore_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.stderr and error.errno not in (errno.EPIPE, errno.EBADF):
                raise
            self.quiet = True
            # Otherwise Python would fail at exit, when it flushes what is still buffered.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _stdout_width() -> int | None:
    """Return the width of stdout; None lets rich find the width of the terminal.

    Tables in a pipe or a file are PIPE_WIDTH wide, unless COLUMNS says otherwise."""
    for name in ("COLUMNS", "LINES"):
        # Emacs and some CI systems set 0 if they do not know the size.
        value = os.environ.get(name, "")
        if not (value.isascii() and value.isdecimal() and value.strip("0")):
            os.environ.pop(name, None)
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return None if "COLUMNS" in os.environ or is_terminal else PIPE_WIDTH


stdout = Stream(highlight=False, emoji=False, soft_wrap=False, width=_stdout_width())
stderr = Stream(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def _show_default(value: object) -> str | None:
    return None if value is None or value is False else str(value)


app = App(
    name="featherweight",
    version=__version__,
    version_flags=["--version", "-V"],
    help_format="markdown",
    help="Train, prove and ship image classifiers that must fit a hard budget.",
    console=Stream(emoji=False),
    group_parameters=Group("Options"),
    # A flag has no opposite such as --no-json, and a list no --empty-tables.
    default_parameter=Parameter(negative=(), show_default=_show_default),
)


def load_mnist() -> "Split":
    """Load MNIST, split as the default contract says."""
    from ..splits import contract_split

    return contract_split(None, load_contract(DEFAULT_CONTRACT))


def print_json(values: Any) -> None:
    """Write values as JSON to stdout."""
    stdout.write(json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Give a function that shows on stderr what is being done.

    On a terminal all messages share one line, which disappears at the end; elsewhere each message
    is a line."""
    if not stderr.is_terminal:
        yield lambda text: stderr.print(text, markup=False)
        return
    with stderr.status("") as status:
        yield lambda text: status.update(Text(text))


def _open_streams() -> None:
    """Make stdin, stdout and stderr safe to use.

    A daemon or `>&-` may have closed one: it is opened on the null device. A character that a
    stream cannot encode is written as an escape sequence."""
    # In the order of their file descriptors, because `open` takes the lowest free one.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _print_error(message: str, hint: str) -> int:
    stderr.quiet = False
    if hint.startswith("featherweight "):
        hint = program() + hint.removeprefix("featherweight")
    stderr.print(f"error: {message}\nhint: {hint}", markup=False)
    return USAGE


@app.command(name="--install-completion")
def cmd_install_completion(
    *, shell: Literal["bash", "zsh", "fish", "powershell"] | None = None
) -> int:
    """Install completion of commands and options for your shell and exit.

    Parameters
    ----------
    shell
        Shell to install for (the one that runs this command).
    """
    from cyclopts.completion.detect import ShellDetectionError

    try:
        path = app.install_completion(shell=shell)
    except ShellDetectionError as error:
        raise InputError(
            "got no known shell, expected bash, zsh, fish or powershell",
            hint="featherweight --install-completion --shell bash",
        ) from error
    stdout.write(f"{path}: loaded by every new shell\n")
    return DONE


def _command_of(words: list[str]) -> str:
    """Return the command of a command line, or an empty string if it names none."""
    return words[0] if words and not words[0].startswith("-") and words[0] in app else ""


def _help_for(words: list[str]) -> str:
    """Return the command that shows the help for a command line."""
    return " ".join(["featherweight", *_command_of(words).split(), "--help"])


def _explain(error: CycloptsError, words: list[str]) -> tuple[str, str]:
    """Return what is wrong with a command line, and a hint."""
    hint = _help_for(words)
    if (
        isinstance(error, MissingArgumentError)
        and error.argument is not None
        and error.keyword is None
    ):
        return _explain_missing(error, _command_of(words)), hint
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return _explain_unused(error.unused_tokens[0], _command_of(words)), hint
    return reason(error), hint


def _explain_missing(error: MissingArgumentError, command: str) -> str:
    function = app[command].default_command
    assert function is not None
    assert error.argument is not None
    positional = [
        name.upper()
        for name, parameter in signature(function).parameters.items()
        if parameter.kind in (Argument.POSITIONAL_ONLY, Argument.VAR_POSITIONAL)
    ]
    name = error.argument.name
    usage = f"featherweight {' '.join([command, *positional])}"
    if name.startswith("-"):
        usage += f" {name} {'|'.join(error.argument.get_choices() or ())}"
    return f"got no {name}, expected: {usage}"


def _explain_unused(word: str, command: str) -> str:
    """Explain a word too many; it may be the value of an option whose name was left out."""
    values = {
        "--recipe": [recipe.name for recipe in RECIPES],
        "--contract": [contract.name for contract in CONTRACTS],
    }
    option = next(
        (option for option, names in values.items() if word in names),
        "--model" if ":" in word else "",
    )
    arguments = app[command].assemble_argument_collection()
    if option and any(option in argument.names for argument in arguments):
        return f"got {word}, expected an option before it: did you mean {option} {word}?"
    return f"got one word too many, {word}"


def _quote_path(path: str) -> str:
    """Return a path for the shell, relative if it is below the working directory."""
    short = os.path.relpath(path)
    return shlex.quote(path if short.startswith(os.pardir) else short)


def program() -> str:
    """Return how to start this command line, even if its environment is not activated."""
    found = shutil.which("featherweight")
    script = Path(sys.executable).parent / "featherweight"
    if found is not None and Path(found).parent == script.parent:
        return "featherweight"
    if script.is_file():
        return _quote_path(str(script))
    return f"{_quote_path(sys.executable)} -m featherweight"


@contextlib.contextmanager
def networks_apart() -> Iterator[None]:
    """Send to stderr what networks print, because stdout is for data.

    This includes the output of their C code and of the processes that they start."""
    kept = None
    # A stream may be closed, or not be a file.
    with contextlib.suppress(OSError, ValueError, AttributeError):
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
    """Run one command and exit.

    Wrong input is one line on stderr and a hint, with exit code 2. A bug is a traceback, with exit
    code 70."""
    share_cores()
    _open_streams()
    words = sys.argv[1:]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    code: int | None
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        code = _print_error(*_explain(error, words))
    except (InputError, OSError) as error:
        message, _, hint = reason(error).partition("hint: ")
        code = _print_error(message.rstrip("; "), hint or _help_for(words))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        extra = extra_for(error) if isinstance(error, ModuleNotFoundError) else None
        if extra is None:
            traceback.print_exc()
            code = BUG
        else:
            code = _print_error(
                f"this needs {getattr(error, 'name', '')}, which is not installed",
                f"{_quote_path(sys.executable)} -m pip install 'featherweight[{extra}]'",
            )
    sys.exit(code or DONE)
