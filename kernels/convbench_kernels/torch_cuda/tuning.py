"""Block sizes of the matrix kernels: one table to try, and what was fastest, remembered between processes.

A kernel is tried once for each device, shape class (every size rounded up to a power of two), layout and type. The
answers of one GPU model and one version of kernels, Triton and CUDA are one JSON file; another version, another file.
CONVBENCH_CACHE_DIR moves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs

from convbench_kernels.answers import Answers, cache_base

Tile = dict[str, int]
Before = Callable[[list[Tile]], object]

INTERPRETED = bool(knobs.runtime.interpret)

NAMES = ("BM", "BN", "BK", "num_warps", "num_stages")
SMALL = {"BM": 32, "BN": 32, "BK": 16}  # in the interpreter
SHORT = (  # two bytes an element; the largest takes 147 of an H100's 227 KiB of shared memory
    (128, 256, 64, 8, 3), (128, 128, 64, 8, 3), (128, 128, 64, 4, 3), (128, 64, 64, 4, 4), (64, 128, 64, 4, 4),
    (64, 64, 64, 4, 4), (128, 64, 32, 4, 4), (64, 32, 64, 4, 4), (128, 16, 32, 4, 4), (32, 32, 64, 4, 4),
)  # fmt: skip
TF32 = (
    (128, 128, 32, 8, 3), (128, 128, 32, 4, 3), (128, 64, 32, 4, 4), (64, 128, 32, 4, 4), (64, 64, 32, 4, 4),
    (64, 32, 32, 4, 4), (128, 16, 32, 4, 4), (32, 32, 32, 4, 4),
)  # fmt: skip
IEEE = (  # no tensor cores: a thread's share of the block lies in registers
    (128, 64, 16, 8, 3), (64, 64, 16, 4, 3), (64, 128, 16, 8, 3), (128, 128, 16, 8, 3), (128, 32, 16, 4, 3),
    (64, 32, 16, 4, 3), (32, 32, 32, 4, 3),
)  # fmt: skip
GEMM = {"bfloat16": SHORT, "float16": SHORT, "tf32": TF32, "float32": IEEE}
PAIR = (  # one stage: the taps of a block of channels are in flight together
    (64, 128, 32, 8, 1), (64, 256, 32, 8, 1), (128, 128, 32, 8, 1), (64, 128, 32, 4, 2), (64, 64, 32, 4, 1),
    (64, 32, 32, 4, 1), (32, 32, 32, 4, 1),
)  # fmt: skip
PAIR_IEEE = ((64, 64, 16, 4, 1), (64, 128, 16, 8, 1), (128, 64, 16, 8, 1), (64, 32, 16, 4, 1), (32, 32, 16, 4, 1))
FUSED = {"bfloat16": PAIR, "float16": PAIR, "tf32": PAIR, "float32": PAIR_IEEE}
TRIALS, CALLS = 5, 4  # samples of a tile, and calls in one
FLOOR = 32  # no tile is so much too large that half of it would be enough, but for this


def tiles(rows: int, columns: int, table: tuple[tuple[int, ...], ...]) -> list[Tile]:
    """Those of a table that suit a product of rows x columns; at least one."""

    def suits(size: int, needed: int) -> bool:
        return size <= max(triton.next_power_of_2(needed), FLOOR)

    if INTERPRETED:
        return [SMALL]
    fitting = [row for row in table if suits(row[0], rows) and suits(row[1], columns)]
    return [dict(zip(NAMES, row, strict=True)) for row in fitting or table[-1:]]


def shape_class(sizes: Iterable[Any]) -> str:
    """Numbers rounded up to powers of two, and whatever else tells cases apart."""
    return " ".join(str(triton.next_power_of_2(size) if isinstance(size, int) else size) for size in sizes)


@cache
def version(folder: Path = Path(__file__).parent) -> str:
    """Of everything that a time depends on but the GPU: these sources, Triton and CUDA."""
    digest = hashlib.sha256(f"{triton.__version__} {torch.version.cuda}".encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def answers(device_name: str) -> Answers:
    """Those for a GPU model."""
    name = device_name.replace(" ", "-").replace("/", "-")
    return Answers(cache_base() / "triton" / f"{name}-{version()}.json", "block sizes", _is_tile)


def _is_tile(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(size, int) for size in value.values())


class Choice:
    """The fastest of several sizes by trial, once for a key and device; the first in the interpreter, which is slow."""

    def __init__(self, name: str, tiles: list[Tile], key: Iterable[Any]) -> None:
        self.tiles, self.key = tiles, f"{name} {shape_class(key)}"
        self.made: dict[torch.device, Tile] = {}

    def __call__(self, device: torch.device, call: Callable[[Tile], object], before: Before = len) -> Tile:
        """The tile for a device, which is current; call(tile) launches with it, before(tiles) precedes any trial."""
        if device not in self.made:
            self.made[device] = self.tiles[0] if INTERPRETED else self.by_trial(device, call, before)
        return self.made[device]

    def by_trial(self, device: torch.device, call: Callable[[Tile], object], before: Before) -> Tile:
        known = answers(torch.cuda.get_device_name(device))
        return known.by_trial(self.key, self.tiles, partial(tried, call), before)


def tried(call: Callable[[Tile], object], tile: Tile) -> float:
    """Median seconds of one call on the current device; inf where the tile asks for more than the device has."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    try:
        call(tile)
    except (OutOfResources, PTXASError, CompilationError):
        return inf
    times = []
    for _ in range(TRIALS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(CALLS):
            call(tile)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e-3 / CALLS)
    return sorted(times)[TRIALS // 2]
