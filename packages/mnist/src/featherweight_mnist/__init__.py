"""The MNIST database of handwritten digits: four gzipped IDX files, and their SHA-256 sums."""

from pathlib import Path

FOLDER = Path(__file__).parent
"The folder of the files."
