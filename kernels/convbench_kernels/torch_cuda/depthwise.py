"""triton.depthwise: one program computes a tile of rows and columns of one output plane.

    y[n, k, p, q] = bias[k] + sum over r, s of w[k, 0, r, s] x[n, k // M, p*stride_h - padding_h + r*dilation_h, ...]

x (N, C, H, W), w (K, 1, R, S), y (N, K, P, Q), K = M*C with channel multiplier M, all contiguous. Grid: N*K planes
x tiles of P x tiles of Q. Columns are the fast axis, so that loads of neighbouring threads coalesce, and a tile's
rows share their input rows through L1. Taps are unrolled; sums are in float32, in the order of r, s.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbench.plugin import Case, Implementation, Kernel

LARGEST_TILE = 1024  # outputs a program: eight registers a thread with four warps
LARGEST_COLUMNS = 128  # one 512-byte float32 row segment
UNROLLED_TAPS = 121  # 11x11: above it the code grows faster than it helps


@triton.jit
def _forward(
    x, w, bias, y, channels, multiplier, height, width, rows, columns,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)  # n*K + k
    k = plane % (channels * multiplier)
    n = plane // (channels * multiplier)
    p = tl.program_id(1) * TILE_P + tl.arange(0, TILE_P)[:, None]
    q = tl.program_id(2) * TILE_Q + tl.arange(0, TILE_Q)[None, :]
    x_plane = x + (n * channels + k // multiplier) * height * width
    total = tl.zeros((TILE_P, TILE_Q), tl.float32)
    for r in tl.static_range(R):
        h = p * STRIDE_H - PADDING_H + r * DILATION_H
        for s in tl.static_range(S):
            j = q * STRIDE_W - PADDING_W + s * DILATION_W
            inside = (h >= 0) & (h < height) & (j >= 0) & (j < width)
            values = tl.load(x_plane + h * width + j, mask=inside, other=0.0).to(tl.float32)
            total += values * tl.load(w + (k * R + r) * S + s).to(tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + k).to(tl.float32)
    inside = (p < rows) & (q < columns)
    tl.store(y + plane * rows * columns + p * columns + q, total.to(y.dtype.element_ty), mask=inside)


def supports(case: Case) -> str:
    """ "" when it can, otherwise the reason."""
    if not case.device.startswith("cuda"):
        return "needs a CUDA device"
    spec = case.spec
    if spec.operator != "conv2d" or spec.groups != spec.c or spec.c == 1:
        return "depthwise convolutions only"
    if case.pass_ != "forward":
        return "gradients are not implemented"
    if case.dtype == "float64":
        return "float64 is not implemented"
    if spec.r * spec.s > UNROLLED_TAPS:
        return f"kernels of more than {UNROLLED_TAPS} taps are not implemented"
    return ""


def tile(rows: int, columns: int) -> tuple[int, int]:
    """TILE_P x TILE_Q for a plane: as wide as the plane, then as high as LARGEST_TILE allows."""
    tile_q = min(triton.next_power_of_2(columns), LARGEST_COLUMNS)
    return min(triton.next_power_of_2(rows), LARGEST_TILE // tile_q), tile_q


def build(case: Case) -> Kernel:
    spec = case.spec
    tile_p, tile_q = tile(spec.p, spec.q)
    grid = (spec.n * spec.k, triton.cdiv(spec.p, tile_p), triton.cdiv(spec.q, tile_q))

    def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y = torch.empty(spec.y_shape, dtype=x.dtype, device=x.device)
        with torch.cuda.device_of(x):
            _forward[grid](
                x, w, bias, y, spec.c, spec.k // spec.c, spec.h, spec.w, spec.p, spec.q,
                spec.r, spec.s, *spec.stride, *spec.padding, *spec.dilation, bias is not None, tile_p, tile_q,
            )  # fmt: skip
        return y

    return Kernel(run, f"tile_{tile_p}x{tile_q}")


IMPLEMENTATION = Implementation("triton.depthwise", supports, build, "depthwise forward, a tile of a plane a program")
