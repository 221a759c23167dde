"""The CPU cores of this process, and how OpenMP's idle threads wait on them."""

import os


def cores() -> int:
    """Return the number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Let OpenMP's idle threads sleep soon. Call it before PyTorch is loaded, which asks once.

    By default GNU's threads spin a hundred times as long, and so take a core from the thread that
    they wait for when other programs are busy. Variables that the user has set stay as they are."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # GNU's, on Linux. Of 0 to 30,000 spins, 3,000 lost least time beside two busy processes
        # (feather-20k on two threads; docs/experiments.md, 2026-11-26).
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds: LLVM's, on macOS, and Intel's
