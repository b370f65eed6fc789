"""What the page says about a record: means by group, totals by suite, verification, notices. Pure functions of rows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from statistics import median
from typing import Any

from convbench import ratios
from convbench.measure import Interval
from convbench.records import WORK
from convbench.report.text import LONGEST_LIST
from convbench.results import FAILED_STATUSES, Record, RecordedRow
from convbench.spec import KINDS

FASTEST = "fastest of each layer"
DISAGREE = 1.2  # ratio of medians over paired speed-up from which a reader should be told

# What a remark on a row means for the reader; the words before its colon are the key.
ADVICE = {
    "noisy": "close other programs, use a quieter machine, or give more time with --max-time",
    "drift": "the clock changed while sampling: let the machine settle and run again; compare ratios, not seconds",
    "imprecise": "the time limit came first: raise --max-time or accept a wider --precision",
    "above the roof": "faster than the measured peaks allow for the multiplications counted: expected of Winograd, "
    "which multiplies less; otherwise the data stayed in a nearer cache than assumed, the peak was measured while the "
    "machine was busier, or the kernel skips work",
}


@dataclass(frozen=True)
class Mean:
    """One implementation on the layers of a group, against the reference."""

    implementation: str
    layers: int
    speedup: float | None = None  # geometric mean over layers
    low: float | None = None  # 95% interval of that mean, from the measurement of these layers
    high: float | None = None
    faster: int = 0  # layers whose whole interval lies above 1
    slower: int = 0
    ties: int = 0
    roofline_fraction: float | None = None  # median over layers


@dataclass(frozen=True)
class Group:
    """Layers that have a mean in common: of one kind, pass, dtype and device. The label says what a record varies."""

    label: str
    kind: str
    pass_: str
    place: str
    means: list[Mean]  # fastest first

    @property
    def layers(self) -> int:
        """The most that any implementation has."""
        return max(mean.layers for mean in self.means)


@dataclass(frozen=True)
class Total:
    """Time of a suite's layers, each as often as its network uses it."""

    implementation: str
    seconds: float
    low: float | None
    high: float | None
    speedup: float | None


@dataclass(frozen=True)
class SuiteTotal:
    """All implementations that have a time for every layer of one suite."""

    suite: str
    where: str  # pass, dtype, device
    layers: int
    calls: int
    totals: list[Total]
    partial: list[str]  # implementations with some layers only


@dataclass
class Verified:
    """Verification of one implementation."""

    implementation: str
    verified: int = 0
    mismatches: int = 0
    failed: int = 0  # error, timeout, crash, out of memory
    unsupported: int = 0
    worst: float | None = None  # largest error / tolerance
    worst_row: RecordedRow | None = None


@dataclass
class Notice:
    """Something to know before believing a number."""

    title: str
    advice: str = ""
    level: str = "warn"  # warn, bad or info
    which: list[str] = field(default_factory=list)


# Identity of a layer: equal for all implementations of it.
case_key: Callable[[RecordedRow], tuple] = attrgetter("suite", "case", "device", *WORK)


def reference_of(rows: Iterable[RecordedRow]) -> str | None:
    """The implementation that speed-ups compare with."""
    return next(iter(Counter(row.reference for row in rows if row.reference).most_common(1)), (None, 0))[0]


def implementations(rows: Iterable[RecordedRow]) -> list[str]:
    """Names in order of appearance, the reference first."""
    rows = list(rows)
    names = list(dict.fromkeys(row.implementation for row in rows))
    reference = reference_of(rows)
    return sorted(names, key=lambda name: name != reference)


def place(row: Any) -> str:
    """What a roof, and a mean, of something with a row's columns belongs to."""
    return f"{row.device}, {row.dtype}"


def groups(rows: Iterable[RecordedRow]) -> list[Group]:
    """The timed rows by kind, pass and place, in the order of convbench.spec.KINDS."""
    found: dict[tuple[str, str, str], dict[str, list[RecordedRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.median_s:
            found[row.kind, row.pass_, place(row)][row.implementation].append(row)
    varied = [n for n in (1, 2) if len({key[n] for key in found}) > 1]
    return [
        Group(", ".join([key[0], *(key[n] for n in varied)]), *key, _means(found[key]))
        for key in sorted(found, key=lambda key: KINDS.index(key[0]))
    ]


def _means(by_implementation: dict[str, list[RecordedRow]]) -> list[Mean]:
    means = [_mean(name, rows) for name, rows in by_implementation.items()]
    return sorted(means, key=lambda mean: -(mean.speedup or 0))


def _mean(name: str, rows: Sequence[RecordedRow]) -> Mean:
    score = ratios.score(
        [
            Interval(row.speedup_vs_reference, row.speedup_ci_low, row.speedup_ci_high)
            for row in rows
            if row.speedup_vs_reference and row.speedup_vs_reference > 0
        ]
    )
    fractions = [row.roofline_fraction for row in rows if row.roofline_fraction]
    share = median(fractions) if fractions else None
    if score is None:
        return Mean(name, len(rows), roofline_fraction=share)
    mean = score.mean
    return Mean(
        name, len(rows), mean.value, mean.low, mean.high, score.faster, score.slower, score.ties, share
    )  # fmt: skip


def suite_totals(rows: Iterable[RecordedRow]) -> list[SuiteTotal]:
    """For every suite (and pass, dtype, device): the time of all its layers, fastest first."""
    groups: dict[tuple[str, str, str, str], list[RecordedRow]] = defaultdict(list)
    for row in rows:
        groups[row.suite, row.pass_, row.dtype, row.device].append(row)
    reference = reference_of(row for group in groups.values() for row in group)
    found = []
    for (suite, *where), group in groups.items():
        layers = {case_key(row): row.count for row in group}
        times: dict[str, dict[tuple, RecordedRow]] = defaultdict(dict)
        for row in group:
            if row.median_s:
                times[row.implementation][case_key(row)] = row
                best = times[FASTEST].get(case_key(row))
                if best is None or row.median_s < (best.median_s or math.inf):
                    times[FASTEST][case_key(row)] = row
        complete = {name: list(cells.values()) for name, cells in times.items() if len(cells) == len(layers)}
        base = sum(_weighted(row) for row in complete.get(reference or "", []))
        totals = sorted((_total(name, cells, base) for name, cells in complete.items()), key=lambda t: t.seconds)
        partial = [f"{name} ({len(cells)} of {len(layers)})" for name, cells in times.items() if name not in complete]
        found.append(SuiteTotal(suite, ", ".join(where), len(layers), sum(layers.values()), totals, partial))
    return [total for total in found if total.totals]


def _weighted(row: RecordedRow) -> float:
    assert row.median_s
    return row.count * row.median_s


def _total(name: str, rows: Sequence[RecordedRow], base: float) -> Total:
    seconds = sum(map(_weighted, rows))
    low = high = None
    if all(row.ci_low_s is not None and row.ci_high_s is not None for row in rows):
        down = math.hypot(*(row.count * ((row.median_s or 0) - (row.ci_low_s or 0)) for row in rows))
        up = math.hypot(*(row.count * ((row.ci_high_s or 0) - (row.median_s or 0)) for row in rows))
        low, high = seconds - down, seconds + up
    return Total(name, seconds, low, high, base / seconds if base else None)


def verification(rows: Iterable[RecordedRow]) -> list[Verified]:
    """Per implementation: what was verified, what failed, and the error closest to its tolerance."""
    found: dict[str, Verified] = {}
    for row in rows:
        entry = found.setdefault(row.implementation, Verified(row.implementation))
        entry.verified += row.status == "ok" and row.error is not None
        entry.mismatches += row.status == "mismatch"
        entry.failed += row.status in FAILED_STATUSES and row.status != "mismatch"
        entry.unsupported += row.status == "unsupported"
        if row.error is not None and row.tolerance and row.error / row.tolerance >= (entry.worst or 0):
            entry.worst, entry.worst_row = row.error / row.tolerance, row
    return list(found.values())


def failed_rows(rows: Iterable[RecordedRow]) -> list[RecordedRow]:
    return [row for row in rows if row.status in FAILED_STATUSES]


def disagreements(rows: Iterable[RecordedRow]) -> list[str]:
    """Cells whose ratio of medians to the reference is far from the speed-up measured round by round."""
    rows = list(rows)
    medians = {(case_key(row), row.implementation): row.median_s for row in rows if row.median_s}
    found = []
    for row in rows:
        base = medians.get((case_key(row), row.reference or ""))
        if base and row.median_s and row.speedup_vs_reference:
            ratio = base / row.median_s
            if abs(math.log(ratio / row.speedup_vs_reference)) > math.log(DISAGREE):
                found.append(
                    f"{row.case}, {row.implementation}: {ratio:.2f}x by medians, {row.speedup_vs_reference:.2f}x paired"
                )
    return found


def notices(record: Record) -> list[Notice]:
    """Interrupted run, warnings, remarks on rows by their first words, unavailable families."""
    found = []
    if not record.complete:
        found.append(Notice("This run is not complete", "go on with convbench run --resume FOLDER"))
    for text in record.warnings[:LONGEST_LIST]:
        title, _, advice = text.partition(": ")
        found.append(Notice(title, advice))
    remarks: dict[str, list[str]] = defaultdict(list)
    for row in record.rows:
        for note in row.notes:
            key, _, detail = note.partition(": ")
            remarks[key].append(f"{row.case}, {row.implementation}: {detail}")
    for key, items in remarks.items():
        found.append(Notice(f"{len(items)} of {len(record.rows)} cells: {key}", ADVICE.get(key, ""), which=items))
    if items := disagreements(record.rows):
        advice = (
            "the load changed between rounds, so times, totals and savings mix quiet and busy moments: believe the "
            "speed-up, which compares within rounds"
        )
        title = f"{len(items)} of {len(record.rows)} cells: medians and paired speed-up disagree"
        found.append(Notice(title, advice, which=items))
    for family, reason in islice(record.unavailable.items(), LONGEST_LIST):
        found.append(Notice(f"Unavailable: {family}", reason, "info"))
    return found
