"""Kernels that crash, hang or cheat: each is named in its row with the right status, and the run goes on."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from convbench.case import Case
from convbench.cli.main import run as convbench
from convbench.errors import EXIT_CHECK_FAILED, EXIT_SOME_CELLS_FAILED
from convbench.isolate import Isolated
from convbench.measure import Policy
from convbench.registry import collect, families, registry
from convbench.results import Environment, load
from convbench.run import Plan, execute, needs_worker, new_record
from convbench.spec import ConvSpec
from tests.conftest import environment
from tests.convbench.test_run import Silent
from tests.kernels import hostile

CASE = Case(ConvSpec.create([1, 2, 6, 6], 3, 3), suite="tiny", name="a")
ASKED_CASE = Case(ConvSpec.create([1, 2, 7, 6], 3, 3), suite="tiny", name="asked")
POLICY = Policy(max_time_s=0.01, sample_s=0.0005)


@pytest.fixture
def implementations(plugin_path, monkeypatch):
    """The reference and the hostile plug-in, here and in workers."""
    folder = plugin_path("hostile", Path(hostile.__file__).read_text())
    monkeypatch.setenv("PYTHONPATH", environment(folder)["PYTHONPATH"])
    monkeypatch.syspath_prepend(folder)
    found = families(["torch", "hostile"])
    assert found.strangers == {"hostile"}
    return found.select(["torch.aten", "hostile"])


def plan_of(implementations, *cases):
    names = frozenset(i.name for i in implementations if i.family == "hostile")
    return Plan(list(cases), implementations, POLICY, 1, isolated=names)


def test_every_hostile_kernel_has_its_status_and_the_others_are_timed(implementations, capfd):
    """All but two, which the commands below run."""
    here = [i for i in implementations if i.name not in ("hostile.segfault", "hostile.abort") and "asked" not in i.name]
    expected = {"torch.aten": "ok", "hostile.right": "ok"}
    expected |= {f"hostile.{name}": status for name, (_, status) in hostile.HOSTILE.items()}
    expected |= {f"hostile.built_{name}": "error" for name in hostile.BUILT}
    record = new_record(Environment(machine="m"), [], {})
    with closing(Isolated(silence_s=10, memory_bytes=2**30)) as worker:
        execute(replace(plan_of(here, CASE), threads=2), record, Silent(), worker=worker)
    assert {row.implementation: row.status for row in record.rows} == {i.name: expected[i.name] for i in here}
    assert [row.implementation for row in record.rows] == [i.name for i in here]
    for row in record.rows:
        assert (row.median_s is not None) == (row.speedup_vs_reference is not None) == (row.status == "ok")
    details = {row.implementation: row.status_detail for row in record.rows}
    assert "exit status 3" in details["hostile.os_exit"]
    assert details["hostile.forks"] == "forked its process"
    assert details["hostile.changes_conditions"].startswith("changed torch's number of threads from 2 to 1, the work")
    assert "flood" not in "".join(capfd.readouterr())


def test_supports_is_asked_in_the_worker_and_its_fall_is_of_that_shape_only(implementations):
    chosen = [i for i in implementations if i.name in ("torch.aten", "hostile.right") or "asked" in i.name]
    plan = plan_of(chosen, CASE, ASKED_CASE)
    record = new_record(Environment(machine="m"), [], {})
    with closing(Isolated(silence_s=30, answer_s=5, memory_bytes=2**30)) as worker:
        execute(replace(plan, implementations=worker.shield(chosen, plan.isolated)), record, Silent(), worker=worker)
    found = {name: {r.implementation: r for r in record.rows if r.case == name} for name in ("a", "asked")}
    assert list(found["a"]) == list(found["asked"]) == [i.name for i in chosen]
    assert {row.status for row in found["a"].values()} == {"ok"}
    expected = {"torch.aten": "ok", "hostile.right": "ok"}
    expected |= {f"hostile.asked_{name}": status for name, (_, status) in hostile.ASKED.items()}
    assert {name: row.status for name, row in found["asked"].items()} == expected
    details = {name.removeprefix("hostile.asked_"): row.status_detail for name, row in found["asked"].items()}
    assert details["segfault"] == "supports(): its process was ended by SIGSEGV"
    assert details["os_exit"] == "supports(): ended its process with exit status 0"
    assert details["hangs"] == "supports(): no sign of life for 5 s; its process was ended"


@pytest.fixture
def command(implementations, tmp_path, monkeypatch):
    """command(words...) -> exit code, of convbench on one layer where the hostile plug-in is installed."""
    registry.cache_clear()
    monkeypatch.setattr("convbench.machine.peaks.measure_peaks", lambda *_, **__: [])
    path = tmp_path / "tiny.toml"

    def call(name, *words, rows=6):
        layer = f'name = "a"\ninput = [1, 2, {rows}, 6]\nout_channels = 3\nkernel = 3\n'
        path.write_text(f'[suite]\nname = "tiny"\n[[case]]\n{layer}')
        return convbench([name, str(path), "--device", "cpu", "--pass", "forward", *words])

    yield call
    registry.cache_clear()


def test_a_run_goes_on_after_a_crash_and_says_who_it_was(command, tmp_path, capfd):
    words = ["--quick", "--impl", "hostile.right", "--impl", "hostile.segfault", "--max-time", "0.02"]
    assert command("run", *words, "--out", str(tmp_path / "run")) == EXIT_SOME_CELLS_FAILED
    record = load(tmp_path / "run")
    assert record.complete
    assert {row.implementation: row.status for row in record.rows} == {
        "torch.aten": "ok", "hostile.right": "ok", "hostile.segfault": "crashed"
    }  # fmt: skip
    (crashed,) = [row for row in record.rows if row.status == "crashed"]
    assert crashed.status_detail == "its process was ended by SIGSEGV"
    shown = capfd.readouterr()
    assert "its process was ended by SIGSEGV" in shown.out + shown.err
    assert "SIGSEGV" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_goes_on_where_asking_crashes_and_so_does_its_resumption(command, tmp_path, capfd):
    words = ["--quick", "--impl", "hostile.right", "--impl", "hostile.asked_abort", "--max-time", "0.02"]
    assert command("run", *words, "--out", str(tmp_path / "run"), rows=7) == EXIT_SOME_CELLS_FAILED
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    for again in (lambda: 0, lambda: convbench(["run", "--resume", str(tmp_path / "run")])):
        again()
        rows = {row.implementation: row for row in load(tmp_path / "run").rows}
        assert {name: row.status for name, row in rows.items()} == {
            "torch.aten": "ok", "hostile.right": "ok", "hostile.asked_abort": "crashed"
        }  # fmt: skip
        assert rows["hostile.asked_abort"].status_detail == "supports(): its process was ended by SIGABRT"
    assert convbench(["repro", str(tmp_path / "run"), "a"]) == EXIT_SOME_CELLS_FAILED
    assert "SIGABRT" in capfd.readouterr().out


def test_verify_goes_on_after_a_crash_in_the_same_way(command, capfd):
    words = ["--impl", "hostile.right", "--impl", "hostile.abort", "--json"]
    assert command("verify", *words) == EXIT_CHECK_FAILED
    rows = json.loads(capfd.readouterr().out)["rows"]
    statuses = {row["implementation"]: (row["status"], row["status_detail"] or "") for row in rows}
    assert statuses.pop("hostile.abort") == ("crashed", "its process was ended by SIGABRT")
    assert {status for status, _ in statuses.values()} == {"ok"}


def test_only_cases_of_isolated_implementations_need_a_worker(implementations):
    assert needs_worker(CASE, plan_of(implementations, CASE))
    assert not needs_worker(CASE, plan_of(implementations[:1], CASE))


def test_our_own_families_are_no_strangers():
    from importlib.metadata import entry_points

    assert collect(entry_points(group="convbench.kernels")).strangers == set()
