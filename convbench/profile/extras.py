"""What else is measured alone for advice: separable pairs, rounder shapes, lower precision, a bare call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from convbench import count
from convbench.case import Case, DType
from convbench.measure import Policy, measure, series_interval
from convbench.profile.layers import interval, torchs
from convbench.profile.model import Cliff, LayerRow, Separable
from convbench.profile.watch import warm_timer
from convbench.ratios import quotient
from convbench.records import spec_of
from convbench.results import Record, RecordedRow
from convbench.savings import analyse, quartets
from convbench.savings.analysis import roof
from convbench.spec import ConvSpec

MOST_MEASURED = 2  # dense layers whose pair is measured, and layers of each kind of uneven shape; the longest first
DENSE = ("standard", "dilated")
EVEN = 16  # channels that vector units and tensor cores like: a multiple of it
EVEN_SIZE = 8  # pixels, of height and width
FEW_CHANNELS = 4  # images: nobody would pad these


def pair_cases(rows: Sequence[LayerRow]) -> list[Case]:
    """Dense forward layers that take the longest, and what would replace them."""
    return quartets(_case(row) for row in _dense(rows)[:MOST_MEASURED])


def neighbour_cases(rows: Sequence[LayerRow]) -> list[Case]:
    """The longest forward layers with uneven channels, with these rounded up; and the same of height and width."""
    layers = _forward(rows)
    return [case for rounded in NEIGHBOURS for case in list(filter(None, map(rounded, layers)))[:MOST_MEASURED]]


def lower_cases(rows: Sequence[LayerRow]) -> list[Case]:
    """Every float32 layer and pass in the types that take half the room, each shape once."""
    cases = {(_spec(row), row.pass_): row for row in rows if row.dtype == "float32"}.values()
    return [replace(_case(row), pass_=row.pass_, dtype=dtype) for row in cases for dtype in _lower(row.device)]


def _lower(device: str) -> tuple[DType, ...]:
    return ("bfloat16", "float16") if device.startswith("cuda") else ("bfloat16",)


def separables(rows: Sequence[LayerRow], record: Record) -> list[Separable]:
    """Every dense forward layer against its pair; measured where the record holds the pair."""
    record = msgspec.structs.replace(record, rows=[row for row in record.rows if row.dtype == rows[0].dtype])
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
    """Layers that are faster with more channels or pixels, by the whole interval."""
    timed: dict[tuple, RecordedRow] = {}
    for row in alone:
        if row.pass_ == "forward" and row.median_s:
            timed[spec_of(row), row.dtype, row.implementation] = row
    found = []
    for layer in _forward(rows):
        name = torchs(layer.layout)
        own = timed.get((_spec(layer), layer.dtype, name))
        for case in filter(None, (rounded(layer) for rounded in NEIGHBOURS)):
            more = timed.get((case.spec, layer.dtype, name))
            gain = quotient(interval(own), interval(more)) if own and more else None
            if more and gain and gain.low and gain.low > 1:
                found.append(Cliff(
                    case=layer.case, c=layer.c, h=layer.h, w=layer.w, k=layer.k, more_c=more.c, more_h=more.h,
                    more_w=more.w, more_k=more.k, speedup=gain.value, ci_low=gain.low, ci_high=gain.high,
                ))  # fmt: skip
    return found


def call_seconds(device: str) -> float:
    """Time of a convolution of one number: what a call of torch costs."""
    import torch

    x = torch.ones(1, 1, 1, 1, device=device)
    with torch.inference_mode():
        samples = measure({"call": lambda: torch.conv2d(x, x)}, Policy(0.05, 0.1), timer=warm_timer(device))
    return series_interval(samples["call"].seconds).value


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


def _even_channels(row: LayerRow) -> Case | None:
    """None where they are even, or grouped."""
    if row.groups > 1:
        return None
    c, k = (-(-n // EVEN) * EVEN if n > FEW_CHANNELS else n for n in (row.c, row.k))
    case = _case(row)
    even = replace(case, spec=replace(case.spec, c=c, k=k), name=f"{row.case}.even_channels")
    return even if even.spec != case.spec else None


def _even_size(row: LayerRow) -> Case | None:
    """None where it is even."""
    h, w = (-(-n // EVEN_SIZE) * EVEN_SIZE for n in (row.h, row.w))
    case = _case(row)
    even = replace(case, spec=replace(case.spec, h=h, w=w), name=f"{row.case}.even_size")
    return even if even.spec != case.spec else None


NEIGHBOURS = (_even_channels, _even_size)


def _least(spec: ConvSpec, row: LayerRow, record: Record, pair: tuple[ConvSpec, ...]) -> float | None:
    """Least time of the dense layer over that of the pair as two calls, both under the measured peaks."""
    place = ("forward", row.dtype, row.device)
    roofs = [roof(each, place, record.peaks) for each in (spec, *pair)]
    times = [each.seconds(count.flops(s)) for each, s in zip(roofs, (spec, *pair), strict=True) if each]
    return times[0] / sum(times[1:]) if len(times) == len(roofs) else None
