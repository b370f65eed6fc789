"""numba.textbook: the formulas as loops, to be read. Nothing is blocked, packed or vectorised by hand.

    conv2d             y[n,k,p,q]  = sum over c,r,s of x[n, g*C/G + c, p*sh - ph + r*dh, q*sw - pw + s*dw] * w[k,c,r,s]
    data gradient      dx[n,c,h,w] = sum over k,r,s of dy[n,k,p,q] * w[k,c,r,s]   where h = p*sh - ph + r*dh, w alike
    weight gradient    dw[k,c,r,s] = sum over n,p,q of dy[n,k,p,q] * x[n, c, h, w]

x is (N, C, H, W), w is OIHW (K, C/G, R, S), y is (N, K, P, Q); taps outside the image read zero. Depthwise is G = C,
pointwise is R = S = 1, dilated is dh, dw > 1: one formula.

A transposed convolution goes through its three textbook steps: insert zeros between the input's pixels, flip the
kernel, convolve with stride 1 (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning",
arXiv 1603.07285, chapter 4). It restores the *shape* that a convolution took away and not the *values*: it is the
transpose of the convolution's matrix, not its inverse. Its own gradients are the convolution it mirrors.

A depthwise-separable pair is a depthwise then a pointwise convolution; its backward goes through both in turn.

float32 and float64. Two versions of this file's idea are elsewhere: direct.py and gemm.py make it fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import prange

from convbench.plugin import Case, ConvSpec, Implementation, Kernel
from convbench_kernels.numba_cpu.jit import parallel_kernel
from convbench_kernels.numba_cpu.lowering import cannot_lower, lower


@parallel_kernel
def conv2d(x, w, y, stride, padding, dilation, groups):
    """y = x * w, cross-correlation."""
    images, filters, out_h, out_w = y.shape
    _, channels, kernel_h, kernel_w = w.shape
    for k in prange(filters):
        first_channel = k // (filters // groups) * channels
        for n in range(images):
            for p in range(out_h):
                for q in range(out_w):
                    total = x.dtype.type(0)
                    for c in range(channels):
                        for r in range(kernel_h):
                            for s in range(kernel_w):
                                h = p * stride[0] - padding[0] + r * dilation[0]
                                v = q * stride[1] - padding[1] + s * dilation[1]
                                if 0 <= h < x.shape[2] and 0 <= v < x.shape[3]:
                                    total += x[n, first_channel + c, h, v] * w[k, c, r, s]
                    y[n, k, p, q] = total


@parallel_kernel
def data_gradient(dy, w, dx, stride, padding, dilation, groups):
    """Each input pixel gathers from the outputs that it went into."""
    images, in_channels, height, width = dx.shape
    filters, channels, kernel_h, kernel_w = w.shape
    per_group = filters // groups
    for channel in prange(in_channels):
        group, c = channel // channels, channel % channels
        for n in range(images):
            for h in range(height):
                for v in range(width):
                    total = dy.dtype.type(0)
                    for k in range(group * per_group, (group + 1) * per_group):
                        for r in range(kernel_h):
                            for s in range(kernel_w):
                                p_steps = h + padding[0] - r * dilation[0]
                                q_steps = v + padding[1] - s * dilation[1]
                                if p_steps % stride[0] == 0 and q_steps % stride[1] == 0:
                                    p, q = p_steps // stride[0], q_steps // stride[1]
                                    if 0 <= p < dy.shape[2] and 0 <= q < dy.shape[3]:
                                        total += dy[n, k, p, q] * w[k, c, r, s]
                    dx[n, channel, h, v] = total


@parallel_kernel
def weight_gradient(x, dy, dw, stride, padding, dilation, groups):
    """Each weight sums, over all output pixels, what it was multiplied with."""
    filters, channels, kernel_h, kernel_w = dw.shape
    images, _, out_h, out_w = dy.shape
    for k in prange(filters):
        first_channel = k // (filters // groups) * channels
        for c in range(channels):
            for r in range(kernel_h):
                for s in range(kernel_w):
                    total = dy.dtype.type(0)
                    for n in range(images):
                        for p in range(out_h):
                            for q in range(out_w):
                                h = p * stride[0] - padding[0] + r * dilation[0]
                                v = q * stride[1] - padding[1] + s * dilation[1]
                                if 0 <= h < x.shape[2] and 0 <= v < x.shape[3]:
                                    total += dy[n, k, p, q] * x[n, first_channel + c, h, v]
                    dw[k, c, r, s] = total


# The three steps of a transposed convolution ----------------------------------------------------


def zero_insert(x: np.ndarray, stride: tuple[int, int]) -> np.ndarray:
    """Step 1: stride-1 zeros between neighbouring pixels. (N, C, H, W) -> (N, C, (H-1)*sh + 1, (W-1)*sw + 1)."""
    n, c, h, w = x.shape
    spread = np.zeros((n, c, (h - 1) * stride[0] + 1, (w - 1) * stride[1] + 1), x.dtype)
    spread[:, :, :: stride[0], :: stride[1]] = x
    return spread


def flip(w: np.ndarray, groups: int) -> np.ndarray:
    """Step 2: rotate the kernel by half a turn and exchange its channels: (C, K/G, R, S) -> OIHW (K, C/G, R, S)."""
    c, k, r, s = w.shape
    grouped = w.reshape(groups, c // groups, k, r, s).swapaxes(1, 2)
    return np.ascontiguousarray(grouped.reshape(groups * k, c // groups, r, s)[:, :, ::-1, ::-1])


def stride_one(spread: np.ndarray, w: np.ndarray, y: np.ndarray, spec: ConvSpec) -> None:
    """Step 3: a convolution of stride 1, padded by reach - 1 - padding; output_padding adds rows and columns below.

    A padding of more than reach - 1 crops instead.
    """
    top, left = (
        spec.dilation[axis] * ((spec.r, spec.s)[axis] - 1) - spec.padding[axis] for axis in (0, 1)
    )  # fmt: skip
    conv2d(spread, w, y, (1, 1), (top, left), spec.dilation, spec.groups)


def conv_transpose2d(x: np.ndarray, w: np.ndarray, y: np.ndarray, spec: ConvSpec) -> None:
    """Zero-insert, flip the kernel, convolve with stride 1. w is torch's (C, K/G, R, S)."""
    stride_one(zero_insert(x, spec.stride), flip(w, spec.groups), y, spec)


# From cases to functions ------------------------------------------------------------------------

_PASSES: dict[str, Any] = {"forward": conv2d, "data_gradient": data_gradient, "weight_gradient": weight_gradient}


def compute(case: Case) -> Callable[..., torch.Tensor]:
    """The function of two operands that computes a pass of a conv2d or conv_transpose2d."""
    shape = case.output_shapes[0]
    if case.spec.is_transposed and case.pass_ == "forward":
        return _on_arrays(lambda x, w, y: conv_transpose2d(x, w, y, case.spec), shape)
    lowered = lower(case)
    spec, function = lowered.spec, _PASSES[lowered.pass_]
    geometry = (spec.stride, spec.padding, spec.dilation, spec.groups)
    if lowered.exchanged:
        return _on_arrays(lambda x, dy, dw: function(dy, x, dw, *geometry), shape)
    return _on_arrays(lambda a, b, out: function(a, b, out, *geometry), shape)


def _on_arrays(function: Callable[..., None], shape: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    """Torch tensors in, a new torch tensor out; any strides, no copy where they are contiguous."""

    def run(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        out = torch.empty(shape, dtype=a.dtype)
        function(a.contiguous().numpy(), b.contiguous().numpy(), out.numpy())
        return out if bias is None else out.add_(bias[:, None, None])

    return run


def pair(case: Case) -> Callable[..., Any]:
    """A pass of the depthwise-separable pair, half by half."""
    spec = case.spec

    def half(which: ConvSpec, pass_: str) -> Callable[..., torch.Tensor]:
        return compute(Case(which, pass_, case.dtype))  # type: ignore[arg-type]

    first, second = spec.depthwise(), spec.pointwise()
    depthwise, pointwise = half(first, "forward"), half(second, "forward")
    if case.pass_ == "forward":
        return lambda x, w1, w2, bias=None: pointwise(depthwise(x, w1), w2, bias)
    to_intermediate, to_input = half(second, "data_gradient"), half(first, "data_gradient")
    if case.pass_ == "data_gradient":
        return lambda dy, w1, w2: to_input(to_intermediate(dy, w2), w1)
    of_first, of_second = half(first, "weight_gradient"), half(second, "weight_gradient")
    return lambda x, w1, w2, dy: (of_first(x, to_intermediate(dy, w2)), of_second(depthwise(x, w1), dy))


def supports(case: Case) -> str:
    if case.device != "cpu":
        return "runs on the CPU"
    if case.dtype not in ("float32", "float64"):
        return f"{case.dtype} is not written"
    return "" if case.pass_ == "forward" else cannot_lower(case)


def build(case: Case) -> Kernel:
    if case.spec.is_separable:
        return Kernel(pair(case), "loops, half by half")
    steps = case.spec.is_transposed and case.pass_ == "forward"
    return Kernel(compute(case), "zero-insert, flip, stride 1" if steps else "loops")


IMPLEMENTATION = Implementation(
    "numba.textbook", supports, build, "the formulas as loops, to be read; float64 too", on_request=True
)
