"""pytest plug-in: convbench's kernels, verified, as benchmarks of pytest-benchmark.

    def test_layer(benchmark, convolution):
        benchmark(convolution)

runs once for each layer of --convbench-suite on each implementation that supports it. ``convolution`` is a call of the
kernel: verified before the test, and after it on fresh data. Nothing is imported until a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from convbench.case import Case
    from convbench.plan import Selection
    from convbench.plugin import Implementation
    from convbench.results import Record
    from convbench.rows import Cell
    from convbench.verify import Checker

FIXTURE = "convolution"
OPTIONS = {
    "suite": "suite by name or file (default: quick)", "case": "only layers whose name matches",
    "impl": "implementation or family", "device": "cpu, cuda, cuda:1, ...", "dtype": "element type",
    "pass": "forward, data_gradient, weight_gradient, backward or all",
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("convbench", "convolution benchmarks")
    for name, text in OPTIONS.items():
        group.addoption(f"--convbench-{name}", action="append", default=[], metavar=name.upper(), help=text)
    group.addoption("--convbench-threads", type=int, metavar="N", help="threads for every implementation")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if FIXTURE in metafunc.fixturenames:
        from convbench.errors import ConvbenchError

        try:
            cells = _cells(metafunc.config)
        except ConvbenchError as error:
            raise pytest.UsageError(f"convbench: {error}") from None
        metafunc.parametrize(FIXTURE, list(cells), indirect=True)


def _selection(config: pytest.Config) -> Selection:
    from convbench.plan import Selection

    found = {name: tuple(config.getoption(f"--convbench-{name}")) for name in OPTIONS}
    return Selection(found["suite"], found["case"], found["impl"], found["device"], found["dtype"], found["pass"])


@cache
def _cells(config: pytest.Config) -> dict[str, tuple[Case, Implementation]]:
    """Every layer on every implementation that supports it, by name."""
    from convbench import plan
    from convbench.process import keep_freed_memory, prepare

    prepare(config.getoption("--convbench-threads"))
    keep_freed_memory()
    from convbench.registry import registry

    selection = _selection(config)
    cases = plan.select_cases(selection, "quick", "forward", plan.select_devices(selection.devices))
    implementations = plan.select_implementations(registry(), selection)
    return {f"{case} {i.name}": (case, i) for case in cases for i in implementations if not i.supports(case)}


@cache
def _record(config: pytest.Config) -> Record:
    """The run as a whole, less its rows."""
    import torch

    from convbench.machine.environment import detect
    from convbench.run import new_record

    settings = {"threads": torch.get_num_threads()}
    return new_record(detect(with_torch=True), [], settings, "pytest")


@lru_cache(maxsize=1)
def _checker(case: Case) -> Checker:
    """Tests of one case follow each other and share its references."""
    from convbench.verify import Checker

    return Checker(case)


@pytest.fixture
def convolution(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[partial]:
    """A call of one kernel on one layer. Fails where the kernel is wrong, before or after it was timed."""
    import torch

    from convbench.rows import Cell

    case, implementation = _cells(request.config)[request.param]
    benchmark.group = str(case)
    checker, cell = _checker(case), Cell(implementation)
    with torch.inference_mode():
        cell.kernel = implementation.build(case)
        cell.judge(checker.before(implementation, cell.kernel))
        _require(cell)
        yield partial(cell.kernel.run, *checker.timing_operands(implementation, cell.kernel))
        cell.judge(checker.after(implementation, cell.kernel))
        _require(cell)
    _describe(benchmark, case, cell, _record(request.config))


def _require(cell: Cell) -> None:
    if cell.status != "ok":
        pytest.fail(f"{cell.status}: {cell.detail}", pytrace=False)


def _describe(benchmark: Any, case: Case, cell: Cell, record: Record) -> None:
    """Hand the row to pytest-benchmark, which writes it beside its own numbers."""
    from convbench.measure import Policy, Samples
    from convbench.pytest_json import extra_info
    from convbench.registry import REFERENCE
    from convbench.rows import make_row

    if benchmark.stats:
        seconds = list(benchmark.stats.stats.data)
        cell.samples = Samples(benchmark.stats.iterations, seconds, list(range(len(seconds))))
    row = make_row(case, cell, None, record, Policy())
    row.reference = REFERENCE
    benchmark.extra_info.update(extra_info(row))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """The run itself beside the benchmarks, where any of them is convbench's."""
    from convbench import pytest_json

    if any(pytest_json.KEY in benchmark["extra_info"] for benchmark in output_json["benchmarks"]):
        record = _record(config)
        record.complete = True
        output_json[pytest_json.KEY] = pytest_json.head(record)
