"""Joins what was seen inside the model with what was measured alone: one row a layer and pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, get_args

from convbench import count
from convbench.case import Case, DType
from convbench.measure import Interval, series_interval
from convbench.profile.look import Seen
from convbench.profile.model import CALL, PACKING, LayerRow, OtherOperator
from convbench.profile.watch import Event, Layer
from convbench.ratios import quotient
from convbench.receptive_field import Field, largest
from convbench.records import shape_columns, spec_of
from convbench.registry import CHANNELS_LAST, REFERENCE
from convbench.results import Peak, RecordedRow
from convbench.roofline import attainable

WORTH_SWAPPING = 1.05  # alone, by the lower end of the interval: less does not survive the model
MOSTLY_PACKING = 2.0  # over the time with weights packed ahead
MAIN = 0.95  # of the time; what is left is timed by torch alone
PREPACKED = "prepacked"  # in the name of what a user must prepare between calls (convbench.plugin)


def cases(layers: Iterable[Layer], device: str) -> list[Case]:
    """What to measure alone: each shape, type and pass once, named by the first module that has it."""
    found: dict[tuple, Case] = {}
    for layer in layers:
        if layer.dtype in get_args(DType):
            case = Case(layer.spec, layer.pass_, layer.dtype, device, "model", layer.name)  # type: ignore[arg-type]
            found.setdefault(_key(case), case)
    return list(found.values())


def longest_first(events: Sequence[Event]) -> tuple[list[Layer], list[Layer]]:
    """The layers and passes that together take MAIN of a step's convolutions, the longest first; and the rest."""
    seconds = {what: values[0] for what, (_, values) in sums([events]).items() if isinstance(what, Layer)}
    ordered = sorted(seconds, key=lambda layer: -seconds[layer])
    shares = accumulate(seconds[layer] / sum(seconds.values()) for layer in ordered)
    main = 1 + sum(share < MAIN for share in shares)
    return ordered[:main], ordered[main:]


def sums(steps: Sequence[Sequence[Event]]) -> dict[Layer | str, tuple[int, list[float]]]:
    """What ran -> (calls in the last step, its seconds in each step), in the order of first appearance."""
    seconds: dict[Layer | str, list[float]] = defaultdict(lambda: [0.0] * len(steps))
    for number, events in enumerate(steps):
        for event in events:
            seconds[event.what][number] += event.seconds
    calls: dict[Layer | str, int] = defaultdict(int)
    for event in steps[-1]:
        calls[event.what] += 1
    return {what: (calls[what], values) for what, values in seconds.items() if calls[what]}


def rows(
    steps: Sequence[Sequence[Event]], step_s: float, device: str, peaks: list[Peak], call_s: float | None,
    alone: Sequence[RecordedRow],
) -> list[LayerRow]:  # fmt: skip
    """One row for each layer and pass of the watched steps.

    step_s  time of a step that nobody watches
    call_s  what a call costs by itself, None where unknown
    alone   rows of a run over cases()
    """
    timed: dict[tuple, list[RecordedRow]] = defaultdict(list)
    for row in alone:
        timed[spec_of(row), row.pass_, row.dtype].append(row)
    return [
        _row(what, calls, series_interval(seconds), step_s, device, peaks, call_s,
             timed[what.spec, what.pass_, what.dtype], _lower(timed, what))
        for what, (calls, seconds) in sums(steps).items()
        if isinstance(what, Layer)
    ]  # fmt: skip


def add_fields(found: Sequence[LayerRow], seen: Iterable[Seen]) -> None:
    """The receptive field of each row's layer, of the call that reads farthest."""
    fields: dict[tuple, list[Field | None]] = defaultdict(list)
    for call in seen:
        fields[call.layer.name, call.layer.spec].append(call.field)
    for row in found:
        if field := largest(fields[row.case, spec_of(row)]):
            (row.receptive_field_h, row.receptive_field_w), row.coverage = field.size, field.coverage


def operators(steps: Sequence[Sequence[Event]], step_s: float) -> list[OtherOperator]:
    """Everything that is no two-dimensional convolution, the most expensive first."""
    found = [
        OtherOperator(
            operator=what, calls=calls, step_s=(whole := series_interval(seconds).value), share=whole / step_s
        )
        for what, (calls, seconds) in sums(steps).items()
        if isinstance(what, str)
    ]
    return sorted(found, key=lambda operator: -operator.step_s)


def totals(found: Sequence[LayerRow]) -> dict[str, Any]:
    """Sums over a step: calls, MACs, parameters (each module's once), bytes and seconds, in all and by pass."""
    whole: dict[str, Any] = {"params": sum({row.case: row.params for row in found if row.pass_ == "forward"}.values())}
    for name in ("", *dict.fromkeys(row.pass_ for row in found)):
        chosen = [row for row in found if name in ("", row.pass_)]
        sums_ = {column: sum(row.calls * getattr(row, column) for row in chosen)
                 for column in ("macs", "valid_macs", "bytes")}  # fmt: skip
        times = {"calls": sum(row.calls for row in chosen), "step_s": sum(row.step_s for row in chosen)}
        whole |= {f"{name}_{key}" if name else key: value for key, value in (sums_ | times).items()}
    return whole


def _row(
    layer: Layer, calls: int, step: Interval, step_s: float, device: str, peaks: list[Peak], call_s: float | None,
    alone: list[RecordedRow], lower: list[RecordedRow],
) -> LayerRow:  # fmt: skip
    spec, case = layer.spec, Case(layer.spec, layer.pass_, device=device)
    bytes_ = count.compulsory_bytes(case) * _item_bytes(layer.dtype) // _item_bytes("float32")
    macs, valid = count.macs(spec, layer.pass_), count.valid_macs(spec, layer.pass_)
    seconds = step.value / calls
    row = LayerRow(
        case=layer.name, pass_=layer.pass_, dtype=layer.dtype, device=device, layout=layer.layout,
        **shape_columns(spec), calls=calls,
        params=count.params(spec), macs=macs, valid_macs=valid, bytes=bytes_, intensity=2 * valid / bytes_,
        median_s=seconds, ci_low_s=step.low and step.low / calls, ci_high_s=step.high and step.high / calls,
        step_s=step.value, share=step.value / step_s, gflops=2 * macs / seconds / 1e9,
        gbytes_per_s=bytes_ / seconds / 1e9,
    )  # fmt: skip
    _add_roof(row, peaks, call_s)
    _add_alone(row, alone)
    _add_lower(row, lower)
    return row


def _lower(timed: dict[tuple, list[RecordedRow]], layer: Layer) -> list[RecordedRow]:
    """The same layer and pass in types of half its precision."""
    halves = ("bfloat16", "float16") if layer.dtype == "float32" else ()
    return [row for dtype in halves for row in timed[layer.spec, layer.pass_, dtype] if row.median_s]


def _item_bytes(dtype: str) -> int:
    import torch

    return getattr(torch, dtype).itemsize


def _add_roof(row: LayerRow, peaks: list[Peak], call_s: float | None) -> None:
    roof = attainable(2 * row.valid_macs, row.bytes, peaks, row.device, row.dtype) if row.valid_macs else None
    if roof is None:
        return
    row.attainable_gflops = roof.flops_per_s / 1e9
    row.roofline_fraction = 2 * row.valid_macs / row.median_s / roof.flops_per_s
    row.bound = CALL if call_s and call_s > roof.seconds(2 * row.valid_macs) else roof.bound


def torchs(layout: str) -> str:
    """The name of torch's implementation on tensors of a layout."""
    return CHANNELS_LAST if layout == "channels_last" else REFERENCE


def _add_alone(row: LayerRow, alone: list[RecordedRow]) -> None:
    timed = {other.implementation: other for other in alone if other.median_s}
    own = timed.get(torchs(row.layout)) or timed.get(REFERENCE)
    if own is None:
        return
    row.isolated_s, row.isolated_low_s, row.isolated_high_s = own.median_s, own.ci_low_s, own.ci_high_s
    swappable = [other for name, other in timed.items() if PREPACKED not in name]
    best = min(swappable, key=_seconds)
    gain = quotient(interval(own), interval(best))
    row.best_implementation, row.best_algorithm = best.implementation, best.algorithm
    row.best_layout, row.best_s = best.layout, best.median_s
    row.best_speedup, row.best_speedup_ci_low, row.best_speedup_ci_high = gain.value, gain.low, gain.high
    same = min((other for other in swappable if other.layout == own.layout), key=_seconds)
    if (quotient(interval(own), interval(same)).low or 0.0) > WORTH_SWAPPING:
        row.swap_implementation = same.implementation
    packed = [other for name, other in timed.items() if PREPACKED in name]
    if packed:
        gain = max(quotient(interval(own), interval(other)) for other in packed)
        row.prepacked_speedup = gain.value
        if row.bound != CALL and (gain.low or 0.0) > MOSTLY_PACKING:
            row.bound = PACKING


def _add_lower(row: LayerRow, lower: list[RecordedRow]) -> None:
    swappable = [other for other in lower if PREPACKED not in other.implementation]
    if not (swappable and row.isolated_s):
        return
    best = min(swappable, key=_seconds)
    gain = quotient(Interval(row.isolated_s, row.isolated_low_s, row.isolated_high_s), interval(best))
    row.lower_dtype, row.lower_implementation, row.lower_s = best.dtype, best.implementation, best.median_s
    row.lower_speedup, row.lower_speedup_ci_low, row.lower_speedup_ci_high = gain


def _seconds(row: RecordedRow) -> float:
    return row.median_s or 0.0


def interval(row: RecordedRow) -> Interval:
    """The time of a timed row."""
    assert row.median_s
    return Interval(row.median_s, row.ci_low_s, row.ci_high_s)


def same(one: Case, other: Case) -> bool:
    """Whether two cases are the same computation, whatever their names."""
    return _key(one) == _key(other)


def _key(case: Case) -> tuple:
    return case.spec, case.pass_, case.dtype
