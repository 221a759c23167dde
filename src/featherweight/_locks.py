"""Locks between processes, each with a file that stays when the lock is released.

Example:
    with hold("rows.csv.lock"): ...                 # waits for whoever holds it
    with hold("rows.csv.lock", seconds=0): ...      # raises filelock.Timeout at once
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ._files import reason
from .errors import InputError


def lock_beside(folder: Path) -> Path:
    """Return the lock file of a folder that several processes make and replace.

    It is hidden, so that `runs/*` in a shell names run folders alone."""
    return folder.with_name(f".{folder.name}.lock")


@contextlib.contextmanager
def hold(path: str | Path, seconds: float = -1, *, again: bool = False) -> Iterator[None]:
    """Hold a lock, which ends with the process, however that ends.

    Args:
        path: Its file, which is made if there is none.
        seconds: How long to wait for another process that holds it; -1 is for ever.
        again: Let the same thread take it a second time.

    Raises filelock.Timeout where it is held, InputError where the file system has no locks, and
    OSError where the file can't be made.
    """
    lock = FileLock(path, is_singleton=again)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if getattr(error, "filename", None) is not None:
            raise
        raise InputError(
            f"{path}: got no lock on this file: {reason(error)}; expected a file system with locks",
            hint="a network file system may have none: use a folder of a local disk, with --out "
            "for a run, with --runs and --results for a study",
        ) from error
    try:
        yield
    finally:
        lock.release()
