"""How a run times cases on a GPU that is not there: as they are or as graphs, each with what is known of the GPU."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from convbench import run
from convbench.case import Case
from convbench.measure import Policy
from convbench.plugin import Implementation, Kernel
from convbench.process import Conditions
from convbench.results import GpuCell
from convbench.rows import Cell
from convbench.spec import ConvSpec

CASE = Case(ConvSpec.create((1, 1, 4, 4), 1, 1), device="cuda:0")


class Timer:
    """Half a millisecond a call; says of a call whether it was captured."""

    def __init__(self, device, watch) -> None:
        assert (device, watch) == ("cuda:0", "watch")

    def __call__(self, call, calls: int) -> float:
        call()
        return 0.0005 * calls

    def cell(self, call, original) -> GpuCell:
        return GpuCell(graph=call is not original)


def timed(monkeypatch, graphs: bool, capture) -> list[Cell]:
    monkeypatch.setattr(run, "CudaTimer", Timer)
    monkeypatch.setattr(run, "Watch", lambda device: "watch")
    monkeypatch.setattr(run, "captured", capture)
    named = [Implementation(name, lambda case: "", lambda case: None) for name in ("torch.aten", "mine.a")]
    cells = [Cell(i, kernel=Kernel(partial(str, i.name), "")) for i in named]
    plan = run.Plan([CASE], named, Policy(0.5, 0.01), 1, graphs=graphs)
    checker = SimpleNamespace(timing_operands=lambda implementation, kernel: ())
    progress = SimpleNamespace(sample=lambda seconds: None)
    run._time(CASE, cells, plan, checker, progress, lambda name: None, Conditions())
    return cells


@pytest.mark.parametrize("graphs", [False, True])
def test_calls_are_captured_where_the_plan_says_so(monkeypatch, graphs):
    captured = []

    def capture(call, device):
        captured.append(device)
        return lambda: call()

    cells = timed(monkeypatch, graphs, capture)
    assert captured == ["cuda:0"] * (2 * graphs)
    assert [cell.gpu.graph for cell in cells] == [graphs] * 2
    assert all(cell.samples.seconds[0] == pytest.approx(0.0005) for cell in cells)
    assert {cell.samples.calls_per_sample for cell in cells} == {1}, "the sample of a cold call is short"


def test_what_cannot_be_captured_fails_alone(monkeypatch):
    def capture(call, device):
        if call() == "mine.a":
            raise RuntimeError("operation not permitted when stream is capturing")
        return call

    first, second = timed(monkeypatch, True, capture)
    assert (first.status, second.status) == ("ok", "error")
    assert "not permitted" in second.detail
    assert first.samples and not second.samples
