"""Measure side by side, in turn, in one process."""
