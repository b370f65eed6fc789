"""A folder of records as series over time: one for each operator and layer, implementation and place.

Two quantities: the speed-up over the reference of the same run, which survives a change of machine, and speed itself
(1 / seconds), which does not. Both are up when faster. A place is a machine, a device and a number of threads:
only like is strung together. An operator's value in a run is the mean (of logarithms) of how its layers stand to their
own medians, so that a run with some of the layers only is no step.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import exp, log
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from convbench.compare.environment import facts, matters
from convbench.compare.sides import case_id
from convbench.history.steps import ALPHA, LEAST, Step, find_steps
from convbench.records import Stored
from convbench.results import RecordedRow
from convbench.spec import KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Quantity = Literal["speed-up", "speed"]
QUANTITIES: tuple[Quantity, ...] = ("speed-up", "speed")
BESIDE = 2  # runs between steps of two quantities that are one step
SMALLEST = 0.05  # change of level that is worth a word


class Operator(NamedTuple):
    """What one chart shows."""

    kind: str
    pass_: str
    dtype: str


STEP_COLUMNS = (
    "quantity", "place", "kind", "pass", "dtype", "implementation", "case", "run_id", "started", "change", "before",
    "after", "p", "runs_before", "runs_after", "environment",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One record's place in time, and what of its environment can change a result."""

    run_id: str
    started: datetime
    facts: dict[str, Any]


@dataclass
class Points:
    """One layer on one implementation: logarithms by run."""

    layer: str
    runs: array = field(default_factory=lambda: array("l"))
    speedups: array = field(default_factory=lambda: array("d"))  # NaN for none
    speeds: array = field(default_factory=lambda: array("d"))


class SeriesKey(NamedTuple):
    """``layer`` is empty for a whole operator."""

    place: str
    operator: Operator
    implementation: str
    quantity: Quantity
    layer: str = ""


@dataclass(frozen=True)
class Series:
    """Values in the order of time. ``runs`` are numbers into History.runs, values are logarithms."""

    key: SeriesKey
    runs: NDArray
    values: NDArray
    steps: list[Step]


class History:
    """Records of one folder, by time."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.repeated: list[str] = []
        self.points: dict[tuple[str, Operator, str], dict[tuple, Points]] = {}
        self._seen: set[str] = set()
        self._facts: dict[frozenset, dict[str, Any]] = {}

    def add(self, stored: Stored, keeps: Callable[[RecordedRow], bool], refuse: Callable[[str], None]) -> None:
        """Take one record in; one seen before is counted, one without a time refused."""
        record = stored.record
        try:
            started = moment(record.started)
        except ValueError:
            refuse(f"{stored.path}: does not say when it started, nor does its run_id; give the file as it was written")
            return
        if record.run_id in self._seen:
            self.repeated.append(record.run_id)
            return
        self._seen.add(record.run_id)
        known = {name: value for name, value in facts(record).items() if matters(name) and not isinstance(value, list)}
        known = self._facts.setdefault(frozenset(known.items()), known)  # ten thousand runs have few environments
        threads = record.settings.get("threads")
        for row in record.rows:
            if row.median_s and row.status == "ok" and keeps(row):
                place = ", ".join([record.machine, row.device, *([f"threads {threads}"] if threads else [])])
                self._add(len(self.runs), place, row)
        self.runs.append(Run(record.run_id, started, known))

    def _add(self, run: int, place: str, row: RecordedRow) -> None:
        assert row.median_s
        key = (place, Operator(row.kind, row.pass_, row.dtype), row.implementation)
        points = self.points.setdefault(key, {}).setdefault(case_id(row), Points(row.case))
        if points.runs and points.runs[-1] == run:
            return  # the same convolution under another name
        own = row.speedup_vs_reference if row.implementation != row.reference else None
        points.runs.append(run)
        points.speedups.append(log(own) if own and own > 0 else float("nan"))
        points.speeds.append(-log(row.median_s))

    def order(self) -> list[int]:
        """Run -> its place in time."""
        by_time = sorted(range(len(self.runs)), key=lambda n: (self.runs[n].started, self.runs[n].run_id))
        ranks = [0] * len(by_time)
        for rank, run in enumerate(by_time):
            ranks[run] = rank
        return ranks


def moment(text: str) -> datetime:
    """A time by ISO 8601, UTC where it names no zone. Raises ValueError for anything else."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def read_history(
    records: Iterable[Stored],
    refuse: Callable[[str], None],
    keeps: Callable[[RecordedRow], bool] = lambda row: True,
) -> History:
    """All records, put in the order of their time."""
    history = History()
    for stored in records:
        history.add(stored, keeps, refuse)
    ranks = history.order()
    for cells in history.points.values():
        for points in cells.values():
            points.runs = array("l", [ranks[run] for run in points.runs])
    history.runs = [run for _, run in sorted(zip(ranks, history.runs, strict=True), key=lambda item: item[0])]
    return history


def series(history: History, smallest: float = SMALLEST, layers: bool = True) -> list[Series]:
    """Every operator's and (with ``layers``) every layer's series with its steps, operators first.

    smallest   change of level that counts, 0.05 for 5%
    """
    raw = [item for operator in _operators(history) for item in operator]
    raw += [item for layer in _layers(history) for item in layer] if layers else []
    alpha = ALPHA / max(1, sum(len(values) >= 2 * LEAST for _, _, values in raw))
    return [Series(key, runs, values, find_steps(values, log(1 + smallest), alpha)) for key, runs, values in raw]


Raw = tuple[SeriesKey, "NDArray", "NDArray"]


def _operators(history: History) -> Iterable[list[Raw]]:
    import numpy as np

    for (place, operator, implementation), cells in _sorted(history):
        found: list[Raw] = []
        for quantity in QUANTITIES:
            table = np.full((len(history.runs), len(cells)), np.nan)
            for column, points in enumerate(cells.values()):
                table[points.runs, column] = _values(points, quantity)
            seen = ~np.isnan(table)
            table = table[:, seen.any(axis=0)]
            runs = np.flatnonzero(seen.any(axis=1))
            if len(runs):
                middles = np.nanmedian(table, axis=0)
                values = np.nanmean(table[runs] - middles, axis=1) + middles.mean()
                found.append((SeriesKey(place, operator, implementation, quantity), runs, values))
        yield found


def _layers(history: History) -> Iterable[list[Raw]]:
    import numpy as np

    for (place, operator, implementation), cells in _sorted(history):
        for points in cells.values():
            order = np.argsort(np.array(points.runs))
            found: list[Raw] = []
            for quantity in QUANTITIES:
                runs, values = np.array(points.runs)[order], np.array(_values(points, quantity))[order]
                known = ~np.isnan(values)
                if known.any():
                    key = SeriesKey(place, operator, implementation, quantity, points.layer)
                    found.append((key, runs[known], values[known]))
            yield found


def _sorted(history: History) -> list[tuple[tuple[str, Operator, str], dict[tuple, Points]]]:
    return sorted(history.points.items(), key=lambda item: (item[0][0], KINDS.index(item[0][1].kind), item[0][1]))


def _values(points: Points, quantity: Quantity) -> array:
    return points.speedups if quantity == "speed-up" else points.speeds


def step_rows(history: History, found: Sequence[Series]) -> list[dict[str, Any]]:
    """Every step as a row: where, by how much, and what of the environment changed with it; the largest first.

    A step of speed beside one of the speed-up is left out: it says the same.
    """
    told = {(item.key._replace(quantity="speed"), item.runs[step.at]) for item in found for step in item.steps
            if item.key.quantity == "speed-up"}  # fmt: skip
    rows = [
        _step_row(history, item, step)
        for item in found
        for step in item.steps
        if not any((item.key, item.runs[step.at] + beside) in told for beside in range(-BESIDE, BESIDE + 1))
    ]
    return sorted(rows, key=lambda row: (bool(row["case"]), -abs(log(row["change"]))))


def _step_row(history: History, item: Series, step: Step) -> dict[str, Any]:
    key, run = item.key, history.runs[item.runs[step.at]]
    before = history.runs[item.runs[step.at - 1]]
    values = (
        key.quantity, key.place, *key.operator, key.implementation, key.layer or None,
        run.run_id, run.started.isoformat(), exp(step.after - step.before), exp(step.before), exp(step.after), step.p,
        *step.stretch, changes(before, run),
    )  # fmt: skip
    return dict(zip(STEP_COLUMNS, values, strict=True))


def changes(before: Run, after: Run) -> list[str]:
    """What of the environment is not the same: "versions torch: 2.12 -> 2.13"."""
    if before.facts is after.facts:
        return []
    names = dict.fromkeys([*before.facts, *after.facts])
    return [
        f"{name}: {before.facts.get(name, 'unknown')} -> {after.facts.get(name, 'unknown')}"
        for name in names
        if before.facts.get(name) != after.facts.get(name)
    ]
