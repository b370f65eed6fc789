"""Depthwise convolution by rows: one filter a channel, so there is nothing to block; it lives on bandwidth.

    y[n, k, a, b] = bias[k] + sum over taps t  w[k, t] * x[n, k/M, a*sh + eh[t], b*sw + ew[t]]

M is the depth multiplier K/C. The vector axis is W: one vector of LANES output columns runs down the rows of a
plane. In 3 x 3, columns that a tap takes from outside the image are masked lanes of its load and rows outside are
skipped; all other kernels read a zero-padded copy of the plane.

    forward          eh = r*dilation - padding, any stride
    data gradient    per output phase (i, j) of the stride a stride-1 sum over the taps that hit it, flipped;
                     its columns are written `step` apart. The M filters of a channel are further taps.
    weight gradient  dw[k, t] = sum over n, a, b of dy[n, k, a, b] * x[n, k/M, a*sh + eh[t], b*sw + ew[t]]:
                     one vector accumulator a tap, a plane by one thread in one order

3 x 3, stride 1, the rolling window: each input row is loaded once (three shifts) and feeds three output rows,

    row h:   above += w2 . (l, c, r)    this += w1 . (l, c, r)    below += w0 . (l, c, r)     then above is done

Versions
  1  textbook loops           textbook.py
  2  vectors along W, taps as masked loads: 5 x 5 ran at a sixth of oneDNN's speed, all time in masks
  3  rolling window for 3 x 3 stride 1 and 2: three loads a row in place of nine
  4  weight gradient with nine accumulators in one pass over x and dy
  5  weight gradient, 3 x 3: a row of x meets every row of dy it belongs to while it is in registers
  6  all other taps from a zero-padded copy of the plane in L1, four output rows a pass: one load an FMA

Zhang, Lo, Lu: High Performance Depthwise and Pointwise Convolutions on Mobile Devices (arXiv 2001.02504).
"""

from __future__ import annotations

from convbench.plugin import Case, Kernel
from convbench_kernels.numba_cpu.depthwise_planes import convolution
from convbench_kernels.numba_cpu.depthwise_tables import (
    BLOCKED,
    METHOD,
    PADDED_TAPS,
    ROLLING,
    STRIDE2,
    forward_tables,
    gradient_tables,
)
from convbench_kernels.numba_cpu.depthwise_weights import weight_gradient
from convbench_kernels.numba_cpu.lowering import cannot_lower, lower

NAMES = {ROLLING: "depthwise_rolling", STRIDE2: "depthwise_stride2", PADDED_TAPS: "depthwise_padded"}


def supports(case: Case) -> str:
    """Depthwise conv2d or conv_transpose2d with any multiplier, float32."""
    if case.device != "cpu":
        return "runs on the CPU"
    if case.dtype != "float32":
        return f"{case.dtype} is not written"
    if reason := cannot_lower(case):
        return reason
    lowered = lower(case).spec
    return "" if lowered.groups == lowered.c else "depthwise only"


def build(case: Case) -> Kernel:
    """Kernel for a case that supports() accepts."""
    lowered, shape = lower(case), case.output_shapes[0]
    spec = lowered.spec
    if lowered.pass_ == "weight_gradient":
        return Kernel(weight_gradient(forward_tables(spec), shape, lowered.exchanged), "depthwise_weights")
    tables = forward_tables(spec) if lowered.pass_ == "forward" else gradient_tables(spec)
    algorithm = NAMES[int(tables.phases[0, METHOD])] if len(tables.phases) == 1 else "depthwise_phases"
    if tables.phases[0, BLOCKED]:
        algorithm = "depthwise_channels"
    return Kernel(convolution(tables, shape), algorithm, relu=case.pass_ == "forward")
