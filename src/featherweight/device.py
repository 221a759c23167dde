"""Device, CPU threads and random seeds of a process.

Example:
    device = pick_device("auto")
    generator = seed_everything(seed=0, epoch=-1)
    with cpu_threads(2): ...
"""

import contextlib
import ctypes
import os
import random
from collections.abc import Iterator

import numpy as np
import torch
from numpy.random import SeedSequence  # loads numpy.random now; later an interrupt might be lost

from .errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of GNU's malloc.h
# GPU memory to have free for one training: 20 at a time took 0.8 GB each on an H200 in batches of
# 64 and 128 images, most of it for CUDA itself; larger batches and networks take more.
TRAINING_BYTES = 2 * 2**30


def pick_device(name: str) -> torch.device:
    """Return the device for `cpu`, `cuda`, `cuda:N`, `mps` or `auto`.

    `auto` is CUDA if available, else Apple's GPU (mps), else the CPU. The same seed gives different
    bits on another kind of device. Raises InputError if the device can't be used.
    """
    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, available in usable.items() if available))
    kind, _, number = name.partition(":")
    if kind not in usable or (number and not number.isdecimal()):
        raise InputError(f"device {name!r}: expected cpu, cuda, mps or auto")
    if not usable[kind]:
        raise InputError(
            f"device {name!r}: PyTorch finds no {'CUDA' if kind == 'cuda' else 'Apple'} GPU here, "
            "expected cpu or auto"
        )
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r}: {str(error).splitlines()[0]}") from error


def trainings_at_a_time(device: torch.device, n_cores: int) -> int:
    """Return how many processes may train on a device side by side, at least 1.

    It is one for each core, as far as the free memory of a CUDA GPU goes.
    """
    if device.type != "cuda":
        return n_cores
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(n_cores, free // TRAINING_BYTES))


@contextlib.contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Let PyTorch use `number` CPU threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let this process keep up to 256 MB that it has freed, where its C library is GNU's.

    A training step frees and asks for the same megabytes again. If they went back to the system
    each time, it would have to clear their pages anew: a fifth of the step's time."""
    if os.name == "posix" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        library.mallopt(M_TRIM_THRESHOLD, 256 * 2**20)


def seed_everything(seed: int, epoch: int) -> torch.Generator:
    """Seed torch, numpy and random for one epoch; epoch -1 is for the initial weights.

    Returns a separate CPU generator for the order of the images and for augmentation. Dropout draws
    from torch's global generator.
    """
    state = int(SeedSequence([seed, epoch + 1]).generate_state(1, np.uint64)[0])
    torch.manual_seed(state)
    random.seed(state)
    np.random.seed(state % 2**32)
    return torch.Generator().manual_seed(state ^ 1)


def seed_ghost(state: int, device: torch.device) -> None:
    """Seed torch, numpy and random for one ghost batch, with any whole number from 0."""
    if device.type == "cpu":
        # torch.manual_seed also keeps the call stack for a GPU that may be used later: 0.6 ms.
        torch.default_generator.manual_seed(state % 2**64)
    else:
        torch.manual_seed(state % 2**64)
    random.seed(state)
    np.random.seed(state % 2**32)
