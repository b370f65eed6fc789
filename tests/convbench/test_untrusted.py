"""Files of strangers: limits that hold, text that can do nothing, and a sample of benchmarks/fuzz_study.py."""

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_study import Study, hang, nothing_measured
from benchmarks.mutations import CANARY
from convbench import untrusted
from convbench.cli.main import run
from convbench.cli.summary import print_summary
from convbench.compare.environment import MOST_FACTS, facts
from convbench.errors import InputError
from convbench.gate.publish import to_annotations, to_junit, to_markdown
from convbench.records import read
from convbench.report.text import DEEPEST, clean
from convbench.results import LONGEST_CELL, Row, csv_cell, load, to_csv, to_json
from tests.convbench.records import hostile_record, make_record, make_rows


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    before = signal.signal(signal.SIGALRM, hang)
    with nothing_measured():
        made = Study(tmp_path_factory.mktemp("study"))
        made.learn()
        yield made
    signal.signal(signal.SIGALRM, before)


def test_mutated_files_are_taken_or_refused_in_one_line(study):
    @settings(max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(study.inputs())
    def one(given_):
        assert study.finding(*given_) == ""

    one()
    assert study.outcomes[0] and study.outcomes[2]  # some are taken, some refused


def opens_the_canary(words):
    with suppress(OSError):
        Path(CANARY).read_bytes()
    return 0


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        (lambda words: 1 / 0, "ZeroDivisionError"),
        (lambda words: 7, "exit code 7"),
        (lambda words: print("\x1b[2J") or 0, "stdout shows"),
        (lambda words: bytearray(2**31) and 0, "MemoryError"),
        (opens_the_canary, "did open"),
    ],
)
def test_the_study_sees_what_it_looks_for(study, monkeypatch, wrong, finding):
    monkeypatch.setattr("benchmarks.fuzz_study.run", wrong)
    assert finding in study.finding("run.json", "report {file}", b"{}")


def test_too_many_values_or_rows_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    record = make_record(make_rows(limit=3))
    json_path, csv_path = tmp_path / "run.json", tmp_path / "results.csv"
    json_path.write_bytes(to_json(record))
    csv_path.write_text(to_csv(record.rows))
    assert [len(next(read(path)).record.rows) for path in (json_path, csv_path)] == [3, 3]
    for name, limit in (("MOST_VALUES", 50), ("MOST_ROWS", 2), ("LARGEST_BYTES", 100)):
        with monkeypatch.context() as less:
            less.setattr(untrusted, name, limit)
            for path in (json_path, csv_path):
                with pytest.raises(InputError, match=r"more than|larger than") as caught:
                    list(read(path))
                assert str(path) in str(caught.value)


def test_any_value_that_may_be_empty_can_be_so_alone():
    for name in (field.name for field in msgspec.structs.fields(Row) if field.default is None):
        print_summary(make_record(make_rows(limit=3, each=lambda row, name=name: setattr(row, name, None))))


@pytest.mark.parametrize(
    "words", ["compare {}", "savings --record {}", "repro {} a", "run --resume {}", "ab --resume {}"]
)
def test_a_pipe_in_the_folder_of_a_run_is_not_waited_for(words, tmp_path, capsys):
    for name in ("run.json", "journal.jsonl", "gate.jsonl"):
        os.mkfifo(tmp_path / name)
    assert run(words.format(tmp_path).split()) == 2
    assert str(tmp_path) in capsys.readouterr().err.splitlines()[-1]


def test_a_pipe_of_the_shell_is_read(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, to_json(make_record(make_rows(limit=1), settings={})))
    os.close(writer)
    try:
        assert len(load(Path(f"/dev/fd/{reader}")).rows) == 1
    finally:
        os.close(reader)


def test_settings_of_any_depth_length_and_number_are_compared_at_once(tmp_path):
    nested = 1
    for _ in range(400):
        nested = {"a": nested}
    settings = {"W" * 10**7: nested, **{str(n): n for n in range(10**5)}}
    flat = facts(make_record([], settings=settings))
    assert len(flat) <= MOST_FACTS and max(map(len, flat)) <= untrusted.LONGEST_TEXT


def test_what_is_nested_deeper_than_anyone_reads_is_cut():
    value = None
    for _ in range(5000):
        value = [value]
    shown = clean(value)
    assert json.dumps(shown).count("[") == DEEPEST


NASTY = "=1\x1b]0;t\x07\u202e\u2066\x9b31m\x7f\ud800\r\n::error::"


@given(st.text())
def test_no_cell_line_or_name_can_drive_a_terminal(text):
    for shown in (csv_cell(text + NASTY), untrusted.one_line(text + NASTY), clean(text + NASTY)):
        assert shown.isprintable()


@given(st.text())
def test_escaped_json_is_the_same_json_and_printable(text):
    shown = untrusted.escaped(json.dumps({"a": text}, ensure_ascii=False, indent=1))
    assert json.loads(shown) == {"a": text}
    assert shown.replace("\n", "").isprintable()


def test_ten_megabyte_names_stay_out_of_what_is_shown(tmp_path, capsys):
    path, name = tmp_path / "run.json", "=W\x1b" + "W" * 10_000_000
    rows = make_rows(limit=2)
    rows[1].case = rows[1].implementation = rows[1].machine = name
    path.write_bytes(to_json(make_record(rows, machine=name)))
    assert load(path).rows
    for words in (
        ["report", str(path)],
        ["compare", str(path), str(path), "--out", str(tmp_path / "compared")],
        ["history", str(path), "--out", str(tmp_path / "history")],
        ["check", str(path), "--baseline", str(path), "--out", str(tmp_path / "checked")],
    ):
        assert run(words) in (0, 3)
    printed = capsys.readouterr()
    written = [p for p in tmp_path.rglob("*") if p.suffix in (".html", ".csv", ".md", ".xml")]
    assert len(written) == 8
    for text in (printed.out, printed.err, *(p.read_text() for p in written)):
        assert max(map(len, re.findall("W+", text)), default=0) < LONGEST_CELL
        assert "\x1b" not in text


def test_every_format_of_the_gate_neutralises_names():
    from convbench.gate.records import compare
    from convbench.gate.verdicts import Rules

    for name in (NASTY, "]]>\x00<!--", "|a|[x](javascript:1)<b>@me %0A::warning::", "W" * 100_000):
        outcome = compare(hostile_record(name), hostile_record(f"{name}2"), Rules())
        texts = [to_markdown(outcome), *to_annotations(outcome), to_junit(outcome).decode()]
        for text in texts:
            assert text.replace("\n", "").isprintable()
            assert "W" * (untrusted.LONGEST_LINE + 1) not in text
        assert all("\n" not in line for line in to_annotations(outcome))
        assert "<b>" not in texts[0].replace("\\<b\\>", "") and "](javascript" not in texts[0]
