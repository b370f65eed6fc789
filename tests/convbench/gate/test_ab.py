"""convbench ab from the command line: real processes for one round, then the journal; and bad input."""

import json
import os
import signal
import sys
import time
from threading import Thread

import msgspec
import psutil
import pytest

from convbench.cli.main import run as convbench
from convbench.gate.driver import journal
from convbench.gate.procedure import ARMS, SCREEN
from convbench.gate.quartets import TURNS

SUITE = """
[suite]
name = "tiny"
[[case]]
name = "pointwise"
input = [1, 8, 8, 8]
out_channels = 8
kernel = 1
"""


@pytest.fixture(autouse=True)
def no_ci(monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "tiny.toml").write_text(SUITE)
    return str(tmp_path / "tiny.toml")


def test_a_round_of_real_processes_and_going_on_from_the_journal(tmp_path, suite, capsys):
    out = tmp_path / "gate"
    words = ["ab", "torch.aten", "torch.unfold", suite, "--threads", "1", "--time-limit", "0.001", "--floor", "10%"]
    assert convbench([*words, "--out", str(out), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    [row] = document["rows"]
    assert (row["implementation"], row["verdict"]) == ("torch.aten -> torch.unfold", "INCONCLUSIVE")

    log = journal(out)
    header, [taken] = log.read()
    for arm in ARMS:
        [(name, samples)] = taken.samples_s[arm].items()
        assert (name, len(samples)) == (str(header.cells[0]), TURNS)
        assert min(samples) > 0

    log.path.write_bytes(log.path.read_bytes().splitlines(keepends=True)[0])
    even = {arm: {str(header.cells[0]): [1e-3]} for arm in ARMS}
    for number in range(SCREEN[0]):
        log.append(msgspec.structs.replace(taken, number=number, samples_s=even, disturbed=[]))
    assert convbench([*words, "--out", str(out)]) == 2  # at once, before anything is verified
    assert f"holds a run already; go on with `convbench ab --resume {out}`" in capsys.readouterr().err
    assert convbench(["ab", "--resume", str(out)]) == 0
    assert "pass: 1 SAME of 1 cells" in capsys.readouterr().out
    assert json.loads((out / "ab.json").read_bytes())["verdict"] == "pass"

    log.lock()  # as another process that goes on with it
    assert convbench(["ab", "--resume", str(out)]) == 2
    assert f"{out}: a run is going on there; wait for its end" in capsys.readouterr().err


def test_an_interrupt_keeps_the_rounds_and_says_how_to_go_on(tmp_path, suite, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("convbench.cli.ab._begin", lambda *_: None)
    monkeypatch.setattr("convbench.gate.driver.go", interrupted)
    assert convbench(["ab", "torch.aten", "torch.unfold", suite, "--out", str(tmp_path / "gate")]) == 130
    assert f"0 rounds are kept; go on with `convbench ab --resume {tmp_path / 'gate'}`" in capsys.readouterr().err


def test_a_termination_ends_the_side_that_is_being_verified(tmp_path, suite, capfd):
    def stop():
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        started.extend(set(psutil.Process().children()) - before)
        os.kill(os.getpid(), signal.SIGTERM)

    (tmp_path / "python").write_text(f"#!/bin/sh\ntouch {tmp_path / 'begun'}\nexec sleep 60\n")
    (tmp_path / "python").chmod(0o755)
    python, started, before = str(tmp_path / "python"), [], set(psutil.Process().children())
    Thread(target=stop, daemon=True).start()
    assert convbench(["ab", python, python, suite, "--out", str(tmp_path / "gate")]) == 130
    assert capfd.readouterr().err.splitlines()[-1] == "convbench: interrupted"
    assert len(started) == 1
    assert not started[0].is_running()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ab"], "give BASE and HEAD"),
        (["ab", "torch.aten"], "give BASE and HEAD"),
        (["ab", "no-such-revision", "HEAD"], "no-such-revision: no git revision here"),
        (["ab", "torch.aten", sys.executable], "give two of the same kind"),
        (["ab", "torch.aten", "torch.aten", "no_such_suite"], "suite 'no_such_suite' is not built in"),
        (["ab", "torch.aten", "torch.aten", "--threads", "4096"], "--threads 4096"),
        (["ab", "torch.aten", "torch.aten", "--accept", "time"], "'time' is not one of"),
        (["ab", "torch.aten", "torch.aten", "--inject", "2"], "out of range"),
        (["ab", "--resume", "DIR", "--floor", "5%"], "leave out --floor"),
        (["ab", "--resume", "DIR"], "--resume takes the folder of a run"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys):
    words = [str(tmp_path) if word == "DIR" else word for word in words]
    assert convbench([*words, *(["--out", str(tmp_path / "gate")] if "--resume" not in words else [])]) == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert message in last


def test_both_sides_verify_at_once(tmp_path, suite, capsys):
    """Each waits until the other has begun."""
    for name, other in (("one", "two"), ("two", "one")):
        there = tmp_path / f"{other}.begun"
        wait = f"for i in 1 2 3 4 5 6 7 8 9 10; do [ -e {there} ] || sleep 1; done; [ -e {there} ] || exit 9"
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch $0.begun\n{wait}\necho '{{\"rows\": []}}'\n")
        (tmp_path / name).chmod(0o755)
    words = ["ab", str(tmp_path / "one"), str(tmp_path / "two"), suite, "--out", str(tmp_path / "gate")]
    assert convbench(words) == 2
    assert "nothing that both" in capsys.readouterr().err


def test_an_environment_without_convbench_is_named(tmp_path, suite, capsys):
    (tmp_path / "python").write_text("#!/bin/sh\necho 'No module named convbench' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    python = str(tmp_path / "python")
    assert convbench(["ab", python, python, suite, "--out", str(tmp_path / "gate")]) == 2
    assert f"{python}: convbench verify printed no document: No module named convbench" in capsys.readouterr().err


@pytest.mark.parametrize(
    "said", ["{", "[]", '{"rows": 3}', '{"rows": [{}]}', '{"rows": [{"implementation": 3}]}', '{"rows": [' * 10**5]
)
def test_a_side_that_says_something_else_is_named(said, tmp_path, suite, capsys):
    (tmp_path / "said").write_text(said)
    (tmp_path / "python").write_text(f"#!/bin/sh\ncat {tmp_path / 'said'}\n")
    (tmp_path / "python").chmod(0o755)
    python = str(tmp_path / "python")
    assert convbench(["ab", python, python, suite, "--impl", "torch", "--out", str(tmp_path / "gate")]) == 2
    assert f"{python}: convbench verify printed no document" in capsys.readouterr().err
