"""What all Triton kernels share: where they run, how they become implementations, how partial sums are added.

In Triton's interpreter (TRITON_INTERPRET=1, set before triton is imported) they run on CPU tensors, slowly: it shows
that arithmetic and indices are right. Races, layouts and speed need a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import prod
from typing import Any

import torch
import triton
import triton.language as tl

from convbench.plugin import Case, Implementation, Kernel, Layout
from convbench_kernels.torch_cuda.tuning import INTERPRETED, Choice, Tile

MEMORY_FORMAT = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
OFFSETS = 2**31  # within an image, and of pixels: 32 bits. Images are counted in 64
PADDED = 2  # the last block of pixels reaches beyond the last pixel
REDUCED = 64  # elements a program of _add_partials, ...
SPLITS_AT_ONCE = 32  # ... and partial sums of each that it loads together: one after the other would be slow

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
    if max(prod(case.spec.x_shape[1:]), prod(case.spec.y_shape[1:]), prod(case.spec.w_shape)) >= OFFSETS:
        return "images or weights of 2^31 elements and more are not implemented"
    if max(rows(case.spec.x_shape), rows(case.spec.y_shape)) * PADDED >= OFFSETS:
        return "more than 2^30 pixels or rows in a batch are not implemented"
    return covers(case)


def rows(shape: tuple[int, int, int, int]) -> int:
    """Pixels of a batch, or rows of its planes, whichever are more."""
    n, c, h, w = shape
    return n * h * max(c, w)


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


class Launch:
    """A matrix kernel with the block sizes that are fastest for a key."""

    def __init__(self, kernel: Any, tiles: list[Tile], key: tuple[Any, ...]) -> None:
        self.kernel, self.choice = kernel, Choice(kernel.__name__, tiles, key)

    def __call__(self, grid: Callable[[Tile], tuple[int, ...]], *arguments: Any) -> None:
        """Launch on the device of the first argument, which is current."""

        def call(tile: Tile) -> None:
            self.kernel[grid(tile)](*arguments, **tile)

        def compile_all(tiles: list[Tile]) -> None:
            """Side by side; what cannot be compiled says so when it is tried."""
            with ThreadPoolExecutor() as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
                for tile in tiles:
                    self.kernel.warmup(*arguments, grid=grid(tile), **tile)

        call(self.choice(arguments[0].device, call, compile_all))


def fastest(name: str, options: list[Tile], key: tuple[Any, ...], make: Callable[..., Callable[..., Any]]):
    """run of make(**option) with the option that is fastest for a key."""
    choice = Choice(name, options, key)
    made = [make(**option) for option in options]

    def run(*operands: Any, **more: Any) -> Any:
        with on(operands[0]):
            option = choice(operands[0].device, lambda option: made[options.index(option)](*operands, **more))
            return made[options.index(option)](*operands, **more)

    return run


@triton.jit
def _add_partials(partials, out, size, splits, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((SPLITS, BLOCK), tl.float32)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        at = partials + (split.to(tl.int64) * size)[:, None] + i[None, :]
        total += tl.load(at, mask=(split < splits)[:, None] & (i < size)[None, :], other=0.0)
    tl.store(out + i, tl.sum(total, 0).to(out.dtype.element_ty), mask=i < size)


def add_partials(partials: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """out = sum over the first axis of partials (float32), always in the same order; both dense, in one order."""
    size, splits = out.numel(), partials.shape[0]
    at_once = min(triton.next_power_of_2(splits), SPLITS_AT_ONCE)
    _add_partials[(triton.cdiv(size, REDUCED),)](partials, out, size, splits, at_once, REDUCED)
    return out
