"""What of a record takes part in a comparison: one side for each device, one cell for each case x implementation.

Raw samples are reduced to an interval and dropped here, so that fifty records fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal, NamedTuple

import msgspec

from convbench.measure import Interval, batch_spread
from convbench.records import WORK, Stored
from convbench.results import Record, RecordedRow
from convbench.untrusted import printable, shortened

Source = Literal["samples", "ci columns", ""]
Key = tuple  # identity of a case

LONGEST_LABEL = 100

# What is computed, nothing about where, how or under which name: equal keys are the same work.
case_id: Callable[[RecordedRow], Key] = attrgetter(*WORK)


class Cell(NamedTuple):
    """One implementation of one case on one side."""

    implementation: str
    time: Interval  # seconds
    share: float | None  # of what this side's own measured roof allows
    source: Source  # of the interval


@dataclass
class Layer:
    """A case as it is shown: its first row, and all suites and names under which it was run."""

    row: RecordedRow
    suites: dict[str, None] = field(default_factory=dict)
    label: str = ""
    group: str = ""  # layers with a mean in common: of one kind, pass and type


@dataclass(eq=False)  # a side is itself: comparing all cells would take long
class Side:
    """One device of one record. ``record`` has no rows any more."""

    stored: Stored
    record: Record
    device: str
    label: str = ""
    cells: dict[Key, dict[str, Cell]] = field(default_factory=dict)
    untimed: dict[tuple[Key, str], str] = field(default_factory=dict)  # status of cells without a time
    layers: dict[Key, Layer] = field(default_factory=dict)
    repeated: int = 0  # cells left out: the same convolution under another name
    _fastest: dict[Key, Cell | None] = field(default_factory=dict)

    @property
    def threads(self) -> str:
        return str(self.record.settings.get("threads", ""))

    def fastest(self, key: Key) -> Cell | None:
        """The implementation with the least time."""
        if key not in self._fastest:
            self._fastest[key] = min(self.cells.get(key, {}).values(), key=lambda cell: cell.time.value, default=None)
        return self._fastest[key]


def sides_of(stored: Stored, keeps: Callable[[RecordedRow], bool] = lambda row: True) -> list[Side]:
    """The sides of one record, in the order of its rows, from the rows that ``keeps`` is true of."""
    bare = msgspec.structs.replace(stored.record, rows=[])
    sides: dict[str, Side] = {}
    for row in filter(keeps, stored.record.rows):
        if row.device not in sides:
            sides[row.device] = Side(Stored(stored.path, bare, stored.origin), bare, row.device)
        _add(sides[row.device], row)
    return list(sides.values())


def _add(side: Side, row: RecordedRow) -> None:
    key = case_id(row)
    if key not in side.layers:
        side.layers[key], side.cells[key] = Layer(row), {}
    side.layers[key].suites[row.suite] = None
    cells = side.cells[key]
    if row.implementation in cells:
        side.repeated += 1
    elif row.median_s is not None and row.status == "ok":
        cells[row.implementation] = Cell(row.implementation, *_time(row))
    else:
        side.untimed[key, row.implementation] = row.status
    row.samples_s, row.rounds = [], []


def _time(row: RecordedRow) -> tuple[Interval, float | None, Source]:
    assert row.median_s is not None
    share = row.roofline_fraction if row.roofline_fraction and row.roofline_fraction > 0 else None
    spread = batch_spread(row.samples_s)
    if spread is not None:
        return Interval(row.median_s, row.median_s / spread, row.median_s * spread), share, "samples"
    low, high = row.ci_low_s, row.ci_high_s
    if low is not None and high is not None and low <= row.median_s <= high:
        return Interval(row.median_s, low, high), share, "ci columns"
    return Interval(row.median_s, None, None), share, ""


# Names ------------------------------------------------------------------------------------------------


def name_sides(sides: Iterable[Side]) -> None:
    """Give each side a unique, printable label: its machine, and what else tells it from the others."""
    sides = list(sides)
    facts: list[Callable[[Side], str]] = [
        lambda side: side.record.machine,
        lambda side: processor(side.record),
        lambda side: f"{side.threads} thread{'s' * (side.threads != '1')}" if side.threads else "",
        lambda side: side.device,
        lambda side: side.record.environment.versions.get("torch", "") and f"torch {_torch(side)}",
        lambda side: side.record.started[:16].replace("T", " "),
    ]
    chosen = [facts[0]]
    for fact in facts[1:]:
        if len({fact(side) for side in sides}) > 1 and _repeated(sides, chosen):
            chosen.append(fact)
    used: dict[str, int] = {}
    for side in sides:
        words = ", ".join(filter(None, (fact(side) for fact in chosen)))
        label = printable(shortened(words, LONGEST_LABEL))
        used[label] = used.get(label, 0) + 1
        side.label = label if used[label] == 1 else f"{label} ({used[label]})"


def processor(record: Record) -> str:
    """What tells processors of one name apart: vectors, and family/model/stepping. "avx2 25/1/1"."""
    cpu = record.environment.cpu
    isa = cpu.get("isa")
    widest = str(isa[-1]).split("_")[0] if isinstance(isa, list) and isa else ""
    return f"{widest} {cpu.get('family_model_stepping', '')}".strip()


def _torch(side: Side) -> str:
    return side.record.environment.versions["torch"]


def _repeated(sides: list[Side], facts: list[Callable[[Side], str]]) -> bool:
    return len({tuple(fact(side) for fact in facts) for side in sides}) < len(sides)


def name_layers(layers: dict[Key, Layer]) -> None:
    """Give each layer a unique label, and its group: name or kind, with pass and type where they vary."""
    rows = [layer.row for layer in layers.values()]
    varying = [name for name in ("pass_", "dtype") if len({getattr(row, name) for row in rows}) > 1]
    used: dict[str, int] = {}
    for layer in layers.values():
        more = [str(getattr(layer.row, name)) for name in varying]
        layer.group = ", ".join([layer.row.kind, *more])
        label = " · ".join([layer.row.case, *more])
        used[label] = used.get(label, 0) + 1
        layer.label = label if used[label] == 1 else f"{label} ({used[label]})"
