"""Why the measured ratio is not the one on paper, in words that follow from the numbers."""

from __future__ import annotations

from convbench import count
from convbench.roofline import COMPUTE, Roof
from convbench.savings.model import Half

SHORT_CALL_S = 50e-6  # where a call's fixed cost (dispatch and starting threads: microseconds) shows
FAR_FROM_THE_LIMIT = 0.25  # below this share the limit is not what explains the time


def reasons(
    halves: dict[str, Half], roofs: dict[str, Roof | None], paper: float, measured: dict[str, float | None]
) -> list[str]:
    """Why the measured ratio is not the one on paper, most telling first; empty without measurements."""
    ratio = measured["measured_unfused"]
    if ratio is None:
        return []
    dense, depthwise, pointwise = (halves[name] for name in ("dense", "depthwise", "pointwise"))
    lines = [_accounting(dense, depthwise, pointwise, paper, ratio), _share(depthwise, pointwise, roofs["depthwise"])]
    for name in ("dense", "pointwise"):
        if roofs[name]:
            lines.append(_utilisation(name, halves[name], roofs[name]))
    lines += _call_cost(depthwise, pointwise)
    if measured["measured_fused"]:
        lines.append(_fusion(halves["fused"], depthwise, pointwise))
    return lines


def _seconds(half: Half) -> float:
    assert half.median_s
    return half.median_s


def _gflops(macs: int, seconds: float) -> float:
    return count.FLOPS_PER_MAC * macs / seconds / 1e9


def _accounting(dense: Half, depthwise: Half, pointwise: Half, paper: float, ratio: float) -> str:
    """measured = paper x (pair's rate / dense rate), exactly."""
    seconds = _seconds(depthwise) + _seconds(pointwise)
    pair = _gflops(depthwise.macs + pointwise.macs, seconds)
    rate = _gflops(dense.macs, _seconds(dense))
    return (
        f"{ratio:.2f}x measured against {paper:.2f}x on paper: the pair computes at {pair:.0f} GFLOP/s, "
        f"{ratio / paper:.0%} of the dense layer's {rate:.0f} GFLOP/s"
    )


def _share(depthwise: Half, pointwise: Half, roof: Roof | None) -> str:
    seconds = _seconds(depthwise)
    arithmetic, time = depthwise.macs / (depthwise.macs + pointwise.macs), seconds / (seconds + _seconds(pointwise))
    name = f"depthwise ({depthwise.implementation})"
    text = f"{name} is {arithmetic:.1%} of the pair's arithmetic and {time:.0%} of its time"
    if roof is None:
        return f"{text}, at {depthwise.intensity:.1f} FLOP/byte"
    reached = _reached(depthwise, roof)
    if roof.bound == COMPUTE:
        limit = f"at {depthwise.intensity:.1f} FLOP/byte bound by arithmetic, it reaches {reached:.0%} of the peak"
    else:
        limit = (
            f"at {depthwise.intensity:.1f} FLOP/byte, below the ridge of {roof.ridge:.1f}, it is bound by "
            f"{roof.level} bandwidth, of which it reaches {reached:.0%}"
        )
    return f"{text}: {limit}" + ("; the kernel and its call cost the rest" if reached < FAR_FROM_THE_LIMIT else "")


def _utilisation(name: str, half: Half, roof: Roof | None) -> str:
    assert roof
    limit = "the compute peak" if roof.bound == COMPUTE else f"what {roof.bound} bandwidth allows"
    return f"{name} ({half.implementation}) reaches {_reached(half, roof):.0%} of {limit}"


def _reached(half: Half, roof: Roof) -> float:
    """Share of what limits it: of the peak by the taps on real pixels, for a kernel may leave out those on padding."""
    if roof.bound == COMPUTE:
        return count.FLOPS_PER_MAC * half.valid_macs / _seconds(half) / roof.peak_flops_per_s
    return half.bytes / _seconds(half) / roof.bytes_per_s


def _call_cost(depthwise: Half, pointwise: Half) -> list[str]:
    seconds = min(_seconds(depthwise), _seconds(pointwise))
    if seconds >= SHORT_CALL_S:
        return []
    return [f"the shorter of the two calls takes {seconds * 1e6:.0f} us: the fixed cost of a call counts, twice"]


def _fusion(fused: Half, depthwise: Half, pointwise: Half) -> str:
    change = (_seconds(depthwise) + _seconds(pointwise)) / _seconds(fused)
    moved = depthwise.bytes + pointwise.bytes - fused.bytes
    if change >= 1:
        return f"fusing the pair ({fused.implementation}) gains another {change:.2f}x: {moved:,} bytes fewer to move"
    return f"the fused pair ({fused.implementation}) is {1 / change:.2f}x slower than the best two calls"
