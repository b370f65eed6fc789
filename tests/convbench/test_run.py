"""The main job on fake kernels and on torch: statuses, resume after a kill, files, exit codes."""

import csv
import gc
import json
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest
import torch

from convbench import verify
from convbench.case import Case
from convbench.cli.main import run as convbench
from convbench.cli.run import _policy, _same_conditions
from convbench.errors import InputError
from convbench.journal import Header, Journal
from convbench.measure import Policy
from convbench.plugin import Implementation, Kernel
from convbench.registry import Broken
from convbench.results import COLUMN_NAMES, Environment, Peak, load
from convbench.run import Plan, execute, new_record, resume, verify_plan, write_outputs
from convbench.spec import ConvSpec

CASES = [Case(ConvSpec.create([1, c, 6, 6], 4, 3, padding=1), suite="tiny", name=f"c{c}", count=c) for c in (1, 2, 3)]
POLICY = Policy(max_time_s=0.01, sample_s=0.0005)


class Silent:
    """Counts what it is told."""

    def __init__(self):
        self.cases, self.samples, self.rows = [], 0, []

    def case(self, case, implementations):
        self.cases.append(case.name)

    def sample(self, seconds):
        self.samples += 1

    def done(self, rows):
        self.rows += rows


def implementation(name, run=None, supports=lambda case: "", **kernel):
    run = run or (lambda x, w: torch.nn.functional.conv2d(x, w, padding=1))
    return Implementation(name, supports, lambda case: Kernel(run, "fake", **kernel))


REFERENCE = implementation("torch.aten")


def execute_plan(*implementations, cases=CASES, progress=None, journal=None, done=frozenset(), named=()):
    plan = Plan(cases, [REFERENCE, *implementations], POLICY, 1, 0, frozenset(named))
    record = new_record(Environment(machine="m"), [], {})
    return execute(plan, record, progress or Silent(), journal, done)


def test_every_case_and_implementation_has_a_row_with_times():
    progress = Silent()
    record = execute_plan(implementation("torch.other"), progress=progress)
    assert [(r.case, r.implementation) for r in record.rows] == [
        (case.name, name) for case in CASES for name in ("torch.aten", "torch.other")
    ]
    for row in record.rows:
        assert row.status == "ok"
        assert len(row.samples_s) == len(row.rounds) == row.samples >= 6
        assert row.ci_low_s <= row.median_s <= row.ci_high_s
        assert row.gflops == pytest.approx(2 * row.macs / row.median_s / 1e9)
        assert row.error <= row.tolerance
        assert row.speedup_ci_low <= row.speedup_vs_reference <= row.speedup_ci_high
    assert {r.speedup_vs_reference for r in record.rows if r.implementation == "torch.aten"} == {1.0}
    assert progress.cases == ["c1", "c2", "c3"]
    assert progress.rows == record.rows
    assert progress.samples >= sum(r.samples for r in record.rows)


def raising(error):
    def run(x, w):
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "status", "detail"),
    [
        (lambda x, w: torch.nn.functional.conv2d(x, w, padding=1) + 1, "mismatch", "differ on integers"),
        (raising(ValueError("line one\nline two")), "error", "ValueError: line one line two"),
        (raising(torch.OutOfMemoryError("too much")), "out_of_memory", "too much"),
        (raising(MemoryError()), "out_of_memory", "MemoryError"),
        (lambda x, w: None, "mismatch", "NoneType"),
    ],
)
def test_a_failing_kernel_fails_its_cell_only(run, status, detail):
    record = execute_plan(implementation("torch.bad", run), cases=CASES[:1])
    good, bad = record.rows
    assert good.status == "ok"
    assert bad.status == status
    assert detail in bad.status_detail
    assert "\n" not in bad.status_detail
    assert bad.median_s is bad.gflops is bad.speedup_vs_reference is None
    assert bad.samples_s == []


def test_a_kernel_that_goes_wrong_while_it_is_timed_is_found():
    calls = 0

    def run(x, w):
        nonlocal calls
        calls += 1
        return torch.nn.functional.conv2d(x, w, padding=1) * (1 if calls < 20 else 1.5)

    record = execute_plan(implementation("torch.tired", run), cases=CASES[:1])
    assert record.rows[1].status == "mismatch"
    assert record.rows[1].median_s is None


@pytest.mark.parametrize("failing", range(1, 6))
def test_no_memory_for_the_reference_is_a_status_and_the_run_goes_on(failing, monkeypatch):
    """Whenever it is that float64 does not fit: before timing or after."""
    calls, real = 0, verify.reference

    def reference(*arguments):
        nonlocal calls
        calls += 1
        if calls == failing:
            raise MemoryError("no room")
        return real(*arguments)

    monkeypatch.setattr(verify, "reference", reference)
    record = execute_plan(implementation("torch.other"), cases=CASES[:2])
    assert len(record.rows) == 4
    assert "out_of_memory" in [row.status for row in record.rows[:2]]
    assert [row.status for row in record.rows[2:]] == ["ok", "ok"]


def test_unsupported_has_a_row_only_when_asked_for_by_name():
    picky = implementation("torch.picky", supports=lambda case: "does not like it")
    assert len(execute_plan(picky, cases=CASES[:1]).rows) == 1
    named = execute_plan(picky, cases=CASES[:1], named=["torch.picky"]).rows[1]
    assert (named.status, named.status_detail) == ("unsupported", "does not like it")


def test_preparation_is_outside_the_timing_and_its_result_is_used():
    prepared = []

    def prepare(x, w):
        prepared.append(1)
        return x, w * 1

    record = execute_plan(implementation("torch.prepacked", prepare=prepare), cases=CASES[:1])
    assert record.rows[1].status == "ok"
    assert len(prepared) == 7  # built, four trials before, timed however often, one trial after


def test_interrupted_anywhere_then_resumed_has_each_case_once(tmp_path):
    class Interrupting(Silent):
        def done(self, rows):
            super().done(rows)
            if len(self.rows) == 2:
                raise KeyboardInterrupt

    journal = Journal(tmp_path)
    record = new_record(Environment(machine="m"), [], {})
    plan = Plan(CASES, [REFERENCE, implementation("torch.other")], POLICY, 1)
    names = [i.name for i in plan.implementations]
    journal.start(Header(record=record, cases=CASES, implementations=names, policy=POLICY, threads=1, seed=0))
    with pytest.raises(KeyboardInterrupt):
        execute(plan, record, Interrupting(), journal)
    first = list(record.rows)
    header, record, done = resume(journal)
    assert (done, record.rows, header.cases) == ({0}, first, CASES)
    execute(plan, record, Silent(), journal, done)
    assert [(r.case, r.implementation) for r in record.rows] == [(c.name, n) for c in CASES for n in names]
    assert record.rows[:2] == first  # not measured again
    assert resume(journal)[1].rows == record.rows


def test_a_finished_case_leaves_no_tensors_in_memory():
    """Those of large layers are gone before the next ones come, whenever Python collects its garbage."""

    def allocating(x, w):
        return torch.empty(1, 4, 6, 6).copy_(torch.nn.functional.conv2d(x, w, padding=1))

    def tensors():
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    execute_plan(implementation("torch.allocating", allocating))  # what is made once
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        record = execute_plan(implementation("torch.allocating", allocating))
        assert [row.status for row in record.rows] == ["ok"] * 6
        assert tensors() == before
    finally:
        gc.enable()


def test_an_interrupt_that_was_swallowed_ends_the_run_before_the_next_case():
    signals, progress = [], Silent()
    record = new_record(Environment(machine="m"), [], {})

    def swallows(x, w):
        signals.append(2)
        return torch.nn.functional.conv2d(x, w, padding=1)

    plan = Plan(CASES, [REFERENCE, implementation("torch.swallows", swallows)], POLICY, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, record, progress, interrupted=lambda: signals)
    assert {row.case for row in record.rows} == {"c1"}


def test_a_kernel_that_fails_while_it_is_timed_is_alone_in_it():
    progress = Silent()

    def tires(x, w):
        if progress.samples:
            sys.exit("tired")
        return torch.nn.functional.conv2d(x, w, padding=1)

    tiring = implementation("torch.tires", tires)
    rows = {row.implementation: row for row in execute_plan(tiring, cases=CASES[:1], progress=progress).rows}
    assert (rows["torch.tires"].status, rows["torch.tires"].status_detail) == ("error", "SystemExit: tired")
    assert rows["torch.aten"].status == "ok"
    assert rows["torch.aten"].median_s


def test_preparation_that_fails_when_it_is_time_to_time_is_alone_in_it():
    calls = []

    def prepare(x, w):
        calls.append(1)
        if len(calls) == 6:  # built, four trials before, then for the timing
            raise MemoryError("no room for packed weights")
        return x, w

    record = execute_plan(implementation("torch.packs", prepare=prepare), cases=CASES[:1])
    assert [row.status for row in record.rows] == ["ok", "out_of_memory"]
    assert "no room" in record.rows[1].status_detail


def test_a_layer_with_every_tap_on_padding_has_no_roof():
    case = Case(ConvSpec.create([1, 8, 1, 1], 4, 2, padding=1, dilation=2))
    peaks = [
        Peak(quantity=quantity, level=level, device="cpu", dtype="float32", value=1e10)
        for quantity, level in (("fma", "register"), ("copy", "DRAM"))
    ]
    dilated = implementation("torch.aten", lambda x, w: torch.nn.functional.conv2d(x, w, padding=1, dilation=2))
    record = new_record(Environment(machine="m"), peaks, {})
    (row,) = execute(Plan([case], [dilated], POLICY, 1), record, Silent()).rows
    assert (row.status, row.valid_macs, row.roofline_fraction, row.attainable_gflops) == ("ok", 0, None, None)
    assert any(note.startswith("mistrusted: 100%") for note in row.notes)


def test_a_kernel_that_writes_to_its_operands_spoils_no_other():
    def writes(x, w):
        return torch.nn.functional.conv2d(x.zero_(), w, padding=1)

    statuses = {row.implementation: row.status for row in execute_plan(implementation("torch.writes", writes)).rows}
    assert statuses == {"torch.aten": "ok", "torch.writes": "mismatch"}


def test_supports_that_fails_is_an_error_of_its_cell():
    bad = implementation("bad.asked", supports=lambda case: Broken("supports() failed: no"))
    row = execute_plan(bad).rows[1]
    assert (row.status, row.status_detail) == ("error", "supports() failed: no")
    assert json.loads(msgspec.json.encode(row))["status_detail"] == "supports() failed: no"


@pytest.mark.parametrize(("run", "algorithm"), [("not callable", "fake"), (torch.relu, 5)])
def test_a_kernel_that_is_none_is_refused(run, algorithm):
    with pytest.raises(TypeError, match="expected a function and a text"):
        Kernel(run, algorithm)


def test_what_is_written_can_be_loaded(tmp_path):
    record = execute_plan()
    paths = write_outputs(record, tmp_path)
    assert load(tmp_path) == record
    lines = list(csv.DictReader(paths["results.csv"].open()))
    assert tuple(lines[0]) == COLUMN_NAMES
    assert [line["case"] for line in lines] == ["c1", "c2", "c3"]
    assert float(lines[0]["median_s"]) == record.rows[0].median_s


def test_verify_plan_covers_every_cell_without_timing():
    wrong = implementation("bad.kernel", lambda x, w: torch.zeros(1, 4, 6, 6))
    seen = []
    rows = verify_plan(Plan(CASES, [REFERENCE, wrong], POLICY, 1), seen.append)
    assert [row.status for row in rows] == ["ok", "mismatch"] * 3
    assert seen == rows
    assert all(row.median_s is None for row in rows)


TINY = """
[suite]
name = "tiny"
[[case]]
name = "a"
input = [1, 4, 8, 8]
out_channels = 4
kernel = 3
padding = 1
[[case]]
name = "b"
operator = "conv_transpose2d"
input = [1, 4, 8, 8]
out_channels = 2
kernel = 2
stride = 2
[[case]]
name = "c"
input = [1, 4, 8, 8]
out_channels = 4
kernel = 1
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return str(path)


def test_the_command_writes_all_three_files_and_says_where(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    code = convbench(["run", tiny, "--quick", "--impl", "torch.aten", "--max-time", "0.02", "--out", str(out)])
    assert code == 0
    printed = capsys.readouterr().out
    for name in ("run.json", "results.csv", "report.html"):
        assert (out / name).stat().st_size > 0
        assert str(out / name) in printed
    record = load(out)
    assert record.complete
    assert {peak.quantity for peak in record.peaks} >= {"gemm", "copy"}
    assert record.settings["threads"] == len(os.sched_getaffinity(0))


def test_many_cells_share_the_time_of_the_default_run():
    def seconds(*words):
        return _policy(*words).max_time_s

    assert seconds(False, None, None, 0) == seconds(False, None, None, 100) == 1.0
    assert seconds(False, None, None, 280) == 0.5
    assert seconds(True, None, None, 96) == 0.125
    assert seconds(False, None, 3.0, 280) == 3.0
    assert (_policy(True, None, None, 0).precision, _policy(False, 0.001, None, 0).precision) == (0.02, 0.001)


def test_a_folder_that_cannot_be_used_costs_no_measuring(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("convbench.run.begin", lambda *_: pytest.fail("the machine was measured"))
    (tmp_path / "file").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.jsonl").write_text("a run")
    for name, complaint in (("file", "File exists"), ("run", "holds a run already; go on with")):
        assert convbench(["run", tiny, "--quick", "--out", str(tmp_path / name)]) == 2
        assert complaint in capsys.readouterr().err
    assert (tmp_path / "run" / "journal.jsonl").read_text() == "a run"


def test_json_is_one_document_on_stdout(tiny, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        convbench(["run", tiny, "--impl", "torch", "--quick", "--max-time", "0.02", "--out", str(out), "--json"]) == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["command"]) == (1, "run")
    assert set(COLUMN_NAMES) <= set(document["rows"][0])


def test_killed_for_real_and_resumed(tiny, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "convbench.cli.main", "run"]
    arguments = [
        tiny,
        "--quick",
        "--impl",
        "torch.aten",
        "--max-time",
        "1",
        "--precision",
        "0.001%",
        "--out",
        str(out),
    ]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    journal = out / "journal.jsonl"
    for _ in range(3000):
        if journal.exists() and journal.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = journal.read_bytes()
    assert not (out / "run.json").exists()
    changed = subprocess.run(
        [*command, "--resume", str(out)], capture_output=True, text=True, env=os.environ | {"OMP_WAIT_POLICY": "active"}
    )
    assert changed.returncode == 2
    assert "OMP_WAIT_POLICY" in changed.stderr
    done = subprocess.run([*command, "--resume", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert journal.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    record = load(out)
    assert [row.case for row in record.rows] == ["a", "b", "c"]
    assert record.timings["total"] > record.timings["sample"]
    record.warnings.append("only run.json knows")
    write_outputs(record, out)
    done = subprocess.run([*command, "--resume", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load(out).warnings == record.warnings


@pytest.mark.parametrize(
    ("cpu", "complaint"), [({"isa": ["sse2"]}, "began with instruction sets"), ({"model": "6502"}, "processor 6502")]
)
def test_a_run_goes_on_only_on_the_machine_it_began_on(cpu, complaint, tmp_path):
    """Two virtual machines may well have the same name."""
    from convbench.machine.environment import detect

    environment = detect(with_torch=True)
    environment.cpu |= cpu
    header = Header(
        record=new_record(environment, [], {}), cases=CASES, implementations=[], policy=POLICY, threads=1, seed=0
    )
    with pytest.raises(InputError, match=complaint):
        _same_conditions(header, tmp_path)


def test_warnings_of_a_run_that_was_killed_are_in_the_resumed_one(tiny, tmp_path, monkeypatch):
    from convbench import run as running

    def interrupted(case, *rest, real=running.run_case):
        if case.name == "c":
            raise KeyboardInterrupt
        return real(case, *rest)

    out = tmp_path / "out"
    monkeypatch.setattr("convbench.machine.noise.warnings", lambda *both: ["loud at first"])
    with monkeypatch.context() as first:
        first.setattr(running, "run_case", interrupted)
        assert (
            convbench(["run", tiny, "--quick", "--impl", "torch.aten", "--max-time", "0.02", "--out", str(out)]) == 130
        )
    (out / "run.json").unlink()  # as if killed: the journal is all there is
    monkeypatch.setattr("convbench.machine.noise.warnings", lambda *both: ["louder then"])
    assert convbench(["run", "--resume", str(out)]) == 0
    assert load(out).warnings == ["loud at first", "louder then"]
    assert len(load(out).rows) == 3


def test_interrupt_keeps_results_and_exits_with_130(tiny, tmp_path):
    out = tmp_path / "out"
    arguments = [tiny, "--quick", "--impl", "torch.aten", "--max-time", "5", "--precision", "0.001%", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "convbench.cli.main", "run", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    for _ in range(15_000):
        if (out / "journal.jsonl").exists() and (out / "journal.jsonl").read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "--resume" in err
    assert "Traceback" not in err
    assert [row.case for row in load(out).rows][:1] == ["a"]
    assert not load(out).complete
