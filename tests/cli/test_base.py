"""What all commands share: networks' code beside our data, and how the process ends."""

import contextlib
import errno
import os
import subprocess
import sys

import pytest
from helpers import ENVIRONMENT

from featherweight.cli import base
from featherweight.cli.base import networks_apart
from featherweight.errors import InputError

# The command line with one more command, in which a network's code runs.
STRANGE = """
import atexit, ctypes, json, os, sys, threading, time, types
from featherweight.cli.base import app, main, networks_apart, print_json
sys.modules["featherweight.locate"] = types.SimpleNamespace(has_imported=lambda: True)
kept = sys.stdout
@app.command
def strange():
    with networks_apart():
        exec(sys.stdin.read())
    print_json("data")
    return 1
main()
"""


@pytest.mark.parametrize(
    "code",
    [
        "print('x'); sys.stdout.write('x'); os.write(1, b'x')",
        "print('x', file=sys.__stdout__); print('x', file=kept)",
        "ctypes.CDLL(None).printf(b'x')",
        "os.system('echo x')",
        "atexit.register(print, 'x')",
        "atexit.register(os._exit, 0)",
        "atexit.register(lambda: os.write(1, b'x'))",
        "threading.Thread(target=lambda: time.sleep(1000)).start()",
        "threading.Thread(target=lambda: os._exit(0)).start(); time.sleep(0.1)",
        "class Late:\n    def __del__(self): print('x')\nsys.late = Late()",
    ],
)
def test_a_networks_code_changes_neither_the_data_nor_the_exit_code(code):
    said = subprocess.run(
        [sys.executable, "-c", STRANGE, "strange"],
        input=code,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.stdout, said.returncode) == ('"data"\n', 1), said.stderr
    assert "Traceback" not in said.stderr or "_exit" in code


@pytest.mark.parametrize("leave", [lambda: sys.exit(0), lambda: os._exit(0), lambda: exit(3)])
def test_a_networks_code_that_ends_the_process_is_wrong_input(leave):
    with pytest.raises(InputError, match=r"ends the process, exit\([03]\)"), networks_apart():
        leave()


def test_a_process_that_a_network_forks_may_end():
    with networks_apart():
        child = os.fork()
        if child == 0:
            os._exit(7)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EROFS, "can be written to"),
        (errno.EACCES, "you may use"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "featherweight recipes --help"),
    ],
)
def test_an_error_of_the_system_says_what_to_do(monkeypatch, capsys, number, hint):
    def fail(name):
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("featherweight.cli.presets.find_recipe", fail)
    monkeypatch.setattr(sys, "argv", ["featherweight", "recipes", "sprint"])
    with pytest.raises(SystemExit) as stop, contextlib.suppress(InputError):
        base.main()
    assert stop.value.code == base.USAGE
    error, way_on = capsys.readouterr().err.splitlines()
    assert error == f"error: some/file: {os.strerror(number)[0].lower()}{os.strerror(number)[1:]}"
    assert hint in way_on
