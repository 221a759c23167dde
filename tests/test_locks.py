"""Locks between processes: what is said where there are none."""

import errno
import fcntl
import os

import pytest
from filelock import Timeout

from featherweight._locks import hold
from featherweight.errors import InputError


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    with hold(tmp_path / "lock"), pytest.raises(Timeout), hold(tmp_path / "lock", 0):
        pass
    with hold(tmp_path / "lock", 0, again=True), hold(tmp_path / "lock", 0, again=True):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_one_line_with_the_file(tmp_path, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError) as caught, hold(tmp_path / "rows.csv.lock"):
        pass
    assert str(tmp_path / "rows.csv.lock") in caught.value.message
    assert os.strerror(number).lower() in caught.value.message.lower()
    assert "--runs" in str(caught.value.hint)
