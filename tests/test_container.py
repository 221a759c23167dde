"""The Dockerfile, without building it: what it copies and installs, who runs it, and whether its
commands work."""

import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import httpx2 as httpx
import pytest
from helpers import Server

from featherweight.cli import app
from featherweight.cli.serve import cmd_serve

ROOT = Path(__file__).parent.parent
# Python that refuses to open a file for writing, or to change a folder, as a read-only file system
# does; then the command.
READ_ONLY = """
import os, sys
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
def refuse(event, values):
    if event == "open" and values[0] != os.devnull and isinstance(values[0], (str, bytes)):
        mode, flags = values[1:]
        if set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", values[0])
    elif event in CHANGES:
        raise OSError(30, "Read-only file system", values[0])
sys.addaudithook(refuse)
from featherweight.cli import main
main()
"""


def stages(text):
    """Return the instructions of each stage of a Dockerfile, as pairs of a word and its rest."""
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest))
    return found


BUILD, FINAL = stages((ROOT / "Dockerfile").read_text(encoding="utf-8"))


def value(stage, word):
    """Return the rest of a stage's one instruction of a kind."""
    (rest,) = [rest for each, rest in stage if each == word]
    return rest


def copied():
    """Return the paths that the build stage copies from the checkout."""
    lines = [rest.split()[:-1] for word, rest in BUILD if word == "COPY"]
    return [ROOT / name for names in lines for name in names]


def test_what_it_copies_is_there_and_not_left_out():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied():
        assert path.exists(), path
        left_out = False
        for line in lines:  # the last one that matches decides
            if not line.startswith("#") and fnmatch(path.name, line.removeprefix("!")):
                left_out = not line.startswith("!")
        assert not left_out, path


def test_it_copies_all_that_building_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"]
    needed += project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed.append(project["tool"]["hatch"]["version"]["path"])
    for name in needed:
        assert any((ROOT / name).is_relative_to(path) for path in copied()), name


def test_it_installs_the_package_to_serve_at_the_versions_that_were_tested():
    install = next(
        words
        for command in value(BUILD, "RUN").split("&&")
        if "install" in (words := shlex.split(command))
    )
    assert install[-1] == ".[serve]"
    assert install[install.index("-c") + 1] == "constraints.txt"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "serve" in extras["optional-dependencies"]
    home = install[0].rsplit("/bin/", 1)[0]
    assert value(FINAL, "COPY") == f"--from=build {home} {home}"
    assert f"PATH={home}/bin:" in value(FINAL, "ENV")


def test_both_stages_have_one_slim_python_that_the_package_supports():
    assert value(BUILD, "FROM") == f"{value(FINAL, 'FROM')} AS build"
    name, _, version = value(FINAL, "FROM").partition(":")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    number = version.removesuffix("-slim")
    assert (name, version) == ("python", f"{number}-slim")
    assert f"Programming Language :: Python :: {number}" in project["classifiers"]


def test_it_does_not_run_as_root():
    user, group = map(int, value(FINAL, "USER").split(":"))
    assert user > 0
    assert group > 0
    # Whoever writes as root does it before: nothing follows but what the user runs.
    after = [word for word, _ in FINAL][[word for word, _ in FINAL].index("USER") :]
    assert set(after) == {"USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}


def test_its_command_is_understood_and_serves_the_port_that_it_names():
    words = json.loads(value(FINAL, "ENTRYPOINT"))
    assert words[0] == "featherweight"
    command, bound, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert command is cmd_serve
    assert bound.kwargs == {"host": "0.0.0.0"}
    assert int(value(FINAL, "EXPOSE")) == inspect.signature(cmd_serve).parameters["port"].default


def test_its_health_check_says_whether_the_server_answers(model):
    program, option, code = json.loads(value(FINAL, "HEALTHCHECK").partition("CMD ")[2])
    assert (program, option) == ("python", "-c")
    server = Server(model.path)
    code = code.replace(f"http://127.0.0.1:{value(FINAL, 'EXPOSE')}", server.url)
    assert server.url in code
    try:
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    finally:
        server.stop()
        server.process.stderr.close()
    down = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert down.returncode == 1


def test_it_needs_no_file_system_to_write_on(model):
    server = subprocess.Popen(
        [sys.executable, "-B", "-c", READ_ONLY, "serve", "--model", model.path, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stderr.readline().split()[0]
        with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=20)) as client:
            assert client.get("/").status_code == 200
            answer = client.post(
                "/predict",
                content=(ROOT / "docs" / "page.png").read_bytes(),
                headers={"content-type": "image/png"},
            )
            assert answer.status_code == 200, answer.text
    finally:
        server.terminate()
        assert server.wait(timeout=60) in (0, -15), server.stderr.read()
        server.stderr.close()


@pytest.mark.parametrize("change", ["open('x', 'w')", "__import__('os').mkdir('x')"])
def test_the_read_only_python_of_these_tests_refuses_to_write(change, tmp_path):
    hook = READ_ONLY.partition("from featherweight")[0]
    done = subprocess.run(
        [sys.executable, "-B", "-c", hook + change],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Read-only file system" in done.stderr
    assert not list(tmp_path.iterdir())
