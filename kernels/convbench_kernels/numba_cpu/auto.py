"""numba.auto: the fastest of these kernels for a shape, from a table. The algorithm column names what was chosen.

    what is computed                                            by
    1 x 1                                                       numba.gemm      no padding, no taps: x is the operand
    separable pair, forward                                     numba.fused     the intermediate stays in the cache
    separable pair, gradients                                   numba.pair      nothing to fuse yet
    3 x 3, stride 1, where its cost model says it pays          numba.winograd  a quarter of the products
    transposed forward, data gradient of a strided convolution  numba.phases    no zero work
    everything else, depthwise included                         numba.direct

The first row that supports the case, and pays, is taken. With CONVBENCH_TUNE=1, which `convbench run --tune` sets,
every row that supports a case is tried once, and the fastest remembered for this CPU, number of threads and version of
the kernels (fastest.json beside the compiled kernels: delete it to forget). It is taken from then on, and the algorithm
column says "by trial".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from statistics import median
from time import perf_counter

import torch

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.answers import Answers
from convbench_kernels.numba_cpu import direct, fused, gemm, pair, phases, winograd
from convbench_kernels.numba_cpu.jit import cache_folder
from convbench_kernels.numba_cpu.parallel import most_threads
from convbench_kernels.numba_cpu.tiles import cpu

TUNE = "CONVBENCH_TUNE"
ROUNDS, BATCH_S = 9, 2e-3  # samples of each kernel, and seconds of one


def always(case: Case) -> bool:
    return True


TABLE: tuple[tuple[Implementation, Callable[[Case], bool]], ...] = (
    (gemm.IMPLEMENTATION, always),
    (fused.IMPLEMENTATION, always),
    (pair.IMPLEMENTATION, always),
    (winograd.IMPLEMENTATION, winograd.pays),
    (direct.IMPLEMENTATION, always),
    (phases.IMPLEMENTATION, always),
)


def choose(case: Case) -> Implementation | None:
    """What was fastest by trial, or else the first row of the table that supports the case, and pays."""
    return _known(case) or next((row for row, pays in _supporting(case) if pays(case)), None)


def supports(case: Case) -> str:
    return "" if choose(case) else direct.IMPLEMENTATION.supports(case)


def build(case: Case) -> Kernel:
    if os.environ.get(TUNE):
        tune(case)
    chosen = choose(case)
    assert chosen, "supports() was not asked"
    kernel = chosen.build(case)
    return replace(kernel, algorithm=f"{kernel.algorithm}, by trial") if _known(case) else kernel


def tune(case: Case) -> None:
    """Try every row that supports the case, in turns on the same data, and remember the fastest for this machine."""
    rows = {row.name: row for row, _ in _supporting(case)}
    seconds: dict[str, float] = {}

    def before(_: object) -> None:
        seconds.update(race(case, rows))

    if len(rows) > 1:
        _file().by_trial(_question(case), list(rows), seconds.__getitem__, before)
        _answers.cache_clear()


def race(case: Case, rows: dict[str, Implementation]) -> dict[str, float]:
    """Median seconds of a call of each, batches of calls in turns."""
    generator = torch.Generator().manual_seed(0)  # whatever the caller draws next is what it would have been
    operands = [
        torch.rand(case.operand_shape(name), dtype=torch.float32, device="cpu", generator=generator)
        for name in case.operand_names
    ]
    runs = {name: row.build(case).run for name, row in rows.items()}
    for run in runs.values():  # compiles it
        run(*operands)
    calls = {name: max(1, int(BATCH_S / _timed(run, operands, 1))) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            found[name].append(_timed(run, operands, calls[name]))
    return {name: median(times) for name, times in found.items()}


def _timed(run: Callable[..., object], operands: list[torch.Tensor], calls: int) -> float:
    begun = perf_counter()
    for _ in range(calls):
        run(*operands)
    return (perf_counter() - begun) / calls


def _supporting(case: Case) -> Iterator[tuple[Implementation, Callable[[Case], bool]]]:
    return ((row, pays) for row, pays in TABLE if not row.supports(case))


def _known(case: Case) -> Implementation | None:
    """What was fastest by trial."""
    name = _answers().get(_question(case)) if _answers() else None
    return next((row for row, _ in _supporting(case) if row.name == name), None) if name else None


def _question(case: Case) -> str:
    return f"{cpu()}, {most_threads()} threads: {replace(case.spec, bias=False)} {case.pass_}"


def _file() -> Answers:
    return Answers(cache_folder() / "fastest.json", "names of kernels", lambda value: isinstance(value, str))


@cache
def _answers() -> dict[str, str]:
    return _file().known()


IMPLEMENTATION = Implementation("numba.auto", supports, build, "the kernel that its table picks for the shape")
