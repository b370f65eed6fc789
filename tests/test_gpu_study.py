"""The GPU study's order, table and epilogue, without a GPU: what is measured first, and when a target is reached."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from convbench.case import Case
from convbench.plugin import Implementation, Kernel
from convbench.results import GpuCell
from convbench.spec import ConvSpec
from tests.convbench.records import make_record, make_rows

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def options(**changes) -> Namespace:
    return Namespace(**({"batch": 32, "dtypes": ["bfloat16", "float32"], "suites": None} | changes))


def test_targets_come_first_then_batch_1_as_graphs_and_nothing_comes_twice(study):
    stages = study.stages(options(), "cuda:0")
    first, alone = stages[0], stages[1]
    assert [stage.graphs for stage in stages] == [False, True, False, True, False]
    assert {case.dtype for case in first.cases} == {"bfloat16"}
    assert {case.spec.n for case in alone.cases} == {1}
    assert {case.spec.n for case in first.cases} == {32, 33}
    assert {case.pass_ for case in alone.cases} == {"forward"}
    assert len({case.spec.kind for case in first.cases[:7]}) == 7, "one of each kind before any second"
    keys = [(case.spec, case.pass_, case.dtype) for stage in stages for case in stage.cases]
    assert len(keys) == len(set(keys))


def test_every_line_of_the_targets_has_layers(study):
    import gpu_table

    rows = make_rows((study.TARGETS,), ("torch.aten",))
    for row in rows:
        row.dtype = "bfloat16"
    lines = {gpu_table.line_of(row) for row in rows}
    assert lines >= set(gpu_table.TARGETS) - {gpu_table.EPILOGUE, gpu_table.BATCH_1, "depthwise weight gradient"}


def table(capsys, *times: tuple[str, float], graph: bool = False) -> str:
    """What is printed for one pointwise layer, each implementation so much faster than the reference."""
    import gpu_table

    names = [name for name, _ in times]
    rows = make_rows(("mobilenet_v1",), ("torch.aten",), limit=None)
    row = next(row for row in rows if row.kind == "pointwise")
    found = []
    for name, speedup in times:
        copy = type(row)(**{field: getattr(row, field) for field in row.__struct_fields__})
        copy.implementation, copy.speedup_vs_reference = name, speedup
        copy.gpu = GpuCell(graph=graph)
        found.append(copy)
    assert names
    gpu_table.show(make_record(found), {})
    return capsys.readouterr().out


def line(text: str, name: str) -> list[str]:
    return next(row for row in text.splitlines() if name in row).split()


def test_the_best_of_both_sides_is_compared(study, capsys):
    text = table(capsys, ("torch.aten", 1.0), ("torch.channels_last", 2.0), ("triton.a", 1.5), ("triton.b", 3.0))
    assert "1.50x" in line(text, "pointwise")
    assert "reached" in line(text, "pointwise")


def test_a_missed_target_is_said_and_what_was_not_measured_too(study, capsys):
    text = table(capsys, ("torch.aten", 1.0), ("torch.channels_last", 2.0), ("triton.a", 1.0))
    assert {"0.50x", "missed"} <= set(line(text, "pointwise"))
    assert "not measured" in " ".join(line(text, "transposed"))
    assert "reached" in line(table(capsys, ("torch.aten", 1.0), ("triton.a", 2.0), graph=True), "batch 1")


def test_the_epilogue_is_checked_before_it_is_timed(study, monkeypatch):
    """A kernel that forgets its ReLU has no time; one that does not is compared with torch's calls."""
    import gpu_epilogue

    spec = ConvSpec.create((2, 3, 5, 5), 4, 3, padding=1)

    def build(case):
        return Kernel(lambda x, w, b, relu: torch.conv2d(x, w, b, padding=1).relu() if case else None, "")

    def forgetful(case):
        return Kernel(lambda x, w, b, relu: torch.conv2d(x, w, b, padding=1), "")

    right, wrong = (
        Implementation(name, lambda case: "", b)
        for name, b in zip(gpu_epilogue.KERNELS, (build, forgetful), strict=True)
    )
    found_kernels = {i.name: i for i in (right, wrong)}
    monkeypatch.setattr(gpu_epilogue, "registry", lambda: Namespace(implementations=found_kernels))
    policy = study.Policy(0.5, 0.01)
    (found,) = gpu_epilogue.studies([Case(spec, name="a"), Case(spec, "data_gradient")], policy, lambda: False)
    assert list(found["failed"]) == [wrong.name]
    assert set(found["speedup"]) == {"torch.nchw", "torch.channels_last", right.name}
    assert gpu_epilogue.ratio(found) > 0
    assert gpu_epilogue.studies([Case(spec)], policy, lambda: True) == [], "no time left"


def test_energy_is_measured_on_the_largest_layer_of_a_line_and_the_fastest_of_each_side(study):
    rows = make_rows(("mobilenet_v1",), ("torch.aten", "torch.channels_last", "numba.gemm"))
    chosen = study.fastest_of_the_largest(rows)
    pointwise = [row for row in chosen if row.kind == "pointwise"]
    assert len(pointwise) == 2
    assert len({row.case for row in pointwise}) == 1
    most = max(row.macs for row in rows if row.kind == "pointwise")
    assert {row.implementation.partition(".")[0] for row in pointwise} == {"torch", "numba"}
    same = [row for row in rows if row.case == pointwise[0].case and row.implementation.startswith("torch.")]
    assert pointwise[0].macs == most
    assert min(same, key=lambda row: row.median_s) in pointwise
