"""Many records side by side: the same cases joined, ratios to the first, operators, implementations to use.

Ratios are the first side's time over the other's: above 1 the other is faster, as a speed-up is. Shares are of each
side's own measured roof, so their ratio says whose hardware is better used, whichever is faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple

from convbench.compare.sides import Cell, Key, Layer, Side, name_layers, name_sides, sides_of
from convbench.measure import Interval
from convbench.ratios import Score, geometric_mean, quotient, score
from convbench.records import Stored
from convbench.results import RecordedRow
from convbench.spec import KINDS

FASTEST = "fastest of each layer"
ALL = "all"


class Pair(NamedTuple):
    """One case on the baseline (a) and on another side (b)."""

    key: Key
    a: Cell
    b: Cell
    ratio: Interval  # time of a / time of b

    @property
    def share_ratio(self) -> Interval | None:
        """Share of b / share of a, each of its own roof; as uncertain as the times, a roof being one number."""
        if self.a.share is None or self.b.share is None:
            return None
        value = self.b.share / self.a.share
        factor = value / self.ratio.value
        _, low, high = self.ratio
        return Interval(value, low and low * factor, high and high * factor)


@dataclass(frozen=True)
class Standing:
    """One side against the baseline over some cases."""

    side: Side
    hardware: Score | None  # faster hardware: seconds
    use: Score | None  # better used hardware: share of the own roof
    share: float | None  # median share of the own roof


@dataclass(frozen=True)
class Advice:
    """Which implementation to use for one group of layers on one side."""

    side: Side
    group: str
    layers: int
    best: str | None  # least geometric mean among those with a time for every layer
    costs: float | None  # its geometric mean over that of the fastest of each layer
    fastest: list[tuple[str, int]]  # implementation, layers on which it is fastest or ties with the fastest


class Comparison:
    """Sides by the same cases; the first is the baseline."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self.sides = list(sides)
        name_sides(self.sides)
        self.layers: dict[Key, Layer] = {}
        for side in self.sides:
            for key, layer in side.layers.items():
                self.layers.setdefault(key, Layer(layer.row)).suites.update(layer.suites)
        self.layers = dict(sorted(self.layers.items(), key=lambda item: KINDS.index(item[1].row.kind)))
        name_layers(self.layers)
        self._standings: dict[str, dict[str, Standing]] = {}  # computed once, by label
        self._by_implementation: dict[str, dict[str, Score]] = {}

    @property
    def baseline(self) -> Side:
        return self.sides[0]

    @property
    def others(self) -> list[Side]:
        return self.sides[1:]

    @property
    def groups(self) -> list[str]:
        """Groups of layers that have a mean in common, by kind in the order of convbench.spec.KINDS."""
        return list(dict.fromkeys(layer.group for layer in self.layers.values()))

    @cached_property
    def implementations(self) -> list[str]:
        """All names, in order of appearance."""
        return list(dict.fromkeys(name for side in self.sides for cells in side.cells.values() for name in cells))

    def pairs(self, other: Side, implementation: str = FASTEST) -> list[Pair]:
        """The cases that the baseline and another side both have a time for."""
        found = []
        for key in self.layers:
            a, b = cell_of(self.baseline, key, implementation), cell_of(other, key, implementation)
            if a and b:
                found.append(Pair(key, a, b, quotient(a.time, b.time)))
        return found

    def standing(self, other: Side) -> Standing:
        """How another side stands against the baseline on all layers."""
        return self.standings(other)[ALL]

    def standings(self, other: Side) -> dict[str, Standing]:
        """Group (and ``all``) -> how another side stands against the baseline on it, each with its fastest."""
        if other.label not in self._standings:
            pairs = self.pairs(other)
            groups: dict[str, list[Pair]] = {ALL: pairs}
            for pair in pairs:
                groups.setdefault(self.layers[pair.key].group, []).append(pair)
            self._standings[other.label] = {group: _standing(other, found) for group, found in groups.items()}
        return self._standings[other.label]

    def by_implementation(self, other: Side) -> dict[str, Score]:
        """Implementation -> how it does on another side against itself on the baseline."""
        if other.label not in self._by_implementation:
            scores = {name: score([p.ratio for p in self.pairs(other, name)]) for name in self.implementations}
            self._by_implementation[other.label] = {name: found for name, found in scores.items() if found}
        return self._by_implementation[other.label]

    def in_common(self) -> list[Key]:
        """Cases that every side has a time for."""
        return [key for key in self.layers if all(side.cells.get(key) for side in self.sides)]

    def one_sided(self) -> list[tuple[Layer, list[Side], list[Side]]]:
        """Cases that some side has no time for: the layer, sides with a time, sides without."""
        found = []
        for key, layer in self.layers.items():
            have = [side for side in self.sides if side.cells.get(key)]
            if len(have) < len(self.sides):
                found.append((layer, have, [side for side in self.sides if not side.cells.get(key)]))
        return found

    def advice(self, side: Side) -> list[Advice]:
        """Which implementation to use on a side, group by group."""
        found = []
        for group in self.groups:
            keys = [key for key, layer in self.layers.items() if layer.group == group and side.cells.get(key)]
            if keys:
                found.append(_advice(side, group, keys))
        return found


def compare(
    records: Iterable[Stored],
    keeps: Callable[[RecordedRow], bool] = lambda row: True,
) -> Comparison:
    """Join the rows of all records that ``keeps`` is true of; records are taken in one at a time."""
    return Comparison([side for stored in records for side in sides_of(stored, keeps)])


def cell_of(side: Side, key: Key, implementation: str) -> Cell | None:
    """A side's cell of an implementation, or its fastest."""
    return side.fastest(key) if implementation == FASTEST else side.cells.get(key, {}).get(implementation)


def _standing(side: Side, pairs: Sequence[Pair]) -> Standing:
    shares = [pair.b.share for pair in pairs if pair.b.share is not None]
    return Standing(
        side, score([pair.ratio for pair in pairs]), score([ratio for pair in pairs if (ratio := pair.share_ratio)]),
        median(shares) if shares else None,
    )  # fmt: skip


def _advice(side: Side, group: str, keys: Sequence[Key]) -> Advice:
    leaders: Counter[str] = Counter()
    slowdowns: dict[str, list[Interval]] = {}
    for key in keys:
        cells, best = side.cells[key], side.fastest(key)
        assert best
        for cell in cells.values():
            slowdowns.setdefault(cell.implementation, []).append(quotient(cell.time, best.time))
            leaders[cell.implementation] += cell is best or _ties(cell, best)
    complete = {name: geometric_mean(found).value for name, found in slowdowns.items() if len(found) == len(keys)}
    one = min(complete, key=lambda name: complete[name], default=None)
    wins = [(name, count) for name, count in leaders.most_common() if count]
    return Advice(side, group, len(keys), one, complete[one] if one else None, wins)


def _ties(cell: Cell, best: Cell) -> bool:
    return cell.time.low is not None and best.time.high is not None and cell.time.low <= best.time.high
