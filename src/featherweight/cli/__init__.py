"""The command line; the only room that prints. Data goes to stdout, talk to stderr.

    featherweight train
    featherweight evaluate runs/feather-20k-s0-1 --split test

torch takes seconds to load: only the commands that need it import the modules that do.
"""

from . import bench as measuring
from . import predict as reading
from . import study as studying
from . import train as making
from .base import app, main

__all__ = ["app", "main", "making", "measuring", "reading", "studying"]
