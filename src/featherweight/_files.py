"""Write files and folders completely or not at all, check them, and describe errors in one line.

Example:
    write_atomic(Path("metrics.jsonl"), content)
    folder = new_folder(Path("runs"), ".new-")      # fill it, then rename it
    write_listed(folder, {"metrics.jsonl": content})     # and its digest into SHA256SUMS
    read_listed(folder, "metrics.jsonl", "train again")  # raises InputError if it is damaged
    reason(error)                                   # "photo.jpg: no such file"
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError

MANIFEST = "SHA256SUMS"  # a folder's digests, in the format of the program sha256sum
MAX_MANIFEST_BYTES = 100_000  # a folder's has some hundred
MAX_NAME = 100  # bytes, of a name that becomes part of a folder's
REPLACE_TIMEOUT = 1.0  # seconds during which replacing a file that is in use is tried again

# What terminals obey: control characters but for tabs and line ends, and changes of direction.
OBEYED = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]")


def visible(text: str) -> str:
    """Return a text with escape sequences such as `\\x1b` in place of control characters."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def check_name(what: str, name: object, *, in_paths: bool) -> None:
    """Raise InputError unless a name is one printable line of at most MAX_NAME bytes.

    With `in_paths` it becomes part of a folder's name: it may have no separator, and begin with
    neither a dot nor a space.
    """
    expected = f"one printable line of 1 to {MAX_NAME} bytes"
    fine = isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= MAX_NAME
    if in_paths:
        expected += " without / and \\, that begins with neither a dot nor a space"
        fine = fine and not set("/\\") & set(str(name)) and str(name)[0] not in ". "
    if not fine:
        raise InputError(f"{what}: got {name!r:.120}, expected {expected}")


def new_folder(parent: Path, prefix: str) -> Path:
    """Make a new folder in `parent` with a unique name that starts with `prefix`.

    Its permissions follow the umask; tempfile's would exclude other users.
    """
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that after a crash it has either its old or its new content.

    The content is written to a temporary file, synced to disk, and renamed. Permissions follow the
    umask. Raises OSError with the name of `path`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "no such folder", str(path.parent)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`, retrying while another process holds `path` open.

    That only happens on Windows, with a spreadsheet or a virus scanner for example.
    """
    end = time.monotonic() + REPLACE_TIMEOUT
    while True:
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def nameless_file() -> Iterator[int]:
    """Give an open file without a name: its descriptor. The content goes with the last process."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("featherweight")
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


def read_manifest(folder: Path) -> dict[str, list[str]] | None:
    """Return the SHA-256 digests of a folder's files by name, None if it has no manifest.

    A file has two digests, of its old and its new content, if the process that replaced it was
    killed. Raises InputError if the manifest is damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    digests: dict[str, list[str]] = {}
    with file.open("rb") as opened:
        content = opened.read(MAX_MANIFEST_BYTES + 1)
    lines = content.split(b"\n")
    found = [re.fullmatch(rb"([0-9a-f]{64})  ([\w.-]+)", line) for line in lines[:-1]]
    if len(content) > MAX_MANIFEST_BYTES or lines[-1] or not found or not all(found):
        raise InputError(
            f"{file}: damaged: expected lines of a SHA-256 and a file name",
            hint="restore it from a copy; without it, the folder is read unchecked",
        )
    for line in found:
        assert line is not None
        digests.setdefault(line[2].decode(), []).append(line[1].decode())
    return digests


def _write_manifest(folder: Path, digests: dict[str, list[str]]) -> None:
    lines = [f"{digest}  {name}\n" for name in sorted(digests) for digest in digests[name]]
    write_atomic(folder / MANIFEST, "".join(lines).encode())


def read_listed(folder: Path, name: str, hint: str) -> bytes:
    """Return the content of a file, checked against the folder's manifest if it has one.

    Raises InputError with `hint` if the digest is another one, or the manifest lacks the file.
    """
    content, digests = (folder / name).read_bytes(), read_manifest(folder)
    if digests is None:
        return content
    if name not in digests:
        raise InputError(f"{folder / MANIFEST}: got no digest of {name}, expected one", hint=hint)
    if (found := hashlib.sha256(content).hexdigest()) not in digests[name]:
        expected = " or ".join(digest[:12] for digest in digests[name])
        raise InputError(
            f"{folder / name}: damaged: got SHA-256 {found[:12]}, expected {expected}", hint=hint
        )
    return content


def write_listed(folder: Path, contents: dict[str, bytes], unlisted: tuple[str, ...] = ()) -> None:
    """Write files atomically, each by its name, and their digests to the folder's manifest.

    While they are replaced, the manifest has both their old and their new digests. So each file
    agrees with the manifest wherever a crash comes in between. `unlisted` are patterns of the names
    of the files that are listed too, as they are, if the folder has no manifest yet.
    """
    listed = read_manifest(folder)
    digests = listed or {}
    if listed is None:
        files = {file for pattern in unlisted for file in folder.glob(pattern)}
        digests = {file.name: [_digest(file)] for file in files}
    for name, both in digests.items():
        # After a crash: the content that is there decides which of the two digests stays.
        if len(both) > 1 and (folder / name).is_file() and (now := _digest(folder / name)) in both:
            digests[name] = [now]
    new = digests | {
        name: [hashlib.sha256(content).hexdigest()] for name, content in contents.items()
    }
    during = {
        name: [digest for digest in digests.get(name, []) if digest not in new[name]] + new[name]
        for name in new
    }
    if during != listed:
        _write_manifest(folder, during)
    for name, content in contents.items():
        write_atomic(folder / name, content)
    if during != new:
        _write_manifest(folder, new)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def meant_file(path: str) -> str | None:
    """Return FILE.py or FILE.py:CLASS of a network's file that a path means, spelt otherwise.

    `nets/net:Net`, `nets/net`, `nets.net.Net` and `nets.net:Net` all mean `nets/net.py`. None where
    there is no such file.
    """
    where, _, name = path.rpartition(":") if ":" in path else (path, "", "")
    module, _, last = where.rpartition(".")
    spelt = [(where, name), (where.replace(".", "/"), name)]
    if not name:
        spelt.append((module.replace(".", "/"), last))
    for file, kind in spelt:
        if file and Path(f"{file}.py").is_file():
            return f"{file}.py:{kind}" if kind else f"{file}.py"
    return None


def reason(error: BaseException) -> str:
    """Return an error's message on one line.

    An operating system's error becomes `photo.jpg: no such file`, without its number.
    """
    if not isinstance(error, OSError) or not error.strerror:
        return " ".join(str(error).split())
    # By text and not by number: write_atomic's "no such folder" keeps its own text.
    message = "no such file" if error.strerror == os.strerror(errno.ENOENT) else error.strerror
    message = message[:1].lower() + message[1:]
    if error.filename is None:
        return message
    # A name may have line ends, and the message stays one line.
    return f"{error.filename}: {message}".replace("\r", "\\r").replace("\n", "\\n")
