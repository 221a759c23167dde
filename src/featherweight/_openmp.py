"""How OpenMP's idle threads wait, which must be said before PyTorch is loaded."""

import os


def share_cores() -> None:
    """Let OpenMP's idle threads sleep soon. Call it before PyTorch is loaded, which asks once.

    By default GNU's threads spin a hundred times as long, and so take a core from the thread that
    they wait for when other programs are busy. Variables that the user has set stay as they are."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # GNU's, on Linux. Of 0 to 30,000 spins, 3,000 lost least time beside two busy processes
        # (feather-20k on two threads; docs/experiments.md, 2026-11-26).
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds: LLVM's, on macOS, and Intel's
