"""The record's contract: column names, empty cells, formulas, versions, damage."""

import csv
import io
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench import untrusted
from convbench.errors import InputError
from convbench.results import (
    COLUMN_NAMES,
    COLUMNS,
    Environment,
    Peak,
    Record,
    csv_cell,
    json_schema,
    load,
    to_csv,
    to_json,
)
from convbench.untrusted import printable
from tests.convbench.test_journal import row

CONTRACT = """
run_id machine device suite case operator kind pass dtype layout n c h w k r s stride_h stride_w padding_h padding_w
dilation_h dilation_w groups output_padding_h output_padding_w implementation algorithm status status_detail error
tolerance samples median_s ci_low_s ci_high_s iqr_s compile_s macs valid_macs params bytes gflops gbytes_per_s
attainable_gflops roofline_fraction speedup_vs_reference speedup_ci_low speedup_ci_high
""".split()


def record(**changes) -> Record:
    words = {
        "convbench_version": "0.1", "run_id": "r", "machine": "m", "started": "2026-01-01T00:00:00+00:00",
        "environment": Environment(machine="m"), "rows": [row("c1")],
        "peaks": [Peak(quantity="fma", level="register", device="cpu", dtype="float32", value=1e11)],
    }  # fmt: skip
    return Record(**(words | changes))


def test_columns_are_the_contract():
    assert list(COLUMN_NAMES) == CONTRACT
    assert next(csv.reader(io.StringIO(to_csv([])))) == CONTRACT


def test_every_measured_column_has_a_unit_and_a_description():
    for column in COLUMNS:
        if column.name.endswith("_s") or "gflops" in column.name:
            assert column.unit, column.name
        if column.name in ("macs", "error", "roofline_fraction", "status", "speedup_vs_reference"):
            assert column.doc, column.name


def test_what_could_not_be_computed_is_empty_and_never_zero():
    line = next(csv.DictReader(io.StringIO(to_csv([row("c1")]))))
    assert line["median_s"] == line["speedup_vs_reference"] == line["macs"] == ""
    assert (line["n"], line["output_padding_h"]) == ("1", "0")
    assert csv_cell(float("nan")) == csv_cell(float("inf")) == csv_cell(None) == ""


@given(st.text())
def test_no_text_cell_starts_like_a_formula_and_csv_round_trips(text):
    cell = csv_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    shown = printable(text)
    assert cell in (shown, "'" + shown)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_round_trip_through_csv(value):
    assert csv_cell(value) == repr(value)


def test_json_round_trips_and_obeys_the_published_schema(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(to_json(record()))
    assert load(path) == load(tmp_path) == record()
    document = json.loads(path.read_text())
    jsonschema.validate(document, json_schema())
    assert document["schema_version"] == 1
    assert set(CONTRACT) <= set(document["rows"][0])
    assert document["rows"][0]["samples_s"] == [0.1, 0.2]


def test_nan_never_reaches_json():
    text = to_json(record(timings={"sample": float("nan")})).decode()
    assert json.loads(text)["timings"]["sample"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a convbench run record"),
        (b"[1, 2]", "not a convbench run record"),
        (b'{"schema_version": 1', "not a convbench run record"),
        (b'{"schema_version": 99}', "newer than this convbench reads"),
        (b'{"schema_version": "one"}', "not a convbench run record"),
        (b"\xff\xfe{}", "not a convbench run record"),
        (b'{"schema_version": 1, "settings": {"a": ' + b"[" * 100_000, "not a convbench run record"),
    ],
)
def test_files_that_are_no_records_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_cut_anywhere_is_refused(tmp_path):
    path, data = tmp_path / "run.json", to_json(record())
    for cut in range(0, len(data) - 1, 97):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError, match="not a convbench run record"):
            load(path)


def test_too_large_a_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "LARGEST_BYTES", 10)
    (tmp_path / "run.json").write_bytes(to_json(record()))
    with pytest.raises(InputError, match="larger than"):
        load(tmp_path)


BELOW = {"int": [-1, 2**63], "float": [-1.0, 1e300]}


@pytest.mark.parametrize(
    "impossible",
    [
        {"n": 0}, {"stride_h": 0}, {"speedup_vs_reference": 0.0}, {"speedup_ci_low": 0.0}, {"speedup_ci_high": 0.0},
        {"gflops": 0.0}, {"samples": 0}, {"samples_s": [-1.0]}, {"rounds": [-1]}, {"count": 0}, {"calls_per_sample": 0},
        *({c.name: value} for c in COLUMNS if c.type is not str for value in BELOW[c.type.__name__]
          if (c.name, value) not in (("error", 1e300), ("tolerance", 1e300))),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(tmp_path, impossible):
    document = json.loads(to_json(record()))
    document["rows"][0] |= impossible
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"rows\[0\]\.{next(iter(impossible))}"):
        load(tmp_path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_a_file_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(untrusted, "LARGEST_BYTES", 1000)
    with pytest.raises(InputError, match="larger than"):
        load(Path("/dev/zero"))


def test_unknown_status_is_refused():
    data = msgspec.json.encode(record()).replace(b'"status":"ok"', b'"status":"fine"')
    with pytest.raises(msgspec.ValidationError, match="fine"):
        msgspec.json.decode(data, type=Record)
