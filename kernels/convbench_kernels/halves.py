"""The depthwise-separable pair as two kernels in turn, whoever computes them.

    z = depthwise(x, w_depthwise)    y = pointwise(z, w_pointwise) + bias

Backward goes through both halves; the weight gradient computes z again, as nothing is kept between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convbench.plugin import ConvSpec, Pass

Half = Callable[[ConvSpec, Pass], Callable[..., Any]]


def in_turn(spec: ConvSpec, pass_: Pass, depthwise: Half, pointwise: Half) -> Callable[..., Any]:
    """The function of Case.operand_names that computes a pass of a separable pair.

    depthwise, pointwise  build the run of one half's pass
    """
    first, second = spec.depthwise(), spec.pointwise()
    if pass_ == "forward":
        z, y = depthwise(first, "forward"), pointwise(second, "forward")
        return lambda x, w1, w2, bias=None: y(z(x, w1), w2, bias)
    dz = pointwise(second, "data_gradient")
    if pass_ == "data_gradient":
        dx = depthwise(first, "data_gradient")
        return lambda dy, w1, w2: dx(dz(dy, w2), w1)
    z, dw1 = depthwise(first, "forward"), depthwise(first, "weight_gradient")
    dw2 = pointwise(second, "weight_gradient")
    return lambda x, w1, w2, dy: (dw1(x, dz(dy, w2)), dw2(z(x, w1), dy))
