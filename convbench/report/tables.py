"""The page's table of all results, its columns taken from convbench.results.COLUMNS, and the machine's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convbench.compare.environment import facts, flatten
from convbench.report import text
from convbench.results import COLUMNS, Peak, Record, RecordedRow, row_values

_DOCS = {column.name: column for column in COLUMNS}
_PEAK_NAMES = {"fma": "FMA peak", "gemm": "GEMM", "copy": "copy", "triad": "triad"}


@dataclass(frozen=True)
class TableColumn:
    """One column of the table of results."""

    heading: str
    source: str  # the column of results.csv that it shows and sorts by
    show: Callable[[RecordedRow], str]
    numeric: bool = True
    only_if_varied: bool = False

    @property
    def doc(self) -> str:
        """What the CSV's column says of itself, with its unit."""
        column = _DOCS[self.source]
        return f"{column.name}: {column.doc}" + (f" [{column.unit}]" if column.unit else "")


def _plain(name: str) -> Callable[[RecordedRow], str]:
    return lambda row: getattr(row, name) or ""


def _how(row: RecordedRow) -> str:
    """The implementation, and what it chose where its name does not say."""
    said = row.algorithm in (None, "", row.implementation.partition(".")[2])
    return row.implementation if said else f"{row.implementation} ({row.algorithm})"


TABLE: tuple[TableColumn, ...] = (
    TableColumn("Layer", "case", _plain("case"), numeric=False),
    TableColumn("Suite", "suite", _plain("suite"), numeric=False, only_if_varied=True),
    TableColumn("Kind", "kind", _plain("kind"), numeric=False),
    TableColumn("Pass", "pass", _plain("pass_"), numeric=False, only_if_varied=True),
    TableColumn("Type", "dtype", _plain("dtype"), numeric=False, only_if_varied=True),
    TableColumn("Device", "device", _plain("device"), numeric=False, only_if_varied=True),
    TableColumn("Shape", "macs", text.shape, numeric=False),
    TableColumn("Implementation", "implementation", _how, numeric=False),
    TableColumn("Time", "median_s", lambda row: text.seconds(row.median_s)),
    TableColumn("± 95%", "ci_high_s", lambda row: text.percent(text.half_width(row))),
    TableColumn("Speed-up", "speedup_vs_reference", lambda row: text.times(row.speedup_vs_reference)),
    TableColumn("95% interval", "speedup_ci_low", lambda row: text.interval(row.speedup_ci_low, row.speedup_ci_high)),
    TableColumn("GFLOP/s", "gflops", lambda row: text.significant(row.gflops)),
    TableColumn("Of roof", "roofline_fraction", lambda row: text.percent(row.roofline_fraction)),
    TableColumn("Status", "status", _plain("status"), numeric=False),
    TableColumn("GB/s", "gbytes_per_s", lambda row: text.significant(row.gbytes_per_s)),
    TableColumn("MACs", "valid_macs", lambda row: text.engineering(row.macs, "").strip()),
    TableColumn("Bytes", "bytes", lambda row: text.engineering(row.bytes, "B")),
    TableColumn("Error", "error", lambda row: text.error(row.error)),
    TableColumn("Allowed", "tolerance", lambda row: text.error(row.tolerance)),
    TableColumn("Samples", "samples", lambda row: "" if row.samples is None else str(row.samples)),
    TableColumn("Layout", "layout", _plain("layout"), numeric=False, only_if_varied=True),
    TableColumn("Compiled in", "compile_s", lambda row: text.seconds(row.compile_s)),
)


def result_table(rows: Sequence[RecordedRow]) -> tuple[list[TableColumn], list[dict[str, Any]]]:
    """The columns worth showing, and per row its cells as (text, sort key), its notes and filter keys."""
    shown = [c for c in TABLE if not c.only_if_varied or len({c.show(row) for row in rows}) > 1]
    lines = []
    for row in rows:
        values = row_values(row)
        lines.append(
            {
                "cells": [(c, c.show(row), _sort_key(c, row, values)) for c in shown],
                "row": row,
                "remarks": [*([row.status_detail] if row.status_detail else []), *row.notes],
            }
        )
    return shown, lines


def _sort_key(column: TableColumn, row: RecordedRow, values: dict[str, Any]) -> Any:
    """What to sort by where it is not the text shown; "" for an empty cell."""
    if column.source == "ci_high_s":
        key = text.half_width(row)
    elif column.numeric or column.heading == "Shape":
        key = values[column.source]
    else:
        return None
    return "" if key is None else float(f"{key:.6g}")


def constants(rows: Sequence[RecordedRow]) -> str:
    """What all rows share, for the caption: forward, float32, cpu."""
    if not rows:
        return ""
    columns = [column for column in TABLE if column.only_if_varied]
    shared = [{column.show(row) for row in rows} for column in columns]
    return ", ".join(next(iter(values)) for values in shared if len(values) == 1 and values != {""})


# The machine --------------------------------------------------------------------------------------------


def peak_lines(peaks: Sequence[Peak]) -> list[tuple[str, ...]]:
    """What was measured, from the registers outwards: name, level, device and dtype, working set, value."""
    return [
        (_PEAK_NAMES[p.quantity], p.level, f"{p.device}, {p.dtype}", text.size(p.working_set_bytes), text.peak_value(p))
        for p in sorted(peaks, key=lambda p: (p.device, list(_PEAK_NAMES).index(p.quantity), p.working_set_bytes or 0))
    ]


def machine_facts(record: Record) -> list[tuple[str, str]]:
    """The few things that matter most about a machine, as (name, value); unknown ones are left out."""
    environment = record.environment
    cpu, system, versions = environment.cpu, environment.system, environment.versions
    caches = cpu.get("caches") if isinstance(cpu.get("caches"), dict) else {}
    cache_text = ", ".join(
        f"{level} {text.size(cache['bytes'])}"
        + (f" shared by {cache['shared_by']}" if cache.get("shared_by", 1) != 1 else "")
        for level, cache in (caches or {}).items()
        if isinstance(cache, dict) and isinstance(cache.get("bytes"), int | float)
    )
    total = environment.memory.get("total_bytes")
    software = ", ".join(f"{k} {versions[k]}" for k in ("torch", "numba", "triton", "onednn", "cuda") if k in versions)
    facts = {
        "Processor": cpu.get("model"),
        "CPUs": cpu.get("cpus_usable"),
        "Threads": record.settings.get("threads"),
        "Instruction sets": cpu.get("isa"),
        "Caches": cache_text,
        "Governor": cpu.get("governor"),
        "Memory": text.size(total) if isinstance(total, int | float) else None,
        "GPU": [gpu.get("name") for gpu in environment.gpu],
        "System": ", ".join(str(system[key]) for key in ("os", "kernel") if key in system),
        "Runs in": [name.replace("_", " ") for name in ("virtual_machine", "container") if system.get(name) is True],
        "Python": system.get("python"),
        "Software": software,
        "Revision": environment.git_revision,
    }
    return [(name, value_text(value)) for name, value in facts.items() if value not in (None, "", [])]


def everything(record: Record) -> list[tuple[str, str]]:
    """All that was recorded about the run, flat."""
    flat = facts(record)
    flatten("timings (s)", record.timings, flat)
    return [(name, value_text(value)) for name, value in flat.items()]


def value_text(value: Any) -> str:
    """A value of an environment in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return text.significant(value) if isinstance(value, float) else str(value)
