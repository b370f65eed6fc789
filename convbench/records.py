"""Many records at once: files, folders and globs of run.json or results.csv, whatever machine wrote them.

``read_records`` is the one door: it yields what can be read, one record at a time so that ten thousand need no more
memory than one, and hands a one-line reason for each file that cannot be read to ``refuse``. A folder gives the
run.json of each run in it, or its results.csv where there is no run.json.

Older records load: what has been added since has a default. A CSV has no raw samples, environment or peaks, so
its record has none; whether a layer has a bias is told by its number of parameters,
and the reference by its speed-up of exactly 1.
"""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from convbench import pytest_json, results
from convbench.count import params
from convbench.errors import InputError
from convbench.results import COLUMNS, Environment, Record, RecordedRow
from convbench.spec import ConvSpec
from convbench.untrusted import check_rows, read_limited

RUN_JSON, RESULTS_CSV = "run.json", "results.csv"
SUFFIXES = (".json", ".csv")
# What other commands write, perhaps beside records: nobody means them by naming a folder.
OTHERS = {f"{name}{s}" for name in ("ab", "check", "compare", "history", "profile", "train") for s in SUFFIXES}
OTHERS |= {"trace.json", "torch_trace.json", "verify0.json", "verify1.json"}
_REQUIRED = {info.encode_name for info in msgspec.structs.fields(RecordedRow) if info.required}
_TEXTS = {column.name for column in COLUMNS if column.type is str} & _REQUIRED  # these may be empty
_RUN_ID_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Stored:
    """One record and where it came from.

    ``origin`` csv: no raw samples, environment or peaks; pytest: not interleaved with the reference.
    """

    path: Path
    record: Record
    origin: Literal["json", "csv", "pytest"]


def read_records(arguments: Iterable[str | Path], refuse: Callable[[str], None]) -> Iterator[Stored]:
    """Every record that the arguments name, in their order, a folder's by path; each file once.

    arguments   run.json or results.csv files, folders (searched to any depth), glob patterns
    refuse      told, in one line that names the file and the way out, about each that is no record
    """
    seen: set[Path] = set()
    for argument in arguments:
        try:
            paths = find(Path(argument))
        except InputError as error:
            refuse(str(error))
            continue
        for path in paths:
            if len(paths) == 1 or path.resolve() not in seen:  # a file named twice is meant twice
                seen.add(path.resolve())
                try:
                    yield from read(path)
                except InputError as error:
                    refuse(str(error))


def find(argument: Path) -> list[Path]:
    """The files of records that one argument names. Raises InputError where there is none."""
    if argument.is_dir():
        found = sorted(_walk(argument))
        if not found:
            raise InputError(f"{argument}: holds no {RUN_JSON} or {RESULTS_CSV}; give the folder of a run, or of many")
        return found
    if not os.path.lexists(argument) and glob.has_magic(str(argument)):
        names = sorted(glob.glob(str(argument), recursive=True))
        found = [path for name in names for path in (_walk(Path(name)) if Path(name).is_dir() else [Path(name)])]
        if not found:
            raise InputError(f"{argument}: matches no record; check the pattern")
        return found
    return [argument]


def _walk(folder: Path) -> Iterator[Path]:
    """Candidates below a folder; hidden folders and files are left out, and OTHERS; links are not followed."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        chosen = [
            name for name in sorted(names)
            if name.endswith(SUFFIXES) and not name.startswith(".") and name not in OTHERS
        ]  # fmt: skip
        if RUN_JSON in chosen and RESULTS_CSV in chosen:
            chosen.remove(RESULTS_CSV)  # the same rows, with less
        yield from (path for name in chosen if (path := Path(root, name)).is_file())  # a pipe would be waited for


def read(path: Path) -> Iterator[Stored]:
    """The record of a run.json or of a pytest-benchmark JSON, or those of a CSV, one for each run_id in it.

    Raises InputError naming the file.
    """
    if path.suffix == ".csv":
        yield from (Stored(path, record, "csv") for record in read_csv(path))
        return
    try:
        yield Stored(path, results.load(path), "json")
    except InputError:
        if not pytest_json.is_one(path):
            raise
        yield Stored(path, pytest_json.load(path), "pytest")


def read_one(argument: Path) -> Record:
    """The only record that an argument names. Raises InputError where there are none or more."""
    found = [stored for path in find(argument) for stored in read(path)]
    if len(found) > 1:
        raise InputError(
            f"{argument}: holds {len(found)} records, of runs {found[0].record.run_id}, ...; give one of them"
        )
    return found[0].record


# CSV --------------------------------------------------------------------------------------------------


def read_csv(path: Path) -> list[Record]:
    """Records from a results.csv, or several of them joined. Raises InputError naming the file and the line."""
    rows: dict[tuple[str, str], list[RecordedRow]] = {}
    data = read_limited(path, "give a run.json, a results.csv or the folder of a run")
    try:
        reader = csv.DictReader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""))
        _check_header(path, reader.fieldnames or ())
        for cells in reader:
            if list(cells.values()) != list(reader.fieldnames or ()):  # the header again, of another file
                row = _row(cells, f"{path}, line {reader.line_num}")
                rows.setdefault((row.run_id, row.machine), []).append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a convbench results.csv: {error}; give the file as it was written") from None
    if not rows:
        raise InputError(f"{path}: has no rows; run it again or leave it out")
    check_rows(path, max(map(len, rows.values())))
    return [_record(run_id, machine, found) for (run_id, machine), found in rows.items()]


def _check_header(path: Path, names: Iterable[str]) -> None:
    missing = [column.name for column in COLUMNS if column.name in _REQUIRED - set(names)]
    if missing:
        listed = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise InputError(f"{path}: not a convbench results.csv: no column {listed}; see `convbench run`")


def _row(cells: dict[str | None, Any], where: str) -> RecordedRow:
    """One line as a row. An empty cell could not be computed; a quote before a formula's sign is taken off."""
    values: dict[str, Any] = {}
    for name, text in cells.items():
        if name is None or text is None:
            raise InputError(f"{where}: expected as many cells as the header has; the file is cut or joined wrongly")
        if text or name in _TEXTS:
            values[name] = text[1:] if text[:1] == "'" and text[1:].startswith(results.FORMULA_STARTS) else text
    try:
        row = msgspec.convert(values, RecordedRow, strict=False)
        row.bias = _has_bias(row)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{where}: {error}; give the file as it was written") from None
    return row


def _has_bias(row: RecordedRow) -> bool:
    """Parameters beyond the weights are a bias. Raises InputError for an impossible convolution."""
    return row.params is not None and row.params > params(spec_of(row))


def _record(run_id: str, machine: str, rows: list[RecordedRow]) -> Record:
    _name_reference(rows)
    return Record(
        convbench_version="", run_id=run_id, machine=machine, started=_started(run_id), complete=True,
        environment=Environment(machine=machine), rows=rows,
    )  # fmt: skip


def _name_reference(rows: list[RecordedRow]) -> None:
    """The reference is what is exactly as fast as itself; without it, or with two, it stays unknown."""
    own = {
        row.implementation for row in rows if row.speedup_ci_low == row.speedup_vs_reference == row.speedup_ci_high == 1
    }
    for row in rows if len(own) == 1 else ():
        row.reference = min(own) if row.speedup_vs_reference is not None else None


def _started(run_id: str) -> str:
    """A run's identifier begins with its time; empty for one that does not."""
    try:
        return datetime.strptime(run_id.partition("-")[0], _RUN_ID_TIME).replace(tzinfo=UTC).isoformat()
    except ValueError:
        return ""


SHAPE = (
    "operator", "kind", "n", "c", "h", "w", "k", "r", "s", "stride_h", "stride_w", "padding_h", "padding_w",
    "dilation_h", "dilation_w", "groups", "output_padding_h", "output_padding_w", "bias",
)  # fmt: skip
WORK = (*(name for name in SHAPE if name != "kind"), "pass_", "dtype")  # what is computed: no place, no name


def shape_columns(spec: ConvSpec) -> dict[str, Any]:
    """The columns of a convolution: what spec_of reads, and its kind."""

    def value(column: str) -> Any:
        pair, _, axis = column.rpartition("_")
        return getattr(spec, pair)["hw".index(axis)] if pair else getattr(spec, column)

    return {column: value(column) for column in SHAPE}


def spec_of(row: Any) -> ConvSpec:
    """The convolution of a RecordedRow, or of anything with its columns. Raises InputError for one that cannot be."""
    return ConvSpec(
        row.operator, row.n, row.c, row.h, row.w, row.k, row.r, row.s, (row.stride_h, row.stride_w),
        (row.padding_h, row.padding_w), (row.dilation_h, row.dilation_w), row.groups,
        (row.output_padding_h, row.output_padding_w), row.bias,
    )  # fmt: skip
