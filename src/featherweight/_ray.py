"""Connect to a Ray cluster (Moritz et al. 2018), and send folders to it. Imports no torch.

Example:
    with connected("local", cpus=2):
        ray.get(ray.remote(function).remote())
"""

import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from ._files import new_folder
from ._locks import hold, lock_beside
from .errors import InputError

# Bytes of a local cluster's object store: MNIST takes 45 MiB, and /dev/shm may be small.
OBJECT_STORE_BYTES = 200 * 2**20


@contextlib.contextmanager
def connected(address: str, cpus: int | None) -> Iterator[None]:
    """Connect to a Ray cluster inside the context, and disconnect after it.

    Args:
        address: `host:port` or `auto` for a running cluster, or `local` to start one that ends with
            the context. An existing connection of this process is used as it is.
        cpus: Number of CPUs of a local cluster. None: all of the machine's.

    Raises ConnectionError if there is no cluster at `address`.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options |= {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**options)
    except ValueError as error:  # an address that is none
        raise InputError(
            f"Ray address {address!r}: {str(error).splitlines()[0]}",
            hint="HOST:PORT, auto or local",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def pack(folder: Path) -> bytes:
    """Return a run folder as one tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, ".")
    return buffer.getvalue()


def _safe_member(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Refuse members that are unsafe to unpack, and leave permissions to the umask."""
    member = tarfile.data_filter(member, folder)
    member.mode = None  # type: ignore[assignment]  # the file keeps the mode it is created with
    return member


def unpack(content: bytes, folder: Path) -> None:
    """Write a packed run folder to `folder`, replacing an unfinished one.

    The folder appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = new_folder(folder.parent, ".new-")
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(temporary / "run", filter=_safe_member)
        with hold(lock_beside(folder)):
            if folder.exists():
                folder.rename(temporary / "old")
            (temporary / "run").rename(folder)
    finally:
        shutil.rmtree(temporary)
