"""A run does not grow with its length: a short one here, thousands of cells in benchmarks/long_run_study.py."""

from statistics import median

import psutil

from benchmarks.long_run_study import enlarged, long_run, tenths
from convbench import journal as journals
from convbench.records import read_csv
from convbench.results import load
from convbench.run import resume, write_outputs


def test_cases_leave_no_file_open_no_thread_behind_and_append_only_their_own_line(tmp_path, monkeypatch):
    sizes, write = [], journals._write_line

    def measured(file, value):
        before = file.tell()
        write(file, value)
        sizes.append(file.tell() - before)

    monkeypatch.setattr(journals, "_write_line", measured)
    long_run(10, tmp_path / "warm")  # whatever is loaded lazily is loaded
    sizes.clear()
    threads = psutil.Process().num_threads()
    journal, points = long_run(40, tmp_path / "long")
    assert len(points) == 40
    assert {point.files for point in points} == {points[0].files}
    assert psutil.Process().num_threads() == threads
    assert sum(sizes) == journal.path.stat().st_size  # nothing is written again
    lines = sizes[1:]
    assert max(lines) < 2 * median(lines)  # and no line holds those before it
    assert len(tenths(points)) == 10
    assert len(resume(journal)[2]) == 40


def test_ten_thousand_cells_are_written_and_read(tmp_path):
    journal, _ = long_run(4, tmp_path / "run")
    record = resume(journal)[1]
    record.rows = enlarged(record.rows, 10_000)
    paths = write_outputs(record, tmp_path)
    (joined,) = read_csv(paths["results.csv"])
    for rows in (load(tmp_path).rows, joined.rows):
        assert len(rows) == 10_000
        assert len({(row.suite, row.case, row.implementation) for row in rows}) == 10_000
