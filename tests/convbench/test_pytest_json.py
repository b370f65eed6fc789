"""pytest-benchmark's JSON: lossless both ways, read by pytest-benchmark itself; strangers' files refused."""

import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.errors import InputError
from convbench.pytest_json import REFERENCE_NOTE, is_one, load, stats, to_pytest_benchmark
from convbench.records import read_one
from convbench.results import to_json
from tests.convbench.records import fail, make_record, make_rows

pytest_benchmark_stats = pytest.importorskip("pytest_benchmark.stats")


def write(path, document):
    path.write_bytes(msgspec.json.encode(document))
    return path


def test_a_record_comes_back_whole(tmp_path):
    rows = make_rows(limit=12)
    fail(rows[4], "mismatch", "wrong")
    record = make_record(rows)
    found = read_one(write(tmp_path / "bench.json", to_pytest_benchmark(record)))
    assert sorted(map(msgspec.json.encode, found.rows)) == sorted(map(msgspec.json.encode, rows))
    assert msgspec.structs.replace(found, rows=[]) == msgspec.structs.replace(record, rows=[])


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=40))
def test_statistics_are_pytest_benchmarks(seconds):
    theirs = pytest_benchmark_stats.Stats()
    for value in seconds:
        theirs.update(value)
    ours, expected = stats(seconds), theirs.as_dict()
    for name in ("min", "max", "mean", "stddev", "rounds", "median", "q1", "q3", "iqr", "ops", "total"):
        assert ours[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name
    assert set(ours) - {"data"} == set(expected)


def test_pytest_benchmark_compares_it(tmp_path):
    path = write(tmp_path / "bench.json", to_pytest_benchmark(make_record(make_rows(limit=6))))
    words = [sys.executable, "-m", "pytest_benchmark", "compare", str(path), "--group-by=group", "--csv=out.csv"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch.channels_last" in done.stdout
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 6


def test_github_action_benchmark_finds_what_it_reads():
    """Its extractPytestResult takes fullname, stats.ops, stats.stddev, stats.mean and stats.rounds."""
    record = make_record(make_rows(limit=6))
    for benchmark in to_pytest_benchmark(record)["benchmarks"]:
        assert benchmark["stats"]["ops"] == pytest.approx(1 / benchmark["stats"]["mean"])
        assert {"stddev", "rounds"} <= set(benchmark["stats"])
    names = [benchmark["fullname"] for benchmark in to_pytest_benchmark(record)["benchmarks"]]
    assert len(set(names)) == len(names) == 6


def test_rows_that_were_not_interleaved_get_the_ratio_of_medians_and_a_note(tmp_path):
    record = make_record(make_rows(limit=3))
    for row in record.rows:
        row.speedup_vs_reference = row.speedup_ci_low = row.speedup_ci_high = None
    reference, *others = load(write(tmp_path / "bench.json", to_pytest_benchmark(record))).rows
    for row in others:
        assert row.speedup_vs_reference == pytest.approx(reference.median_s / row.median_s)
        assert row.speedup_ci_low == pytest.approx(reference.ci_low_s / row.ci_high_s)
        assert row.speedup_ci_low < row.speedup_vs_reference < row.speedup_ci_high
        assert REFERENCE_NOTE in row.notes


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"benchmarks": [{"name": "sort", "stats": {"data": [1.0]}}]}, "not of convbench's kernels"),
        ({"benchmarks": 7}, "not a pytest-benchmark file that convbench reads"),
        ({"benchmarks": [{"name": "a", "stats": {"data": ["x"]}}]}, "Expected `float`"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, document, reason):
    with pytest.raises(InputError, match=reason) as error:
        read_one(write(tmp_path / "bench.json", document))
    assert str(tmp_path / "bench.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_is_not_taken_for_one(tmp_path):
    (tmp_path / "run.json").write_bytes(to_json(make_record(make_rows(limit=2))))
    (tmp_path / "list.json").write_text(json.dumps([1]))
    assert not is_one(tmp_path / "run.json")
    assert not is_one(tmp_path / "list.json")
    assert not is_one(tmp_path / "missing.json")


def test_a_folder_of_several_records_is_not_one(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_bytes(to_json(make_record(make_rows(limit=2))))
    with pytest.raises(InputError, match="holds 2 records"):
        read_one(tmp_path)
