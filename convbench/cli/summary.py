"""The table a run ends with: per layer the reference, the best, how near the roof, and per kind the means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import groupby

from convbench.cli import common
from convbench.plan import REFERENCE
from convbench.results import FAILED_STATUSES, Record, RecordedRow

_LAYER_COLUMNS = (
    ("layer", "left"), ("pass", "left"), ("shape", "left"), "reference", ("best", "left"), "time", "+-", "speed-up",
    "GFLOP/s", "of roof",
)  # fmt: skip


def case_key(row: RecordedRow) -> tuple:
    return (row.suite, row.case, row.pass_, row.dtype, row.device)


def shape(row: RecordedRow) -> str:
    """Short shape: 64x56x56 -> 128, 3x3 s2 d2 g64, batch only when above 1."""
    batch = f"{row.n}x" if row.n > 1 else ""
    extras = [f"s{row.stride_h}"] * (row.stride_h > 1) + [f"d{row.dilation_h}"] * (row.dilation_h > 1)
    extras += [f"g{row.groups}"] * (row.groups > 1)
    return " ".join([f"{batch}{row.c}x{row.h}x{row.w} -> {row.k}, {row.r}x{row.s}", *extras])


def print_summary(record: Record) -> None:
    """Per layer, then per kind, then what to know before believing it."""
    rows = record.rows
    common.table(
        f"{record.machine}: {len({case_key(r) for r in rows})} cases, reference {REFERENCE}",
        _LAYER_COLUMNS,
        [_line(list(group)) for _, group in groupby(rows, case_key)],
    )
    means = kind_means(rows)
    kinds = sorted({kind for _, kind in means})
    names = list(dict.fromkeys(name for name, _ in means))
    common.table(
        "Speed-up over the reference, geometric mean by kind (layers)",
        [("implementation", "left"), *kinds],
        [[name, *(_mean_cell(means, name, kind) for kind in kinds)] for name in names],
    )
    for line in remarks(record):
        common.out().print(common.printable(line))


def kind_means(rows: Iterable[RecordedRow]) -> dict[tuple[str, str], tuple[float, int]]:
    """(implementation, kind) -> geometric mean of the speed-ups and their number."""
    from statistics import geometric_mean

    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row.speedup_vs_reference:
            found[row.implementation, row.kind].append(row.speedup_vs_reference)
    return {key: (geometric_mean(values), len(values)) for key, values in found.items()}


def _mean_cell(means: dict[tuple[str, str], tuple[float, int]], name: str, kind: str) -> str:
    if (name, kind) not in means:
        return ""
    mean, number = means[name, kind]
    return f"{mean:.2f}x ({number})"


def _line(rows: list[RecordedRow]) -> list[str | None]:
    first = rows[0]
    reference = next((row for row in rows if row.implementation == REFERENCE and row.median_s), None)
    timed = sorted((row for row in rows if row.median_s), key=lambda row: row.median_s or 0.0)
    head = [
        f"{first.suite}/{first.case}",
        first.pass_,
        shape(first),
        common.seconds(reference.median_s if reference else None),
    ]
    if not timed:
        return [*head, "none timed", "", "", "", "", ""]
    best = timed[0]
    assert best.median_s and best.gflops
    spread = (best.ci_high_s - best.ci_low_s) / 2 / best.median_s if best.ci_high_s and best.ci_low_s else None
    return [
        *head, f"{best.implementation} ({best.algorithm})" if best.algorithm else best.implementation,
        common.seconds(best.median_s), "" if spread is None else f"{spread:.1%}",
        "" if best.speedup_vs_reference is None else f"{best.speedup_vs_reference:.2f}x", f"{best.gflops:.0f}",
        "" if best.roofline_fraction is None else f"{best.roofline_fraction:.0%}",
    ]  # fmt: skip


def remarks(record: Record) -> list[str]:
    """Failures, noise and advice, one line each."""
    rows = record.rows
    timed = [row for row in rows if row.median_s]
    failed = [row for row in rows if row.status in FAILED_STATUSES]
    verified = sum(row.error is not None and row.status == "ok" for row in rows)
    lines = [f"verified: {verified} cells before and after timing; failed: {len(failed)}"]
    noisy = sum(any(note.startswith(("noisy", "drift")) for note in row.notes) for row in timed)
    if noisy:
        lines.append(f"{noisy} of {len(timed)} cells are noisy or drift: close other programs or raise --max-time")
    above = [row for row in timed if any(note.startswith("above the roof") for note in row.notes)]
    if above:
        lines.append(f"{len(above)} cells lie above the measured roof; see their notes in report.html")
    lines += [f"unavailable: {family}: {reason}" for family, reason in record.unavailable.items()]
    lines += [f"warning: {text}" for text in record.warnings]
    total, sampling = record.timings.get("total"), record.timings.get("sample")
    if total and sampling:
        lines.append(f"{common.seconds(total)} in all, {sampling / total:.0%} of it taking samples")
    return lines
