"""What the GPU study reached, line by line of the targets: the best of torch in any layout / the best of ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import geometric_mean

from convbench.cli.common import out, table
from convbench.report.analysis import case_key
from convbench.results import FAILED_STATUSES, Record, RecordedRow

FAMILIES = ("torch", "triton")
EPILOGUE, BATCH_1 = "bias + ReLU", "batch 1, CUDA graphs"
TARGETS = {  # geometric mean, worst layer
    "depthwise forward and data gradient": (2.0, 1.1),
    "depthwise weight gradient": (3.0, 1.2),
    "fused pair": (1.8, 1.1),
    "transposed": (1.3, 0.9),
    "dilated, standard (bfloat16)": (1.0, 0.85),
    EPILOGUE: (1.2, 0.95),
    "pointwise": (1.0, 0.9),
    BATCH_1: (1.2, 0.9),
}
COPY_SHARE = 0.8  # of the copy bandwidth that depthwise forward and data gradient should reach
Found = dict[str, list[tuple[float, str]]]  # line -> (ratio, layer)


def line_of(row: RecordedRow) -> str:
    """The target's line that a row counts in; its own kind, pass and type where there is none."""
    if row.gpu and row.gpu.graph:
        return BATCH_1
    if row.kind == "depthwise":
        return "depthwise weight gradient" if row.pass_ == "weight_gradient" else "depthwise forward and data gradient"
    if row.kind == "separable" and row.pass_ == "forward":
        return "fused pair"
    if row.kind in ("standard", "dilated") and row.dtype == "bfloat16":
        return "dilated, standard (bfloat16)"
    return row.kind if row.kind in TARGETS else f"{row.kind} {row.pass_} {row.dtype}"


def best(rows: dict[str, RecordedRow], family: str, value: Callable[[RecordedRow], float | None]) -> float:
    return max((value(row) or 0 for name, row in rows.items() if name.startswith(f"{family}.")), default=0)


def ratios(record: Record) -> tuple[Found, dict[str, float]]:
    """(ratio, layer) by line; and the best bytes/s of ours by depthwise layer."""
    by_case: dict[tuple, dict[str, RecordedRow]] = defaultdict(dict)
    for row in record.rows:
        if row.speedup_vs_reference:
            by_case[case_key(row)][row.implementation] = row
    found: Found = defaultdict(list)
    bandwidth: dict[str, float] = {}
    for rows in by_case.values():
        torchs, ours = (best(rows, family, lambda row: row.speedup_vs_reference) for family in FAMILIES)
        if not torchs or not ours:
            continue
        row = next(iter(rows.values()))
        line, layer = line_of(row), f"{row.case} {row.pass_} {row.dtype} batch {row.n}"
        found[line].append((ours / torchs, layer))
        if line == "depthwise forward and data gradient":
            bandwidth[layer] = best(rows, "triton", lambda row: row.gbytes_per_s) * 1e9
    return found, bandwidth


def show(record: Record, more: Found) -> None:
    """The table, the bandwidth, and what failed. more: lines of studies of their own."""
    found, bandwidth = ratios(record)
    found |= more
    order = [*TARGETS, *sorted(set(found) - set(TARGETS))]
    columns = [("target", "left"), "mean", "wanted", "worst", "wanted", ("worst layer", "left"), "layers", ("", "left")]
    table(f"{record.machine}: best of torch, any layout / best of ours", columns,
          [table_line(line, found.get(line, [])) for line in order], "above 1: ours is faster")  # fmt: skip
    copy = max((p.value for p in record.peaks if p.quantity == "copy" and p.level == "DRAM"), default=None)
    if bandwidth and copy:
        shares = sorted((value / copy, layer) for layer, value in bandwidth.items())
        low = [f"{share:.0%} {layer}" for share, layer in shares if share < COPY_SHARE]
        mean = geometric_mean(share for share, _ in shares)
        below = f"below {COPY_SHARE:.0%}: {', '.join(low) or 'none'}"
        out().print(f"depthwise, of the copy bandwidth {copy / 1e9:.0f} GB/s: {mean:.0%} on average; {below}")
    failed = [row for row in record.rows if row.status in FAILED_STATUSES]
    for row in failed[:20]:
        out().print(f"{row.status}: {row.implementation} {row.case} {row.pass_} {row.dtype}: {row.status_detail}")
    for text in (f"{len(failed)} of {len(record.rows)} cells failed", *record.warnings):
        out().print(text)


def table_line(line: str, found: list[tuple[float, str]]) -> list:
    mean, worst = TARGETS.get(line, (None, None))
    wanted = [f"{value:.2f}x" if value else "" for value in (mean, worst)]
    if not found:
        return [line, "", wanted[0], "", wanted[1], "", 0, "not measured"]
    reached_mean, (reached_worst, layer) = geometric_mean(ratio for ratio, _ in found), min(found)
    verdict = "" if mean is None else "reached" if reached_mean >= mean and reached_worst >= worst else "missed"
    return [line, f"{reached_mean:.2f}x", wanted[0], f"{reached_worst:.2f}x", wanted[1], layer, len(found), verdict]
