"""What ran on what: counted while a model runs, printed as a table."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace

TORCH = "torch"  # what falls back to torch is said to have run on


@dataclass(frozen=True)
class Ran:
    """One pass of one layer shape, and what computed it.

    layer           the shape, as ConvSpec prints it
    pass_           forward, data_gradient or weight_gradient
    dtype, device   of its tensors
    implementation  family.algorithm, or "torch" for a fallback
    algorithm       what the implementation chose for the shape
    reason          why torch computed it; "" where it did not
    count           how often it ran
    """

    layer: str
    pass_: str
    dtype: str
    device: str
    implementation: str
    algorithm: str = ""
    reason: str = ""
    count: int = 0

    @property
    def computed_by(self) -> str:
        """In words: the implementation and its algorithm, or torch and why."""
        if self.reason:
            return f"{self.implementation}: {self.reason}"
        return f"{self.implementation} ({self.algorithm})" if self.algorithm else self.implementation


class Report:
    """Counts of Ran, in the order of their first appearance. Threads may share one; print() shows a table."""

    def __init__(self) -> None:
        self._counts: Counter[Ran] = Counter()
        self._lock = threading.Lock()

    def add(self, ran: Ran) -> None:
        """Count one run."""
        with self._lock:
            self._counts[ran] += 1

    @property
    def rows(self) -> list[Ran]:
        """What ran, with counts."""
        with self._lock:
            return [replace(ran, count=count) for ran, count in self._counts.items()]

    @property
    def fallbacks(self) -> list[Ran]:
        """What torch computed because no implementation that was asked for can."""
        return [ran for ran in self.rows if ran.reason]

    def __str__(self) -> str:
        rows = [(r.layer, r.dtype, r.pass_, r.computed_by, str(r.count)) for r in self.rows]
        if not rows:
            return "no convolution ran"
        return _table([("layer", "dtype", "pass", "ran on", "count"), *rows])


_active = threading.local()  # reports that are open on this thread, innermost last


def current() -> Report | None:
    """The report that is open on this thread."""
    return next(reversed(getattr(_active, "reports", ())), None)


class reporting:
    """with reporting(report): what runs on this thread is counted in it. None leaves the one that is open."""

    def __init__(self, report: Report | None) -> None:
        self.report = report

    def __enter__(self) -> None:
        if not hasattr(_active, "reports"):
            _active.reports = []
        _active.reports.append(self.report or current())

    def __exit__(self, *error: object) -> None:
        _active.reports.pop()


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
