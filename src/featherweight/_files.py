"""Files and folders that are whole or absent, and what to say of those that can't be used.

write_atomic(Path("metrics.jsonl"), content)
folder = new_folder(Path("runs"), ".new-")      # to be filled, then renamed
reason(error)                                   # "photo.jpg: no such file"
"""

import errno
import os
import secrets
import time
from pathlib import Path

PATIENCE = 1.0  # seconds that a file may be kept from being replaced


def new_folder(parent: Path, prefix: str) -> Path:
    """Make a folder of a free name in `parent`, with the permissions that the umask leaves (tempfile's has none)."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def write_atomic(path: Path, content: bytes) -> None:
    """Write, sync and rename: after a crash the file is the old one or the new one, never a part.

    Its permissions are those that the umask leaves, as of any new file. Raises OSError with the name of `path`."""
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
    """Rename over a file. On Windows that fails while another process has it open, a spreadsheet or a virus scanner:
    try again for a while."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


def reason(error: BaseException) -> str:
    """What an error says in one line; an operating system's as `photo.jpg: no such file`, without its number."""
    if not isinstance(error, OSError) or not error.strerror:
        return " ".join(str(error).split())
    said = "no such file" if error.strerror == os.strerror(errno.ENOENT) else error.strerror
    said = said[:1].lower() + said[1:]
    return said if error.filename is None else f"{error.filename}: {said}"
