"""What all Triton kernels share: where they run, how they become implementations, how partial sums are added.

In Triton's interpreter (TRITON_INTERPRET=1, set before triton is imported) they run on CPU tensors, slowly: it shows
that arithmetic and indices are right. Races, layouts and speed need a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs

from convbench.plugin import Case, Implementation, Kernel, Layout

INTERPRETED = bool(knobs.runtime.interpret)
MEMORY_FORMAT = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
REDUCED = 1024  # elements a program of _add_partials

Build = Callable[[Case, Layout], Kernel]
Covers = Callable[[Case], str]


def supports(covers: Covers, case: Case) -> str:
    """ "" when the case is covered and can run here, otherwise the reason."""
    if INTERPRETED and case.device != "cpu":
        return "Triton's interpreter runs on the CPU"
    if not INTERPRETED and not case.device.startswith("cuda"):
        return "needs a CUDA device"
    if case.dtype == "float64":
        return "float64 is not implemented"
    return covers(case)


def both_layouts(name: str, covers: Covers, build: Build, summary: str) -> list[Implementation]:
    """triton.NAME on contiguous tensors and triton.NAME_channels_last; build(case, layout) -> Kernel."""

    def make(layout: Layout, suffix: str, where: str) -> Implementation:
        name_, covered = f"triton.{name}{suffix}", partial(supports, covers)
        return Implementation(name_, covered, lambda case: build(case, layout), summary + where, layout)

    return [make("nchw", "", ""), make("channels_last", "_channels_last", ", channels_last")]


def new(shape: tuple[int, ...], like: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Uninitialised tensor of a layout."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=MEMORY_FORMAT[layout])


def on(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Launches go to the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def tuned(configs: Sequence[triton.Config], key: Sequence[str]) -> Callable[[Any], Any]:
    """A kernel whose block sizes are chosen by trial on a GPU, for each value of the key, and remembered.

    As it is in the interpreter, which has no time to try: there the caller gives the sizes.
    """
    if INTERPRETED:
        return lambda kernel: kernel
    return triton.autotune(list(configs), list(key), cache_results=True)


@triton.jit
def _add_partials(partials, out, size, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(SPLITS):
        total += tl.load(partials + i, mask=i < size, other=0.0)
        partials += size
    tl.store(out + i, total.to(out.dtype.element_ty), mask=i < size)


def add_partials(partials: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """out = sum over the first axis of partials (float32), always in the same order; both dense, in one order."""
    size = out.numel()
    _add_partials[(triton.cdiv(size, REDUCED),)](partials, out, size, partials.shape[0], REDUCED)
    return out
