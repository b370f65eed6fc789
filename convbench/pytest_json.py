"""pytest-benchmark's JSON, written and read: `pytest-benchmark compare` and github-action-benchmark work on our data.

A benchmark is a timed row: its samples are the ``stats``, the rest of it is in ``extra_info.convbench``. What belongs
to the run as a whole, and rows without times, is in the file's own ``convbench``. A file without these is another
project's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from convbench.errors import InputError
from convbench.results import Duration, Record, RecordedRow, cell_name
from convbench.untrusted import DECODE_ERRORS, check_rows, read_limited

KEY = "convbench"
ADVICE = "give the file as pytest-benchmark wrote it"
REFERENCE_NOTE = "not interleaved with the reference: timed one after the other"


class _Stats(Struct):
    data: list[Duration] = []
    iterations: int = 1


class _Benchmark(Struct):
    name: str
    stats: _Stats
    extra_info: dict[str, Any] = {}


class _File(Struct):
    benchmarks: list[_Benchmark]
    convbench: Record | None = None


# Writing ----------------------------------------------------------------------------------------


def to_pytest_benchmark(record: Record) -> dict[str, Any]:
    """The record as `pytest --benchmark-json` would write it."""
    timed = [row for row in record.rows if row.samples_s]
    environment = record.environment
    return {
        "machine_info": {"machine": record.machine, "cpu": environment.cpu, "system": environment.system.get("os", ""),
                         "python_version": environment.system.get("python", "")},
        "commit_info": {"id": environment.git_revision or "", "dirty": False, "time": record.started},
        "benchmarks": [_benchmark(row) for row in timed],
        "datetime": record.started,
        "version": record.convbench_version,
        KEY: head(msgspec.structs.replace(record, rows=[row for row in record.rows if not row.samples_s])),
    }  # fmt: skip


def head(record: Record) -> dict[str, Any]:
    """The file's own ``convbench``."""
    return msgspec.to_builtins(record)


def extra_info(row: RecordedRow) -> dict[str, Any]:
    """A benchmark's ``extra_info``: the row, less the samples that are the benchmark's own."""
    return {KEY: msgspec.to_builtins(msgspec.structs.replace(row, samples_s=[]))}


def group(row: Any) -> str:
    """What pytest-benchmark compares with each other: all implementations of a case."""
    return cell_name(row).removesuffix(f" {row.implementation}")


def _benchmark(row: RecordedRow) -> dict[str, Any]:
    return {
        "group": group(row), "name": cell_name(row), "fullname": cell_name(row), "params": None, "param": None,
        "extra_info": extra_info(row), "options": {},
        "stats": {**stats(row.samples_s), "iterations": row.calls_per_sample or 1},
    }  # fmt: skip


def stats(seconds: list[float]) -> dict[str, Any]:
    """pytest-benchmark's statistics of the samples; its quartiles are those of Hazen."""
    import numpy as np

    data = np.sort(seconds)
    q1, median, q3 = np.quantile(data, (0.25, 0.5, 0.75), method="hazen").tolist()
    mean, deviation = float(data.mean()), float(data.std(ddof=1)) if len(data) > 1 else 0.0
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    far = int(((data < low) | (data > high)).sum())
    off = int((abs(data - mean) > deviation).sum())
    return {
        "min": float(data[0]), "max": float(data[-1]), "mean": mean, "stddev": deviation, "rounds": len(data),
        "median": median, "iqr": q3 - q1, "q1": q1, "q3": q3, "iqr_outliers": far, "stddev_outliers": off,
        "outliers": f"{off};{far}", "ld15iqr": float(data[data >= low][0]), "hd15iqr": float(data[data <= high][-1]),
        "ops": 1 / mean, "total": float(data.sum()), "data": list(seconds),
    }  # fmt: skip


# Reading ----------------------------------------------------------------------------------------


def is_one(path: Path) -> bool:
    """Whether a file looks like pytest-benchmark's: it has benchmarks, and no rows."""
    try:
        found = msgspec.json.decode(read_limited(path, ADVICE), type=dict[str, msgspec.Raw])
    except (InputError, *DECODE_ERRORS):
        return False
    return "benchmarks" in found and "rows" not in found


def load(path: Path) -> Record:
    """The record in a pytest-benchmark JSON. Raises InputError naming the file."""
    try:
        found = msgspec.json.decode(read_limited(path, ADVICE), type=_File)
        if found.convbench is None:
            raise InputError(
                f"{path}: pytest-benchmark's, but not of convbench's kernels; see `pytest benchmarks/` in the README"
            )
        rows = [_row(benchmark) for benchmark in found.benchmarks if KEY in benchmark.extra_info]
    except DECODE_ERRORS as error:
        reason = str(error).replace("\n", " ")
        raise InputError(
            f"{path}: not a pytest-benchmark file that convbench reads: {reason}; write it again"
        ) from None
    _add_speedups(rows)
    found.convbench.rows += rows
    check_rows(path, len(found.convbench.rows))
    return found.convbench


def _row(benchmark: _Benchmark) -> RecordedRow:
    row = msgspec.convert(benchmark.extra_info[KEY], RecordedRow)
    row.samples_s = benchmark.stats.data
    return row


def _add_speedups(rows: Iterable[RecordedRow]) -> None:
    """For rows timed one after the other: the ratio of medians, its interval from theirs."""
    by_case: dict[str, list[RecordedRow]] = defaultdict(list)
    for row in rows:
        by_case[group(row)].append(row)
    for found in by_case.values():
        reference = next((row for row in found if row.implementation == row.reference), None)
        for row in found if reference else []:
            if row.speedup_vs_reference is None and row.median_s and reference and reference.median_s:
                row.speedup_vs_reference = reference.median_s / row.median_s
                row.notes.append(REFERENCE_NOTE)
                if reference.ci_low_s and reference.ci_high_s and row.ci_low_s and row.ci_high_s:
                    row.speedup_ci_low = reference.ci_low_s / row.ci_high_s
                    row.speedup_ci_high = reference.ci_high_s / row.ci_low_s
