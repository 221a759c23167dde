"""Train, prove and ship image classifiers that must fit a hard budget.

    featherweight train                      # the default recipe on the embedded MNIST
    featherweight audit runs/feather-20k-s0-1

Importing the package is cheap: torch is loaded by the modules that need it.
"""

__version__ = "0.1.0"
