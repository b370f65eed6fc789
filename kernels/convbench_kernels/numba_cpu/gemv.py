"""1 x 1 convolution of a 1 x 1 map (squeeze-and-excite, pooled branches): matrix times vector, or a few vectors.

    forward          y[n, k]  = bias[k] + sum_c w[k, c] * x[n, c]
    data gradient    dx[n, c] = sum_k w[k, c] * dy[n, k]
    weight gradient  dw[k, c] = sum_n dy[n, k] * x[n, c]

Every weight is used once an image, so the vector runs along C, where w is contiguous. It lives on the bandwidth of w;
small ones run on the calling thread, because a second one takes longer to start than they last.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from convbench.plugin import Case, Pass
from convbench_kernels.numba_cpu.arguments import dense, floats, least, new, zeros
from convbench_kernels.numba_cpu.jit import STREAMED, inline_kernel, kernel, share, threads_for
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import (
    broadcast,
    fma,
    load,
    load_range,
    store_range,
    sum_lanes,
    tile_fma,
    tile_store,
    tile_zero,
)
from convbench_kernels.numba_cpu.tiles import LANES

TOGETHER = 4  # filters a pass: each vector of x is loaded once for them
COLUMNS = 8  # vectors of dx a pass: as many independent sums as an FMA's latency needs
BLOCK = COLUMNS * LANES
ZERO = np.float32(0.0)
PASSES: tuple[Pass, ...] = ("forward", "data_gradient", "weight_gradient")


@inline_kernel
def _at_least(value, least):
    """The larger one; NaN stays."""
    return least if value < least else value


@kernel
def dot_filters(w, wi, c, x, xi, y, yi, y_step, bias, k, count, least):
    """y[yi + m*y_step] = bias[k + m] + w[wi + m*c : + c] . x[xi : + c], `least` at least, for m < count <= TOGETHER."""
    a0 = a1 = a2 = a3 = broadcast(ZERO)
    w1, w2, w3 = wi + min(1, count - 1) * c, wi + min(2, count - 1) * c, wi + min(3, count - 1) * c
    whole = c // LANES * LANES
    for i in range(0, whole, LANES):
        v = load(x, xi + i)
        a0, a1 = fma(load(w, wi + i), v, a0), fma(load(w, w1 + i), v, a1)
        a2, a3 = fma(load(w, w2 + i), v, a2), fma(load(w, w3 + i), v, a3)
    if whole < c:
        i, rest = whole, c - whole
        v = load_range(x, xi + i, 0, rest)
        a0, a1 = fma(load_range(w, wi + i, 0, rest), v, a0), fma(load_range(w, w1 + i, 0, rest), v, a1)
        a2, a3 = fma(load_range(w, w2 + i, 0, rest), v, a2), fma(load_range(w, w3 + i, 0, rest), v, a3)
    y[yi] = _at_least(bias[k] + sum_lanes(a0), least)
    if count > 1:
        y[yi + y_step] = _at_least(bias[k + 1] + sum_lanes(a1), least)
    if count > 2:
        y[yi + 2 * y_step] = _at_least(bias[k + 2] + sum_lanes(a2), least)
    if count > 3:
        y[yi + 3 * y_step] = _at_least(bias[k + 3] + sum_lanes(a3), least)


@kernel
def _multiply(x, w, y, bias, least, images, c, k, thread, threads):
    """The forward pass: one thread's share of the filters, all images."""
    begin, end = share(-(-k // TOGETHER), thread, threads)
    for first in range(begin * TOGETHER, min(k, end * TOGETHER), TOGETHER):
        for n in range(images):
            dot_filters(w, first * c, c, x, n * c, y, n * k + first, 1, bias, first, min(TOGETHER, k - first),
                        least)  # fmt: skip


@kernel
def _multiply_transposed(dy, w, dx, images, c, k, thread, threads):
    """The data gradient: one thread's share of the columns of w."""
    begin, end = share(-(-c // BLOCK), thread, threads)
    for first in range(begin * BLOCK, min(c, end * BLOCK), BLOCK):
        for n in range(images):
            if first + BLOCK <= c:
                t = tile_zero(1, COLUMNS)
                for i in range(k):
                    t = tile_fma(t, dy, n * k + i, 1, w, i * c + first)
                tile_store(t, dx, n * c + first, 1)
            else:
                for at in range(first, c, LANES):
                    total, left = broadcast(ZERO), c - at
                    for i in range(k):
                        total = fma(load_range(w, i * c + at, 0, left), broadcast(dy[n * k + i]), total)
                    store_range(dx, n * c + at, total, 0, left)


@kernel
def _outer(x, dy, dw, images, c, k, thread, threads):
    """The weight gradient: one thread's share of the filters."""
    begin, end = share(k, thread, threads)
    for i in range(begin, end):
        for at in range(0, c, LANES):
            total, left = broadcast(ZERO), c - at
            for n in range(images):
                total = fma(load_range(x, n * c + at, 0, left), broadcast(dy[n * k + i]), total)
            store_range(dw, i * c + at, total, 0, left)


@kernel
def multiply(pass_, a_at, b_at, out_at, bias_at, least, images, c, k, thread, threads):
    """One thread's share of a pass, by its number in PASSES. Addresses of its two float32 operands, result and bias."""
    a, b, out = floats(a_at), floats(b_at), floats(out_at)
    if pass_ == 0:
        _multiply(a, b, out, floats(bias_at), np.float32(least), images, c, k, thread, threads)
    elif pass_ == 1:
        _multiply_transposed(a, b, out, images, c, k, thread, threads)
    else:
        _outer(a, b, out, images, c, k, thread, threads)


@kernel
def multiply_shared(pass_, a_at, b_at, out_at, bias_at, least, images, c, k, threads):
    parallel(threads, multiply, (pass_, a_at, b_at, out_at, bias_at, least, images, c, k))


def gemv(case: Case) -> Callable[..., torch.Tensor]:
    """run(a, b, bias=None, relu=False) on the pass's two operands, in the order of Case.operand_names."""
    spec, number = case.spec, PASSES.index(case.pass_)
    images, c, k, shape, no_bias = spec.n, spec.c, spec.k, case.output_shapes[0], zeros(spec.k)

    def run(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None, relu: bool = False) -> torch.Tensor:
        a, b, bias, out = dense(a), dense(b), no_bias if bias is None else dense(bias), new(*shape)
        at = (a.data_ptr(), b.data_ptr(), out.data_ptr(), bias.data_ptr())
        multiply_shared(number, *at, least(relu), images, c, k, threads_for(STREAMED * c * k))
        return out

    return run
