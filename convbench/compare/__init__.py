"""Run records from different machines, joined case by case."""

from convbench.compare.analysis import ALL, FASTEST, Comparison, compare

__all__ = ["ALL", "FASTEST", "Comparison", "compare"]
