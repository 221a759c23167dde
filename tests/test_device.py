"""The memory that a training process keeps."""

import os
import platform
import subprocess
import sys

# Works as a training step does, and prints how many pages the system had to clear for it.
SCRIPT = """
import resource, sys
import torch
from featherweight.device import keep_freed_memory

def work():
    return [torch.ones(600_000) for _ in range(4)] and None

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# Give every large piece back at once; by default that depends on what was freed before.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def _pages(how):
    command, environment = [sys.executable, "-c", SCRIPT, how], os.environ | GIVE_BACK
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_a_step_frees_is_kept_for_the_next():
    assert _pages("keep") < 10_000  # a piece may be given back, now and then
    if platform.libc_ver()[0] == "glibc":
        assert _pages("not") > 100_000  # else nothing is gained
