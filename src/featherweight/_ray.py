"""In and out of a Ray cluster (Moritz et al. 2018); imports no torch.

with connected("local", cpus=2):
    ray.get(ray.remote(function).remote())
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import ray

OBJECT_STORE = (
    200 * 2**20
)  # bytes, of a cluster started here: MNIST is 45 MiB, and /dev/shm may be small


@contextlib.contextmanager
def connected(address: str, cpus: int | None) -> Iterator[None]:
    """In a Ray cluster: one at `address` (host:port, or auto), or for `local` one of `cpus` started for this alone.

    Raises ConnectionError where there is none."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it must not phone home
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        options |= {
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()
