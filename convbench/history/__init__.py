"""Records of one folder over time: series, and steps in them that are reported and block nothing."""

from convbench.history.analysis import History, read_history, series, step_rows

__all__ = ["History", "read_history", "series", "step_rows"]
