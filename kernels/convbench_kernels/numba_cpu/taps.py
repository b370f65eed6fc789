"""numba.taps: one matrix product a tap, over the outputs that the tap reaches, added to those before.

    y[:, P_t, Q_t] += w[:, :, t] @ x[:, P_t*sh + eh[t], Q_t*sw + ew[t]]         P_t x Q_t: a rectangle

Direct convolution multiplies what lies on padding unless a whole tile does. Large dilations on small maps have most of
their products there: at rate 18 on 33 x 33 (DeepLabV3) two of three. Here each tap's rectangle is copied densely, 1/K
of the work, and multiplied like a 1 x 1 convolution. Register tile, blocks: implicit_gemm.py; rectangles: geometry.py.
"""

from __future__ import annotations

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.numba_cpu.direct import reason_against
from convbench_kernels.numba_cpu.geometry import Taps, by_tap, data_gradient_taps, forward_taps
from convbench_kernels.numba_cpu.implicit_gemm import convolution
from convbench_kernels.numba_cpu.lowering import lower

SAVED = 0.8  # of direct's products left, below which the copies and the repeated sums pay
DEEP = 1024  # channels from which Winograd's transformed input outgrows the caches


def _taps(case: Case) -> Taps:
    lowered = lower(case)
    if lowered.pass_ == "forward":
        return forward_taps(lowered.spec)
    return data_gradient_taps(lowered.spec)[0]


def supports(case: Case) -> str:
    """ "" when it can, otherwise the reason."""
    if reason := reason_against(case):
        return reason
    lowered = lower(case)
    if lowered.pass_ == "weight_gradient":
        return "no weight gradient"
    if lowered.pass_ == "data_gradient" and lowered.spec.stride != (1, 1):
        return "data gradient with stride > 1: see numba.phases"
    if lowered.spec.groups == lowered.spec.c > 1:
        return "not depthwise"
    return "" if by_tap(_taps(case)) else "no tap reaches every output"


def left(case: Case) -> float:
    """Products with the image over those that direct convolution computes."""
    taps = _taps(case)
    passes = by_tap(taps) or []
    return sum(t.output[0] * t.output[1] for t in passes) / (len(taps.rows) * taps.output[0] * taps.output[1])


def pays(case: Case) -> bool:
    """Whether enough products fall on padding, in a sum too long for Winograd."""
    return left(case) < SAVED and _taps(case).c >= DEEP


def build(case: Case) -> Kernel:
    taps = _taps(case)
    return Kernel(convolution(by_tap(taps) or [], case.output_shapes[0], kept=taps), "taps")


IMPLEMENTATION = Implementation("numba.taps", supports, build, "a matrix product a tap, where taps miss the image")
