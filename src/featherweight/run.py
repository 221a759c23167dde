"""The run folder: everything about one training, each file whole or absent.

Example:
    run = open_run("runs/feather-20k-s0-1")
    run.verdict, run.evaluate("val").accuracy
    model = run.load_model()
"""

import base64
import contextlib
import html
import io
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ._files import new_folder, reason
from ._files import write_atomic as write_atomic
from .build import build
from .contract import Contract
from .data import Split, load_split, load_test
from .errors import InputError
from .evaluate import Evaluation, evaluate
from .pretrained import FOLDER as PRETRAINED_FOLDER
from .pretrained import find_pretrained
from .recipe import Recipe
from .verdict import Verdict
from .weights import load_weights

FORMAT = 1  # of the folder; another one is refused
MAX_CONFIG_BYTES = 1_000_000  # of a config.json; a run's has some thousand
SOURCE = "model.py"  # the source of a network that was defined in a notebook
# What config.json says about the data.
DATA_KEYS = ("source", "sha256", "n_train", "n_val", "num_classes", "shape", "mean", "std")
# Pictures of the folder that a notebook shows, and their widths in pixels; two stand side by side.
PICTURE_WIDTHS = {"curves.png": 450, "confusion.png": 420, "mistakes.png": 870}
Row = dict[str, Any]


class IncompatibleWeightsError(InputError):
    """The weights file does not hold this network's weights."""


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _git_commit() -> str | None:
    """Return the commit of the checkout that this code stands in, None outside of one.

    A + behind it says that files of the package were changed since."""

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
    """Return what one must know to get the same bits again: versions, hardware, threads."""
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
    """A run folder: one training, its network and what was found about it."""

    path: Path
    "The folder."
    config: dict[str, Any]
    "The content of its config.json."

    @property
    def seed(self) -> int:
        """Return the seed of the initial weights and of every random draw."""
        return int(self.config["seed"])

    @cached_property
    def recipe(self) -> Recipe:
        """Return the recipe that it is trained by."""
        return Recipe.from_dict(self.config["recipe"])

    @cached_property
    def contract(self) -> Contract:
        """Return the contract that it is held to."""
        return Contract.from_dict(self.config["contract"])

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Return versions, hardware and threads, as found when the run was made."""
        values: dict[str, Any] = json.loads(
            (self.path / "environment.json").read_text(encoding="utf-8")
        )
        return values

    def record_workers(self, n: int) -> None:
        """Add to environment.json the number of processes that train from now on, if it changes."""
        used = self.environment.setdefault("workers", [])
        if used[-1:] != [n]:
            used.append(n)
            self.write_json("environment.json", self.environment)

    @property
    def pretrained(self) -> bool:
        """Return whether it is a network that comes with the package, which nothing changes."""
        return self.path.parent == PRETRAINED_FOLDER

    @property
    def has_state(self) -> bool:
        """Return whether the folder has the state of the training, which a hub's has not."""
        return (self.path / "resume.pt").is_file()

    def export_path(self, name: str) -> Path:
        """Return where an exported file or folder goes: into the run folder.

        What is exported from a pretrained network goes to the working directory, with the network's
        name before its own."""
        return Path(f"{self.path.name}-{name}") if self.pretrained else self.path / name

    def refuse_pretrained(self) -> None:
        """Raise InputError if the run is a pretrained network, which nothing changes."""
        if self.pretrained:
            raise InputError(
                f"{self.path.name}: a pretrained network, which is not changed; expected a run",
                hint=f"featherweight train --recipe {self.path.name}",
            )

    @property
    def complete(self) -> bool:
        """Return whether the training has come to its last epoch."""
        return (self.path / "model.safetensors").is_file()

    @property
    def verdict(self) -> Verdict | None:
        """Return the verdict of the last audit, None where there was none yet."""
        file = self.path / "verdict.json"
        if not file.is_file():
            return None
        try:
            return Verdict.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{file}: damaged: {error}", hint=f"featherweight report {self.path}"
            ) from error

    def evaluate(
        self, split: Literal["val", "test"] = "val", *, data: str | None = None, device: str = "cpu"
    ) -> Evaluation:
        """Evaluate the network on all validation or test images.

        Test images decide nothing: read them once, at the end. `data` is where the run's data set
        is now."""
        if split not in ("val", "test"):
            raise InputError(f"split: got {split!r}, expected val or test")
        images = self.load_split(data)
        part = images.val if split == "val" else load_test(images)
        where = torch.device(device)
        return evaluate(self.load_model().to(where), part.to(where), images.mean_std)

    def __repr__(self) -> str:
        verdict = self.verdict
        state = "not finished" if not self.complete else "not audited"
        if verdict is not None:
            state = f"{verdict.contract}: {'PASS' if verdict.passed else 'FAIL'}"
        return f"<Run {self.path}: {self.recipe.name}, seed {self.seed}, {state}>"

    def _repr_html_(self) -> str:
        verdict = self.verdict
        found = verdict._repr_html_() if verdict is not None else ""
        pictures = "".join(
            f'<img alt="{name}" style="max-width: 100%; width: {width}px; vertical-align: top" '
            f'src="data:image/png;base64,'
            f'{base64.b64encode((self.path / name).read_bytes()).decode()}">'
            for name, width in PICTURE_WIDTHS.items()
            if (self.path / name).is_file()
        )
        return f"<p>{html.escape(repr(self)[1:-1])}</p>{found}<div>{pictures}</div>"

    def load_split(self, source: str | None = None) -> Split:
        """Return the images that the run is trained on, from `source` if they have moved.

        Raises InputError where their hash is not the run's."""
        data = self.config["data"]
        split = load_split(source or data["source"], data["n_train"], data["n_val"])
        if split.sha256 != data["sha256"]:
            raise InputError(
                f"{split.source or 'MNIST'}: got a split with hash "
                f"{split.sha256[:12]}, expected the run's {data['sha256'][:12]}"
            )
        return split

    @property
    def has_own_code(self) -> bool:
        """Return whether building the network runs code that is not this package's."""
        return not self.recipe.model.startswith("featherweight.model:")

    def build_model(self) -> nn.Module:
        """Return the run's network, with initial weights."""
        data, model = self.config["data"], self.recipe.model
        # A network from a notebook stands in the run folder.
        if model.startswith(f"{SOURCE}:") and (self.path / SOURCE).is_file():
            model = f"{self.path / SOURCE}:{model.partition(':')[2]}"
        return build(model, self.recipe.model_args, data["num_classes"], data["shape"])

    def load_model(self, weights: str = "model.safetensors") -> nn.Module:
        """Return the network in evaluation mode, with the run's weights.

        Raises InputError where there are none yet, IncompatibleWeightsError where they are another
        network's."""
        file = self.path / weights
        if not file.is_file():
            raise InputError(
                f"{self.path}: got no {weights}, expected a finished run",
                hint=f"featherweight train --resume {self.path}",
            )
        model = self.build_model()
        try:
            load_weights(model, safetensors.torch.load(file.read_bytes()))
        except (ValueError, safetensors.SafetensorError) as error:
            raise IncompatibleWeightsError(
                f"{file}: not weights of {self.recipe.model}: {error}"
            ) from error
        return model.eval()

    def save_weights(self, state: dict[str, Tensor], name: str = "model.safetensors") -> None:
        """Write a network's tensors, by their names, as a safetensors file."""
        # A copy of each: safetensors refuses tensors that share memory, which tied layers do.
        copies = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        write_atomic(self.path / name, safetensors.torch.save(copies))

    def save_resume(self, state: dict[str, Any]) -> None:
        """Write the training's state after an epoch."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.path / "resume.pt", buffer.getvalue())

    def load_resume(self) -> dict[str, Any] | None:
        """Return the state after the last finished epoch, None before the first.

        Raises InputError where the file is damaged. It runs no code of the file."""
        file = self.path / "resume.pt"
        if not self.has_state:
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise InputError(f"{file}: damaged: {str(error).splitlines()[0]}") from error
        if not isinstance(state, dict) or "epoch" not in state:
            raise InputError(f"{file}: got no training state, expected one")
        return state

    def write_metrics(self, rows: list[Row]) -> None:
        """Write metrics.jsonl, a line for each epoch."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomic(self.path / "metrics.jsonl", text.encode())

    def read_metrics(self) -> list[Row]:
        """Return the rows of metrics.jsonl, one for each epoch.

        Raises InputError where a line is not one."""
        file = self.path / "metrics.jsonl"
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            raise InputError(reason(error)) from error
        except ValueError as error:
            raise InputError(f"{file}: unreadable: {error}") from error

    def read_verdict(self) -> str:
        """Return what the last audit found: PASS, FAIL with its clauses, or `not judged`."""
        verdict = self.verdict
        if verdict is None:
            return "not judged"
        failed = ", ".join(clause.clause for clause in verdict.failed)
        return "PASS" if verdict.passed else f"FAIL ({failed})"

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file into the folder."""
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
    source: str | None = None,
) -> Run:
    """Make the folder of a new run: `out`, or the next free runs/NAME-sSEED-N.

    Parameters
    ----------
    out, recipe, contract, split, seed, device
        What is trained, on what, and where.
    command
        The command line or call that asked for it, for the record.
    threads
        CPU threads of a training step. Default: as many as this process uses now. A ghost batch is
        always computed on one.
    source
        The network's source, where it stands in no file: it is kept as the run's model.py.

    Raises
    ------
    InputError
        Where `out` exists.
    """
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
    threads = 1 if recipe.n_ghosts > 1 else threads or torch.get_num_threads()
    # Filled under a temporary name, so that a folder with a run's name always has a config.
    temporary = new_folder(parent, ".new-")
    try:
        (temporary / "config.json").write_bytes(_json(config))
        (temporary / "environment.json").write_bytes(_json(environment(device, command, threads)))
        (temporary / "metrics.jsonl").write_bytes(b"")
        if source is not None:
            (temporary / SOURCE).write_text(source, encoding="utf-8")
        n = 1
        while True:
            path = Path(out) if out is not None else parent / f"{recipe.name}-s{seed}-{n}"
            if not path.exists():
                try:
                    temporary.rename(path)
                    return Run(path, config)
                except OSError:
                    # Another process may have taken the number; anything else is a failure.
                    if out is not None or not path.exists():
                        raise
            n += 1
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def open_run(path: str | Path) -> Run:
    """Return the run in a folder, or the pretrained network of a name.

    Raises InputError where it is none, or one of another version."""
    shipped = find_pretrained(path) if isinstance(path, str) else None
    path = shipped or Path(path)
    file = path / "config.json"
    if not file.is_file():
        raise InputError(
            f"{path}: not a run folder: got no config.json in it, expected one, or the name of a "
            "pretrained network",
            hint="featherweight models",
        )
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise InputError(f"{file}: got over {MAX_CONFIG_BYTES:,} bytes, expected a run's config")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        found = config["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file}: damaged, or not a run's: {error!r}") from error
    if found != FORMAT:
        raise InputError(f"{path}: got a run folder of version {found}, expected version {FORMAT}")
    run = Run(path, config)
    try:
        _ = run.recipe, run.contract, [config["data"][key] for key in DATA_KEYS]
        whole_numbers = [config["seed"], config["data"]["num_classes"], *config["data"]["shape"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file}: incomplete: {error!r}") from error
    if not all(type(value) is int for value in whole_numbers):
        raise InputError(
            f"{file}: got {whole_numbers}, expected whole numbers for the seed, the number of "
            "classes and the shape of an image"
        )
    return run
