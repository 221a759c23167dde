"""Run a command with limits, and where the system lets one, without a network and without writing.

It is called as `python _confine.py RESULT SECONDS BYTES COMMAND...`, where RESULT is an open file.
The byte before the command's own output in that file says what was done: `n` for namespaces, `l`
for limits alone. This file is run by its path and imports only the standard library, so that it
starts in milliseconds.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys

N_PROCESSES = 64  # of the command, threads included
SCRATCH = "/dev/shm"  # a folder that every Linux has
MAX_PID = 320  # the lowest that Linux accepts is 301
# Flags of Linux's unshare(2), mount_setattr(2) and prctl(2).
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
MS_RDONLY = 1  # of mount(2)
USER = 1000  # the command's user id inside its namespace: not 0, so that it has no privileges


def limit(seconds: int, n_bytes: int) -> None:
    """Limit time, memory and files of this process and its children."""
    for kind, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_DATA, n_bytes),
        (resource.RLIMIT_FSIZE, n_bytes // 16),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def call(function: str, *arguments: object) -> None:
    """Call a function of the C library. Raises OSError where it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def leave_namespaces() -> None:
    """Leave the system's network, users, processes and mounts for new ones."""
    user, group = os.getuid(), os.getgid()
    call("unshare", CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{USER} {user} 1"),
        ("gid_map", f"{USER} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def close_files() -> None:
    """Make every file read-only, and limit and hide processes, in the first process inside."""
    resource.setrlimit(resource.RLIMIT_NPROC, (N_PROCESSES, N_PROCESSES))
    # The user root is exempt from that limit; Linux 6.14 has one that is not.
    with contextlib.suppress(OSError):
        call("mount", b"proc", b"/proc", b"proc", 0, None)
        with open("/proc/sys/kernel/pid_max", "w", encoding="ascii") as file:
            file.write(str(MAX_PID))
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, size)
    # Sockets in the file system lead out of a network namespace: those of services are here.
    with contextlib.suppress(OSError):
        call("mount", b"tmpfs", b"/run", b"tmpfs", MS_RDONLY, b"size=4k")
    # Only temporary files can be written, into memory that goes with the process.
    call("mount", b"tmpfs", SCRATCH.encode(), b"tmpfs", 0, b"size=64m")
    os.environ["TMPDIR"] = SCRATCH
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def confine(result: int, seconds: int, n_bytes: int) -> None:
    """Confine what follows: this process or, where the system gives namespaces, a child of it.

    It returns once, in the confined process. With namespaces the caller's own process waits here
    for the child, and ends as it ends."""
    limit(seconds, n_bytes)
    try:
        leave_namespaces()
    except (OSError, AttributeError):  # not Linux, or a container that forbids it
        with contextlib.suppress(OSError, AttributeError):
            call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        os.write(result, b"l")
        return
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    child = os.fork()  # the first process inside: when it ends, all others there do
    if child == 0:
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            close_files()
            os.write(result, b"n")
        except OSError:
            os.write(result, b"l")
        return
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def main(result: int, seconds: int, n_bytes: int, command: list[str]) -> None:
    """Run the command, and end as it ends."""
    confine(result, seconds, n_bytes)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
