"""Find what students have handed in: the file with the network, its weights, or a run folder.

    for each in find_submissions("submissions/"):
        each.name, each.file, each.weights, each.digest()

Nothing of a submission runs here: files are looked through as text. Links are not followed.
"""

import csv
import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .._files import reason, visible
from ..errors import InputError

CODE, WEIGHTS = (".py", ".ipynb"), (".pth", ".pt", ".safetensors")
# What students hand in instead of a folder.
ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")
# Folders that hold nothing of the student's own.
SKIPPED = {"__pycache__", "__MACOSX", "node_modules", "site-packages", "venv", "env"}
# File names that are taken before others, where several files define a network.
USUAL_FILES = ("model", "models", "net", "network", "networks", "cnn")
# A class of PyTorch's, also in the JSON of a notebook.
CLASS = re.compile(rb"class\s+\w+\s*\([^)\n]*Module")
ANY_CLASS = re.compile(rb"class\s+\w+")
# A module that a file imports, or all of a line, also in the JSON of a notebook.
IMPORT = re.compile(
    r"""(?:^|["\n;])[ \t]*(?:(?:from[ \t]+\.*|%run[ \t]+)(\w+)|(?:from[ \t.]+)?import([^\n"#;]+))"""
)
# Files of torch.save that are no network's: an optimiser's state, and MNIST as torchvision has it.
NO_WEIGHTS = re.compile(r"(optim|sched)[^/]*$|processed/(training|test)\.pt$", re.IGNORECASE)
MAX_CODE_BYTES = 64 * 2**20  # of a file that is looked through: notebooks hold pictures
MAX_FILES = 20_000  # of a submission
COLUMNS = ("name", "path", "class", "weights", "mean", "std")  # of a list of submissions


@dataclass(frozen=True)
class Submission:
    """What one student has handed in."""

    name: str
    "Name of the student, or of the folder or file."
    root: Path
    "The folder or file as it was handed in."
    file: Path | None = None
    "The file with the network, or a run folder. None: there is neither."
    is_run: bool = False
    "Whether `file` is a run folder."
    network: str | None = None
    "Name of the network's class, where it is forced."
    weights: Path | None = None
    "A state dict."
    chosen: str = ""
    "How the file was chosen, where there were several."
    mean_std: tuple[float, float] | None = None
    "How the images were normalised where the weights were trained."
    problem: str = ""
    "Why nothing can be chosen in it."
    hint: str = "hand in the network's own files alone"
    "What to do about the problem."

    @property
    def is_notebook(self) -> bool:
        """Whether `file` is a notebook."""
        return self.file is not None and suffix(self.file) == ".ipynb"

    @property
    def shown_file(self) -> str:
        """Return the path of the file, relative to what was handed in."""
        return "" if self.file is None else self.shown(self.file)

    def shown(self, path: Path) -> str:
        """Return a path relative to what was handed in, or the name of one outside of it."""
        inside = path != self.root and path.is_relative_to(self.root)
        return _plain(str(path.relative_to(self.root)) if inside else path.name)

    def shorten(self, text: str) -> str:
        """Return a text with the paths of this submission as they are shown."""
        for path in filter(None, (self.weights, self.file, self.root)):
            for whole in (str(path.absolute()), str(path)):
                if os.sep in whole:
                    text = text.replace(f"{whole}{os.sep}", "").replace(whole, self.shown(path))
        return text

    def files(self) -> list[Path]:
        """Return every file of the submission, in order.

        Those of a file are itself and the files beside it that it imports."""
        if self.root.is_dir():
            found = set() if self.problem else set(_walk(self.root))
        else:
            found = {self.root, *_imported(self.root)}
        found |= {each for each in (self.file, self.weights) if each is not None and each.is_file()}
        return sorted(found)

    def digest(self) -> str:
        """Return the SHA-256 of all files, their names, and what was chosen among them."""
        whole = hashlib.sha256()
        parts = [self.shown_file, self.network, self.weights and self.weights.name, self.mean_std]
        whole.update(repr(parts).encode())
        for path in self.files():
            name = os.path.relpath(path, self.root)
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:  # what is missing, or nobody may read, is part of it too
                content = reason(error)
            whole.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
        return whole.hexdigest()


def find_submissions(
    target: str, network: str | None = None, *, single: bool = False
) -> list[Submission]:
    """Return the submissions at a path, in the order of their names.

    Args:
        target: A folder of folders and files, one for each student; a CSV file with the columns
            name (or student) and path, and perhaps class, weights, mean and std; one file, FILE.py,
            FILE.ipynb or either with :CLASS; or one run folder.
        network: Name of the class in all of them.
        single: Whether a folder is that of one student.

    Raises InputError where there is nothing to grade.
    """
    path, _, name = target.rpartition(":")
    if path.casefold().endswith(CODE) and not Path(target).exists():
        return [_single(Path(path), name)]
    root = Path(target)
    if suffix(root) == ".csv" and root.is_file():
        found = _listed(root)
    elif root.is_file() and suffix(root) in CODE:
        return [_single(root, network)]
    elif root.is_dir() and (single or _is_run(root)):
        found = [_at(root, root.resolve().name)]
    elif root.is_dir():
        entries = [each for each in sorted(root.iterdir(), key=natural) if _is_handed_in(each)]
        found = [_at(each, each.name if each.is_dir() else each.stem) for each in entries]
    else:
        raise InputError(
            f"{target}: got {_kind(root)}, expected a folder with a folder or a file for each "
            "student, a CSV file of paths, or one .py or .ipynb file",
            hint="unpack it"
            if root.is_file() and _is_archive(root)
            else "featherweight grade submissions/ --contract era-v3-s6",
        )
    if not found:
        raise InputError(
            f"{target}: got no submission in it, expected a folder, .py or .ipynb file for each "
            "student"
        )
    found = _apart(found)
    return [replace(each, network=network) for each in found] if network else found


def natural(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts names with their numbers in order: epoch-9 before epoch-10."""
    parts = re.split(r"(\d+)", str(path).casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _single(file: Path, network: str | None) -> Submission:
    if not file.is_file():
        raise InputError(f"{file}: got no such file, expected a .py or .ipynb file")
    return replace(_at(file, file.stem), network=network)


def _is_handed_in(path: Path) -> bool:
    if path.name.startswith(".") or path.name in SKIPPED or path.is_symlink():
        return False
    unpacked = path.with_name(path.stem.removesuffix(".tar")).is_dir()
    return path.is_dir() or suffix(path) in CODE or (_is_archive(path) and not unpacked)


def suffix(path: Path) -> str:
    """Return the suffix of a file in lower case."""
    return path.suffix.casefold()


def _is_archive(path: Path) -> bool:
    return suffix(path) in ARCHIVES


def _apart(found: Sequence[Submission]) -> list[Submission]:
    """Return the submissions with names of which no two are alike."""
    names = [_plain(each.name) or "unnamed" for each in found]
    taken = set(names)  # Anna (2) may be the name of a folder too
    named: dict[str, Submission] = {}
    for name, each in zip(names, found, strict=True):
        choice, n = name, 2
        while choice in named or (choice != name and choice in taken):
            choice, n = f"{name} ({n})", n + 1
        named[choice] = replace(each, name=choice)
    return list(named.values())


def _plain(name: str) -> str:
    """Return a name as one line that can be written in UTF-8, which a file's need not be."""
    return " ".join(visible(name.encode(errors="backslashreplace").decode()).split())


def _listed(table: Path) -> list[Submission]:
    """Return the submissions of a CSV file; its paths are relative to its folder."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a CSV file in UTF-8: {error}") from error
    found = []
    for number, row in enumerate(rows, 2):
        cells = {
            str(key).strip().casefold(): str(value or "").strip() for key, value in row.items()
        }
        cells.setdefault("name", cells.get("student", ""))
        if not cells["name"] or not cells.get("path"):
            raise InputError(
                f"{table}: row {number}: got no {'path' if cells['name'] else 'name'}, expected "
                f"the columns name (or student) and path, and perhaps {', '.join(COLUMNS[2:])}"
            )
        path = table.parent / cells["path"]
        each = _at(path, cells["name"]) if path.exists() else Submission(cells["name"], path)
        if cells.get("class"):
            each = replace(each, network=cells["class"])
        if cells.get("weights"):
            weights = path / cells["weights"] if path.is_dir() else table.parent / cells["weights"]
            each = replace(each, weights=weights)
        if cells.get("mean") or cells.get("std"):
            each = replace(each, mean_std=_mean_std(table, number, cells))
        found.append(each)
    return found


def _mean_std(table: Path, number: int, cells: dict[str, str]) -> tuple[float, float]:
    try:
        mean, std = float(cells.get("mean", "")), float(cells.get("std", ""))
        if not (abs(mean) < float("inf") and 0 < std < float("inf")):
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"{table}: row {number}: got mean {cells.get('mean')!r} and std {cells.get('std')!r}, "
            "expected two numbers such as 0.1307 and 0.3081"
        ) from error
    return mean, std


def _at(path: Path, name: str) -> Submission:
    """Return the submission of a folder or a file."""
    if path.is_dir():
        try:
            return _in_folder(path, name)
        except InputError as error:
            return Submission(name, path, problem=error.message)
        except OSError as error:
            return Submission(name, path, problem=reason(error))
    if suffix(path) not in CODE:
        return _unread(path, path, name)
    beside = [
        each
        for each in path.parent.glob(f"{glob.escape(path.stem)}.*")
        if suffix(each) in WEIGHTS and each.is_file()
    ]
    best = min(beside, key=lambda each: WEIGHTS.index(suffix(each)), default=None)
    return Submission(name, path, path, weights=best)


def _unread(path: Path, file: Path, name: str) -> Submission:
    """Return the submission at a path of which a file is all there is, and is no network."""
    problem = f"{_plain(file.name)}: got {_kind(file)}, expected a folder, or a .py or .ipynb file"
    hint = "unpack it" if _is_archive(file) else "hand in the file that defines the network"
    return Submission(name, path, problem=problem, hint=hint)


def _kind(path: Path) -> str:
    if not path.exists():
        return "no such file or folder"
    return "an archive" if _is_archive(path) else f"a file {path.suffix}".strip()


def _imported(file: Path) -> set[Path]:
    """Return the files beside a file that it imports, and those that these do."""
    if suffix(file) not in CODE or not file.is_file():
        return set()
    found = {file}
    new = [file]
    while new:
        with new.pop().open("rb") as opened:
            text = opened.read(MAX_CODE_BYTES).decode(errors="replace")
        for module, listed in IMPORT.findall(text):
            for name in [module] if module else re.findall(r"\w+", listed):
                beside = {file.with_name(f"{name}.py"), *(file.parent / name).rglob("*.py")}
                fresh = {each for each in beside if each.is_file() and not each.is_symlink()}
                new += fresh - found
                found |= fresh
    return found


def _in_folder(folder: Path, name: str) -> Submission:
    """Choose among the files of a folder: a run folder, or a file with a network and weights."""
    files = list(_walk(folder))
    inner = {path.parent for path in files if path.name == "config.json"}
    runs = sorted((path for path in inner if _is_run(path)), key=natural)
    if runs:
        chosen = f"the last of {len(runs)} run folders" if len(runs) > 1 else ""
        return Submission(name, folder, runs[-1], is_run=True, chosen=chosen)
    code = sorted((path for path in files if suffix(path) in CODE), key=natural)
    networks = [path for path in code if _has_class(path)]
    file, chosen = _choose(networks or code)
    archives = [path for path in files if _is_archive(path)]
    if file is None and archives:
        return _unread(folder, archives[0], name)
    weights = sorted((path for path in files if suffix(path) in WEIGHTS), key=natural)
    weights = [path for path in weights if not NO_WEIGHTS.search(path.as_posix())]
    alike = [path for path in weights if file is not None and path.stem == file.stem]
    if len(weights) > 1 and not alike:
        chosen = "; ".join(filter(None, [chosen, f"the last of {len(weights)} weights files"]))
    used = (alike or weights)[-1] if weights else None
    return Submission(name, folder, file, weights=used, chosen=chosen)


def _choose(files: list[Path]) -> tuple[Path | None, str]:
    if len(files) < 2:
        return (files[0] if files else None), ""
    for usual in USUAL_FILES:
        for path in files:
            if path.stem.casefold() == usual:
                return path, f"{path.name}, of {len(files)} files with a network"
    return files[-1], f"the last of {len(files)} files with a network"


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the ordinary files below a folder, without links and the folders in SKIPPED."""
    n = 0
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(
            each for each in folders if each not in SKIPPED and not each.startswith(".")
        )
        for name in sorted(names):
            path = Path(where) / name
            if name.startswith(".") or not stat.S_ISREG(path.lstat().st_mode):
                continue
            n += 1
            if n > MAX_FILES:
                raise InputError(
                    f"{folder}: got more than {MAX_FILES:,} files, expected a submission"
                )
            yield path


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "metrics.jsonl").is_file()


def _has_class(path: Path) -> bool:
    usual = path.stem.casefold() in USUAL_FILES  # a base class may be another file's
    with path.open("rb") as file:
        return (ANY_CLASS if usual else CLASS).search(file.read(MAX_CODE_BYTES)) is not None
