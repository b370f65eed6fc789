"""The run record: plain data, one list of columns, JSON and CSV.

``Row`` is the only list of result columns: its fields, in order, are the columns of results.csv, and
their types, units and descriptions are the JSON schema, the table headings and the README's list.
An empty value (None) could not be computed; it is never written as 0.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from convbench.case import DType
from convbench.errors import InputError
from convbench.spec import LARGEST_TENSOR_ELEMENTS, Kind, Operator, Pass
from convbench.untrusted import DECODE_ERRORS, check_rows, printable, read_limited, shortened

SCHEMA_VERSION = 1

Status = Literal["ok", "unsupported", "mismatch", "error", "timeout", "crashed", "out_of_memory"]
FAILED_STATUSES = ("mismatch", "error", "timeout", "crashed", "out_of_memory")


def about(doc: str, unit: str = "") -> Meta:
    """What a column means."""
    return Meta(description=f"{doc} [{unit}]" if unit else doc, extra={"unit": unit, "doc": doc})


# What a number of a record may be: no clock tells less than a picosecond, and no cell took 30 years.
LONGEST_S, LARGEST = 1e9, 2**62
Time = Annotated[float, Meta(gt=1e-12, le=LONGEST_S)]
Duration = Annotated[float, Meta(ge=0, le=LONGEST_S)]
Ratio = Annotated[float, Meta(gt=1e-12, lt=1e12)]
Rate = Annotated[float, Meta(gt=0, lt=1e15)]
Ceiling = Annotated[float, Meta(gt=0, lt=1e24)]
NotNegative = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Whole = Annotated[int, Meta(ge=0, le=LARGEST)]
Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
Size = Annotated[int, Meta(ge=1, le=LARGEST_TENSOR_ELEMENTS)]
Padding = Annotated[int, Meta(ge=0, le=LARGEST_TENSOR_ELEMENTS)]


class Row(Struct, kw_only=True, omit_defaults=False):
    """One case x implementation."""

    run_id: Annotated[str, about("the run this row belongs to")]
    machine: Annotated[str, about("short name of the machine")]
    device: Annotated[str, about("cpu, cuda:0, ...")]
    suite: Annotated[str, about("suite the layer comes from")]
    case: Annotated[str, about("name of the layer in its suite")]
    operator: Annotated[Operator, about("conv2d, conv_transpose2d, or the depthwise-separable pair")]
    kind: Annotated[Kind, about("most specific kind of convolution")]
    pass_: Annotated[Pass, about("forward, data_gradient or weight_gradient")] = field(name="pass")
    dtype: Annotated[DType, about("element type of the tensors; tf32 is float32 with products rounded to TF32")]
    layout: Annotated[str, about("memory format of the tensors given to the implementation")]
    n: Annotated[Size, about("batch size")]
    c: Annotated[Size, about("input channels")]
    h: Annotated[Size, about("input height")]
    w: Annotated[Size, about("input width")]
    k: Annotated[Size, about("output channels")]
    r: Annotated[Size, about("kernel height")]
    s: Annotated[Size, about("kernel width")]
    stride_h: Annotated[Size, about("stride, vertical")]
    stride_w: Annotated[Size, about("stride, horizontal")]
    padding_h: Annotated[Padding, about("zero padding on each side, vertical")]
    padding_w: Annotated[Padding, about("zero padding on each side, horizontal")]
    dilation_h: Annotated[Size, about("dilation, vertical")]
    dilation_w: Annotated[Size, about("dilation, horizontal")]
    groups: Annotated[Size, about("channel groups")]
    output_padding_h: Annotated[Padding, about("output padding of a transposed convolution, vertical")]
    output_padding_w: Annotated[Padding, about("output padding of a transposed convolution, horizontal")]
    implementation: Annotated[str, about("family.algorithm")]
    algorithm: Annotated[str | None, about("what the implementation chose for this shape")] = None
    status: Annotated[Status, about("ok, or why there is no time")]
    status_detail: Annotated[str | None, about("the reason in words")] = None
    error: Annotated[NotNegative | None, about("relative L2 error against float64, the larger of two checks")] = None
    tolerance: Annotated[NotNegative | None, about("largest error allowed, derived from the reduction length")] = None
    samples: Annotated[Positive | None, about("samples taken")] = None
    median_s: Annotated[Time | None, about("median time of one call", "s")] = None
    ci_low_s: Annotated[Time | None, about("lower end of the median's 95% interval", "s")] = None
    ci_high_s: Annotated[Time | None, about("upper end of the median's 95% interval", "s")] = None
    iqr_s: Annotated[Duration | None, about("interquartile range of the samples", "s")] = None
    compile_s: Annotated[Duration | None, about("time to choose, compile and prepare, outside the timing", "s")] = None
    macs: Annotated[Positive | None, about("nominal multiply-accumulates, taps on padding included", "MAC")] = None
    valid_macs: Annotated[Whole | None, about("multiply-accumulates on real input only", "MAC")] = None
    params: Annotated[Positive | None, about("weights and bias")] = None
    bytes: Annotated[Positive | None, about("compulsory bytes: inputs read once, outputs written once", "byte")] = None
    gflops: Annotated[Rate | None, about("2 x macs / median_s / 1e9", "GFLOP/s")] = None
    gbytes_per_s: Annotated[Rate | None, about("bytes / median_s / 1e9", "GB/s")] = None
    attainable_gflops: Annotated[Rate | None, about("roofline of this machine at this intensity", "GFLOP/s")] = None
    roofline_fraction: Annotated[
        Ratio | None, about("2 x valid_macs / median_s over attainable_gflops; above 1 needs an explanation")
    ] = None
    speedup_vs_reference: Annotated[
        Ratio | None, about("reference time / this time, median over rounds of the same run")
    ] = None
    speedup_ci_low: Annotated[Ratio | None, about("lower end of the speed-up's 95% interval")] = None
    speedup_ci_high: Annotated[Ratio | None, about("upper end of the speed-up's 95% interval")] = None


class GpuCell(Struct, kw_only=True):
    """What a GPU was like while one implementation of a case was timed; empty where the driver does not tell."""

    clock_mhz: Annotated[NotNegative | None, about("median clock of the multiprocessors after a sample", "MHz")] = None
    power_w: Annotated[NotNegative | None, about("median power after a sample", "W")] = None
    temperature_c: Annotated[float | None, about("highest temperature after a sample", "C")] = None
    throttled: Annotated[list[str], about("why the clock was held down")] = []
    discarded: Annotated[Whole, about("samples thrown away because the clock had fallen")] = 0
    launch_s: Annotated[Duration | None, about("time of the host to enqueue one call", "s")] = None
    memory_bytes: Annotated[Whole | None, about("most memory taken during a call, beyond its operands", "byte")] = None
    energy_j: Annotated[NotNegative | None, about("energy of one call, the GPU's idle power included", "J")] = None
    graph: Annotated[bool, about("timed as a CUDA graph")] = False
    no_readings: Annotated[str, about("why the driver told nothing")] = ""


class RecordedRow(Row, kw_only=True):
    """A row as run.json keeps it: with the raw samples, and what the CSV has no column for."""

    bias: bool = False
    count: Annotated[Positive, about("how often the network uses the layer")] = 1
    reference: Annotated[str | None, about("implementation that speedup_vs_reference compares with")] = None
    calls_per_sample: Annotated[Positive | None, about("calls timed together as one sample")] = None
    samples_s: Annotated[list[Duration], about("seconds per call, one value a sample, in order", "s")] = []
    rounds: Annotated[list[Whole], about("round of each sample: equal rounds are paired across rows")] = []
    gpu: Annotated[GpuCell | None, about("the GPU while this was timed; null on a CPU")] = None
    notes: Annotated[list[str], about("noise, drift and roofline remarks on this row")] = []


class Peak(Struct, kw_only=True):
    """One measured limit of the machine."""

    quantity: Literal["fma", "gemm", "copy", "triad"]
    level: Annotated[str, about("register, L1, L2, L3 or DRAM: where the working set lives")]
    device: str
    dtype: DType
    value: Annotated[Ceiling, about("FLOP/s for fma and gemm, bytes/s for copy and triad")]
    working_set_bytes: Annotated[Whole | None, about("total over all threads", "byte")] = None


class Environment(Struct, kw_only=True):
    """The machine and the software, as far as they can change a result."""

    machine: Annotated[str, about("short name used in paths and tables")]
    cpu: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    gpu: list[dict[str, Any]] = []
    system: dict[str, Any] = {}
    versions: dict[str, str] = {}
    variables: dict[str, str] = {}
    load: dict[str, Any] = {}
    git_revision: str | None = None


class Record(Struct, kw_only=True):
    """One run: what run.json holds. ``complete`` is False while cells are missing."""

    schema_version: int = SCHEMA_VERSION
    command: str = "run"
    convbench_version: str
    run_id: str
    machine: str
    started: Annotated[str, about("ISO 8601, UTC")]
    finished: str | None = None
    complete: bool = False
    environment: Environment
    peaks: list[Peak] = []
    settings: dict[str, Any] = {}
    warnings: list[str] = []
    unavailable: Annotated[dict[str, str], about("kernel families that could not be loaded, with the reason")] = {}
    timings: Annotated[dict[str, float], about("where the run's wall time went", "s")] = {}
    rows: list[RecordedRow] = []


@dataclass(frozen=True)
class Column:
    """One result column: its CSV name, type, unit and one-line description."""

    name: str
    type: type
    unit: str
    doc: str


def _columns() -> tuple[Column, ...]:
    hints = get_type_hints(Row, include_extras=True)
    columns = []
    for info in msgspec.structs.fields(Row):
        hint, unit, doc = hints[info.name], "", ""
        if get_origin(hint) is Annotated:
            hint, *_, meta = get_args(hint)
            unit, doc = meta.extra["unit"], meta.extra["doc"]
        bases = [
            t
            for t in (getattr(a, "__origin__", a) for a in get_args(hint) or (hint,))
            if isinstance(t, type) and t is not type(None)
        ]
        columns.append(Column(info.encode_name, bases[0] if bases else str, unit, doc))
    return tuple(columns)


COLUMNS: tuple[Column, ...] = _columns()
COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)


def row_values(row: Row) -> dict[str, Any]:
    """The row as {column name: value}, in column order."""
    values = msgspec.to_builtins(row)
    return {name: values[name] for name in COLUMN_NAMES}


def cell_name(cell: Any) -> str:
    """Short name of a case x implementation; of a row, or of anything else that has these fields."""
    return f"{cell.suite}/{cell.case} {cell.pass_} {cell.dtype} {cell.device} {cell.implementation}"


# JSON -------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """The published schema of run.json (JSON Schema 2020-12)."""
    return msgspec.json.schema(Record)


def to_json(record: Record) -> bytes:
    """run.json as bytes; a NaN or infinity in it becomes null."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1)


def load(path: Path) -> Record:
    """Read and validate a run.json, or the one inside a folder. Raises InputError naming the file."""
    path = path / "run.json" if path.is_dir() else path
    data = read_limited(path, "give a run.json or the folder of a run")
    try:
        record = msgspec.json.decode(data, type=Record)
    except DECODE_ERRORS as error:
        check_version(path, data)  # of a newer one anything may have changed
        reason = str(error).replace("\n", " ")
        raise InputError(f"{path}: not a convbench run record: {reason}; run it again or --resume its folder") from None
    check_version(path, record)
    check_rows(path, len(record.rows))
    return record


class _Versioned(Struct):
    schema_version: int


def check_version(path: Path, found: bytes | Record) -> None:
    """Raises InputError for a newer schema; of what has no version, nothing is known."""
    try:
        versioned = msgspec.json.decode(found, type=_Versioned) if isinstance(found, bytes) else found
    except DECODE_ERRORS:
        return
    if versioned.schema_version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema_version {versioned.schema_version} is newer than this convbench reads "
            f"({SCHEMA_VERSION}); upgrade it"
        )


# CSV --------------------------------------------------------------------------------------------

FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones where the language has them
LONGEST_CELL = 32_000  # a spreadsheet's limit is 32,767 characters


def csv_cell(value: Any) -> str:
    """Text of one cell: None is empty; text that a spreadsheet would run as a formula is quoted with '.

    Text is printable and no longer than a spreadsheet takes.
    """
    if isinstance(value, str):
        safe = printable(shortened(value, LONGEST_CELL))
        return f"'{safe}" if safe.startswith(FORMULA_STARTS) else safe
    if isinstance(value, float):
        if 1e-4 <= value < 1e16:  # no exponent: the digits of repr, three times as fast
            return msgspec.json.encode(value).decode()
        return repr(value) if math.isfinite(value) else ""
    return "" if value is None else repr(value)


def to_csv(rows: list[Row] | list[RecordedRow]) -> str:
    """results.csv: one header line, then one line a row."""
    return csv_text(COLUMN_NAMES, (row_values(row).values() for row in rows))


def csv_text(names: Iterable[str], lines: Iterable[Iterable[Any]]) -> str:
    """One header line, then the lines, with safe cells."""
    return "\n".join((csv_line(names), *map(csv_line, lines), ""))


def csv_line(values: Iterable[Any]) -> str:
    """Safe cells as one line, or as a part of one; without the end of the line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(map(csv_cell, values))
    return text.getvalue()
