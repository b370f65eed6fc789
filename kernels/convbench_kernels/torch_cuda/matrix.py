"""What the matrix kernels share: the product on tensor cores, and operands that can be loaded for it.

An asynchronous load takes four bytes and more, aligned. Triton proves alignment from arguments, of which it sees
whether sixteen divides them or not; a kernel is given them divided by the power of two that does (aligned), and
multiplies again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbench.plugin import Case, ConvSpec
from convbench_kernels.torch_cuda.launch import MEMORY_FORMAT


@triton.jit
def multiply(a, b, total, PRECISION: tl.constexpr, CAST: tl.constexpr):
    """total + a b. CAST: the interpreter multiplies short types wrongly, in float32 the products are the same."""
    if CAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    return tl.dot(a, b, total, input_precision=PRECISION)


def precision(case: Case) -> str:
    """Of products of float32: as they are, or in TF32 where the case says so."""
    return "tf32" if case.dtype == "tf32" else "ieee"


def pointwise(spec: ConvSpec) -> bool:
    """Every output pixel is one input pixel at the same place."""
    return (spec.r, spec.s, spec.stride, spec.padding) == (1, 1, (1, 1), (0, 0))


def aligned(size: int) -> int:
    """The largest power of two that divides a size, as far as it helps: Triton itself sees sixteen or nothing."""
    return min(size & -size, 16)


def innermost(tensor: torch.Tensor, in_place: bool) -> torch.Tensor:
    """The tensor, with channels innermost where its pixels cannot be loaded as they lie.

    An asynchronous load takes four bytes and more: of a short type that is more than a pixel of a plane, and where
    windows overlap, or planes begin anywhere, no two pixels are sure to be aligned. in_place: neither is so.
    """
    planes = in_place and (tensor.shape[2] * tensor.shape[3]) % 4 == 0
    fits = tensor.element_size() == 4 or planes or tensor.shape[1] % 8
    return tensor if fits else tensor.contiguous(memory_format=MEMORY_FORMAT["channels_last"])
