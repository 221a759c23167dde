"""A fork server: it has imported PyTorch once, and forks a confined process for each network.

    server = start_forks()                    # before anything secret or large is loaded
    found = server.export(request)            # an Export: its graphs, or why there are none

To import PyTorch and what `torch.export` needs takes some seconds of CPU time, a fork a few
hundredths. The server runs none of a student's code and its memory is no child's: what a network
changes, in PyTorch too, is gone with its process. The server has one thread, so that a fork is
safe, and holds no images, so that no network finds labels in its memory.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._confine import PR_SET_PDEATHSIG, call, confine
from .._files import nameless_file
from ..apart import MAX_BYTES, ending, open_result, read_result, write_result
from ..errors import InputError
from ..exported import Exported, load_exported

IMPORT_SECONDS = 15  # of CPU time that reading a file may take, before a network is built
CPU_SECONDS = 45  # of all that a student's code does
IDLE_SECONDS = 30  # by the clock, that reading a file may take
SECONDS = 180  # by the clock, of all
LATE = "leave waiting out of it, or grade it again when the machine is less busy"
IMPORTED = b"i"  # the byte of a result that says that the file has been read
Make = Callable[[dict[str, Any], Callable[[], None]], bytes]
"What makes the result of a request, in a child; it calls its function when the file is read."
RESULT = 3  # the confined process's open file for what comes back


@dataclass
class Export:
    """What came back from a confined process."""

    networks: list[tuple[str, str, Exported]] = field(default_factory=list)
    "Class, how it was chosen, and graphs."
    skipped: dict[str, str] = field(default_factory=dict)
    "Names that the file sets and that are missing, because their statement did not run, and why."
    problem: InputError | None = None
    "Why there is no network."
    again: Exported | None = None
    "The first of them, built with another seed."
    imported: bool = False
    "Whether the file could be read."
    untrained: InputError | None = None
    "Why it can't be trained, where it can be judged otherwise."
    not_imported: str = ""
    "Why it was not imported as a whole, where it was tried and only what it defines was run."
    late: bool = False
    "Whether it was ended by the clock, which goes on while the machine does other things."


class Forks:
    """The fork server, from outside."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid, self._connection = pid, connection

    def export(self, request: dict[str, Any]) -> Export:
        """Export the network of a request in a confined process.

        `request` holds what `networks.export` takes. Raises ChildProcessError if the server has
        ended, and RuntimeError where this package fails."""
        with nameless_file() as result:
            message = json.dumps(request).encode() + b"\n"
            socket.send_fds(self._connection, [message], [result])
            child = int(self._line())
            late = self._watch(child, result)
            code = os.waitstatus_to_exitcode(int(self._line()))
            content = read_result(result)
        confined, rest = content[:1] == b"n", content[1:]
        imported = rest[:1] == IMPORTED
        found = Export(imported=imported, late=bool(late))
        limit = CPU_SECONDS if imported else IMPORT_SECONDS
        title = os.path.basename(request["file"])
        try:
            ended = (late, LATE) if late else ending(code, limit)
            graphs = open_result(title, rest[len(IMPORTED) :] if imported else rest, ended)
            _read(graphs, title, confined, found)
        except InputError as error:
            what = error.message.replace(request["file"], title).replace(f"model '{title}'", title)
            found.problem = InputError(what, error.hint)
        return found

    def _watch(self, child: int, result: int) -> str:
        """Wait until a child has ended, or end it when it is late; return how, if so."""
        started, late = time.monotonic(), ""
        while not select.select([self._connection], [], [], 0.2)[0]:
            seconds = time.monotonic() - started
            idle = seconds > IDLE_SECONDS and os.pread(result, 2, 0)[1:] != IMPORTED
            if idle or seconds > SECONDS:
                late = f"takes more than {IDLE_SECONDS if idle else SECONDS} s"
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                break
        return late

    def _line(self) -> str:
        """Return the next line of the server."""
        line = b""
        while not line.endswith(b"\n"):
            byte = self._connection.recv(1)
            if not byte:
                raise ChildProcessError("the process that starts the networks' was ended")
            line += byte
        return line.decode()


def _read(content: bytes, title: str, confined: bool, found: Export) -> None:
    """Add the graphs that `networks.export` has written to what was found."""
    try:
        length = int.from_bytes(content[:4], "little")
        header = json.loads(content[4 : 4 + length])
        start = 4 + length
        for each in header["networks"]:
            network = load_exported(content[start : start + each["length"]])
            network.confined = confined
            found.networks.append((str(each["class"]), str(each["chosen"]), network))
            start += each["length"]
        found.skipped = {str(name): str(why) for name, why in header["skipped"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{title}: came back as something else than a graph: {error}, expected a network that "
            "can be exported"
        ) from error


def start_forks() -> Forks:
    """Fork the server from this process, which has imported what it shall have.

    Raises RuntimeError if this process has several threads."""
    from .networks import export  # here, before a child runs

    here, there = socket.socketpair()
    pid = fork()
    if pid == 0:
        here.close()
        _serve(there, export)
    there.close()
    return Forks(pid, here)


def fork() -> int:
    """Fork this process; the child ends with it. Return 0 in the child."""
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if threads > 1:
        raise RuntimeError(f"got {threads} threads in a process that forks, expected one")
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError, AttributeError):  # not Linux
            call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    return pid


def _serve(connection: socket.socket, make: Make) -> None:
    """Fork a child for each request, and tell its process id and then how it has ended."""
    # Above all the judging process's connection, which would else stay open when that has ended.
    os.closerange(3, connection.fileno())
    os.closerange(connection.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    gc.collect()
    gc.freeze()  # what is here already is not touched by a child's collector
    while True:
        message, files, _, _ = socket.recv_fds(connection, 2**16, 1)
        if not message:
            os._exit(0)
        while not message.endswith(b"\n"):
            message += connection.recv(2**16)
        child = fork()
        if child == 0:
            _run(json.loads(message), files[0], make)
        os.close(files[0])
        connection.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{status}\n".encode())


def _run(request: dict[str, Any], result: int, make: Make) -> None:
    """Export a network in this process, after it has left all that it could do harm with."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.dup2(result, RESULT)
    os.closerange(RESULT + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    confine(RESULT, CPU_SECONDS, MAX_BYTES)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(IMPORT_SECONDS, hard), hard))

    def imported() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
        os.write(RESULT, IMPORTED)

    write_result(RESULT, os.path.basename(request["file"]), lambda: make(request, imported))
