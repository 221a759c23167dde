"""`python -m featherweight`, as torchrun needs it: see parallel.py."""

from .app import main

main()
