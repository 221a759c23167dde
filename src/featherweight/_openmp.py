"""How OpenMP's idle threads wait, which must be said before PyTorch is loaded."""

import os


def share_cores() -> None:
    """Let OpenMP's idle threads sleep soon. Call it before PyTorch is loaded, which asks once.

    By default GNU's threads spin a hundred times as long, and so take a core from the thread that
    they wait for when other programs are busy. Variables that the user has set stay as they are."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # GNU's, on Linux. Chosen by `featherweight bench load`: 3,000 spins keep the speed of an
        # idle machine, and beside two busy processes take half of what 10,000 spins take.
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds: LLVM's, on macOS, and Intel's
