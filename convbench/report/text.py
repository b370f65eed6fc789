"""Text and numbers of the page: three significant digits, engineering prefixes, nothing for what is missing."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

from convbench.results import Peak, Record, RecordedRow
from convbench.untrusted import printable, shortened

DEEPEST = 20  # levels of lists in lists that are shown
LONGEST_LIST = 1000  # items of one, beside the rows
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def clean(value: Any, longest: int | None = None, deepest: int = DEEPEST) -> Any:
    """Any value of a record with its text made harmless to read.

    Control, surrogate and direction characters become U+FFFD, so that no name can reorder or hide what
    stands around it; long text is cut, and lists after ``longest`` items; numbers that are not finite, and what lies
    deeper, become None.
    """
    if isinstance(value, str):
        return printable(shortened(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict | list | tuple) and not deepest:
        return None
    if isinstance(value, dict):
        return {clean(str(key)): clean(item, longest, deepest - 1) for key, item in islice(value.items(), longest)}
    if isinstance(value, list | tuple):
        return [clean(item, longest, deepest - 1) for item in islice(value, longest)]
    return value


def clean_record(record: Record) -> Record:
    """The record as the page may show it: clean text, finite numbers, no raw samples."""
    import msgspec

    def tidy(struct: Any, **changes: Any) -> Any:
        values = msgspec.to_builtins(msgspec.structs.replace(struct, **changes))
        return msgspec.convert(clean(values, LONGEST_LIST), type(struct))

    timings = {name: value for name, value in record.timings.items() if math.isfinite(value)}
    bare = tidy(record, rows=[], peaks=[], timings=timings)
    bare.peaks = clean_peaks(record.peaks)
    bare.rows = [tidy(row, samples_s=[], rounds=[]) for row in record.rows]
    return bare


def clean_peaks(peaks: list[Peak]) -> list[Peak]:
    """Peaks with clean names and values that can be."""
    import msgspec

    kept = [peak for peak in peaks if math.isfinite(peak.value) and peak.value > 0]
    return [msgspec.convert(clean(msgspec.to_builtins(peak)), Peak) for peak in kept]


def significant(value: float | None) -> str:
    """Three significant digits without an exponent: 0.0123, 1.20, 45.6, 789, 12,300."""
    if value is None or not math.isfinite(value):
        return ""
    rounded = float(f"{value:.3g}")
    if rounded == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(digits, 0)}f}"


def engineering(value: float | None, unit: str) -> str:
    """A value in base units with an engineering prefix: 1.23 ms, 45.6 GFLOP/s."""
    if value is None or not math.isfinite(value):
        return ""
    rounded = abs(float(f"{value:.3g}"))
    scale, prefix = next((p for p in _PREFIXES if rounded >= p[0]), _PREFIXES[-1] if rounded else (1.0, ""))
    return f"{significant(value / scale)} {prefix}{unit}"


def seconds(value: float | None) -> str:
    """A time of one call: 1.23 ms."""
    return engineering(value, "s")


def duration(value: float | None) -> str:
    """A time a person waited: 3 min 5 s."""
    if value is None:
        return ""
    whole = round(value)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else engineering(value, "s")


def size(value: float | None) -> str:
    """Memory in binary units: 32 KiB."""
    if value is None:
        return ""
    scale, unit = next((s for s in _BINARY if value >= s[0]), _BINARY[-1])
    return f"{value / scale:.3g} {unit}"


def percent(value: float | None) -> str:
    """A share with three significant digits: 83.2%."""
    return "" if value is None else f"{significant(100 * value)}%"


def times(value: float | None) -> str:
    """A ratio: 1.34×."""
    return "" if value is None else f"{significant(value)}×"


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval of ratios."""
    return "" if low is None or high is None else f"{significant(low)} – {significant(high)}"


def error(value: float | None) -> str:
    """A relative error: 4.2e-07."""
    return "" if value is None else f"{value:.1e}" if value else "0"


def tint(speedup: float | None, low: float | None, high: float | None) -> str:
    """CSS class of a ratio: how far from 1, and flat while its interval holds 1."""
    if not speedup or (low and high and low <= 1 <= high):
        return "flat"
    strength = 1 + (abs(math.log2(speedup)) > 0.2) + (abs(math.log2(speedup)) > 0.6)
    return f"{'up' if speedup > 1 else 'down'}{strength}"


def half_width(row: RecordedRow) -> float | None:
    """Half the 95% interval of the median, relative to it."""
    if not row.median_s or row.ci_low_s is None or row.ci_high_s is None:
        return None
    return (row.ci_high_s - row.ci_low_s) / 2 / row.median_s


def shape(row: Any) -> str:
    """Input, filters and what is not the default: 64×56×56 → 128, 3×3 s2 g64; batch only above 1.

    row: a RecordedRow, or anything with its columns.
    """

    def both(letter: str, h: int, w: int, default: int) -> list[str]:
        return [] if h == w == default else [f"{letter}{h}" if h == w else f"{letter}{h}×{w}"]

    batch = f"{row.n}×" if row.n > 1 else ""
    extras = both("s", row.stride_h, row.stride_w, 1) + both("d", row.dilation_h, row.dilation_w, 1)
    extras += [f"g{row.groups}"] * (row.groups > 1)
    return " ".join([f"{batch}{row.c}×{row.h}×{row.w} → {row.k}, {row.r}×{row.s}", *extras])


def peak_value(peak: Peak) -> str:
    """A measured limit with its unit."""
    return engineering(peak.value, "FLOP/s" if peak.quantity in ("fma", "gemm") else "B/s")
