"""The roofline: what the machine's measured limits allow a computation of a given size.

Williams, Waterman, Patterson: Roofline (CACM 52(4), 2009): attainable = min(P, B x intensity), with the
ridge at P / B. P is the best compute rate measured (FMA or GEMM) in the dtype, B the best bandwidth (copy or
triad) of the innermost level that holds all compulsory bytes: each input read once, each output written once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from convbench.results import Peak

COMPUTE = "compute"
_BANDWIDTHS = ("copy", "triad")
_COMPUTE = ("fma", "gemm")
_LEVEL_PER_WORKING_SET = 2  # a probe's working set is about half its level, so twice that still lives there


@dataclass(frozen=True, slots=True)
class Roof:
    """The limits over one computation: rates in FLOP/s and bytes/s, intensities in FLOP/byte."""

    intensity: float
    peak_flops_per_s: float
    bytes_per_s: float
    level: str

    @property
    def ridge(self) -> float:
        """The intensity from which arithmetic is the limit."""
        return self.peak_flops_per_s / self.bytes_per_s

    @property
    def flops_per_s(self) -> float:
        """Attainable FLOP/s."""
        return min(self.peak_flops_per_s, self.bytes_per_s * self.intensity)

    @property
    def bound(self) -> str:
        """``compute``, or the memory level whose bandwidth is the limit."""
        return COMPUTE if self.intensity >= self.ridge else self.level

    def seconds(self, flops: float) -> float:
        """Least time for that many FLOPs under this roof."""
        return flops / self.flops_per_s


def compute_peak(peaks: Sequence[Peak], device: str, dtype: str) -> float | None:
    """Best FLOP/s measured on the device in this dtype."""
    values = [p.value for p in peaks if p.quantity in _COMPUTE and p.device == device and p.dtype == dtype]
    return max(values, default=None)


def bandwidths(peaks: Sequence[Peak], device: str) -> list[tuple[str, int, float]]:
    """(level, working set in bytes, best bytes/s), innermost first. Bytes cost the same in every dtype."""
    best: dict[str, tuple[int, float]] = {}
    for peak in peaks:
        if peak.quantity in _BANDWIDTHS and peak.device == device:
            size, value = best.get(peak.level, (0, 0.0))
            holds = sys.maxsize if peak.working_set_bytes is None else peak.working_set_bytes
            best[peak.level] = (max(size, holds), max(value, peak.value))
    return sorted(((level, size, value) for level, (size, value) in best.items()), key=lambda item: item[1])


def attainable(flops: float, bytes_: float, peaks: Sequence[Peak], device: str, dtype: str) -> Roof | None:
    """The roof over ``flops`` operations on ``bytes_`` compulsory bytes; None where no peaks were measured.

    The outermost level holds whatever no other does.
    """
    peak, levels = compute_peak(peaks, device, dtype), bandwidths(peaks, device)
    if peak is None or not levels:
        return None
    fitting = (item for item in levels if bytes_ <= _LEVEL_PER_WORKING_SET * item[1])
    level, _, bytes_per_s = next(fitting, levels[-1])
    return Roof(flops / bytes_, peak, bytes_per_s, level)
