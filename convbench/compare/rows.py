"""The comparison as rows: the one list of columns of compare.csv and of --json."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any

from convbench.compare.analysis import FASTEST, Comparison, cell_of
from convbench.compare.sides import Key, Side, Source
from convbench.ratios import Score, quotient, verdict
from convbench.records import SHAPE
from convbench.results import COLUMNS, Column, csv_cell, csv_line

_SHAPE = (*SHAPE[:2], "pass", "dtype", *(name for name in SHAPE[2:] if name != "bias"))
_BY_NAME = {column.name: column for column in COLUMNS}
_values = attrgetter(*(name if name != "pass" else "pass_" for name in (*_SHAPE, "bias")))

COMPARED_COLUMNS: tuple[Column, ...] = (
    Column("baseline", str, "", "name of the run compared with"),
    Column("other", str, "", "name of the other run"),
    Column("baseline_run_id", str, "", "the baseline's run"),
    Column("other_run_id", str, "", "the other's run"),
    Column("suites", str, "", "suites that the case comes from, on any side"),
    Column("case", str, "", "name of the layer, unique in the comparison"),
    *(_BY_NAME[name] for name in _SHAPE),
    Column("bias", bool, "", "whether a bias is added"),
    Column("compared", str, "", f"an implementation, or {FASTEST}"),
    Column("baseline_implementation", str, "", "what ran on the baseline"),
    Column("other_implementation", str, "", "what ran on the other"),
    Column("baseline_status", str, "", "ok, why there is no time, or empty: not in the record"),
    Column("other_status", str, "", "ok, why there is no time, or empty: not in the record"),
    Column("baseline_median_s", float, "s", "median time of one call"),
    Column("other_median_s", float, "s", "median time of one call"),
    Column("ratio", float, "", "baseline time / other time: above 1 the other is faster"),
    Column("ratio_low", float, "", "lower end of the ratio's interval"),
    Column("ratio_high", float, "", "upper end of the ratio's interval"),
    Column("interval_from", str, "", "raw samples in their order, or the ci columns"),
    Column("verdict", str, "", "of the other: faster, slower, tie (the interval holds 1), unknown, or the only one"),
    Column("baseline_share", float, "", "of what the baseline's own measured roof allows"),
    Column("other_share", float, "", "of what the other's own measured roof allows"),
)
COMPARED_NAMES = tuple(column.name for column in COMPARED_COLUMNS)


def compared_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """For each other side and case: the fastest of both, then every implementation that either has."""
    for parts in compared_parts(comparison):
        yield dict(zip(COMPARED_NAMES, chain(*parts), strict=True))


def compared_csv(comparison: Comparison) -> str:
    """compare.csv. What is the same on many lines is formatted once; numbers need no quotes."""
    text = cache(csv_line)
    lines = (
        f"{text(runs)},{text(case)},{text(compared)},{_numbers(times)},{text(meaning)},{_numbers(shares)}"
        for runs, case, compared, times, meaning, shares in compared_parts(comparison)
    )
    return "\n".join((csv_line(COMPARED_NAMES), *lines, ""))


def _numbers(values: tuple[float | None, ...]) -> str:
    return ",".join(map(csv_cell, values))


def compared_parts(comparison: Comparison) -> Iterator[tuple[tuple[Any, ...], ...]]:
    """The values of each row in parts: text that is the same for many rows, and numbers.

    Runs, the case, what is compared; times and ratios; what the ratio means; shares.
    """
    cases = {
        key: (" ".join(layer.suites), layer.label, *_values(layer.row)) for key, layer in comparison.layers.items()
    }
    baseline = comparison.baseline
    for other in comparison.others:
        runs = baseline.label, other.label, baseline.record.run_id, other.record.run_id
        for key, case in cases.items():
            names = baseline.cells.get(key, {}) | other.cells.get(key, {})
            for name in [FASTEST, *names] if names else []:
                yield runs, case, *_both(baseline, other, key, name)


def run_facts(side: Side) -> dict[str, Any]:
    """What a document says of one side."""
    record = side.record
    return {
        "run": side.label, "run_id": record.run_id, "machine": record.machine, "device": side.device,
        "threads": side.threads or None, "started": record.started, "complete": record.complete,
        "path": str(side.stored.path), "origin": side.stored.origin, "cases": len(side.layers),
    }  # fmt: skip


def standing_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """For each other side and group of layers (and all): means with intervals, and how the cases came out."""
    for other in comparison.others:
        for group, standing in comparison.standings(other).items():
            yield {
                "run": other.label, "group": group, "compared": FASTEST, **_score("ratio", standing.hardware),
                **_score("share_ratio", standing.use), "share": standing.share,
            }  # fmt: skip


def _score(name: str, score: Score | None) -> dict[str, Any]:
    if score is None:
        return {}
    mean = {name: score.mean.value, f"{name}_low": score.mean.low, f"{name}_high": score.mean.high}
    if name != "ratio":
        return mean
    return mean | {
        "cases": score.cases, "faster": score.faster, "slower": score.slower, "ties": score.ties,
        "unknown": score.unknown, "smallest": score.smallest, "largest": score.largest,
    }  # fmt: skip


def _both(baseline: Side, other: Side, key: Key, name: str) -> tuple[tuple[Any, ...], ...]:
    """The parts from what is compared on."""
    a, b = cell_of(baseline, key, name), cell_of(other, key, name)
    compared = (
        name, a and a.implementation, b and b.implementation,
        "ok" if a else baseline.untimed.get((key, name)), "ok" if b else other.untimed.get((key, name)),
    )  # fmt: skip
    shares = a and a.share, b and b.share
    if not (a and b):
        times = a and a.time.value, b and b.time.value, None, None, None
        return compared, times, (None, "baseline only" if a else "other only"), shares
    ratio = quotient(a.time, b.time)
    return compared, (a.time.value, b.time.value, *ratio), (_sources(a.source, b.source), verdict(ratio)), shares


@cache
def _sources(*sources: Source) -> str | None:
    return " and ".join(sorted({*sources} - {""})) or None
