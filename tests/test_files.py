"""Atomic files, their permissions, and errors in one line."""

import errno
import os
import socket
import stat

import pytest

from featherweight import _files as files
from featherweight._files import new_folder, reason, write_atomic


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_permissions_are_those_that_the_umask_leaves(tmp_path, umask):
    for _ in range(2):  # a new file, and one that is replaced
        write_atomic(tmp_path / "a", b"content")
        assert mode(tmp_path / "a") == 0o666 & ~umask
    folders = [new_folder(tmp_path, ".new-") for _ in range(2)]
    assert len(set(folders)) == 2
    assert {mode(folder) for folder in folders} == {0o777 & ~umask}


def test_a_failed_write_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, b"new")
    assert reason(caught.value) == f"{path}: no space left on device"
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "nowhere" / "a", b"")
    assert reason(caught.value) == f"{tmp_path / 'nowhere'}: no such folder"


@pytest.mark.parametrize("times", [3, 1000])
def test_a_file_that_is_open_elsewhere_is_waited_for(times, tmp_path, monkeypatch):
    """On Windows a file that a spreadsheet has open can't be replaced."""
    clock, refused, replace = [0.0], [], os.replace

    def held(source, target):
        if len(refused) < times:
            refused.append(target)
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", held)
    monkeypatch.setattr(files.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        files.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    )
    if times == 3:
        write_atomic(tmp_path / "a", b"content")
        assert (tmp_path / "a").read_bytes() == b"content"
    else:
        with pytest.raises(PermissionError):
            write_atomic(tmp_path / "a", b"content")
        assert 5 < len(refused) < times
        assert list(tmp_path.iterdir()) == []


def failing(function, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*arguments)
    return caught.value


def test_reasons_have_a_name_and_no_number(tmp_path):
    missing, folder, file = tmp_path / "missing.jpg", tmp_path, tmp_path / "file"
    file.touch()
    assert reason(failing(missing.read_bytes)) == f"{missing}: no such file"
    assert reason(failing(folder.read_bytes)) == f"{folder}: is a directory"
    assert reason(failing((file / "a").read_bytes)) == f"{file / 'a'}: not a directory"
    assert (
        reason(PermissionError(errno.EACCES, "Permission denied", "a.csv"))
        == "a.csv: permission denied"
    )
    assert reason(OSError(errno.ENOSPC, "No space left on device")) == "no space left on device"
    assert "Errno" not in reason(failing(socket.create_connection, ("127.0.0.1", 1)))
    assert reason(OSError("Ray: lost\n twice")) == "Ray: lost twice"
    assert reason(ValueError("got a,\nexpected b")) == "got a, expected b"


def test_a_message_is_one_line_though_a_name_has_two():
    error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "two\nlines\r.png")
    assert reason(error) == "two\\nlines\\r.png: no such file"
