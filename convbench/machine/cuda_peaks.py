"""The limits of a GPU through torch, timed with CUDA events: copy_, add(out=) and mm in each precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from convbench.machine.peaks import MEMORY_SHARE, Run, Sample, Task, repeated, working_sets
from convbench.process import precision

GEMM_SIZES = (2048, 4096, 8192)
GEMM_DTYPES = ("float32", "tf32", "bfloat16", "float16")
ALIGN = 1024  # elements: every array starts where the widest loads can

Timed = Callable[[Run], Sample]


def cuda_tasks(device: str) -> list[Task]:
    """What is measured on a GPU: its L2 and its memory, and GEMM in four precisions."""
    import torch

    l2_bytes, free_bytes = torch.cuda.get_device_properties(device).L2_cache_size, torch.cuda.mem_get_info(device)[0]
    sets = working_sets({"L2": {"bytes": l2_bytes, "shared_by": 1}}, 1, 1, free_bytes)
    moves = [task for level, size in sets.items() for task in move_tasks(device, level, size, event_timed(device))]
    return moves + gemm_tasks(device, gemm_sizes(free_bytes), GEMM_DTYPES, event_timed(device))


def gemm_sizes(free_bytes: int) -> list[int]:
    """Sizes whose operands in all precisions take no more than their share of the memory."""
    return [n for n in GEMM_SIZES if len(GEMM_DTYPES) * 3 * 4 * n * n <= MEMORY_SHARE * free_bytes]


def event_timed(device: str) -> Timed:
    """Samples by the device's own clock, between two events."""
    import torch

    def timed(run: Run) -> Sample:
        def sample(repeats: int) -> tuple[int, float]:
            with torch.cuda.device(device):
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                work = run(repeats)
                stop.record()
                stop.synchronize()
            return work, start.elapsed_time(stop) * 1e-3

        return sample

    return timed


def move_tasks(device: str, level: str, size: int, timed: Timed) -> list[Task]:
    """copy: y = x. triad: y = x + 3*z. Bytes are counted as by STREAM: each array once."""
    import torch

    def arrays(count: int) -> tuple[Any, int]:
        elements = max(size // (4 * count) // ALIGN, 1) * ALIGN
        return torch.ones(count, elements, device=device), 4 * count * elements

    (y, x), copied = arrays(2)
    (v, u, w), moved = arrays(3)
    calls: tuple[tuple[Literal["copy", "triad"], int, Callable[[], Any]], ...] = (
        ("copy", copied, lambda: y.copy_(x)),
        ("triad", moved, lambda: torch.add(u, w, alpha=3.0, out=v)),
    )
    return [Task(name, level, "float32", bytes_, timed(repeated(call, bytes_))) for name, bytes_, call in calls]


def gemm_tasks(device: str, sizes: Iterable[int], dtypes: Iterable[str], timed: Timed) -> list[Task]:
    """Square torch.mm on random numbers: a GPU clocks higher on constant ones. tf32 is float32 rounded inside."""
    return [_gemm_task(device, size, dtype, timed) for dtype in dtypes for size in sizes]


def _gemm_task(device: str, size: int, dtype: str, timed: Timed) -> Task:
    import torch

    element = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    generator = torch.Generator(device).manual_seed(0)
    a, b = torch.randn(2, size, size, device=device, generator=generator).to(element)
    c = torch.empty_like(a)

    def run(repeats: int) -> int:
        with precision("cuda", dtype):
            return repeated(lambda: torch.mm(a, b, out=c), 2 * size**3)(repeats)

    return Task("gemm", "DRAM", dtype, 3 * a.numel() * a.itemsize, timed(run))
