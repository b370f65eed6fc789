"""The study of the gate's error rates, on invented gates: it goes on, survives what fails, and stops in time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from convbench.journal import Log

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch, tmp_path):
    """The module, whose gates are those that ``invent`` makes, in a folder with a repository."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gate_study

    monkeypatch.chdir(tmp_path)
    (tmp_path / "convbench").mkdir()
    (tmp_path / "kernels").mkdir()
    (tmp_path / "convbench" / "gate.py").write_text("1\n")
    (tmp_path / "kernels" / "fast.py").write_text("1\n")
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", *words], check=True)
    return gate_study


@pytest.fixture
def log(study, tmp_path):
    log = Log(tmp_path / "out" / "study.jsonl", study.Plan, study.Gate, "study")
    log.start(study.plan(2, 1, 0.1))
    return log


def invented(study, **changes):
    cell = {"case": "a", "implementation": "b", "verdict": "SAME", "reason": "", "ratio": 1.0, "base_s": 1e-3}

    def gate(number, slowdown, *_):
        return study.Gate(**{"number": number, "slowdown": slowdown, "exit_code": 1 if slowdown else 0, "seconds": 60.0,
                             "rounds": 2, "cells": [cell], **changes})  # fmt: skip

    return gate


def test_a_gate_that_cannot_be_run_is_taken_again_by_the_next_call(study, log, monkeypatch, capsys):
    fine, broken = invented(study), invented(study, exit_code=2, failure="no such revision", cells=[])
    monkeypatch.setattr(study, "gate", lambda number, *rest: (broken if number == 1 else fine)(number, *rest))
    assert not study.study(log, 60)
    assert "no such revision after 60 s" in capsys.readouterr().err
    assert [gate.number for gate in log.read()[1]] == [0, 1, 2, 3, 4]
    assert "`convbench ab` 4 times" in (log.path.with_name("README.md")).read_text()
    monkeypatch.setattr(study, "gate", fine)
    assert study.study(log, 60)
    assert [gate.number for gate in log.read()[1]] == [0, 1, 2, 3, 4, 1]
    report = log.path.with_name("README.md").read_text()
    assert "`convbench ab` 5 times" in report
    assert "| 0% | 0 of 2 (0% to 84%) | 2 of 2 (16% to 100%) |" in report


def test_the_report_is_there_whenever_it_stops(study, log, monkeypatch):
    def gate(number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        return invented(study)(number, *rest)

    monkeypatch.setattr(study, "gate", gate)
    with pytest.raises(KeyboardInterrupt):
        study.study(log, 60)
    assert "`convbench ab` 2 times" in log.path.with_name("README.md").read_text()


def test_no_gate_is_begun_that_would_end_too_late(study, log, monkeypatch):
    monkeypatch.setattr(study, "gate", invented(study))
    assert not study.study(log, 0.5)  # a gate takes a minute
    assert len(log.read()[1]) == 1


def test_a_machine_on_which_nothing_runs_ends_the_study(study, log, monkeypatch):
    monkeypatch.setattr(study, "gate", invented(study, exit_code=2, failure="no git", cells=[]))
    assert not study.study(log, 60)
    assert len(log.read()[1]) == study.MOST_FAILED
    assert not log.path.with_name("README.md").exists()


def test_gates_of_other_code_are_not_added(study, log, monkeypatch):
    monkeypatch.setattr(study, "gate", invented(study))
    Path("convbench/gate.py").write_text("2\n")
    with pytest.raises(SystemExit, match="the code has changed: use another --out"):
        study.study(log, 60)
