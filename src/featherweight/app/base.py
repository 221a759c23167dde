"""What every command shares: the parser, the two streams, exit codes, errors in one line."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError
from rich.console import Console

from .. import __version__

app = App(name="featherweight", version=__version__, help_format="plaintext",
          help="Train, prove and ship image classifiers that must fit a hard budget.")
# A table in a pipe or a file is as wide as it needs to be, unless COLUMNS says otherwise.
out = Console(highlight=False, soft_wrap=False,
              width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
talk = Console(stderr=True, highlight=False, soft_wrap=True)

# Packages that only some commands need, and the extra that brings each.
EXTRAS = {"onnx": "export", "onnxscript": "export", "onnxruntime": "serve", "PIL": "serve", "fastapi": "serve",
          "fastapi_offline": "serve", "uvicorn": "serve", "ray": "ray", "pyarrow": "ray", "optuna": "search"}
DONE, BROKEN, USAGE, INTERRUPTED = 0, 1, 2, 130


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model_file(model: str) -> Path:
    """An exported file, or the one in a run folder."""
    path = Path(model)
    if path.is_dir():
        path /= "model.onnx"
        if not path.is_file():
            raise ValueError(f"{model}: got no model.onnx in it; hint: featherweight export {model} --format onnx")
    return path


def print_json(values: Any) -> None:
    out.print(json.dumps(values, indent=2), markup=False, soft_wrap=True)


def share_cores() -> None:
    """Let OpenMP's idle threads sleep soon; call this before torch is loaded, whose OpenMP reads it once.

    By default they spin, 25 times as long as here, and so take a core from the thread they wait for when other
    programs are busy. Variables that the user has set stay as they are."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # GNU's, on Linux: chosen by `featherweight bench load`
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds: LLVM's, on macOS, and Intel's


def main() -> None:
    """Run one command; what is wrong with the input is one line on stderr and exit code 2."""
    share_cores()
    try:
        code = app(exit_on_error=False, print_error=False, result_action="return_value")
    except (ValueError, OSError, CycloptsError) as error:
        message = " ".join(str(error).split())
        message, _, hint = message.partition("hint: ")
        talk.quiet = False
        talk.print(f"error: {message.rstrip('; ')}", markup=False)
        talk.print(f"hint: {hint or 'featherweight --help'}", markup=False)
        code = USAGE
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        talk.print(f"error: this needs {error.name}, which is not installed\n"
                   f"hint: pip install 'featherweight[{extra}]'", markup=False)
        code = USAGE
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code or DONE)
