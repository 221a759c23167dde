"""Benchmarks that compare alternatives side by side, in turn, on the same machine."""
