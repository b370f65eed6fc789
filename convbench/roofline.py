"""The roofline: what the machine's measured limits allow a computation of a given size.

Williams, Waterman, Patterson: Roofline (CACM 52(4), 2009): attainable = min(P, B x intensity). P is the best
compute rate measured, B the bandwidth of the innermost level that holds all compulsory bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convbench.results import Peak

# Bytes are counted once each way, so the copy kernel is the traffic that fits best; triad where it was faster.
_BANDWIDTHS = ("copy", "triad")
_COMPUTE = ("fma", "gemm")


@dataclass(frozen=True)
class Roof:
    """Attainable FLOP/s, and what bounds it: compute, or the name of a memory level."""

    flops_per_s: float
    bound: str

    def seconds(self, flops: float) -> float:
        return flops / self.flops_per_s


def compute_peak(peaks: Sequence[Peak], device: str, dtype: str) -> float | None:
    """Best FLOP/s measured on the device in this dtype."""
    values = [p.value for p in peaks if p.quantity in _COMPUTE and p.device == device and p.dtype == dtype]
    return max(values, default=None)


def bandwidths(peaks: Sequence[Peak], device: str) -> list[tuple[str, int, float]]:
    """(level, bytes it holds, best bytes/s), innermost first; the outermost holds everything."""
    best: dict[str, tuple[int, float]] = {}
    for peak in peaks:
        if peak.quantity in _BANDWIDTHS and peak.device == device:
            size, value = best.get(peak.level, (0, 0.0))
            best[peak.level] = (max(size, peak.working_set_bytes or 0), max(value, peak.value))
    return sorted(((level, size, value) for level, (size, value) in best.items()), key=lambda item: item[1])


def attainable(flops: float, bytes_: float, peaks: Sequence[Peak], device: str, dtype: str) -> Roof | None:
    """The roof over ``flops`` operations on ``bytes_`` compulsory bytes; None where no peaks were measured."""
    peak, levels = compute_peak(peaks, device, dtype), bandwidths(peaks, device)
    if peak is None or not levels:
        return None
    # A probe's working set is about half its level, so up to twice that still lives there.
    level, _, bandwidth = next((item for item in levels if bytes_ <= 2 * item[1]), levels[-1])
    memory = bandwidth * flops / bytes_
    return Roof(peak, "compute") if peak <= memory else Roof(memory, level)
