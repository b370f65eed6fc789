"""numba.auto: the fastest of these kernels for a shape, from a table. The algorithm column names what was chosen.

    what is computed                                            by
    1 x 1                                                       numba.gemm      no padding, no taps: x is the operand
    separable pair, forward                                     numba.fused     the intermediate stays in the cache
    separable pair, gradients                                   numba.pair      nothing to fuse yet
    transposed forward, data gradient of a strided convolution  numba.phases    no zero work
    everything else, depthwise included                         numba.direct

The first row that supports the case is taken.
"""

from __future__ import annotations

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.numba_cpu import direct, fused, gemm, pair, phases

TABLE = (gemm.IMPLEMENTATION, fused.IMPLEMENTATION, pair.IMPLEMENTATION, direct.IMPLEMENTATION, phases.IMPLEMENTATION)


def choose(case: Case) -> Implementation | None:
    """The first row of the table that supports the case."""
    return next((row for row in TABLE if not row.supports(case)), None)


def supports(case: Case) -> str:
    return "" if choose(case) else direct.IMPLEMENTATION.supports(case)


def build(case: Case) -> Kernel:
    chosen = choose(case)
    assert chosen, "supports() was not asked"
    return chosen.build(case)


IMPLEMENTATION = Implementation("numba.auto", supports, build, "the kernel that its table picks for the shape")
