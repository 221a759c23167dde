"""The run folder: everything about one training, each file whole or absent.

run = create_run(None, recipe, contract, split, seed=0, device="cpu", command="featherweight train")
run = open_run("runs/feather-20k-s0-1")
model = run.load_model(split.num_classes)
"""

import contextlib
import io
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ._files import new_folder, reason
from ._files import write_atomic as write_atomic
from .build import build
from .contract import Contract
from .data import Split, load_split
from .errors import InputError
from .recipe import Recipe
from .weights import load_weights

FORMAT = 1  # of the folder; another one is refused
Row = dict[str, Any]


class IncompatibleWeights(ValueError):
    """The weights file does not hold this network's weights."""


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _git_commit() -> str | None:
    """Of the checkout that this code stands in, with a + where it was changed; None outside of one."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words],
            check=True,
            text=True,
            capture_output=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(device: torch.device, command: str, threads: int) -> dict[str, Any]:
    """Versions, hardware, threads of a training step and commit: what one must know to make the same bits again."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux names the model only here
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu
        )
    return {
        "featherweight": version("featherweight"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "system": platform.platform(),
        "cpu": cpu,
        "threads": threads,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "commit": _git_commit(),
        "command": command,
    }


@dataclass(frozen=True)
class Run:
    """A run folder and what its config.json says."""

    path: Path
    config: dict[str, Any]

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.from_dict(self.config["recipe"])

    @cached_property
    def contract(self) -> Contract:
        return Contract.from_dict(self.config["contract"])

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What `environment` found when the run was made."""
        values: dict[str, Any] = json.loads(
            (self.path / "environment.json").read_text(encoding="utf-8")
        )
        return values

    @property
    def complete(self) -> bool:
        return (self.path / "model.safetensors").is_file()

    def load_split(self, source: str | None = None) -> Split:
        """The images this run was trained on, from `source` if they have moved; the hash must be the same."""
        data = self.config["data"]
        split = load_split(source or data["source"], data["n_train"], data["n_val"])
        if split.sha256 != data["sha256"]:
            raise InputError(
                f"{split.source or 'embedded MNIST'}: got a split with hash "
                f"{split.sha256[:12]}, expected the run's {data['sha256'][:12]}"
            )
        return split

    def build_model(self) -> nn.Module:
        data = self.config["data"]
        return build(self.recipe.model, self.recipe.model_args, data["num_classes"], data["shape"])

    def load_model(self, weights: str = "model.safetensors") -> nn.Module:
        """The network rebuilt from the config, with the run's weights.

        Raises ValueError where there are none yet, IncompatibleWeights where they are another network's."""
        file = self.path / weights
        if not file.is_file():
            raise InputError(
                f"{self.path}: got no {weights}, expected a finished run; "
                f"hint: featherweight train --resume {self.path}"
            )
        model = self.build_model()
        try:
            load_weights(model, safetensors.torch.load(file.read_bytes()))
        except (ValueError, safetensors.SafetensorError) as error:
            raise IncompatibleWeights(
                f"{file}: not weights of {self.recipe.model}: {error}"
            ) from error
        return model.eval()

    def save_weights(self, state: dict[str, Tensor], name: str = "model.safetensors") -> None:
        # A copy of each: safetensors refuses tensors that share memory, which tied layers do.
        copies = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        write_atomic(self.path / name, safetensors.torch.save(copies))

    def save_resume(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.path / "resume.pt", buffer.getvalue())

    def load_resume(self) -> dict[str, Any] | None:
        """The state after the last finished epoch, None before the first. ValueError where it is damaged."""
        file = self.path / "resume.pt"
        if not file.is_file():
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise InputError(f"{file}: damaged: {str(error).splitlines()[0]}") from error
        if not isinstance(state, dict) or "epoch" not in state:
            raise InputError(f"{file}: got no training state, expected one")
        return state

    def write_metrics(self, rows: list[Row]) -> None:
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomic(self.path / "metrics.jsonl", text.encode())

    def read_metrics(self) -> list[Row]:
        """A row an epoch. ValueError where a line is not one."""
        file = self.path / "metrics.jsonl"
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            raise InputError(reason(error)) from error
        except ValueError as error:
            raise InputError(f"{file}: unreadable: {error}") from error

    def read_verdict(self) -> str:
        """What the last audit found: PASS, FAIL and the clauses that failed, or `not judged` where none was."""
        file = self.path / "verdict.json"
        if not file.is_file():
            return "not judged"
        try:
            verdict = json.loads(file.read_text(encoding="utf-8"))
            failed = [clause["clause"] for clause in verdict["clauses"] if not clause["passed"]]
            return "PASS" if verdict["passed"] else f"FAIL ({', '.join(failed)})"
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{file}: damaged: {error!r}; hint: featherweight report {self.path}"
            ) from error

    def write_json(self, name: str, values: Any) -> None:
        write_atomic(self.path / name, _json(values))


def create_run(
    out: str | None,
    recipe: Recipe,
    contract: Contract,
    split: Split,
    seed: int,
    device: torch.device,
    command: str,
    threads: int | None = None,
) -> Run:
    """Make a new folder, `out` or the next free runs/<recipe>-s<seed>-<n>; ValueError where `out` exists.

    `threads` are those of a training step on the CPU; None: as many as this process uses now."""
    config = {
        "format": FORMAT,
        "seed": seed,
        "recipe": recipe.to_dict(),
        "contract": contract.to_dict(),
        "data": {
            "source": split.source,
            "sha256": split.sha256,
            "n_train": len(split.train),
            "n_val": len(split.val),
            "num_classes": split.num_classes,
            "shape": list(split.shape),
            "mean": split.mean_std[0],
            "std": split.mean_std[1],
        },
    }
    if out is not None and Path(out).exists():
        raise InputError(f"{out}: exists, expected a new folder: a run is never overwritten")
    parent = Path(out).parent if out is not None else Path("runs")
    parent.mkdir(parents=True, exist_ok=True)
    # Filled under a temporary name, so that a folder with a run's name always has a config.
    temporary = new_folder(parent, ".new-")
    try:
        (temporary / "config.json").write_bytes(_json(config))
        (temporary / "environment.json").write_bytes(
            _json(environment(device, command, threads or torch.get_num_threads()))
        )
        (temporary / "metrics.jsonl").write_bytes(b"")
        n = 1
        while True:
            path = Path(out) if out is not None else parent / f"{recipe.name}-s{seed}-{n}"
            if not path.exists():
                try:
                    temporary.rename(path)
                    return Run(path, config)
                except OSError:
                    if (
                        out is not None or not path.exists()
                    ):  # not a race for the number: a real failure
                        raise
            n += 1
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def open_run(path: str | Path) -> Run:
    """The run in a folder. ValueError where it is none, is incomplete, or of another version."""
    path = Path(path)
    file = path / "config.json"
    if not file.is_file():
        raise InputError(f"{path}: not a run folder: got no config.json in it, expected one")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        found = config["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file}: damaged, or not a run's: {error!r}") from error
    if found != FORMAT:
        raise InputError(f"{path}: got a run folder of version {found}, expected version {FORMAT}")
    run = Run(path, config)
    try:
        _ = run.recipe, run.contract, run.seed, run.config["data"]["n_val"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: incomplete: {error!r}") from error
    return run
