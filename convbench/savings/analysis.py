"""From a run record to comparisons, and the cases that a comparison needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from convbench import count
from convbench.case import Case
from convbench.records import spec_of
from convbench.results import Peak, Record, RecordedRow
from convbench.roofline import Roof, attainable
from convbench.savings.model import Half, Saving
from convbench.savings.reasons import reasons
from convbench.spec import ConvSpec

_DENSE_KINDS = ("standard", "dilated")
HALVES = ("dense", "depthwise", "pointwise", "fused")

Place = tuple[str, str, str]  # pass, dtype, device: rows are compared within one place only
Timed = dict[ConvSpec, list[RecordedRow]]


def analyse(record: Record) -> list[Saving]:
    """Every comparison that the record's cases allow, in their order."""
    places: dict[Place, Timed] = defaultdict(lambda: defaultdict(list))
    for row in record.rows:
        places[row.pass_, row.dtype, row.device][spec_of(row)].append(row)
    return [
        _saving(dense, place, timed, record.peaks) for place, timed in places.items() for dense in _dense_specs(timed)
    ]


def quartets(cases: Iterable[Case]) -> list[Case]:
    """The cases to measure for a comparison of every dense layer and separable pair among ``cases``.

    Each once; what is not among them is named after the layer it belongs to.
    """
    cases = list(cases)
    known = {_key(case): case for case in reversed(cases)}
    found: dict[tuple, Case] = {}
    for case in cases:
        dense = case.spec.dense() if case.spec.is_separable else case.spec
        if dense.kind not in _DENSE_KINDS:
            continue
        for name, spec in _four(dense).items():
            needed = replace(case, spec=spec, name=f"{case.name}.{name}")
            found.setdefault(_key(needed), known.get(_key(needed), needed))
    return list(found.values())


def _key(case: Case) -> tuple:
    return case.spec, case.pass_, case.dtype, case.device


def _four(dense: ConvSpec) -> dict[str, ConvSpec]:
    pair = dense.separable()
    return dict(zip(HALVES, (dense, pair.depthwise(), pair.pointwise(), pair), strict=True))


def _dense_specs(specs: Iterable[ConvSpec]) -> list[ConvSpec]:
    """Dense convolutions whose pair is there too: as one operator, or as both halves."""
    known = dict.fromkeys(specs)
    found: dict[ConvSpec, None] = {}
    for spec in known:
        dense = spec.dense() if spec.is_separable else spec
        if dense.kind not in _DENSE_KINDS or dense not in known:
            continue
        _, depthwise, pointwise, pair = _four(dense).values()
        if pair in known or (depthwise in known and pointwise in known):
            found[dense] = None
    return list(found)


def _saving(dense: ConvSpec, place: Place, timed: Timed, peaks: list[Peak]) -> Saving:
    specs = _four(dense)
    best = {name: _best(timed.get(specs[name], [])) for name in ("dense", "fused")}
    best |= _best_calls(timed.get(specs["depthwise"], []), timed.get(specs["pointwise"], []))
    roofs = {name: roof(spec, place, peaks) for name, spec in specs.items()}
    halves = {name: _half(spec, place, roofs[name], best[name]) for name, spec in specs.items()}
    first = timed[dense][0]
    unfused, fused = ("depthwise", "pointwise"), ("fused",)
    measured: dict[str, Any] = {
        f"measured_{kind}{end}": _ratio(halves, names, f"{over}_s", f"{under}_s")
        for kind, names in (("unfused", unfused), ("fused", fused))
        for end, over, under in (
            ("", "median", "median"),
            ("_low", "ci_low", "ci_high"),
            ("_high", "ci_high", "ci_low"),
        )
    }
    paper = halves["dense"].macs / sum(halves[name].macs for name in unfused)
    return Saving(
        suite=first.suite, case=first.case, pass_=place[0], dtype=place[1], device=place[2],
        c=dense.c, h=dense.h, w=dense.w, k=dense.k, r=dense.r, s=dense.s,
        paper=paper,
        roofline_unfused=_ratio(halves, unfused, "roofline_s", "roofline_s"),
        roofline_fused=_ratio(halves, fused, "roofline_s", "roofline_s"),
        **measured,
        same_implementation=_same_implementation([timed.get(specs[name], []) for name in HALVES[:3]]),
        dense=halves["dense"], depthwise=halves["depthwise"], pointwise=halves["pointwise"], fused=halves["fused"],
        reasons=reasons(halves, roofs, paper, measured),
    )  # fmt: skip


def roof(spec: ConvSpec, place: Place, peaks: list[Peak]) -> Roof | None:
    """Roofline of one convolution by its nominal FLOPs; None without measured peaks."""
    case = _case(spec, place)
    return attainable(count.flops(spec, case.pass_), count.compulsory_bytes(case), peaks, place[2], place[1])


def _case(spec: ConvSpec, place: Place) -> Case:
    return Case(spec, *place)  # type: ignore[arg-type]


def _half(spec: ConvSpec, place: Place, roof: Roof | None, row: RecordedRow | None) -> Half:
    case = _case(spec, place)
    macs = count.macs(spec, case.pass_)
    half: dict[str, Any] = {"macs": macs, "valid_macs": count.valid_macs(spec, case.pass_)}
    half |= {"bytes": count.compulsory_bytes(case), "intensity": count.intensity(case)}
    if roof:
        half |= {"roofline_s": roof.seconds(count.FLOPS_PER_MAC * macs), "bound": roof.bound}
    if row:
        half |= {name: getattr(row, name) for name in ("implementation", "median_s", "ci_low_s", "ci_high_s")}
    return Half(**half)


def _best(rows: list[RecordedRow]) -> RecordedRow | None:
    return min((row for row in rows if row.median_s), key=lambda row: row.median_s or 0.0, default=None)


def _best_calls(depthwise: list[RecordedRow], pointwise: list[RecordedRow]) -> dict[str, RecordedRow | None]:
    """The fastest two calls in one layout: what the first returns is what the second takes, nothing is converted."""
    layouts = dict.fromkeys(row.layout for row in depthwise)
    calls = [[_best([row for row in rows if row.layout == layout]) for rows in (depthwise, pointwise)]
             for layout in layouts]  # fmt: skip
    whole = [(first, second) for first, second in calls if first and second]
    alone = _best(depthwise)
    first, second = min(whole, key=_together, default=(alone, None if alone else _best(pointwise)))
    return {"depthwise": first, "pointwise": second}


def _together(calls: tuple[RecordedRow | None, RecordedRow | None]) -> float:
    return sum(row.median_s or 0.0 for row in calls if row)


def _ratio(halves: dict[str, Half], parts: Iterable[str], over: str, under: str) -> float | None:
    """Dense time over the sum of the parts' times; None when one is missing."""
    dense = getattr(halves["dense"], over)
    times = [getattr(halves[part], under) for part in parts]
    return dense / sum(times) if dense and all(times) else None


def _same_implementation(rows: list[list[RecordedRow]]) -> dict[str, float]:
    times = [{row.implementation: row.median_s for row in some if row.median_s} for some in rows]
    dense, depthwise, pointwise = times
    return {
        name: dense[name] / (depthwise[name] + pointwise[name])  # type: ignore[operator]
        for name in dense
        if name in depthwise and name in pointwise
    }
