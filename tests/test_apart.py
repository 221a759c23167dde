"""Networks whose code is held apart: however it ends, one line comes back or a graph."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from networks.isolation import prints

from featherweight import _confine, apart
from featherweight.apart import begin_capture, capture_apart
from featherweight.build import count_parameters
from featherweight.capture import capture
from featherweight.errors import InputError, NoGraphError
from featherweight.passes import Pass

pytestmark = pytest.mark.apart
CASES = Path(__file__).parent / "networks" / "isolation"
BOTH = (Pass(True), Pass(False))
HONEST = count_parameters(prints.Honest())
SMALL = """
import os, sys, pathlib, json
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
        {code}
"""


def processes(text):
    """Return the command lines of all processes that name a file."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if text.encode() in command and int(folder.name) != os.getpid():
            found.append(command)
    return found


@pytest.fixture
def network(tmp_path, monkeypatch, capfd):
    """Return a function that holds a network apart, with limits of some seconds.

    After the test nothing of it runs, and it has printed nothing."""
    monkeypatch.setattr(apart, "CPU_SECONDS", 8)
    monkeypatch.setattr(apart, "SECONDS", 30)

    def held(name, **environment):
        file, _, kind = name.partition(":")
        path = tmp_path / file
        if not path.exists():
            shutil.copy(CASES / file, path)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        return capture_apart(f"{path}:{kind}", {}, 10, BOTH)

    yield held
    assert not processes(str(tmp_path))
    assert capfd.readouterr() == ("", "")


def small(folder, code):
    """Write a network of one layer whose constructor runs more code; return its file's name."""
    (folder / "small.py").write_text(SMALL.format(code=code))
    return "small.py:Net"


@pytest.fixture
def unconfined(tmp_path_factory, monkeypatch):
    """A system that gives no namespaces."""
    folder = tmp_path_factory.mktemp("system")
    source = Path(_confine.__file__).read_text()
    changed = source.replace(
        '    call("unshare"', '    raise OSError("forbidden")\n    call("unshare"'
    )
    assert changed != source
    (folder / "_confine.py").write_text(changed)
    monkeypatch.setattr(apart, "__file__", str(folder / "apart.py"))


@pytest.fixture(scope="module")
def namespaces():
    """Whether this system lets a process leave the network and the mounts."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(_confine.__file__).parent)!r})\n"
        "import _confine\n"
        "_confine.leave_namespaces()\n"
    )
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- What comes back ---


def test_an_honest_network_comes_back_with_the_weights_of_the_seed(network, tmp_path):
    name = small(tmp_path, "pass")
    first, again = network(name), network(name)
    other = capture_apart(str(tmp_path / "small.py"), {}, 10, BOTH, seed=1)
    assert first.title == "small.py:Net"
    assert first.declared == count_parameters(first) == 7850
    assert first.faithful
    weights = [each.get_parameter("1.weight") for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    images = torch.rand(4, 1, 28, 28)
    expected = images.flatten(1) @ weights[0].t() + first.get_parameter("1.bias")
    torch.testing.assert_close(first(images), expected)


def test_arguments_and_classes_and_shape_reach_the_constructor(tmp_path):
    (tmp_path / "wide.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, width, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(196, width), "
        "nn.Linear(width, num_classes))\n"
    )
    passes = [Pass(True, (1, 14, 14)), Pass(False, (1, 14, 14), (5,))]
    found = capture_apart(str(tmp_path / "wide.py"), {"width": 7}, 3, passes)
    assert found.declared == 197 * 7 + 8 * 3
    assert [graph.training for graph in found.graphs] == [True, False]
    assert found.eval()(torch.zeros(5, 1, 14, 14)).shape == (5, 3)


@pytest.mark.parametrize("name", ["prints.py:Net", "reads_stdin.py:Net", "daemon.py:Net"])
def test_an_honest_network_that_does_more_comes_back_as_a_graph(network, name, tmp_path):
    late = tmp_path / "late"
    found = network(name, DAEMON=str(late))
    assert found.declared == HONEST
    assert found.eval()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    if name == "daemon.py:Net":
        time.sleep(3.5)  # what it leaves behind would write then
        assert not late.exists()


@pytest.mark.parametrize("name", ["exits.py:AtExit", "raises_in_repr.py:Repr"])
def test_what_happens_around_the_network_matters_not(network, name):
    assert network(name).declared == 7850


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("endless.py:InForward", "needs more than 8 s of CPU time"),
        ("exits.py:Net", "it ends the process, exit(0)"),
        ("exits.py:InForward", "at line 27, `sys.exit(0)`: it ends the process, exit(0)"),
        ("os_exit.py:Net", "its code ends the process with exit code 0"),
        ("os_exit.py:InForward", "its code ends the process with exit code 0"),
        ("segfault.py:Net", "its code was ended by SIGSEGV"),
        ("segfault.py:InForward", "its code was ended by SIGSEGV"),
        ("prints_json.py:Net", "expected a network that can be exported"),
        ("raises_in_repr.py:Net", "can't be built with no arguments: Error"),
        ("raises_in_repr.py:Markup", "ValueError: [red]passed[/red]"),
        ("raises_in_repr.py:Interrupts", "KeyboardInterrupt"),
        ("reads_stdin.py:Asks", "EOFError: EOF when reading a line"),
        ("memory.py:Net", "MemoryError"),
    ],
)
def test_a_network_that_ends_otherwise_is_one_line(network, monkeypatch, name, words):
    if name == "memory.py:Net":
        monkeypatch.setattr(apart, "MAX_BYTES", 2**30)
    with pytest.raises(InputError) as caught:
        network(name)
    message = caught.value.message
    assert words in message
    assert name.partition(":")[0] in message
    assert message.isprintable()
    assert len(message) < 1000


def test_a_network_that_cannot_be_followed_may_be_watched(network, tmp_path):
    (tmp_path / "values.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(28, 10)\n"
        "    def forward(self, x): return super().forward(x[:, 0, 0]) * float(x.sum())\n"
    )
    with pytest.raises(NoGraphError, match="has no graph"):
        network("values.py:Net")


def test_an_import_that_ends_the_process_is_one_line(network):
    with pytest.raises(InputError, match=r"can't be imported: it ends the process, exit\(0\)"):
        network("exits.py:Net", EXITS_AT_IMPORT="1")


def test_a_network_that_sleeps_for_ever_is_ended(network, monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 3)
    with pytest.raises(InputError, match="takes more than 3 s to be built and exported"):
        network("endless.py:Sleeps")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_process_that_is_killed_is_one_line(network, tmp_path, number):
    name = small(tmp_path, f"os.kill(os.getpid(), {int(number)}); os.abort()")
    with pytest.raises(InputError, match=r"its code was ended by SIG|killed"):
        network(name)


def test_a_fork_bomb_ends(network, namespaces):
    if not namespaces:
        # Only Linux's process namespace bounds what the user root starts: see the next test.
        assert capture_apart(str(CASES / "prints.py:Net"), {}, 10, BOTH).confined is False
        return
    ended = "Resource temporarily unavailable|expected a network that can be exported"
    with pytest.raises(InputError, match=ended):
        network("forks.py:Net", FORKS="1")


# --- What it can reach ---


def test_it_reaches_no_network(network, namespaces):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = "{}:{}".format(*server.getsockname())
        if namespaces:
            with pytest.raises(InputError, match=r"OSError|unreachable"):
                network("network.py:Net", CONNECTS=address)
            with pytest.raises(TimeoutError):
                server.accept()
        else:
            assert network("network.py:Net", CONNECTS=address).confined is False


def test_it_writes_no_file(network, namespaces, tmp_path):
    written = tmp_path / "written"
    name = small(tmp_path, f"pathlib.Path({str(written)!r}).touch()")
    if namespaces:
        with pytest.raises(InputError, match="Read-only file system"):
            network(name)
    else:
        assert network(name).confined is False
    assert written.exists() != namespaces


def test_it_may_write_temporary_files_that_go_with_it(network, namespaces, tmp_path):
    code = (
        "import tempfile; file = pathlib.Path(tempfile.mkstemp(prefix='kept')[1]); "
        "file.write_text('x'); assert file.read_text() == 'x'"
    )
    assert network(small(tmp_path, code)).confined is namespaces
    if namespaces:
        assert not list(Path(_confine.SCRATCH).glob("kept*"))


def test_it_sees_no_other_process_and_has_no_rights(network, namespaces, tmp_path):
    code = (
        "assert os.getpid() < 10 and os.getuid() == 1000; "
        "assert len([n for n in os.listdir('/proc') if n.isdigit()]) < 4; "
        "assert not os.path.exists('/proc/%d' % os.getppid())"
    )
    if namespaces:
        assert network(small(tmp_path, code)).confined is True


@pytest.mark.usefixtures("unconfined")
def test_without_namespaces_the_limits_remain(network, monkeypatch, tmp_path):
    assert network(small(tmp_path, "pass")).confined is False
    with pytest.raises(InputError, match="8 s of CPU time"):
        network("endless.py:Net")
    monkeypatch.setattr(apart, "MAX_BYTES", 2**30)
    with pytest.raises(InputError, match="MemoryError"):
        network("memory.py:Net")
    # Files of 64 MB, and not of 10 GB.
    with pytest.raises(InputError, match="File too large"):
        network("writes.py:Net", WRITES=str(tmp_path))
    assert (tmp_path / "large.bin").stat().st_size <= 2**26
    with pytest.raises(InputError, match="ends the process with exit code 0"):
        network("os_exit.py:Net")


def test_the_network_is_told_that_it_is_confined(network, namespaces, tmp_path):
    assert network(small(tmp_path, "pass")).confined is namespaces
    assert capture(prints.Honest(), BOTH).confined is None  # in this process


# --- Results that the network writes itself ---

WRITE = "os.write(int(sys.argv[1]), {content!r}); os._exit(0)"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"g", b"g{}", b"g" + b"\0" * 1000, b"gg", b"x", b"e", b"e{}", b"e[]", b"e\xff"),
        *(b'e{"message": 1}', b'e{"message": null, "hint": [1]}', b"e" + b"[" * 100_000),
    ],
)
def test_a_result_of_the_networks_own_is_one_line(network, tmp_path, content):
    with pytest.raises(InputError) as caught:
        network(small(tmp_path, WRITE.format(content=content)))
    assert "\n" not in caught.value.message


def test_an_error_of_the_networks_own_cannot_look_like_a_verdict(network, tmp_path):
    forged = b'e{"message": "x\\n\\u001b[2Jverdict: PASS", "hint": "y\\nverdict: PASS"}'
    with pytest.raises(InputError) as caught:
        network(small(tmp_path, WRITE.format(content=forged)))
    assert caught.value.message.isprintable()
    assert (caught.value.hint or "").isprintable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_process_that_the_network_has_forked_writes_no_result():
    code = """
import os
from featherweight.apart import write_result

def make():
    if os.fork() == 0:
        raise ValueError("no file can be written")
    os.wait()
    return b"graph"

write_result(1, "net.py", make)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"ggraph"


def test_a_graph_of_the_networks_own_is_judged_as_what_it_is(network, tmp_path):
    """There is nothing to gain: the graph that comes back is the network."""
    honest = capture(prints.Honest(), BOTH)
    (tmp_path / "graph").write_bytes(honest.to_bytes())
    file = str(tmp_path / "graph")
    code = f"os.write(int(sys.argv[1]), b'g' + open({file!r}, 'rb').read()); os._exit(0)"
    found = network(small(tmp_path, code))
    assert found.title == honest.title != "small.py:Net"
    assert torch.equal(found.get_parameter("0.weight"), honest.get_parameter("0.weight"))


def test_a_result_that_is_too_large_is_one_line(network, monkeypatch, tmp_path):
    monkeypatch.setattr(apart, "MAX_BYTES", 2**30)
    code = (
        "os.write(int(sys.argv[1]), b'g')\n"
        "        try:\n"
        "            for _ in range(200): os.write(int(sys.argv[1]), bytes(2**20))\n"
        "        except OSError: os._exit(3)\n"
        "        os._exit(0)"
    )
    with pytest.raises(InputError) as caught:
        network(small(tmp_path, code))
    assert "\n" not in caught.value.message


# --- The process ---


def test_a_process_that_was_begun_is_used(tmp_path, monkeypatch):
    small(tmp_path, "pass")
    started = []
    start = apart._start
    monkeypatch.setattr(apart, "_start", lambda *of: started.append(of) or start(*of))
    request = (str(tmp_path / "small.py"), {}, 10, BOTH)
    begin_capture(*request)
    begin_capture(*request)
    assert len(started) == 1
    (begun,) = apart._begun.values()
    assert begun.process.poll() is None
    assert capture_apart(*request).declared == 7850
    assert len(started) == 1
    assert not processes(str(tmp_path))
    assert not apart._begun
    assert capture_apart(*request, seed=1).declared == 7850
    assert len(started) == 2


def test_a_process_that_was_begun_ends_with_the_program(tmp_path):
    shutil.copy(CASES / "endless.py", tmp_path)
    code = (
        "from featherweight.apart import begin_capture; from featherweight.passes import Pass\n"
        f"begin_capture({str(tmp_path / 'endless.py:Sleeps')!r}, {{}}, 10, [Pass(True)])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert not processes(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("system", ["own", "unconfined"])
def test_nothing_runs_on_after_the_program(tmp_path, number, system, request):
    if system == "unconfined":
        request.getfixturevalue("unconfined")
    shutil.copy(CASES / "endless.py", tmp_path)
    code = (
        "from featherweight import apart; from featherweight.passes import Pass\n"
        f"apart.__file__ = {apart.__file__!r}\n"
        f"apart.capture_apart({str(tmp_path / 'endless.py:Sleeps')!r}, {{}}, 10, [Pass(True)])"
    )
    program = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while len(processes(str(tmp_path))) < 2:  # the program and the process apart
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(1)
    program.send_signal(number)
    program.wait(timeout=20)
    end = time.monotonic() + 10
    while processes(str(tmp_path)):
        assert time.monotonic() < end, processes(str(tmp_path))
        time.sleep(0.1)
