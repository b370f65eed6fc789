"""A run on a machine that fails it: full disk, read-only or vanished folder, clock that jumps. Kills: kill_study.py."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from convbench import journal as journals
from convbench import run as running
from convbench.cli import run as command
from convbench.cli.main import run as convbench
from convbench.history import read_history
from convbench.journal import JOURNAL, Journal
from convbench.records import read_records
from convbench.results import load, to_json
from tests.convbench.records import make_record, make_rows
from tests.convbench.test_run import TINY


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(*words) -> exit code, of three tiny layers on torch alone; no peaks are measured."""
    monkeypatch.setattr("convbench.machine.peaks.measure_peaks", lambda *_, **__: [])
    (tmp_path / "tiny.toml").write_text(TINY)
    words = ["run", str(tmp_path / "tiny.toml"), "--quick", "--impl", "torch.aten", "--device", "cpu"]
    return lambda *more: convbench([*words, "--max-time", "0.02", *more])


def cases(folder):
    return [row.case for row in load(folder).rows]


def test_a_disk_that_is_full_in_the_middle_of_a_line_loses_no_finished_case(run, tmp_path, monkeypatch, capsys):
    out, written = tmp_path / "out", []

    def full(file, value, real=journals._write_line):
        written.append(value)
        if len(written) == 3:  # the header, one case, and half of the next
            file.write(b'{"case":1,"rows":[{"run')
            file.flush()
            raise OSError(28, "No space left on device")
        real(file, value)

    with monkeypatch.context() as small:
        small.setattr(journals, "_write_line", full)
        assert run("--out", str(out)) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert f"{out / JOURNAL}: No space left on device" in complaint and f"--resume {out}" in complaint
    assert cases(out) == ["a", "b"]  # run.json could still be written
    again = []
    monkeypatch.setattr(
        running, "run_case", lambda case, *rest, real=running.run_case: again.append(case.name) or real(case, *rest)
    )
    assert convbench(["run", "--resume", str(out)]) == 0
    assert (again, cases(out), load(out).complete) == (["b", "c"], ["a", "b", "c"], True)


def test_a_folder_that_vanishes_is_named_and_what_is_measured_is_written_again(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def remove(case, *rest, real=running.run_case):
        if case.name == "b":
            shutil.rmtree(out)
        return real(case, *rest)

    monkeypatch.setattr(running, "run_case", remove)
    assert run("--out", str(out)) == 2
    shown = capsys.readouterr().err
    assert f"{out / JOURNAL}: is gone" in shown.splitlines()[-1]
    assert str(out / "run.json") in shown
    assert cases(out) == ["a", "b"] and not load(out).complete
    assert not (out / JOURNAL).exists()  # not one without a header


def test_a_bug_in_the_middle_loses_no_finished_case_and_says_where_they_are(run, tmp_path, monkeypatch, capsys):
    def broken(case, *rest, real=running.run_case):
        return real(case, *rest) if case.name != "b" else 1 // 0

    out = tmp_path / "out"
    with monkeypatch.context() as first:
        first.setattr(running, "run_case", broken)
        first.setattr("tempfile.tempdir", str(tmp_path))
        assert run("--out", str(out)) == 70
    shown = capsys.readouterr().err
    assert "a bug of convbench: ZeroDivisionError" in shown.splitlines()[-1] and "Traceback" not in shown
    assert str(out / "run.json") in shown and cases(out) == ["a"] and not load(out).complete
    assert convbench(["run", "--resume", str(out)]) == 0
    assert cases(out) == ["a", "b", "c"]


def test_a_read_only_folder_costs_no_measuring(run, tmp_path, monkeypatch, capsys):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(journals, "TemporaryFile", read_only)
    monkeypatch.setattr(running, "begin", lambda *_: pytest.fail("the machine was measured"))
    assert run("--out", str(tmp_path / "out")) == 2
    assert f"{tmp_path / 'out'}: Read-only file system; choose another --out" in capsys.readouterr().err


def test_a_clock_that_jumps_back_changes_no_time_that_was_measured(run, tmp_path, monkeypatch):
    class Jumping(datetime):
        hours = 0

        @classmethod
        def now(cls, zone=None):
            cls.hours -= 30
            return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=cls.hours)

    monkeypatch.setattr(command, "datetime", Jumping)
    monkeypatch.setattr(running, "datetime", Jumping)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert run("--out", str(tmp_path / "out")) == 0
    record = load(tmp_path / "out")
    assert record.finished < record.started
    assert all(seconds >= 0 for seconds in record.timings.values())
    assert all(min(row.samples_s) > 0 for row in record.rows)
    assert convbench(["report", str(tmp_path / "out")]) == 0
    refused = []
    assert read_history(read_records([tmp_path / "out"], refused.append), refused.append).points
    assert refused == []


def test_two_runs_that_both_found_the_folder_free_do_not_share_it(tmp_path):
    first, second = Journal(tmp_path / "out"), Journal(tmp_path / "out")
    first.claim()
    second.claim()
    header = journals.Header(
        record=make_record([]), cases=[], implementations=[], policy=running.Policy(), threads=1, seed=0
    )
    first.start(header)
    with pytest.raises(journals.OutputError, match="holds a run already"):
        second.start(header)


MOUNTED = """
mount -t tmpfs -o size=300k none "$1" && cp "$2" "$1/run.json" && {}
"$0" -m convbench report "$1"
code=$?
ls "$1"
exit $code
"""


@pytest.mark.parametrize(
    ("mount", "complaint"),
    [("true", "No space left on device; make room"), ('mount -o remount,ro "$1"', "Read-only file system")],
    ids=["full", "read-only"],
)
def test_a_real_disk_that_is_full_or_read_only(mount, complaint, tmp_path):
    """In a mount namespace of its own."""
    source, folder = tmp_path / "run.json", tmp_path / "disk"
    source.write_bytes(to_json(make_record(make_rows(limit=4))))
    folder.mkdir()
    words = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*words, "mount -t tmpfs none /mnt"], capture_output=True).returncode
    ):
        pytest.skip("no mount namespaces here")
    done = subprocess.run(
        [*words, MOUNTED.format(mount), sys.executable, str(folder), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and f"{folder / 'report.html'}: {complaint}" in done.stderr
    assert done.stdout.split() == ["run.json"]  # nothing half written is left
