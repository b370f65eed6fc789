"""Reading many records: what is found, what is refused in one line, and that the rest goes on."""

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.errors import InputError
from convbench.records import Stored, find, read_records, spec_of
from convbench.results import COLUMN_NAMES, Record, to_csv, to_json
from tests.convbench.records import fail, make_record, make_rows

ROWS = make_rows(limit=8)


def read_all(*arguments) -> tuple[list[Stored], list[str]]:
    refused: list[str] = []
    return list(read_records(arguments, refused.append)), refused


def write_run(folder, record: Record, csv: bool = True):
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(to_json(record))
    if csv:
        (folder / "results.csv").write_text(to_csv(record.rows))
    return folder


def test_a_csv_gives_the_rows_of_its_run(tmp_path):
    rows = make_rows(limit=8)
    fail(rows[3], "unsupported", "'quoted' reason")
    fail(rows[4], "error", "=1+1, a formula")
    path = tmp_path / "results.csv"
    path.write_text(to_csv(rows))
    (stored,), refused = read_all(path)
    assert refused == []
    assert (stored.origin, stored.record.peaks, stored.record.started) == ("csv", [], "2026-01-02T03:04:05+00:00")
    assert to_csv(stored.record.rows) == to_csv(rows)
    assert [row.reference for row in stored.record.rows] == [row.reference for row in rows]
    assert stored.record.rows[4].status_detail == "=1+1, a formula"


def test_a_bias_is_told_from_the_parameters(tmp_path):
    rows = make_rows(limit=2)
    assert rows[0].params is not None
    rows[0].params += rows[0].k
    (tmp_path / "results.csv").write_text(to_csv(rows))
    (stored,), _ = read_all(tmp_path)
    assert [spec_of(row).bias for row in stored.record.rows] == [True, False]


def test_a_folder_gives_each_run_once_and_json_before_csv(tmp_path):
    write_run(tmp_path / "b" / "1", make_record(ROWS))
    write_run(tmp_path / "a" / "2", make_record(ROWS, run_id="second"), csv=False)
    write_run(tmp_path / ".git" / "3", make_record(ROWS))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results.csv").write_text(to_csv(ROWS))
    (tmp_path / "c" / "report.html").write_text("<p>")
    for name in ("compare.csv", "train.json", "ab.json", "trace.json", "verify0.json"):  # of other commands
        (tmp_path / "c" / name).write_text("{}")
    stored, refused = read_all(tmp_path)
    assert refused == []
    assert [(s.path.parent.name, s.origin) for s in stored] == [("2", "json"), ("1", "json"), ("c", "csv")]
    assert stored[0].record.run_id == "second"


def test_globs_folders_and_files_overlap_without_repeats_but_a_file_named_twice_is_meant_twice(tmp_path):
    run = write_run(tmp_path / "x[1]", make_record(ROWS))
    other = write_run(tmp_path / "y", make_record(ROWS))
    assert len(read_all(tmp_path, tmp_path)[0]) == 2
    assert len(read_all(str(tmp_path / "*"))[0]) == 2
    assert [s.path.parent for s in read_all(run, other)[0]] == [run, other]  # a real name wins over a pattern
    assert len(read_all(run / "run.json", run / "run.json")[0]) == 2


def test_several_runs_joined_in_one_csv_are_told_apart(tmp_path):
    second = msgspec.convert(msgspec.to_builtins(ROWS), list[type(ROWS[0])])
    for row in second:
        row.run_id = "20260103T030405Z-ffff"
    path = tmp_path / "all.csv"
    path.write_text(to_csv(ROWS) + to_csv(second))
    stored, refused = read_all(path)
    assert refused == []
    assert [(s.record.run_id, len(s.record.rows)) for s in stored] == [(ROWS[0].run_id, 8), (second[0].run_id, 8)]


def test_an_older_record_without_later_fields_and_a_later_one_with_more_load(tmp_path):
    document = msgspec.to_builtins(make_record(ROWS))
    required = {f.encode_name for f in msgspec.structs.fields(ROWS[0]) if f.required}
    document["rows"] = [{name: row[name] for name in required} | {"median_s": 1e-3} for row in document["rows"]]
    for name in ("peaks", "settings", "warnings", "unavailable", "timings", "finished", "command"):
        del document[name]
    document["a_later_field"] = {"x": [1]}
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(document))
    header = [name for name in COLUMN_NAMES if name in required] + ["median_s", "a_later_column"]
    lines = [[str(row.get(name, "")) for name in header] for row in document["rows"]]
    (tmp_path / "old.csv").write_text("\n".join(map(",".join, [header, *lines])))
    stored, refused = read_all(tmp_path)
    assert refused == []
    assert [[row.median_s for row in s.record.rows] for s in stored] == [[1e-3] * 8] * 2


GOOD = to_csv(ROWS).splitlines()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("run.json", b"", "not a convbench run record"),
        ("package.json", b'{"name": "left-pad"}', "not a convbench run record"),
        ("run.json", to_json(make_record(ROWS))[:900], "not a convbench run record"),
        ("run.json", b'{"schema_version": 7}', "newer"),
        ("run.json", to_json(make_record(ROWS)).replace(b'"n": 1,', b'"n": -1,', 1), "run it again"),
        ("run.json", to_json(make_record(ROWS)).replace(b'"n": 1,', b'"n": 1e999,', 1), "run it again"),
        ("results.csv", b"", "no column run_id, machine, device, suite and"),
        ("results.csv", b"a;b\n1;2\n", "no column"),
        ("results.csv", b"\xff\xfe\x00", "not a convbench results.csv"),
        ("results.csv", GOOD[0].encode(), "has no rows"),
        ("results.csv", "\n".join(GOOD[:2])[:-40].encode(), "line 2: expected as many cells"),
        ("results.csv", "\n".join([GOOD[0], GOOD[1].replace(",conv2d,", ",conv9d,")]).encode(), "line 2: Invalid enum"),
        ("results.csv", "\n".join([GOOD[0], GOOD[1] + ",extra"]).encode(), "line 2: expected as many cells"),
        ("results.csv", ("\n".join(GOOD[:2]).rpartition(",")[0] + ",inf").encode(), "line 2: Expected `float` < 1"),
        ("results.csv", ("\n".join(GOOD[:2]).rpartition(",")[0] + ",fast").encode(), "line 2: Expected `float | null`"),
        ("results.csv", b'"' + b"x" * 200_000, "not a convbench results.csv: field larger"),
    ],
)
def test_damaged_and_foreign_files_are_one_line_each_and_the_rest_is_read(tmp_path, name, content, expected):
    write_run(tmp_path / "good", make_record(ROWS))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / name).write_bytes(content)
    stored, refused = read_all(tmp_path)
    assert [s.path.parent.name for s in stored] == ["good"]
    assert len(refused) == 1
    assert str(tmp_path / "bad" / name) in refused[0]
    assert expected in refused[0]
    assert "\n" not in refused[0]


def test_what_is_not_there_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    os.symlink(tmp_path / "gone", tmp_path / "link")
    names = ["no.json", "no.csv", "empty", "no/*.json", "link"]
    stored, refused = read_all(*(tmp_path / name for name in names))
    assert stored == []
    assert [any(str(tmp_path / name) in line for line in refused) for name in names] == [True] * 5
    with pytest.raises(InputError, match=r"holds no run\.json"):
        find(tmp_path / "empty")


@given(st.binary(max_size=300))
def test_no_bytes_are_a_traceback(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("a.json", "b.csv"):
        (folder / name).write_bytes(data)
    stored, refused = read_all(folder)
    assert (stored, len(refused)) == ([], 2)
