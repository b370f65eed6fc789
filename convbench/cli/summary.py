"""The table a run ends with: per layer the reference, the best, how near the roof, and per kind the means."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from convbench.cli import common
from convbench.registry import REFERENCE
from convbench.report.analysis import Group, Mean, case_key, groups, implementations, notices
from convbench.results import FAILED_STATUSES, Record, RecordedRow

_COLUMNS = (
    ("layer", "left"), ("pass", "left"), ("shape", "left"), "reference", ("best", "left"), ("algorithm", "left"),
    "time", "+-", "speed-up", "GFLOP/s", "of roof",
)  # fmt: skip
_SPARE = ("GFLOP/s", "pass", "shape", "+-", "algorithm", "reference")


def shape(row: Any) -> str:
    """Short shape of what has a row's columns: 64x56x56 -> 128, 3x3 s2 d2 g64, batch only when above 1."""
    batch = f"{row.n}x" if row.n > 1 else ""
    extras = [f"s{row.stride_h}"] * (row.stride_h > 1) + [f"d{row.dilation_h}"] * (row.dilation_h > 1)
    extras += [f"g{row.groups}"] * (row.groups > 1)
    return " ".join([f"{batch}{row.c}x{row.h}x{row.w} -> {row.k}, {row.r}x{row.s}", *extras])


def print_summary(record: Record) -> None:
    """Per layer, then per kind, then what to know before believing it."""
    rows = record.rows
    suites = list(dict.fromkeys(row.suite for row in rows))
    common.table(
        f"{record.machine}, {', '.join(suites)}: {len({case_key(r) for r in rows})} cases, reference {REFERENCE}",
        _COLUMNS,
        [_line(list(group), len(suites) > 1) for _, group in groupby(rows, case_key)],
        spare=_SPARE,
    )
    found = groups(rows)
    for what in dict.fromkeys((group.pass_, group.place) for group in found):
        _print_means([group for group in found if (group.pass_, group.place) == what], implementations(rows))
    for line in remarks(record):
        common.out().print(common.printable(line))


def _print_means(found: list[Group], names: list[str]) -> None:
    """One line an implementation, one column a kind."""
    lines = []
    for name in names:
        means = [next((mean for mean in group.means if mean.implementation == name), None) for group in found]
        if any(means):
            lines.append([name, *map(_mean_cell, means, (group.layers for group in found))])
    partial = any(mean.layers < group.layers for group in found for mean in group.means)
    common.table(
        f"Speed-up over the reference, geometric mean by kind: {found[0].pass_}, {found[0].place}",
        [("implementation", "left"), *(group.kind for group in found)],
        lines,
        "(n): over n of the layers only" if partial else "",
        [group.kind for group in reversed(found)],
    )


def _mean_cell(mean: Mean | None, layers: int) -> str:
    """The mean, and of how many layers where it is not all."""
    if not mean or not mean.speedup:
        return ""
    return f"{mean.speedup:.2f}x" + (f" ({mean.layers})" if mean.layers < layers else "")


def _speedup(row: RecordedRow) -> str:
    """The speed-up, with ~ before it where its interval holds 1: a tie."""
    if row.speedup_vs_reference is None or row.implementation == REFERENCE:
        return ""
    tie = row.speedup_ci_low and row.speedup_ci_high and row.speedup_ci_low <= 1 <= row.speedup_ci_high
    return f"{'~' if tie else ''}{row.speedup_vs_reference:.2f}x"


def _line(rows: list[RecordedRow], with_suite: bool) -> list[str | None]:
    first = rows[0]
    reference = next((row for row in rows if row.implementation == REFERENCE and row.median_s), None)
    timed = sorted((row for row in rows if row.median_s), key=lambda row: row.median_s or 0.0)
    head = [
        f"{first.suite}/{first.case}" if with_suite else first.case,
        first.pass_,
        shape(first),
        common.seconds(reference.median_s if reference else None),
    ]
    if not timed:
        return [*head, "none timed", *[""] * (len(_COLUMNS) - len(head) - 1)]
    best = timed[0]
    assert best.median_s
    spread = (best.ci_high_s - best.ci_low_s) / 2 / best.median_s if best.ci_high_s and best.ci_low_s else None
    return [
        *head, best.implementation, best.algorithm,
        common.seconds(best.median_s), "" if spread is None else f"{spread:.1%}",
        _speedup(best), "" if best.gflops is None else f"{best.gflops:.0f}",
        "" if best.roofline_fraction is None else f"{best.roofline_fraction:.0%}",
    ]  # fmt: skip


def remarks(record: Record) -> list[str]:
    """Verification, what to know before believing the numbers, and where the time went, one line each."""
    failed = sum(row.status in FAILED_STATUSES for row in record.rows)
    verified = sum(row.error is not None and row.status == "ok" for row in record.rows)
    lines = [f"verified: {verified} cells before and after timing; failed: {failed}"]
    lines += [f"{notice.title}: {notice.advice}" if notice.advice else notice.title for notice in notices(record)]
    total, sampling = record.timings.get("total"), record.timings.get("sample")
    if total and sampling:
        lines.append(f"{common.seconds(total)} in all, {sampling / total:.0%} of it taking samples")
    return lines
