"""Several processes that serve one socket, and one that watches over them.

Example:
    run_workers(2, work, listening, print)      # `work(listening)` runs in each, until SIGTERM
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)
PAUSE_SECONDS = 1.0  # before a process that has died is replaced


def run_workers(
    n: int,
    work: Callable[[socket.socket], None],
    listening: socket.socket,
    say: Callable[[str], None],
) -> None:
    """Run a function in processes of their own until SIGINT or SIGTERM, which is then raised again.

    A process that is killed is replaced. One that fails by itself ends all.

    Args:
        n: Number of processes.
        work: What each runs: a function that can be pickled, which ends at SIGTERM.
        listening: Its argument, the socket that they share.
        say: Told in a line of each process that has died.
    """
    spawn = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    told: list[int] = []  # the signals that have come

    def end(number: int, _: FrameType | None) -> None:
        told.append(number)
        for each in processes:
            # Who asks twice does not want to wait for answers that are being made.
            each.kill() if len(told) > 1 else each.terminate()

    def start() -> None:
        process = spawn.Process(target=_run, args=(work, listening), daemon=True)
        process.start()
        processes.append(process)
        if told:  # meanwhile
            process.terminate()

    before = {number: signal.signal(number, end) for number in ENDING}
    try:
        for _ in range(n):
            start()
        while processes:
            gone = wait([each.sentinel for each in processes])
            for process in [each for each in processes if each.sentinel in gone]:
                process.join()
                processes.remove(process)
                if told:
                    continue
                code = process.exitcode or 0
                if code >= 0:
                    say(f"a server process failed with exit code {code}; the others are ended")
                    end(signal.SIGTERM, None)
                else:
                    say(f"a server process was killed by signal {-code}; another takes its place")
                    time.sleep(PAUSE_SECONDS)
                    start()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    signal.raise_signal(told[0])


def _run(work: Callable[[socket.socket], None], listening: socket.socket) -> None:
    """Run the work of one process; end it when the process that watches is gone."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C on a terminal goes to the process that watches, and not to this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(listening)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
