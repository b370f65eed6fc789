"""numba.auto: the fastest of these kernels for a shape, from a table. The algorithm column names what was chosen.

    what is computed                                            by
    1 x 1                                                       numba.gemm      no padding, no taps: x is the operand
    separable pair, forward                                     numba.fused     the intermediate stays in the cache
    separable pair, gradients                                   numba.pair      nothing to fuse yet
    3 x 3, stride 1, where its cost model says it pays          numba.winograd  a quarter of the products
    transposed forward, data gradient of a strided convolution  numba.phases    no zero work
    everything else, depthwise included                         numba.direct

The first row that supports the case, and pays, is taken.
"""

from __future__ import annotations

from collections.abc import Callable

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.numba_cpu import direct, fused, gemm, pair, phases, winograd


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
    """The first row of the table that supports the case, and pays."""
    return next((row for row, pays in TABLE if not row.supports(case) and pays(case)), None)


def supports(case: Case) -> str:
    return "" if choose(case) else direct.IMPLEMENTATION.supports(case)


def build(case: Case) -> Kernel:
    chosen = choose(case)
    assert chosen, "supports() was not asked"
    return chosen.build(case)


IMPLEMENTATION = Implementation("numba.auto", supports, build, "the kernel that its table picks for the shape")
