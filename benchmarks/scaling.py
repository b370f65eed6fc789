"""How time grows with batch, channels, filters, map, kernel and threads, against the line of the FLOPs.

    python benchmarks/scaling.py [--pass forward] [--threads 1 2] [--max-time 0.1] [--out reports/.../scaling]

One layer of each operator is taken and one of its sizes at a time made smaller and larger. numba.auto and torch.aten
are timed by convbench's own run: verified, interleaved. Prints for each size how often the FLOPs and the times of the
largest are those of the smallest, and what a second thread gains. With --out, run.json and results.csv for each number
of threads, and scaling.png: times, and below them the line of the FLOPs at the measured peak.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from benchmarks.operators import run
from convbench import count
from convbench.case import Case
from convbench.cli.common import out, table
from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED
from convbench.process import keep_freed_memory, prepare
from convbench.registry import REFERENCE
from convbench.results import FAILED_STATUSES, Record
from convbench.run import write_outputs
from convbench.spec import PASSES, ConvSpec, Pass

OURS = "numba.auto"
BASE = {"N": 1, "C": 64, "K": 64, "H": 56, "k": 3}
AXES = {"N": (1, 8, 32), "C": (16, 32, 64, 128, 256, 512), "K": (16, 32, 64, 128, 256, 512),
        "H": (7, 14, 28, 56, 112), "k": (1, 3, 5, 7)}  # fmt: skip
OPERATORS: dict[str, dict[str, Any]] = {
    "standard": {}, "pointwise": {"k": 1}, "depthwise": {"groups": True}, "dilated": {"dilation": 2},
    "transposed": {"k": 4, "H": 28, "stride": 2, "padding": 1, "operator": "conv_transpose2d"},
}  # fmt: skip
FIXED = {"pointwise": ("k",), "transposed": ("k",), "depthwise": ("K",)}  # depthwise: K is C
COLOURS = {"FLOPs at the peak": "#999999", OURS: "#0072b2", REFERENCE: "#d55e00"}
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])  # of numbers of threads


class Point(NamedTuple):
    """A place on an axis."""

    operator: str
    axis: str
    value: int
    spec: ConvSpec


def points() -> Iterator[Point]:
    """Every operator along every axis that it has."""
    for operator, own in OPERATORS.items():
        for axis, values in AXES.items():
            if axis not in FIXED.get(operator, ()):
                for value in values:
                    yield Point(operator, axis, value, spec(BASE | own | {axis: value}))


def spec(of: dict[str, Any]) -> ConvSpec:
    """Padding keeps the map's size where it says none."""
    dilation, groups = of.get("dilation", 1), of["C"] if of.get("groups") else 1
    return ConvSpec.create(
        (of["N"], of["C"], of["H"], of["H"]), of["C"] if groups > 1 else of["K"], of["k"],
        of.get("operator", "conv2d"), of.get("stride", 1), of.get("padding", (of["k"] - 1) * dilation // 2), dilation,
        groups,
    )  # fmt: skip


def measured(pass_: Pass, threads: int, max_time_s: float) -> Record:
    """All distinct layers on that many threads."""
    cases = [Case(s, pass_, suite="scaling", name=str(s)) for s in dict.fromkeys(point.spec for point in points())]
    return run("scaling", cases, (REFERENCE, OURS), threads, max_time_s)


Times = dict[tuple[str, str], float]  # (layer, implementation) -> seconds


def times(record: Record) -> Times:
    return {(row.case, row.implementation): row.median_s for row in record.rows if row.median_s}


def show(by_threads: dict[int, Times], pass_: Pass) -> None:
    """Growth along each axis, and the gain of threads."""
    most = max(by_threads)
    known, lines = by_threads[most], []
    for operator, axis in dict.fromkeys((p.operator, p.axis) for p in points()):
        ends = [p for p in points() if (p.operator, p.axis) == (operator, axis) and (str(p.spec), OURS) in known]
        if len(ends) > 1:
            first, last = ends[0].spec, ends[-1].spec
            grown = [known[str(last), name] / known[str(first), name] for name in (OURS, REFERENCE)]
            work = count.macs(last, pass_) / count.macs(first, pass_)
            lines.append([operator, f"{axis} {ends[0].value} to {ends[-1].value}", f"{work:.1f}x",
                          *(f"{g:.1f}x" for g in grown)])  # fmt: skip
    table(
        f"{pass_}, {most} threads: growth from the smallest to the largest",
        [("operator", "left"), ("axis", "left"), "FLOPs", f"time of {OURS}", f"time of {REFERENCE}"],
        lines,
    )
    for threads in sorted(by_threads)[:-1]:
        for operator in OPERATORS:
            gains = []
            for name in (OURS, REFERENCE):
                layers = {(str(p.spec), name) for p in points() if p.operator == operator}
                both = layers & by_threads[threads].keys() & known.keys()
                gains.append(geometric_mean(by_threads[threads][key] / known[key] for key in both) if both else 0.0)
            out().print(f"{operator}: {most} threads against {threads}: {OURS} {gains[0]:.2f}x, "
                        f"{REFERENCE} {gains[1]:.2f}x")  # fmt: skip


def chart(by_threads: dict[int, Times], pass_: Pass, peak_flops_per_s: float, path: Path) -> None:
    """Times along every axis, both scales logarithmic; the FLOPs' line at the peak of all threads."""
    import altair as alt

    rows: list[dict[str, Any]] = []
    for p in points():
        where = {"operator": p.operator, "axis": p.axis, "value": p.value}
        paper = count.flops(p.spec, pass_) / peak_flops_per_s
        rows.append(where | {"of": "FLOPs at the peak", "threads": "all", "ms": 1e3 * paper})
        for threads, known in by_threads.items():
            rows += [where | {"of": name, "threads": str(threads), "ms": 1e3 * known[str(p.spec), name]}
                     for name in (OURS, REFERENCE) if (str(p.spec), name) in known]  # fmt: skip

    def panel(operator: str, axis: str) -> alt.Chart:
        own = [row for row in rows if (row["operator"], row["axis"]) == (operator, axis)]
        strokes = alt.Legend(symbolType="stroke", symbolStrokeWidth=2, symbolSize=300, symbolFillColor="#333333")
        places = alt.Axis(values=list(AXES[axis]), format="d")
        return (
            alt.Chart(alt.Data(values=own), title=f"{operator}, {axis}")
            .mark_line(point={"size": 18})
            .encode(
                x=alt.X("value:Q", scale=alt.Scale(type="log", base=2, nice=False), title=None, axis=places),
                y=alt.Y("ms:Q", scale=alt.Scale(type="log"), title="ms", axis=alt.Axis(format="~g", tickCount=4)),
                color=alt.Color("of:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=[*COLOURS.values()])),
                strokeDash=alt.StrokeDash("threads:N", scale=alt.Scale(range=list(DASHES)), legend=strokes),
            )
            .properties(width=170, height=120)
        )  # fmt: skip

    lines = [[panel(o, a) for a in AXES if a not in FIXED.get(o, ())] for o in OPERATORS]
    alt.vconcat(*(alt.hconcat(*line) for line in lines)).save(path, scale_factor=1.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pass", dest="pass_", choices=PASSES, default="forward")
    parser.add_argument("--threads", nargs="+", type=int, help="a run for each (default: 1, and all CPUs)")
    parser.add_argument("--max-time", type=float, default=0.1, help="longest sampling of one cell, in seconds")
    parser.add_argument("--out", type=Path, help="folder for the records and scaling.png")
    options = parser.parse_args()
    keep_freed_memory()
    all_ = prepare(None)
    records = {  # thread pools can shrink, not grow
        threads: measured(options.pass_, prepare(threads), options.max_time)
        for threads in sorted(set(options.threads or (1, all_)), reverse=True)
    }
    by_threads = {threads: times(record) for threads, record in records.items()}
    show(by_threads, options.pass_)
    if options.out:
        for threads, record in records.items():
            folder = options.out / f"{threads}-threads"
            folder.mkdir(parents=True, exist_ok=True)
            out().print(*write_outputs(record, folder).values())
        peaks = [p.value for p in records[max(records)].peaks if p.quantity == "fma" and p.dtype == "float32"]
        chart(by_threads, options.pass_, max(peaks), options.out / "scaling.png")
    failed = [row for record in records.values() for row in record.rows if row.status in FAILED_STATUSES]
    for record in records.values():
        for line in record.warnings:
            out().print(line)
    return EXIT_SOME_CELLS_FAILED if failed else EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
