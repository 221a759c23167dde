"""Worker processes on this machine that train together in shared memory.

    with start_workers(run, split, n=2) as group:
        train(run, split, torch.device("cpu"), group=group)

This process is the first worker; the others are new Python processes that run nothing but `work`.
New and not forked, because a fork of a process with threads, of a notebook for example, may hang,
and without multiprocessing, which would run the user's script again in each.

The processes meet by messages on sockets, on which they sleep: nothing spins. The end of a process
closes its socket, so the others notice at once, and none outlives the main one. The shared memory
has no name, so nothing has to be removed.
"""

import contextlib
import os
import pickle
import shlex
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from mmap import ALLOCATIONGRANULARITY, mmap
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch
from torch import Tensor

from ._files import nameless_file
from ._openmp import cores
from .data import Images, Split
from .distributed import SINGLE_PROCESS, Group
from .errors import InputError
from .recipe import Recipe
from .run import Run
from .train import train

T = TypeVar("T")
END_SECONDS = 5  # that a worker may take to end once its connection has
_SIGNALS = {number.value: number.name for number in signal.Signals}
READY = b""  # a worker's message when it meets the others; any other one is its exception


class MainEndedError(Exception):
    """The main process has ended, so a worker ends too."""


@dataclass
class _Memory:
    """Memory that several processes share: each reserves the same pieces in the same order.

    Between two pieces the processes meet, so that none makes the file shorter than another needs.
    """

    descriptor: int
    "An open file without a name."
    used: int = 0
    "Bytes reserved so far."

    def reserve(self, n_bytes: int) -> Tensor:
        """Return the next bytes, zeros until a process writes them."""
        size = -(-max(n_bytes, 1) // ALLOCATIONGRANULARITY) * ALLOCATIONGRANULARITY
        if os.fstat(self.descriptor).st_size < self.used + size:
            os.ftruncate(self.descriptor, self.used + size)
        piece = torch.frombuffer(mmap(self.descriptor, size, offset=self.used), dtype=torch.uint8)
        self.used += size
        return piece[:n_bytes]

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return the next bytes as a tensor."""
        n_bytes = torch.Size(shape).numel() * dtype.itemsize
        return self.reserve(n_bytes).view(dtype).view(*shape)


@dataclass(frozen=True)
class LocalGroup(Group):
    """Processes on this machine with shared memory."""

    shared: _Memory = field(kw_only=True)
    connections: list[Connection] = field(kw_only=True)
    "To each of the others from the main process, to the main process from each of them."
    processes: list["subprocess.Popen[bytes]"] = field(kw_only=True)
    "The other processes, in the main process."

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process."""
        if not self.is_main:
            return pickle.loads(_from_main(self.connections[0]))  # type: ignore[no-any-return]
        message = pickle.dumps(value)
        for number in range(len(self.connections)):
            self._send(number, message)
        return value

    def memory(self, n_bytes: int, device: torch.device) -> Tensor:
        """Return zeros, shape (n_bytes,), dtype uint8, which all processes share."""
        return self.shared.reserve(n_bytes)

    def meet(self, slots: Sequence[Tensor]) -> None:
        """Wait until every process has come here. Raises what another process has raised.

        Raises ChildProcessError in the main process if another one has ended, and MainEndedError in
        the others if the main one has."""
        if not self.is_main:
            try:
                self.connections[0].send_bytes(READY)
            except ConnectionError as error:
                raise MainEndedError from error
            _from_main(self.connections[0])
            return
        for number in range(len(self.connections)):
            self._receive(number)
        for number in range(len(self.connections)):
            self._send(number, READY)

    def _receive(self, number: int) -> None:
        """Wait for a worker's message; raise the exception that it holds."""
        try:
            message = self.connections[number].recv_bytes()
        except (EOFError, ConnectionError):
            self._raise_ended(number)
        if message != READY:
            raise _load_error(message, f"worker {number + 2} of {self.size}")

    def _send(self, number: int, message: bytes) -> None:
        try:
            self.connections[number].send_bytes(message)
        except ConnectionError:
            self._receive(number)  # it may have said why it ended
            self._raise_ended(number)

    def _raise_ended(self, number: int) -> None:
        process = self.processes[number]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        code = process.poll()
        how = "without an exit code yet" if code is None else f"with exit code {code}"
        if code is not None and code < 0:
            how = f"by {_SIGNALS.get(-code, f'signal {-code}')}"
            how += ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        raise ChildProcessError(f"worker {number + 2} of {self.size} was ended {how}")


def _from_main(connection: Connection) -> bytes:
    """Wait for the main process's message. Raises MainEndedError if it has ended."""
    try:
        return connection.recv_bytes()
    except (EOFError, ConnectionError) as error:
        raise MainEndedError from error


def choose_workers(n: int | None, recipe: Recipe, device: torch.device) -> int:
    """Return how many processes train a recipe: n, or by default as many as there are cores.

    A ghost batch is computed by one process, so there are at most as many. Raises InputError if n
    is another number."""
    most = recipe.n_ghosts if device.type == "cpu" and os.name == "posix" else 1
    if n is None:
        return min(most, cores())
    if not 1 <= n <= most:
        why = f"{recipe.n_ghosts} ghost batches in a step of {recipe.name}"
        if os.name != "posix":
            why = "this system has no workers"
        elif recipe.n_ghosts == 1:
            why = f"{recipe.name} does not split a step into ghost batches"
        elif most == 1:
            why = f"workers share the CPU's cores, and the device is {device}"
        raise InputError(f"workers: got {n}, expected 1{f' to {most}' if most > 1 else ''}: {why}")
    return n


@contextlib.contextmanager
def start_workers(run: Run, split: Split, n: int) -> Iterator[Group]:
    """Start n - 1 processes that train a run together with this one, and end them afterwards."""
    if n == 1:
        yield SINGLE_PROCESS
        return
    with contextlib.ExitStack() as stack:
        descriptor = stack.enter_context(nameless_file())
        memory = _Memory(descriptor)
        parts = [
            tensor
            for images in (split.train, split.val)
            for tensor in (images.pixels, images.labels)
        ]
        for tensor in parts:
            memory.tensor(tensor.shape, tensor.dtype).copy_(tensor)
        group = LocalGroup(0, n, shared=memory, connections=[], processes=[])
        try:
            for rank in range(1, n):
                here, there = socket.socketpair()
                group.connections.append(stack.enter_context(Connection(here.detach())))
                with there:
                    process = _start(there.fileno(), descriptor)
                stack.callback(_end, process)
                group.processes.append(process)
                group._send(
                    rank - 1,
                    pickle.dumps(
                        (
                            LocalGroup(
                                rank, n, shared=_Memory(descriptor), connections=[], processes=[]
                            ),
                            run,
                            [(tensor.shape, tensor.dtype) for tensor in parts],
                            (split.source, split.num_classes, split.mean_std),
                        )
                    ),
                )
            yield group
        except ChildProcessError as error:
            command = f"featherweight train --resume {shlex.quote(str(run.path))}"
            raise ChildProcessError(f"{error}; hint: {command}") from None


def _start(connection: int, memory: int) -> "subprocess.Popen[bytes]":
    """Start a worker process with two open files."""
    # Its imports find what this process finds. What its network prints, this one prints too.
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from featherweight.workers import work; "
        f"work({connection})"
    )
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(connection, memory),
        process_group=0,  # Ctrl-C in a terminal is for the main process
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def work(descriptor: int) -> None:
    """Train as one of the processes of a group, until the training or the main process ends."""
    torch.set_num_threads(1)
    connection = Connection(descriptor)
    try:
        group, run, layout, (source, num_classes, mean_std) = pickle.loads(_from_main(connection))
        group.connections.append(connection)
        tensors = [group.shared.tensor(shape, dtype) for shape, dtype in layout]
        split = Split(source, Images(*tensors[:2]), Images(*tensors[2:]), num_classes)
        split.__dict__["mean_std"] = mean_std  # it takes a while to compute
        train(run, split, torch.device("cpu"), group=group)
    except MainEndedError:
        return
    except BaseException as error:
        with contextlib.suppress(ConnectionError):
            connection.send_bytes(_dump_error(error))


def _dump_error(error: BaseException) -> bytes:
    """Return an exception as a message, with its traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        kept: Any = pickle.dumps(error)
    except Exception:  # an exception of the user's may hold anything
        kept = None
    return pickle.dumps((kept, text))


def _load_error(message: bytes, where: str) -> BaseException:
    """Return the exception of a message."""
    kept, text = pickle.loads(message)
    error: object = None
    with contextlib.suppress(Exception):  # it may be impossible to make again
        error = pickle.loads(kept)
    if not isinstance(error, Exception):
        error = RuntimeError(text)
    error.add_note(f"in {where}:\n{text}")
    return error
