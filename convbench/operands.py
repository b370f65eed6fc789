"""Operands of a case: integer-valued (exact arithmetic), real-valued, and guarded against stray access.

Integers follow benchdnn: small values, so that no partial sum in any order leaves the range in which
the dtype is exact, and the comparison needs no tolerance. None is 0, so that no product is lost to view.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from convbench.case import Case

if TYPE_CHECKING:
    import torch

Operands = dict[str, "torch.Tensor"]

# Integers up to here are exact. Sums are taken to be accumulated in float32 at least; a short dtype may
# also round a partial result (before a bias, between the pair's halves), so its own range is the limit there.
EXACT_RANGE = {"float32": 2**24, "float64": 2**53, "float16": 2**11, "bfloat16": 2**8, "tf32": 2**11}
LARGEST_INTEGER = 4
DATA = ("x", "dy")  # what is new in every call; the others are parameters
EXCHANGED = 8  # pairs of elements, by rearranged()
SMALL_OPERAND = 32  # elements
GUARD_BYTES = 4096  # before and after each operand; a multiple of every alignment in use


def sum_lengths(case: Case) -> tuple[int, ...]:
    """Products summed for one output element, the longest in the case; the separable pair chains two sums."""
    spec = case.spec
    taps = spec.r * spec.s
    pixels = spec.n * spec.p * spec.q if not spec.is_transposed else spec.n * spec.h * spec.w
    if spec.is_separable:
        return {"forward": (taps, spec.c), "data_gradient": (spec.k, taps)}.get(case.pass_, (max(taps, spec.k), pixels))
    if case.pass_ == "weight_gradient":
        return (pixels,)
    return (taps * (spec.c if case.pass_ == "forward" else spec.k) // spec.groups,)


def largest_integer(case: Case) -> int:
    """Largest magnitude of integer operands that keeps every partial sum exact; 0 where there is none.

    Wide dtypes are held to the worst case, n products of the largest value. In a short one that leaves
    nothing, so there six standard deviations of the sum, which is a random walk, must fit.
    """
    lengths = sum_lengths(case)
    terms = prod(lengths) + 1  # the bias
    if case.dtype in ("float16", "bfloat16", "tf32"):
        terms = ceil(6 * terms**0.5)
    limit = EXACT_RANGE[case.dtype] // terms
    return max((a for a in range(1, LARGEST_INTEGER + 1) if a ** (len(lengths) + 1) <= limit), default=0)


def integers(case: Case, seed: int) -> Operands | None:
    """Integer-valued operands, none of them 0; None where the sums are too long to be exact."""
    largest = largest_integer(case)
    if not largest:
        return None
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in case.operand_names:
        values = torch.randint(-largest, largest, case.operand_shape(name), generator=generator)
        values += values >= 0  # -largest..-1 and 1..largest
        made[name] = values.to(device=case.device, dtype=getattr(torch, case.element))
    return made


def watched_operand(case: Case) -> str:
    """The operand in which one element is followed: the one that no formula multiplies with padding (0 x NaN)."""
    return "dy" if case.spec.is_transposed and case.pass_ == "weight_gradient" else case.operand_names[0]


def one_hot(case: Case) -> Operands:
    """A one in the middle of watched_operand, no bias, ones elsewhere: shows what that element reaches."""
    import torch

    made = {name: torch.ones(case.operand_shape(name), device=case.device) for name in case.operand_names}
    watched = made[watched_operand(case)]
    watched.zero_()[middle(watched)] = 1
    if "bias" in made:
        made["bias"].zero_()
    return made


def middle(tensor: torch.Tensor) -> tuple[int, ...]:
    """Index of the element in the middle."""
    return tuple(size // 2 for size in tensor.shape)


def reals(case: Case, seed: int) -> Operands:
    """Standard normal operands, weights scaled by 1/sqrt(fan-in) as networks initialise them."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in case.operand_names:
        shape = case.operand_shape(name)
        scale = prod(shape[1:]) ** -0.5 if name.startswith("w") else 1.0
        values = torch.randn(shape, generator=generator) * scale
        made[name] = values.to(device=case.device, dtype=getattr(torch, case.element))
    return made


def rearranged(case: Case, operands: Operands, seed: int) -> Operands:
    """The same operands with EXCHANGED pairs of elements in each other's place, small ones with new values.

    Their sums, and nearly all else, are as before, so that whoever knows data by a glance takes them for the same.
    """
    draw, new, made = random.Random(seed), reals(case, seed), {}
    for name, tensor in operands.items():
        if tensor.numel() < SMALL_OPERAND:
            made[name] = new[name]
            continue
        places = draw.sample(range(tensor.numel()), 2 * EXCHANGED)
        made[name] = tensor.clone()
        made[name].view(-1)[places] = tensor.view(-1)[places[EXCHANGED:] + places[:EXCHANGED]]
    return made


def poisoned(case: Case, operands: Operands) -> Operands:
    """The same operands with one NaN, in the middle of watched_operand."""
    name = watched_operand(case)
    changed = operands[name].clone()
    changed[middle(changed)] = float("nan")
    return operands | {name: changed}


def in_layout(operands: Operands, layout: str) -> Operands:
    """The same values in an implementation's memory format."""
    if layout == "nchw":
        return operands
    import torch

    return {
        name: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for name, t in operands.items()
    }


@dataclass(frozen=True)
class Guarded:
    """A tensor between two bands of NaN, and what it and the bands looked like.

    tensor   same values, shape and strides as the original
    intact   intact() is "" as long as nobody wrote to the tensor or around it, otherwise which of the two
    """

    tensor: torch.Tensor
    buffer: torch.Tensor
    before: torch.Tensor | None

    def intact(self) -> str:
        edge = GUARD_BYTES // self.buffer.element_size()
        bits = _bits(self.buffer)
        guard = _bits(self.buffer.new_full((1,), float("nan")))
        if not bool((bits[:edge] == guard).all() and (bits[-edge:] == guard).all()):
            return "wrote outside the tensor"
        if self.before is not None and not bool((bits == self.before).all()):
            return "changed its values"
        return ""


def guarded(tensor: torch.Tensor, read_only: bool = True) -> Guarded:
    """Copy a tensor into the middle of a buffer of NaN, keeping its strides; read_only also watches its values."""
    edge = GUARD_BYTES // tensor.element_size()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    buffer = tensor.new_full((extent + 2 * edge,), float("nan"))
    inner = buffer.as_strided(tensor.shape, tensor.stride(), edge)
    inner.copy_(tensor)
    return Guarded(inner, buffer, _bits(buffer).clone() if read_only else None)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The elements' bits, so that NaN compares equal to itself."""
    import torch

    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
