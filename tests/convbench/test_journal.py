"""A journal read back at every point where a kill may have cut it."""

import errno
import os
from pathlib import Path

import msgspec
import pytest

from convbench.case import Case
from convbench.errors import InputError, OutputError
from convbench.journal import Entry, Header, Journal, write_atomically
from convbench.measure import Policy
from convbench.results import Environment, Record, RecordedRow
from convbench.run import resume
from convbench.spec import ConvSpec

CASES = [Case(ConvSpec.create([1, c, 8, 8], 4, 3, padding=1), suite="s", name=f"c{c}") for c in (1, 2, 3)]


def header() -> Header:
    record = Record(
        convbench_version="0", run_id="r", machine="m", started="2026-01-01T00:00:00+00:00",
        environment=Environment(machine="m"),
    )  # fmt: skip
    return Header(record=record, cases=CASES, implementations=["torch.aten"], policy=Policy(), threads=1, seed=0)


def row(name: str) -> RecordedRow:
    return RecordedRow(
        run_id="r", machine="m", device="cpu", suite="s", case=name, operator="conv2d", kind="standard",
        pass_="forward", dtype="float32", layout="nchw", n=1, c=1, h=8, w=8, k=4, r=3, s=3, stride_h=1, stride_w=1,
        padding_h=1, padding_w=1, dilation_h=1, dilation_w=1, groups=1, output_padding_h=0, output_padding_w=0,
        implementation="torch.aten", status="ok", samples_s=[0.1, 0.2], rounds=[0, 1],
    )  # fmt: skip


def test_what_is_written_is_read_back(tmp_path):
    journal = Journal(tmp_path / "run")
    journal.start(header())
    entries = [Entry(case=i, rows=[row(case.name)], timings={"sample": 1.0}) for i, case in enumerate(CASES)]
    for entry in entries:
        journal.append(entry)
    read_header, read_entries = journal.read()
    assert read_header == header()
    assert read_entries == entries


def test_cut_anywhere_keeps_every_whole_entry(tmp_path):
    journal = Journal(tmp_path)
    journal.start(header())
    ends = [journal.path.stat().st_size]
    for i, case in enumerate(CASES):
        journal.append(Entry(case=i, rows=[row(case.name)]))
        ends.append(journal.path.stat().st_size)
    data = journal.path.read_bytes()
    for cut in range(ends[0], len(data), 7):
        journal.path.write_bytes(data[:cut])
        _, entries = journal.read()
        whole = sum(end <= cut for end in ends[1:])
        assert [entry.case for entry in entries] == list(range(whole))
        journal.append(Entry(case=whole, rows=[]))  # going on after the cut leaves a readable journal
        assert len(journal.read()[1]) == whole + 1


def test_a_journal_cut_in_its_header_is_refused(tmp_path):
    journal = Journal(tmp_path)
    journal.start(header())
    journal.path.write_bytes(journal.path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"journal.jsonl, line 1: damaged"):
        journal.read()


def test_a_damaged_middle_names_its_line(tmp_path):
    journal = Journal(tmp_path)
    journal.start(header())
    journal.append(Entry(case=0, rows=[]))
    journal.path.write_bytes(journal.path.read_bytes() + b'{"case": "one"}\n')
    with pytest.raises(InputError, match=r"line 3: damaged"):
        journal.read()


def test_a_missing_or_repeated_line_is_no_other_case(tmp_path):
    journal = Journal(tmp_path)
    journal.start(header())
    for case in (2, 0, 2):
        journal.append(Entry(case=case, rows=[row(f"c{case + 1}")]))
    _, record, done = resume(journal)
    assert done == {0, 2}
    assert [r.case for r in record.rows] == ["c3", "c1"]


def test_a_case_that_is_not_in_the_header_is_refused(tmp_path):
    journal = Journal(tmp_path)
    journal.start(header())
    journal.append(Entry(case=3, rows=[]))
    with pytest.raises(InputError, match=r"line 2: case 3 of 3 cases; delete this line"):
        journal.read()


@pytest.mark.parametrize("content", [b"", b'{"precious": 1}', b"[" * 100_000, b"\xff\x00"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    journal = Journal(tmp_path)
    journal.path.write_bytes(content)
    with pytest.raises(InputError, match=r"line 1: damaged"):
        journal.read()
    assert journal.path.read_bytes() == content


def test_a_case_that_is_impossible_is_refused(tmp_path):
    journal = Journal(tmp_path)
    journal.start(header())
    text = journal.path.read_text().replace('"groups":1', '"groups":3')
    journal.path.write_text(text)
    with pytest.raises(InputError, match="groups = 3"):
        journal.read()


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    Journal(tmp_path).start(header())
    with pytest.raises(OutputError, match="--resume"):
        Journal(tmp_path).start(header())


def test_a_missing_folder_is_named():
    with pytest.raises(InputError, match="--resume takes the folder of a run"):
        Journal(Path("no/such/folder")).read()


def test_a_full_disk_keeps_what_is_there_and_says_how_to_go_on(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.start(header())

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("convbench.journal.os.fsync", full)
    with pytest.raises(OutputError, match=r"No space left.*--resume"):
        journal.append(Entry(case=0, rows=[]))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("convbench.journal.os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_read_only_file_system_is_said_of_the_file_asked_for(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # Linux refuses this too, even where there is nothing
    with pytest.raises(OutputError, match=r"run\.json: Read-only file system; make room or choose another folder"):
        write_atomically(tmp_path / "run.json", b"new")


def test_a_policy_in_a_journal_is_validated():
    with pytest.raises((InputError, msgspec.ValidationError)):
        msgspec.json.decode(b'{"precision": 7}', type=Policy)


def test_a_file_in_place_of_the_folder_is_no_run(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match=r"file: File exists; choose another --out"):
        Journal(tmp_path / "file").start(header())
    assert (tmp_path / "file").read_text() == "precious"


def test_what_is_no_file_is_written_to_and_stays(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", b"new")
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_two_runs_at_once_are_locked_out(tmp_path):
    (tmp_path / "journal.jsonl").touch()
    first = Journal(tmp_path)
    first.lock()
    with pytest.raises(InputError, match="a run is going on there"):
        Journal(tmp_path).lock()
    first._lock.close()  # as the end of its process does
    Journal(tmp_path).lock()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "journal.jsonl").touch()
    monkeypatch.setattr("fcntl.flock", refuse)
    Journal(tmp_path).lock()
