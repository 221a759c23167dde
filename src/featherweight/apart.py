"""Build and export a network in a process of its own: its author's code runs there alone.

    network = capture_apart("my_net.py:Net", {}, 10, [Pass(True), Pass(False)])     # an Exported

Importing a file runs it, so a network may do anything: end the process, never return, fill the
memory, print a verdict, change files. The process has limits of time, memory, files and processes,
no stdin, and its prints are dropped. Where Linux allows it, it has no network, sees no other
process, and can write no file. All that comes back is a graph, which holds no code.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ._files import meant_file, nameless_file, visible
from .errors import AS_SCRIPT, InputError, NoGraphError
from .passes import Pass

if TYPE_CHECKING:
    from .exported import Exported

CPU_SECONDS = 120  # that building and exporting may take
SECONDS = 300  # the same by the clock, on a busy machine
MAX_LINE = 1000  # characters of an error's text that are shown
MAX_BYTES = 4 * 2**30  # of memory; a file may have a sixteenth
# The first byte of a result, after that of _confine.py: a graph, wrong input, or a bug.
GRAPH, WRONG, BUG = b"g", b"e", b"t"


@dataclass(frozen=True)
class _Begun:
    """A process that builds and exports a network."""

    path: str
    "The network."
    process: "subprocess.Popen[bytes]"
    result: int
    "An open file without a name, for what comes back."

    def finish(self) -> "Exported":
        """Wait for the network. Raises InputError where its code fails, and says how."""
        from .exported import load_exported

        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise self._wrong(f"takes more than {SECONDS} s to be built and exported") from None
        content = read_result(self.result)
        graph = open_result(self.path, content[1:], ending(code, CPU_SECONDS))
        try:
            network = load_exported(graph)
        except ValueError as error:
            raise self._wrong(f"came back as something else than a graph: {error}") from error
        network.confined = content[:1] == b"n"
        return network

    def _wrong(self, what: str) -> InputError:
        return _wrong(self.path, what)

    def end(self) -> None:
        """End the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.result)


def _wrong(path: str, what: str, hint: str | None = None) -> InputError:
    return InputError(f"model {path!r}: {what}, expected a network that can be exported", hint=hint)


def ending(code: int, cpu_seconds: int) -> tuple[str, str | None]:
    """Describe how a process with a limit of CPU time ended without a result, by its exit code.

    Returns the words, and a hint if there is one."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        what = f"was ended: it needs more than {cpu_seconds} s of CPU time, or was killed"
        return what, "leave training, downloads and endless loops out of the file and the class"
    if code < 0:
        return f"its code was ended by {signal.Signals(-code).name}", None
    return f"its code ends the process with exit code {code}", AS_SCRIPT


def read_result(result: int) -> bytes:
    """Return what a process apart has written into an open file; nothing if it is too much."""
    size = os.fstat(result).st_size
    return os.pread(result, size, 0) if size <= MAX_BYTES // 16 else b""


def open_result(path: str, content: bytes, ended: tuple[str, str | None]) -> bytes:
    """Return the graph, as bytes, in what the process apart has written with `write_result`.

    Args:
        path: The network.
        content: The result.
        ended: How the process has ended, if there is no result, and a hint.

    Raises InputError where the network's code failed, RuntimeError where this package's did."""
    kind, rest = content[:1], content[1:]
    if kind == GRAPH:
        return rest
    if kind == BUG:
        raise RuntimeError(visible(rest.decode(errors="replace")))
    if kind != WRONG:
        raise _wrong(path, *ended)
    try:
        values = json.loads(rest)
        message, hint = _line(values["message"]), values["hint"] and _line(values["hint"])
        kind_of_error = NoGraphError if values["no_graph"] else InputError
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _wrong(path, f"came back as something else than a graph: {error}") from error
    raise kind_of_error(message, hint)


def _line(text: object) -> str:
    """Return a text of another process as one short line, without control characters."""
    return " ".join(visible(str(text)).split())[:MAX_LINE]


def is_network(target: str) -> bool:
    """Return whether a text names a network, MODULE:CLASS or FILE.py, and not a run folder."""
    return not Path(target).is_dir() and (
        ":" in target
        or target.casefold().endswith((".py", ".ipynb"))
        or meant_file(target) is not None
    )


_begun: dict[str, _Begun] = {}  # by their requests


def begin_capture(
    path: str,
    arguments: Mapping[str, Any],
    num_classes: int,
    passes: Sequence[Pass],
    seed: int = 0,
) -> None:
    """Begin what `capture_apart` with the same arguments waits for.

    A command does so before it imports PyTorch itself, which takes as long."""
    request = _request(path, arguments, num_classes, passes, seed)
    if request not in _begun:
        _begun[request] = _start(path, request)


def capture_apart(
    path: str,
    arguments: Mapping[str, Any],
    num_classes: int,
    passes: Sequence[Pass],
    seed: int = 0,
) -> "Exported":
    """Build a network in a process of its own, and return it as graphs.

    Args:
        path: MODULE:CLASS, FILE.py:CLASS or FILE.py.
        arguments: Keyword arguments of the constructor.
        num_classes: Number of classes, passed to the constructor if it has such a parameter.
        passes: The passes to keep, as for `capture.capture`.
        seed: Seed of the initial weights, as in a training.

    Raises NoGraphError where it can't be exported, and InputError where its code fails, ends the
    process or exceeds a limit.
    """
    request = _request(path, arguments, num_classes, passes, seed)
    begun = _begun.pop(request, None) or _start(path, request)
    try:
        return begun.finish()
    finally:
        begun.end()


def _request(
    path: str,
    arguments: Mapping[str, Any],
    num_classes: int,
    passes: Sequence[Pass],
    seed: int,
) -> str:
    values = [path, dict(arguments), num_classes, [asdict(each) for each in passes], seed]
    return json.dumps(values)


def _start(path: str, request: str) -> _Begun:
    with nameless_file() as file:
        result = os.dup(file)
    code = f"import sys; sys.path[:] = {sys.path!r}; from featherweight.apart import work; work()"
    command = [sys.executable, "-W", "ignore", "-c", code, str(result), request]
    if os.name == "posix":
        confine = [sys.executable, "-I", "-S", str(Path(__file__).with_name("_confine.py"))]
        command = [*confine, str(result), str(CPU_SECONDS), str(MAX_BYTES), *command]
    process = subprocess.Popen(
        command,
        # One thread is faster for work this small, and a GPU is not needed.
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(result,),
        start_new_session=True,
    )
    return _Begun(path, process, result)


@atexit.register
def end_captures() -> None:
    """End the processes that were begun and that nothing waits for."""
    for begun in _begun.values():
        begun.end()


def _wrong_result(message: str, hint: str | None, *, no_graph: bool = False) -> bytes:
    return WRONG + json.dumps({"message": message, "hint": hint, "no_graph": no_graph}).encode()


def work() -> None:
    """Build and export the network of the request on the command line, in the process apart."""
    result, request = int(sys.argv[1]), json.loads(sys.argv[2])
    write_result(result, request[0], lambda: _capture(*request))


def write_result(result: int, path: str, make: Callable[[], bytes]) -> NoReturn:
    """Write the graph that `make` returns, or what it raises, into an open file; end the process.

    `path` is what messages call the network. A process that its code has forked writes nothing."""
    owner = os.getpid()
    try:
        content = GRAPH + make()
    except InputError as error:
        no_graph = isinstance(error, NoGraphError)
        content = _wrong_result(error.message, error.hint, no_graph=no_graph)
    except Exception:
        content = BUG + traceback.format_exc().encode()
    except BaseException as error:  # KeyboardInterrupt, or one of the network's own
        from .locate import reason

        content = _wrong_result(f"model {path!r}: can't be built: {reason(error)}", None)
    if os.getpid() != owner:
        os._exit(1)
    while content:
        content = content[os.write(result, content) :]
    os._exit(0)  # threads and exit handlers of the network's are not waited for


def _capture(
    path: str,
    arguments: dict[str, Any],
    num_classes: int,
    passes: list[dict[str, Any]],
    seed: int,
) -> bytes:
    import torch

    from .build import build
    from .capture import capture

    torch.set_num_threads(1)
    kept = [Pass(each["training"], tuple(each["shape"]), tuple(each["sizes"])) for each in passes]
    model = build(path, arguments, num_classes, kept[0].shape, seed)
    return capture(model, kept).to_bytes()
