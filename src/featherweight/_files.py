"""Write files and folders completely or not at all, and describe errors in one line.

Example:
    write_atomic(Path("metrics.jsonl"), content)
    folder = new_folder(Path("runs"), ".new-")      # fill it, then rename it
    reason(error)                                   # "photo.jpg: no such file"
"""

import errno
import os
import secrets
import time
from pathlib import Path

REPLACE_TIMEOUT = 1.0  # seconds during which replacing a file that is in use is tried again


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


def reason(error: BaseException) -> str:
    """Return an error's message on one line.

    An operating system's error becomes `photo.jpg: no such file`, without its number.
    """
    if not isinstance(error, OSError) or not error.strerror:
        return " ".join(str(error).split())
    # By text and not by number: write_atomic's "no such folder" keeps its own text.
    message = "no such file" if error.strerror == os.strerror(errno.ENOENT) else error.strerror
    message = message[:1].lower() + message[1:]
    return message if error.filename is None else f"{error.filename}: {message}"
