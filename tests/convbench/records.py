"""Synthetic run records, as a run would leave them: real layers and counts, invented times.

No figure here was measured; nothing made from these records belongs in a published report.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from convbench import count
from convbench.case import Case
from convbench.results import Environment, Peak, Record, RecordedRow
from convbench.roofline import attainable
from convbench.spec import Kind
from convbench.suites import resolve

REFERENCE = "torch.aten"
STARTED, FINISHED = "2026-01-02T03:04:05+00:00", "2026-01-02T03:07:17+00:00"

# implementation -> (kinds it supports, or None for all; usual share of the roof)
IMPLEMENTATIONS: dict[str, tuple[tuple[Kind, ...] | None, float]] = {
    "torch.aten": (None, 0.55),
    "torch.channels_last": (None, 0.6),
    "torch.unfold": (("standard", "pointwise", "dilated"), 0.2),
    "torch.compile": (None, 0.54),
    "numba.direct": (("standard", "dilated", "grouped"), 0.62),
    "numba.depthwise": (("depthwise",), 0.75),
    "numba.gemm": (("pointwise",), 0.7),
    "numba.phases": (("transposed",), 0.5),
    "numba.fused": (("separable",), 0.6),
}

PEAKS = [
    Peak(quantity="fma", level="register", device="cpu", dtype="float32", value=232e9),
    Peak(quantity="gemm", level="DRAM", device="cpu", dtype="float32", value=221e9, working_set_bytes=48 * 2**20),
    Peak(quantity="copy", level="L1", device="cpu", dtype="float32", value=310e9, working_set_bytes=2**15),
    Peak(quantity="triad", level="L1", device="cpu", dtype="float32", value=402e9, working_set_bytes=2**15),
    Peak(quantity="copy", level="L2", device="cpu", dtype="float32", value=150e9, working_set_bytes=2**20),
    Peak(quantity="triad", level="L2", device="cpu", dtype="float32", value=161e9, working_set_bytes=2**20),
    Peak(quantity="copy", level="L3", device="cpu", dtype="float32", value=74e9, working_set_bytes=2**24),
    Peak(quantity="copy", level="DRAM", device="cpu", dtype="float32", value=24.1e9, working_set_bytes=2**28),
    Peak(quantity="triad", level="DRAM", device="cpu", dtype="float32", value=22.8e9, working_set_bytes=2**28),
]

ENVIRONMENT = Environment(
    machine="synthetic-2c",
    cpu={"model": "Synthetic 2-Core Processor", "architecture": "x86_64", "isa": ["avx2", "fma", "avx512f"],
         "cores_physical": 2, "cpus_usable": 2, "governor": "powersave",
         "caches": {"L1": {"bytes": 2**15, "shared_by": 1}, "L2": {"bytes": 2**20, "shared_by": 1},
                    "L3": {"bytes": 2**25, "shared_by": 2}}},
    memory={"total_bytes": 8 * 2**30, "available_bytes": 6 * 2**30},
    system={"os": "Debian GNU/Linux", "kernel": "6.1", "python": "3.11.2", "virtual_machine": True, "container": False},
    versions={"convbench": "0.1.0", "torch": "2.13.0", "numba": "0.68.1", "onednn": "3.12"},
    variables={"OMP_NUM_THREADS": "2"},
)  # fmt: skip


def make_record(rows: list[RecordedRow] | None = None, **changes: Any) -> Record:
    """A complete record; by default of the default suite."""
    words: dict[str, Any] = {
        "convbench_version": "0.1.0", "run_id": "20260102T030405Z-abcd", "machine": ENVIRONMENT.machine,
        "started": STARTED, "finished": FINISHED, "complete": True, "environment": ENVIRONMENT, "peaks": PEAKS,
        "settings": {"threads": 2, "seed": 0, "policy": {"precision": 0.01, "max_cell_s": 0.9}},
        "warnings": ["CPU governor is powersave: set it to performance for steadier clocks"],
        "unavailable": {"triton": "triton needs a CUDA device; none was found"},
        "timings": {"detect": 0.4, "peaks": 6.0, "compile": 21.0, "verify": 14.0, "sample": 145.0, "total": 192.0},
        "rows": make_rows() if rows is None else rows,
    }  # fmt: skip
    return Record(**(words | changes))


def make_rows(
    suites: Sequence[str] = ("default",),
    implementations: Sequence[str] = tuple(IMPLEMENTATIONS),
    seed: int = 0,
    limit: int | None = None,
    each: Callable[[RecordedRow], None] = lambda row: None,
) -> list[RecordedRow]:
    """Rows of the suites' layers on the implementations that support them, ``each`` applied to every row."""
    order = random.Random(seed)
    rows: list[RecordedRow] = []
    for name in suites:
        suite = resolve(name)
        for layer in suite.layers:
            case = Case(layer.spec, suite=suite.name, name=layer.name, count=layer.count)
            supported = [i for i in implementations if _supports(i, layer.spec.kind)]
            # The reference comes first: the others' speed-ups need its time.
            base: RecordedRow | None = None
            for implementation in sorted(supported, key=lambda i: i != REFERENCE):
                row = make_row(case, implementation, order, base)
                base = row if implementation == REFERENCE else base
                rows.append(row)
    for row in rows[:limit]:
        each(row)
    return rows[:limit]


def _supports(implementation: str, kind: Kind) -> bool:
    kinds = IMPLEMENTATIONS[implementation][0]
    return kinds is None or kind in kinds


def make_row(case: Case, implementation: str, order: random.Random, reference: RecordedRow | None) -> RecordedRow:
    """One cell that went well."""
    spec = case.spec
    macs, valid, nbytes = count.macs(spec), count.valid_macs(spec), count.compulsory_bytes(case)
    roof = attainable(2 * valid, nbytes, PEAKS, "cpu", "float32")
    assert roof
    median = 2 * valid / roof.flops_per_s / (IMPLEMENTATIONS[implementation][1] * order.uniform(0.6, 1.3)) + 4e-6
    spread = order.choice((0.002, 0.004, 0.008, 0.03))
    row = RecordedRow(
        run_id="20260102T030405Z-abcd", machine=ENVIRONMENT.machine, device="cpu", suite=case.suite, case=case.name,
        operator=spec.operator, kind=spec.kind, pass_=case.pass_, dtype=case.dtype, layout="nchw",
        n=spec.n, c=spec.c, h=spec.h, w=spec.w, k=spec.k, r=spec.r, s=spec.s,
        stride_h=spec.stride[0], stride_w=spec.stride[1], padding_h=spec.padding[0], padding_w=spec.padding[1],
        dilation_h=spec.dilation[0], dilation_w=spec.dilation[1], groups=spec.groups,
        output_padding_h=spec.output_padding[0], output_padding_w=spec.output_padding[1],
        implementation=implementation, algorithm=None, status="ok", error=2.1e-7, tolerance=1.3e-5,
        samples=40, median_s=median, ci_low_s=median * (1 - spread), ci_high_s=median * (1 + spread),
        iqr_s=3 * spread * median, compile_s=0.02, macs=macs, valid_macs=valid, params=count.params(spec),
        bytes=nbytes, gflops=2 * macs / median / 1e9, gbytes_per_s=nbytes / median / 1e9,
        attainable_gflops=roof.flops_per_s / 1e9, roofline_fraction=2 * valid / median / roof.flops_per_s,
        count=case.count, calls_per_sample=1, samples_s=[median] * 40, rounds=list(range(40)),
    )  # fmt: skip
    if spread > 0.02:
        row.notes = [f"noisy: interquartile range is {3 * spread:.0%} of the median"]
    base = reference.median_s if reference else median
    assert base
    row.reference, row.speedup_vs_reference = REFERENCE, base / median
    wide = 0.0 if reference is None else 2 * spread
    row.speedup_ci_low, row.speedup_ci_high = base / median * (1 - wide), base / median * (1 + wide)
    return row


def fail(row: RecordedRow, status: str, detail: str) -> RecordedRow:
    """Turn a good cell into one that failed: no times, and a reason."""
    for name in ("samples", "median_s", "ci_low_s", "ci_high_s", "iqr_s", "gflops", "gbytes_per_s",
                 "attainable_gflops", "roofline_fraction", "speedup_vs_reference", "speedup_ci_low",
                 "speedup_ci_high", "reference"):  # fmt: skip
        setattr(row, name, None)
    row.status, row.status_detail = status, detail  # type: ignore[assignment]
    row.samples_s, row.rounds, row.notes = [], [], []
    return row


def varied_record() -> Record:
    """The default suite and two networks, with a failure of every sort, drift, and a cell above the roof."""
    rows = make_rows(("default",)) + make_rows(("mobilenet_v1",), seed=1)
    fail(rows[5], "mismatch", "output differs from the float64 reference: relative error 3.1e-02, allowed 1.3e-05")
    rows[5].error = 3.1e-2
    fail(rows[11], "error", "ValueError: groups must divide channels")
    fail(rows[17], "out_of_memory", "needs 9.2 GB")
    fail(rows[23], "timeout", "one call takes 31 s, more than 20 s")
    fail(rows[29], "unsupported", "dilation > 1 is not implemented")
    rows[30].notes = ["drift: +12% from the first third of the samples to the last"]
    rows[31].notes = ["above the roof: 134% of what the measured peaks allow"]
    return make_record(rows)


def hostile_record(text: str, limit: int = 12) -> Record:
    """A record with ``text`` in every field that can hold any text."""

    def poison(row: RecordedRow) -> None:
        row.case = f"{text}{row.case}"
        row.suite = row.machine = row.run_id = row.device = row.layout = text
        row.algorithm = row.status_detail = text
        row.implementation = text if row.implementation != REFERENCE else f"ref {text}"
        row.reference = f"ref {text}"
        row.notes = [text, f"noisy: {text}"]

    rows = make_rows(limit=limit, each=poison)
    if rows:
        fail(rows[-1], "error", text).notes = [text]
    environment = Environment(
        machine=text, cpu={"model": text, text: text, "isa": [text]}, memory={text: text}, gpu=[{"name": text}],
        system={"os": text, text: [text]}, versions={text: text}, variables={text: text}, load={text: text},
        git_revision=text,
    )  # fmt: skip
    peaks = [Peak(quantity=p.quantity, level=f"{text}{p.level}", device=text, dtype=p.dtype, value=p.value,
                  working_set_bytes=p.working_set_bytes) for p in PEAKS]  # fmt: skip
    return make_record(
        rows, convbench_version=text, run_id=text, machine=text, started=text, finished=text, command=text,
        environment=environment, peaks=peaks, settings={text: text, "threads": text, "policy": {text: text}},
        warnings=[text, f"{text}: {text}"], unavailable={text: text}, timings={text: 1.0},
    )  # fmt: skip
