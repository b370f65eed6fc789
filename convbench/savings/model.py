"""One comparison of a dense layer with its separable pair, as plain data."""

from __future__ import annotations

from msgspec import Struct, field


class Half(Struct, frozen=True, kw_only=True):
    """One of the four convolutions of a comparison, with the fastest implementation measured."""

    macs: int
    valid_macs: int
    bytes: int
    intensity: float
    roofline_s: float | None = None
    bound: str | None = None
    implementation: str | None = None
    median_s: float | None = None
    ci_low_s: float | None = None
    ci_high_s: float | None = None


class Saving(Struct, frozen=True, kw_only=True):
    """One dense layer against its separable pair. Ratios are dense / pair: above 1 the pair wins.

    ``unfused`` is depthwise then pointwise as two calls, ``fused`` the pair as one operator.
    ``same_implementation`` maps an implementation that has all three to its own unfused ratio.
    """

    suite: str
    case: str
    pass_: str = field(name="pass")
    dtype: str
    device: str
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    paper: float
    roofline_unfused: float | None
    roofline_fused: float | None
    measured_unfused: float | None
    measured_unfused_low: float | None
    measured_unfused_high: float | None
    measured_fused: float | None
    measured_fused_low: float | None
    measured_fused_high: float | None
    same_implementation: dict[str, float]
    dense: Half
    depthwise: Half
    pointwise: Half
    fused: Half
    reasons: list[str]
