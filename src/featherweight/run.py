"""The run folder: everything about one training, each file whole or absent, and checked.

Example:
    run = open_run("runs/feather-20k-s0-1")
    run.verdict, run.evaluate("val").accuracy
    model = run.load_model()
    with run.lock(): ...          # while it is trained

`Run.write` lists the digest of each file in SHA256SUMS, and whatever reads a file compares it. A
folder without that file, as older runs and those of hubs are, is read unchecked.
"""

import base64
import contextlib
import html
import io
import json
import math
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from filelock import Timeout
from torch import Tensor, nn

from ._files import new_folder, read_listed, reason, write_listed
from ._locks import hold
from .build import build
from .contract import Contract
from .data import Split, load_split, load_test
from .errors import InputError
from .evaluate import Evaluation, evaluate
from .exported import Exported, load_exported
from .image_kind import CHANNELS, MAX_CLASSES, MAX_SIDE, ImageKind
from .pretrained import FOLDER as PRETRAINED_FOLDER
from .pretrained import find_pretrained
from .recipe import Recipe
from .verdict import Verdict
from .weights import load_weights, refuse_packed

FORMAT = 1  # of the folder; another one is refused
MAX_CONFIG_BYTES = 1_000_000  # of a config.json; a run's has some thousand
SOURCE = "model.py"  # the source of a network that was defined in a notebook
GRAPH = "graph.safetensors"  # a network of others' code as graphs, with its initial weights
LOCK = ".lock"
# A run's files with digests. Exported files, which are checked when they are made, have none.
OWN_FILES = (
    *("config.json", "environment.json", "metrics.jsonl", "resume.pt", "verdict.json", SOURCE),
    GRAPH,
    *("model.safetensors", "epoch-*.safetensors", "state-*.pt", "README.md"),
    *("curves.png", "confusion.png", "mistakes.png", "verdict.svg"),
)
# What can be done about a damaged file; of the others, only a copy helps.
REMEDIES = {
    "resume.pt": "restore it from a copy; or delete it, and the run is trained from its start",
    "metrics.jsonl": "restore it from a copy; or resume the run, if it is not finished",
    "verdict.json": "make it again with: featherweight report {path}",
}
# What config.json says about the data.
DATA_KEYS = ("source", "sha256", "n_train", "n_val", "num_classes", "shape", "mean", "std")
# What environment.json says in texts, or null, and metrics.jsonl in numbers.
ENVIRONMENT_KEYS = ("featherweight", "torch", "cpu", "gpu", "commit")
# What may change where a run is resumed. Most of it decides the bits.
PLACE_KEYS = (*ENVIRONMENT_KEYS, "device", "python", "numpy")
METRICS_KEYS = ("epoch", "seconds", "lr", "train_loss", "val_loss", "val_correct", "val_total")
# Pictures of the folder that a notebook shows, and their widths in pixels; two stand side by side.
PICTURE_WIDTHS = {"curves.png": 450, "confusion.png": 420, "mistakes.png": 870}
Row = dict[str, Any]


class IncompatibleWeightsError(InputError):
    """The weights file does not hold this network's weights."""


class RunBusyError(InputError):
    """Another process trains the run."""


def _json(values: Any) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _state_bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _rows_bytes(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


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


def _remedy(file: Path) -> str:
    remedy = REMEDIES.get(file.name, "restore it from a copy, or train again")
    return remedy.format(path=file.parent)


def _damaged(file: Path, error: BaseException) -> InputError:
    return InputError(f"{file}: damaged: {error}", hint=_remedy(file))


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
        file = self.path / "environment.json"
        try:
            content = self.read(file.name)
        except OSError as error:
            raise InputError(reason(error)) from error
        try:
            values: dict[str, Any] = json.loads(content)
            texts = [values[key] for key in ENVIRONMENT_KEYS if values[key] is not None]
            if type(values["threads"]) is not int or not all(type(t) is str for t in texts):
                raise TypeError("expected texts, and a whole number of threads")
            for place in values.get("resumed", []):
                texts = [place[key] for key in PLACE_KEYS if place[key] is not None]
                if type(place["epoch"]) is not int or not all(type(t) is str for t in texts):
                    raise TypeError("resumed: expected an epoch and texts")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{file}: damaged, or not a run's: {error!r}") from error
        return values

    def read(self, name: str) -> bytes:
        """Return the content of a file of the folder.

        Raises InputError where it is not what was written, and OSError where it can't be read."""
        return read_listed(self.path, name, _remedy(self.path / name))

    def write(self, name: str, content: bytes) -> Path:
        """Write a file into the folder, whole or not at all, and list its digest; return its path.

        The process may be killed at any moment. Raises InputError where SHA256SUMS is damaged."""
        write_listed(self.path, {name: content}, OWN_FILES)
        return self.path / name

    @contextlib.contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the run while it is trained, by the main process alone.

        The lock ends with the process, however that ends. Within one process and thread it may be
        taken again. Raises RunBusyError at once where another process holds it, unless `wait`."""
        with contextlib.ExitStack() as stack:
            try:
                file = (self.path / LOCK).resolve()
                stack.enter_context(hold(file, -1 if wait else 0, again=True))
            except Timeout as error:
                raise RunBusyError(
                    f"{self.path}: another process is training this run, expected one at a time",
                    hint="wait until it has finished, or stop it",
                ) from error
            yield

    def record_workers(self, n: int) -> None:
        """Add to environment.json the number of processes that train from now on, if it changes."""
        used = self.environment.setdefault("workers", [])
        if used[-1:] != [n]:
            used.append(n)
            self.write_json("environment.json", self.environment)

    @property
    def places(self) -> list[dict[str, Any]]:
        """Return environment.json as it was in each place where epochs of the run were trained.

        Each has the key `epoch`: how many epochs were finished before."""
        begun = {"epoch": 0} | self.environment
        later = [
            begun | {key: place[key] for key in ("epoch", *PLACE_KEYS)}
            for place in self.environment.get("resumed", [])
        ]
        return later if later and later[0]["epoch"] == 0 else [begun, *later]

    def record_place(self, device: torch.device, epoch: int) -> None:
        """Add to environment.json where training goes on after an epoch, if it is another place.

        Another place is another processor, GPU, device, version or commit, with which the bits may
        differ. Places of which no epoch is kept are taken out: none was finished there, or those
        that were are trained again.
        """
        here = environment(device, "", self.environment["threads"])
        known = self.environment.get("resumed", [])
        kept = [place for place in known if place["epoch"] < epoch]
        last = (kept or [self.environment])[-1]
        if any(here[key] != last.get(key) for key in PLACE_KEYS):
            kept.append({"epoch": epoch} | {key: here[key] for key in PLACE_KEYS})
        if kept != known:
            self.environment["resumed"] = kept
            self.write_json("environment.json", self.environment)

    def forget_environment(self) -> None:
        """Read environment.json anew when it is needed: another process may have written it."""
        self.__dict__.pop("environment", None)

    def record_teacher(self, title: str) -> None:
        """Add to environment.json which network teaches.

        Raises InputError where the run was begun with another one."""
        known = self.environment.setdefault("teacher", title)
        if known != title:
            raise InputError(
                f"{self.path}: begun with the teacher {known}; got {title}, expected the same",
                hint="go on with the Featherweight that the run was begun with, or train anew",
            )
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
        content = self.read(file.name)
        try:
            return Verdict.from_dict(json.loads(content))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _damaged(file, error) from error

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

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; in older runs, which keep none, their numbers."""
        data = self.config["data"]
        if "kind" in data:
            return ImageKind.from_dict(data["kind"]).classes
        return tuple(map(str, range(data["num_classes"])))

    def load_split(self, source: str | None = None) -> Split:
        """Return the images that the run is trained on, from `source` if they have moved.

        Raises InputError where their hash is not the run's."""
        data = self.config["data"]
        try:
            split = load_split(source or data["source"], data["n_train"], data["n_val"])
        except InputError as error:
            if source or not data["source"] or error.hint:
                raise
            raise InputError(
                error.message, hint="if the data set has moved, name its new place with --data"
            ) from error
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

    @property
    def has_graph(self) -> bool:
        """Return whether the folder has the network as graphs, so that no code of it is needed."""
        return (self.path / GRAPH).is_file()

    @property
    def needs_code(self) -> bool:
        """Return whether the network can't be loaded without code that is not this package's."""
        return self.has_own_code and not self.has_graph

    @property
    def model_path(self) -> str:
        """Return where the network's class is: MODULE:CLASS or FILE.py:CLASS."""
        model = self.recipe.model
        # A network from a notebook stands in the run folder.
        if model.startswith(f"{SOURCE}:") and (self.path / SOURCE).is_file():
            self.read(SOURCE)  # is it what was written?
            return f"{self.path / SOURCE}:{model.partition(':')[2]}"
        return model

    def build_model(self) -> nn.Module:
        """Return the run's network with initial weights, as it is trained.

        This is its graph, where it has one whose gradients are the module's."""
        graph = self.load_graph()
        return graph if graph is not None and graph.faithful else self.build_module()

    def build_module(self) -> nn.Module:
        """Return the run's network with initial weights. Its code runs in this process."""
        data = self.config["data"]
        return build(self.model_path, self.recipe.model_args, data["num_classes"], data["shape"])

    def load_graph(self) -> Exported | None:
        """Return the run's network as graphs with initial weights, None where the folder has none.

        Raises InputError where the file is damaged. It runs no code of the file."""
        if not self.has_graph:
            return None
        try:
            return load_exported(self.read(GRAPH))
        except InputError as error:
            raise InputError(f"{self.path / GRAPH}: {error.message}", hint=error.hint) from error

    def load_model(self, weights: str = "model.safetensors") -> nn.Module:
        """Return the network in evaluation mode, with the run's weights.

        Raises InputError where there are none yet, IncompatibleWeightsError where they are another
        network's."""
        model = self.load_graph() or self.build_module()
        self.load_weights(model, weights)
        return model.eval()

    def load_weights(self, model: nn.Module, name: str = "model.safetensors") -> None:
        """Load the run's weights, or those of another file of it, into its network.

        Raises InputError where there are none yet, IncompatibleWeightsError where they are another
        network's."""
        file = self.path / name
        if not file.is_file():
            raise InputError(
                f"{self.path}: got no {name}, expected a finished run",
                hint=f"featherweight train --resume {self.path}",
            )
        content = self.read(name)
        try:
            load_weights(model, safetensors.torch.load(content))
        except (ValueError, safetensors.SafetensorError) as error:
            raise IncompatibleWeightsError(
                f"{file}: not weights of {self.recipe.model}: {error}"
            ) from error

    def read_weights(self, name: str = "model.safetensors") -> bytes:
        """Return the content of a weights file."""
        return self.read(name)

    def save_weights(self, state: dict[str, Tensor], name: str = "model.safetensors") -> None:
        """Write a network's tensors, by their names, as a safetensors file."""
        # A copy of each: safetensors refuses tensors that share memory, which tied layers do.
        copies = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        self.write(name, safetensors.torch.save(copies))

    def save_resume(self, state: dict[str, Any]) -> None:
        """Write the training's state after an epoch."""
        self.write("resume.pt", _state_bytes(state))

    def save_epoch(self, state: dict[str, Any], rows: list[Row], keep: bool = False) -> None:
        """Write the training's state after an epoch, then the rows of metrics.jsonl.

        With `keep` the state is also kept as state-EPOCH.pt, for audits that train an epoch again.
        It is faster than `save_resume` and `write_metrics`: SHA256SUMS is written for both at
        once."""
        content = _state_bytes(state)
        contents = {"resume.pt": content, "metrics.jsonl": _rows_bytes(rows)}
        if keep:
            contents = {f"state-{state['epoch']}.pt": content} | contents
        write_listed(self.path, contents, OWN_FILES)

    def load_resume(self) -> dict[str, Any] | None:
        """Return the state after the last finished epoch, None before the first.

        Raises InputError where the file is damaged. It runs no code of the file."""
        return self._load_state("resume.pt") if self.has_state else None

    def load_state(self, epoch: int) -> dict[str, Any] | None:
        """Return the state after an epoch, None after epoch 0, with which training starts.

        Raises InputError where the run has not kept it, or the file is damaged."""
        if epoch == 0:
            return None
        if epoch == self.recipe.epochs and self.has_state:
            return self.load_resume()
        if not (self.path / f"state-{epoch}.pt").is_file():
            raise InputError(
                f"{self.path}: got no state-{epoch}.pt, expected the state after each epoch",
                hint="train with --keep-states; or audit with --retrain, which needs none",
            )
        return self._load_state(f"state-{epoch}.pt")

    def _load_state(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            content = io.BytesIO(self.read(name))
            refuse_packed(file)
            state = torch.load(content, map_location="cpu", weights_only=True)
        except InputError:
            raise
        except Exception as error:  # torch raises many kinds for a damaged file
            raise InputError(f"{file}: damaged: {reason(error)[:200]}") from error
        if not isinstance(state, dict) or "epoch" not in state:
            raise InputError(f"{file}: got no training state, expected one")
        return state

    def write_metrics(self, rows: list[Row]) -> None:
        """Write metrics.jsonl, a line for each epoch."""
        self.write("metrics.jsonl", _rows_bytes(rows))

    def read_metrics(self) -> list[Row]:
        """Return the rows of metrics.jsonl, one for each epoch.

        Raises InputError where a line is not one."""
        file = self.path / "metrics.jsonl"
        try:
            content = self.read(file.name)
        except OSError as error:
            raise InputError(reason(error)) from error
        try:
            rows = [json.loads(line) for line in content.decode().splitlines()]
            if not all(isinstance(row, dict) for row in rows):
                raise TypeError("expected an object in each line")
            numbers = [row[key] for row in rows for key in METRICS_KEYS if key in row]
            if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
                raise TypeError("expected finite numbers")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"{file}: unreadable: {error!r}") from error
        return rows

    def read_verdict(self) -> str:
        """Return what the last audit found: PASS, FAIL with its clauses, or `not judged`."""
        verdict = self.verdict
        if verdict is None:
            return "not judged"
        failed = ", ".join(clause.clause for clause in verdict.failed)
        return "PASS" if verdict.passed else f"FAIL ({failed})"

    def write_json(self, name: str, values: Any) -> None:
        """Write a JSON file into the folder."""
        self.write(name, _json(values))


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
    graph: Exported | None = None,
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
    graph
        The network as graphs, with the initial weights of the seed: it is kept, and trained.

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
            "kind": split.kind.to_dict(),
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
        new = Run(temporary, config)
        new.write_json("config.json", config)
        new.write_json("environment.json", environment(device, command, threads))
        new.write_metrics([])
        if source is not None:
            new.write(SOURCE, source.encode())
        if graph is not None:
            new.write(GRAPH, graph.to_bytes())
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


def _check_data(values: list[Any]) -> None:
    """Raise InputError unless the seed and DATA_KEYS of a config.json are what `create_run` writes.

    Raises TypeError or ValueError if there are more or fewer of them."""
    seed, source, digest, n_train, n_val, num_classes, shape, mean, std = values
    counts = [seed, n_train, n_val, num_classes, *shape]
    if not all(type(value) is int and value >= 0 for value in counts):
        raise InputError(
            f"got {counts!r:.120}, expected whole numbers for the seed, the numbers of images and "
            "classes, and the shape of an image"
        )
    if len(shape) != 3 or shape[0] not in CHANNELS or not all(1 <= s <= MAX_SIDE for s in shape):
        raise InputError(f"got shape {shape!r:.120}, expected 1 or 3 channels, height and width")
    if not 2 <= num_classes <= MAX_CLASSES:
        raise InputError(f"got {num_classes!r:.40} classes, expected 2 to {MAX_CLASSES}")
    if not (type(source) in (str, type(None)) and type(digest) is str):
        raise InputError("got another source or hash of the data than a text")
    if not all(type(value) in (int, float) and math.isfinite(value) for value in (mean, std)):
        raise InputError(f"got mean {mean!r:.40} and std {std!r:.40}, expected numbers")
    if std <= 0:
        raise InputError(f"got std {std}, expected more than 0")


def _check_kind(kind: ImageKind, data: dict[str, Any]) -> None:
    """Raise InputError unless the kind of the images agrees with the rest of a config's data."""
    got, expected = (*kind.shape, len(kind.classes)), (*data["shape"], data["num_classes"])
    if got != expected:
        raise InputError(f"got a kind of images with shape and classes {got}, expected {expected}")


def open_run(path: str | Path) -> Run:
    """Return the run in a folder, or the pretrained network of a name.

    Raises InputError where it is none, or one of another version."""
    shipped = find_pretrained(path) if isinstance(path, str) else None
    path = shipped or Path(path)
    file = path / "config.json"
    if not file.is_file():
        got, hint = "no such folder", "featherweight models"
        if path.is_dir():
            got = "no config.json in it"
        elif path.exists():
            got = "a file"
            if path.suffix in (".pt", ".pth", ".safetensors"):
                hint = f"featherweight audit MODULE:CLASS --weights {path}: weights need a class"
        raise InputError(
            f"{path}: not a run folder: got {got}, expected a run's, or the name of a pretrained "
            "network",
            hint=hint,
        )
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise InputError(f"{file}: got over {MAX_CONFIG_BYTES:,} bytes, expected a run's config")
    content = Run(path, {}).read(file.name)
    try:
        config = json.loads(content)
        found = config["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file}: damaged, or not a run's: {error!r}") from error
    if found != FORMAT:
        raise InputError(f"{path}: got a run folder of version {found}, expected version {FORMAT}")
    run = Run(path, config)
    try:
        _ = run.recipe, run.contract
        _check_data([config["seed"], *(config["data"][key] for key in DATA_KEYS)])
        if "kind" in config["data"]:  # older runs have none
            _check_kind(ImageKind.from_dict(config["data"]["kind"]), config["data"])
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{file}: incomplete: {error!r}") from error
    return run
