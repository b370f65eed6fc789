"""Ratios, times and layers as advice says them."""

from __future__ import annotations

from collections.abc import Sequence

from convbench.profile.model import LayerRow


def ratio(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.2f}x" + (f" ({low:.2f} - {high:.2f})" if low and high else "")


def failure(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def ms(seconds: float | None) -> str:
    return f"{1e3 * (seconds or 0.0):.3g} ms"


def passes(rows: Sequence[LayerRow]) -> str:
    return "One pass of a layer is" if len(rows) == 1 else f"{len(rows)} passes of layers are"


def names(rows: Sequence[LayerRow]) -> list[str]:
    return list(dict.fromkeys(row.case for row in sorted(rows, key=lambda row: -row.share)))
