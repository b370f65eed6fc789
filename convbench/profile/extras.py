"""What else is measured alone for advice: separable pairs for dense layers, channels rounded up, a bare call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convbench import count
from convbench.case import Case
from convbench.machine.cuda_timer import CudaTimer
from convbench.measure import Policy, host_timer, measure, median_interval
from convbench.profile.layers import interval
from convbench.profile.model import Cliff, LayerRow, Separable
from convbench.ratios import quotient
from convbench.records import spec_of
from convbench.registry import CHANNELS_LAST, REFERENCE
from convbench.results import Record, RecordedRow
from convbench.savings import analyse, quartets
from convbench.savings.analysis import roof
from convbench.spec import ConvSpec

MOST_MEASURED = 2  # dense layers whose pair is measured, and layers whose channels are rounded up; the longest first
DENSE = ("standard", "dilated")
EVEN = 16  # channels that vector units and tensor cores like: a multiple of it
FEW_CHANNELS = 4  # images: nobody would pad these


def pair_cases(rows: Sequence[LayerRow]) -> list[Case]:
    """Dense forward layers that take the longest, and what would replace them."""
    return quartets(_case(row) for row in _dense(rows)[:MOST_MEASURED])


def cliff_cases(rows: Sequence[LayerRow]) -> list[Case]:
    """Forward layers with uneven channels that take the longest, with their channels rounded up."""
    uneven = [row for row in _forward(rows) if _rounded(row) != (row.c, row.k)]
    return [_even(row) for row in uneven[:MOST_MEASURED]]


def separables(rows: Sequence[LayerRow], record: Record) -> list[Separable]:
    """Every dense forward layer against its pair; measured where the record holds the pair."""
    names: dict[ConvSpec, str] = {}  # in the record: those of the first module of a shape
    for row in record.rows:
        names.setdefault(spec_of(row), row.case)
    measured = {saving.case: saving for saving in analyse(record) if saving.pass_ == "forward"}
    found = []
    for layer in _dense(rows):
        spec = _spec(layer)
        alike = [row.share for row in rows if row.pass_ == "forward" and _spec(row) == spec]
        pair = (spec.separable().depthwise(), spec.separable().pointwise())
        each = Separable(case=layer.case, modules=len(alike), share=sum(alike),
                         paper=count.macs(spec) / sum(map(count.macs, pair)),
                         roofline=_least(spec, layer, record, pair))  # fmt: skip
        if saving := measured.get(names.get(spec, "")):
            each.measured, each.measured_low = saving.measured_unfused, saving.measured_unfused_low
            each.measured_high = saving.measured_unfused_high
        found.append(each)
    return found


def cliffs(rows: Sequence[LayerRow], alone: Sequence[RecordedRow]) -> list[Cliff]:
    """Layers that are faster with more channels, by the whole interval."""
    timed = {(spec_of(r), r.implementation): r for r in alone if r.pass_ == "forward" and r.median_s}
    found = []
    for row in _forward(rows):
        name = CHANNELS_LAST if row.layout == "channels_last" else REFERENCE
        own, more = timed.get((_spec(row), name)), timed.get((_even(row).spec, name))
        if own is None or more is None or own is more:
            continue
        gain = quotient(interval(own), interval(more))
        if gain.low and gain.low > 1:
            found.append(Cliff(case=row.case, c=row.c, k=row.k, more_c=more.c, more_k=more.k, speedup=gain.value,
                               ci_low=gain.low, ci_high=gain.high))  # fmt: skip
    return found


def call_seconds(device: str) -> float:
    """Time of a convolution of one number: what a call of torch costs."""
    import torch

    x = torch.ones(1, 1, 1, 1, device=device)
    timer = CudaTimer(device, hot=True) if device.startswith("cuda") else host_timer
    with torch.inference_mode():
        samples = measure({"call": lambda: torch.conv2d(x, x)}, Policy(0.05, 0.1), timer=timer)
    return median_interval(samples["call"].seconds).value


def _forward(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Forward rows, each shape once, the longest first."""
    found: dict[ConvSpec, LayerRow] = {}
    for row in sorted(rows, key=lambda row: -row.step_s):
        if row.pass_ == "forward":
            found.setdefault(_spec(row), row)
    return list(found.values())


def _dense(rows: Sequence[LayerRow]) -> list[LayerRow]:
    """Those that a separable pair could replace: not the first layer, which mixes colours."""
    return [row for row in _forward(rows) if row.kind in DENSE and row.c > FEW_CHANNELS]


def _spec(row: LayerRow) -> ConvSpec:
    return spec_of(row)


def _case(row: LayerRow) -> Case:
    return Case(_spec(row), "forward", row.dtype, row.device, "model", row.case)  # type: ignore[arg-type]


def _rounded(row: LayerRow) -> tuple[int, int]:
    if row.groups > 1:
        return row.c, row.k
    return tuple(-(-n // EVEN) * EVEN if n > FEW_CHANNELS else n for n in (row.c, row.k))  # type: ignore[return-value]


def _even(row: LayerRow) -> Case:
    c, k = _rounded(row)
    case = _case(row)
    return replace(case, spec=replace(case.spec, c=c, k=k), name=f"{row.case}.even")


def _least(spec: ConvSpec, row: LayerRow, record: Record, pair: tuple[ConvSpec, ...]) -> float | None:
    """Least time of the dense layer over that of the pair as two calls, both under the measured peaks."""
    place = ("forward", row.dtype, row.device)
    roofs = [roof(each, place, record.peaks) for each in (spec, *pair)]
    times = [each.seconds(count.flops(s)) for each, s in zip(roofs, (spec, *pair), strict=True) if each]
    return times[0] / sum(times[1:]) if len(times) == len(roofs) else None
