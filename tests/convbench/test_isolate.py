"""Kernels that crash, hang or cheat: each is named in its row with the right status, and the run goes on."""

from contextlib import closing
from pathlib import Path

import pytest

from convbench.case import Case
from convbench.isolate import Isolated
from convbench.measure import Policy
from convbench.registry import collect, families
from convbench.results import Environment
from convbench.run import Plan, execute, needs_worker, new_record, verify_plan
from convbench.spec import ConvSpec
from tests.conftest import environment
from tests.convbench.test_run import Silent
from tests.kernels import hostile

CASE = Case(ConvSpec.create([1, 2, 6, 6], 3, 3), suite="tiny", name="a")
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
    expected = {"torch.aten": "ok", "hostile.right": "ok"}
    expected |= {f"hostile.{name}": status for name, (_, status) in hostile.HOSTILE.items()}
    record = new_record(Environment(machine="m"), [], {})
    with closing(Isolated(silence_s=4, memory_bytes=2**30)) as worker:
        execute(plan_of(implementations, CASE), record, Silent(), worker=worker)
    assert {row.implementation: row.status for row in record.rows} == expected
    assert [row.implementation for row in record.rows] == [i.name for i in implementations]
    for row in record.rows:
        assert (row.median_s is not None) == (row.speedup_vs_reference is not None) == (row.status == "ok")
    details = {row.implementation: row.status_detail for row in record.rows}
    assert "SIGSEGV" in details["hostile.segfault"]
    assert "SIGABRT" in details["hostile.abort"]
    assert "exit status 3" in details["hostile.os_exit"]
    assert details["hostile.forks"] == "forked its process"
    assert "flood" not in "".join(capfd.readouterr())


def test_verify_goes_on_after_a_crash_in_the_same_way(implementations):
    chosen = [i for i in implementations if i.name in ("torch.aten", "hostile.right", "hostile.segfault")]
    with closing(Isolated(timed=False)) as worker:
        rows = verify_plan(plan_of(chosen, CASE), lambda row: None, worker)
    assert [row.status for row in rows] == ["ok", "ok", "crashed"]


def test_only_cases_of_isolated_implementations_need_a_worker(implementations):
    assert needs_worker(CASE, plan_of(implementations, CASE))
    assert not needs_worker(CASE, plan_of(implementations[:1], CASE))


def test_our_own_families_are_no_strangers():
    from importlib.metadata import entry_points

    assert collect(entry_points(group="convbench.kernels")).strangers == set()
