"""`python -m featherweight`, as torchrun needs it: see parallel.py."""

from .cli import main

main()
