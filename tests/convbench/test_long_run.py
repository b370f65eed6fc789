"""A run does not grow with its length: a short one here, thousands of cells in benchmarks/long_run_study.py."""

from statistics import median

import psutil
import pytest

from benchmarks import coverage_study, document
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


def test_a_run_by_the_clock_ends_in_time_and_is_whole(tmp_path):
    journal, points = long_run(1000, tmp_path / "run", minutes=0.02)
    assert 1 <= len(points) < 20
    assert len(resume(journal)[2]) == len(points)
    assert len(tenths(points)) == min(len(points), 10)


def test_the_coverage_study_counts_its_own_runs_only_and_puts_its_table_into_the_page(tmp_path, monkeypatch, capsys):
    def taken(condition, path):
        if len(asked) == 2:
            asked.append("fell")
            raise coverage_study.subprocess.TimeoutExpired("", 1)
        asked.append(condition)
        return coverage_study.Run(condition, [cell], [], machine, coverage_study.METHOD)

    asked, machine = [], coverage_study.detect(with_torch=False).machine
    cell = coverage_study.Cell("a torch.aten", (0.9, 1.0, 1.1), (0.9, 1.0, 1.1), [])
    file, page = tmp_path / "runs.jsonl", tmp_path / "page.md"
    file.write_text('{"condition":"quiet","cells":[],"warnings":[]}\n')  # of an earlier way of measuring
    page.write_text("before\n<!-- coverage -->\nthe last one\n<!-- end of coverage -->\nafter\n")
    monkeypatch.setattr(coverage_study, "_take", taken)
    monkeypatch.setattr("sys.argv", ["study", str(file), "--repeats", "2", "--write", str(page)])
    assert coverage_study.main() == 0
    assert asked == ["quiet", "load", "fell", "memory", "thread", *coverage_study.CONDITIONS]
    assert len(file.read_text().splitlines()) == 9
    assert "the last one" not in page.read_text() and "| quiet | 2 | seconds | 100% of 2 |" in page.read_text()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("-->\nafter\n")


def test_a_page_without_the_comments_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(ValueError, match="has no <!-- coverage -->"):
        document.insert(tmp_path / "page.md", "coverage", "table")
