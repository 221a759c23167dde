"""The page's latency, as tools/page_latency.py measures it in a browser."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_it_prints_the_share_of_each_part():
    done = subprocess.run(
        [sys.executable, TOOLS / "page_latency.py", "--repeats", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("medians of 2 answers, in milliseconds:\n")
    rows = re.findall(r"^  (\S.*\S) +([\d.]+) +([\d.]+) %$", done.stdout, re.MULTILINE)
    names = ["pen-up to the answer shown", "request", "preparation", "network"]
    assert [name for name, _, _ in rows] == names
    whole, request, preparation, network = (float(value) for _, value, _ in rows)
    assert 0 < network < request <= whole
    assert preparation < request
