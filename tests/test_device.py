"""The memory that a training process keeps, and how many of them fit on a GPU."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from featherweight.device import trainings_at_a_time

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


@pytest.mark.parametrize(
    ("free", "n_cores", "fit"),
    [(8.0, 16, 4), (7.9, 16, 3), (0.5, 16, 1), (80.0, 16, 16), (80.0, 1, 1)],
)
def test_no_more_trainings_than_the_memory_of_a_gpu_holds(monkeypatch, free, n_cores, fit):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * 2**30), 80 * 2**30))
    assert trainings_at_a_time(torch.device("cuda:0"), n_cores) == fit
    assert trainings_at_a_time(torch.device("cpu"), n_cores) == n_cores
