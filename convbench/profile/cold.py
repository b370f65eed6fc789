"""Layers alone with cold weights: what a call pays when other layers have driven its weights out of the caches.

In a model a layer's input has just been written, and its weights were last read a step ago. So before each call that is
timed the caches are filled with other data, and the same is called with other weights: that brings everything back but
the weights, the code too. The gradient of the weights has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convbench.case import Case
from convbench.measure import FEWEST_FOR_INTERVAL, Interval, Timer, series_interval
from convbench.operands import in_layout, reals
from convbench.plugin import Implementation
from convbench.profile.layers import torchs
from convbench.profile.model import LayerRow
from convbench.records import spec_of
from convbench.results import Environment

WEIGHTS = "w"
SAMPLES = FEWEST_FOR_INTERVAL + 3
MOST_BYTES = 256 * 2**20  # a virtual machine may be told of a cache that it shares with many
FALLBACK_BYTES = 64 * 2**20
Cold = dict[tuple, Interval]  # by key()


def key(row: LayerRow) -> tuple:
    """Rows with equal keys are the same call alone."""
    return spec_of(row), row.pass_, row.dtype, torchs(row.layout)


def measure_cold(
    rows: Sequence[LayerRow], implementations: Sequence[Implementation], timer: Timer, environment: Environment
) -> Cold:
    """Seconds of each call by torch, in its layout, with cold weights; calls that torch alone has no time for left out.

    timer   times one call without touching the caches
    """
    import torch

    by_name = {implementation.name: implementation for implementation in implementations}
    flushed = torch.ones(flush_bytes(rows[0].device, environment), dtype=torch.uint8, device=rows[0].device)
    found: Cold = {}
    for row in rows:
        implementation = by_name.get(torchs(row.layout))
        if row.isolated_s and row.pass_ != "weight_gradient" and implementation and key(row) not in found:
            found[key(row)] = _time(row, implementation, flushed, timer)
    return found


def _time(row: LayerRow, implementation: Implementation, flushed: Any, timer: Timer) -> Interval:
    import torch

    case = Case(spec_of(row), row.pass_, row.dtype, row.device)  # type: ignore[arg-type]
    operands = in_layout(reals(case, seed=0), implementation.layout)
    others = operands | {WEIGHTS: operands[WEIGHTS].clone()}
    kernel = implementation.build(case)
    seconds = []
    with torch.inference_mode():
        kernel.run(*operands.values())
        for _ in range(SAMPLES):
            flushed.add_(1)
            kernel.run(*others.values())
            seconds.append(timer(lambda: kernel.run(*operands.values()), 1))
    return series_interval(seconds)


def flush_bytes(device: str, environment: Environment) -> int:
    """Twice the last cache."""
    if device.startswith("cuda"):
        import torch

        return 2 * torch.cuda.get_device_properties(device).L2_cache_size
    caches = environment.cpu.get("caches") or {}
    sizes = [cache["bytes"] for cache in caches.values() if isinstance(cache, dict) and cache.get("bytes")]
    return min(2 * max(sizes, default=FALLBACK_BYTES // 2), MOST_BYTES)
