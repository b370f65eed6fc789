"""Charts as Vega-Lite specifications without data or colours, and the data they share.

The page holds each specification once and the cells once; its script gives every chart the cells that the
filters leave. Colours are CSS variables, so that one chart serves light, dark and paper.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from convbench.report import text
from convbench.report.analysis import case_key, implementations, place, reference_of
from convbench.results import Peak, RecordedRow

if TYPE_CHECKING:
    import altair as alt

PALETTE = 11  # --c1 to --c11 in style.css; the reference is --c0
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")  # one a family
LABEL_LENGTH = 60
CLOSE = 1.5  # ratio of two bandwidths whose labels would overlap
RATIO_TICKS = [round(m * 10.0**e, 9) for e in range(-3, 4) for m in (1, 1.2, 1.5, 2, 3, 4, 5, 7)]

Span = tuple[float, float]

FIELDS = (
    "layer", "implementation", "kind", "pass", "place", "shape", "algorithm", "time", "intensity", "rate", "gflops",
    "fraction", "speedup", "low", "high", "speedup_text",
)  # fmt: skip


def styles(rows: Iterable[RecordedRow]) -> dict[str, tuple[str, str]]:
    """Implementation -> (CSS colour, symbol): a colour each, a symbol for each family."""
    rows = list(rows)
    families: dict[str, str] = {}
    found: dict[str, tuple[str, str]] = {}
    reference = reference_of(rows)
    for name in implementations(rows):
        shape = families.setdefault(name.partition(".")[0], SHAPES[len(families) % len(SHAPES)])
        number = 0 if name == reference else 1 + (len(found) - (reference in found)) % PALETTE
        found[name] = (f"var(--c{number})", shape)
    return found


def layer_labels(rows: Sequence[RecordedRow]) -> dict[tuple, str]:
    """A short unique label for each layer: its name, and what else tells it from the others."""
    varying = [name for name in ("pass_", "dtype", "device") if len({getattr(row, name) for row in rows}) > 1]
    if len({row.suite for row in rows}) > 1:
        varying.insert(0, "suite")
    labels: dict[tuple, str] = {}
    used: dict[str, int] = defaultdict(int)
    for row in rows:
        key = case_key(row)
        if key not in labels:
            label = " · ".join([row.case, *(getattr(row, name) for name in varying)])
            label = label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"
            used[label] += 1
            labels[key] = label if used[label] == 1 else f"{label} ({used[label]})"
    return labels


def cells(rows: Sequence[RecordedRow], labels: dict[tuple, str]) -> dict[str, list[Any]]:
    """Timed cells by column; rates count valid taps, so that a dot's height under its roof is its fraction."""
    columns: dict[str, list[Any]] = {name: [] for name in FIELDS}
    for row in rows:
        if row.median_s and row.valid_macs and row.bytes:
            for name, value in zip(FIELDS, _cell(row, labels[case_key(row)]), strict=True):
                columns[name].append(value)
    return columns


def _cell(row: RecordedRow, label: str) -> tuple[Any, ...]:
    assert row.median_s and row.valid_macs and row.bytes
    width = text.half_width(row)
    spread = "" if width is None else f" ± {text.percent(width)}"
    ends = text.interval(row.speedup_ci_low, row.speedup_ci_high)
    return (
        label, row.implementation, row.kind, row.pass_, place(row), text.shape(row), row.algorithm or "",
        f"{text.seconds(row.median_s)}{spread}",
        short(2 * row.valid_macs / row.bytes), short(2 * row.valid_macs / row.median_s / 1e9),
        text.significant(row.gflops), text.percent(row.roofline_fraction),
        short(row.speedup_vs_reference), short(row.speedup_ci_low), short(row.speedup_ci_high),
        f"{text.times(row.speedup_vs_reference)} ({ends})" if ends else text.times(row.speedup_vs_reference),
    )  # fmt: skip


def short(value: float | None) -> float | None:
    """Four significant digits: what a chart can show."""
    return None if value is None else float(f"{value:.4g}")


# Roofs ------------------------------------------------------------------------------------------------


def roofs(peaks: Sequence[Peak], data: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Line segments of the roofs of each place that has cells, inside the domain of the chart."""
    domain = domains(peaks, data)
    return [line for where in dict.fromkeys(data["place"]) for line in _roofs_of(where, peaks, domain)]


def _roofs_of(where: str, peaks: Sequence[Peak], domain: tuple[Span, Span]) -> Iterator[dict[str, Any]]:
    (x_low, x_high), (y_low, _) = domain
    compute, rates = _limits(where, peaks)
    if not compute or not rates:
        return
    top, above, last = max(compute.values()), False, math.inf
    for level, rate in sorted(rates.items(), key=lambda item: -item[1]):
        # Labels of two lines that nearly touch go on their outer sides.
        above = not (above and last < CLOSE * rate)
        last = rate
        x = max(x_low, y_low / rate)
        label = f"{level} {text.engineering(rate * 1e9, 'B/s')}"
        yield _line(where, "memory" if above else "memory-below", label, (x, rate * x), (top / rate, top))
    for quantity, value in compute.items():
        label = f"{quantity.upper()} {text.engineering(value * 1e9, 'FLOP/s')}"
        start = value / max(rates.values())
        yield _line(where, "peak" if value == top else "lower", label, (start, value), (x_high, value))


def _limits(where: str, peaks: Sequence[Peak]) -> tuple[dict[str, float], dict[str, float]]:
    """Compute limits by probe (GFLOP/s) and the best bandwidth by level (GB/s) of one place."""
    device, _, dtype = where.rpartition(", ")
    compute: dict[str, float] = {}
    rates: dict[str, float] = {}
    for peak in peaks:
        if peak.device == device and peak.quantity in ("copy", "triad"):
            rates[peak.level] = max(peak.value / 1e9, rates.get(peak.level, 0.0))
        elif peak.device == device and peak.dtype == dtype:
            compute[peak.quantity] = max(peak.value / 1e9, compute.get(peak.quantity, 0.0))
    return compute, rates


def _line(where: str, style: str, label: str, start: Span, end: Span) -> dict[str, Any]:
    ends = dict(zip(("x", "y", "x2", "y2"), map(short, (*start, *end)), strict=True))
    return {"place": where, "style": style, "label": label, **ends}


def domains(peaks: Sequence[Peak], data: dict[str, list[Any]]) -> tuple[Span, Span]:
    """((intensity low, high), (GFLOP/s low, high)) that hold every cell, every ridge and the compute peaks."""
    xs, ys = list(data["intensity"]) or [1.0], list(data["rate"]) or [1.0]
    for where in dict.fromkeys(data["place"]):
        compute, rates = _limits(where, peaks)
        xs += [max(compute.values()) / rate for rate in rates.values() if compute]
        ys += compute.values()
    return (min(xs) / 2, max(xs) * 2), (min(ys) / 2, max(ys) * 2)


# Specifications -----------------------------------------------------------------------------------------


def roofline_spec(rows: Sequence[RecordedRow], peaks: Sequence[Peak], data: dict[str, list[Any]]) -> dict[str, Any]:
    """Log-log roofline: every timed cell under the measured roofs."""
    import altair as alt

    dots = alt.Chart(alt.NamedData("cells")).mark_point(filled=True, size=52, opacity=0.85)
    return under_roofs(dots.encode(tooltip=_tooltip(), **_identity(rows)), domains(peaks, data))


def under_roofs(dots: alt.Chart, domain: tuple[Span, Span]) -> dict[str, Any]:
    """Dots, which have no places yet, at their intensity and rate under the measured roofs."""
    import altair as alt

    (x_low, x_high), (y_low, y_high) = domain
    x_scale = alt.Scale(type="log", domain=[x_low, x_high], nice=False)
    y_scale = alt.Scale(type="log", domain=[y_low, y_high], nice=False)
    x = alt.X("x:Q", scale=x_scale, title="arithmetic intensity (FLOP/byte)")
    y = alt.Y("y:Q", scale=y_scale, title="GFLOP/s")
    ticks = alt.Axis(format="~g", tickCount=6)
    base = alt.Chart(alt.NamedData("roofs"))
    ends = base.encode(x=x, y=y, x2="x2:Q", y2="y2:Q")
    lines = [
        ends.transform_filter(alt.datum.style == style).mark_rule(style=f"roof-{style}")
        for style in ("memory", "memory-below", "peak", "lower")
    ]
    along = slope(x_low, x_high, y_low, y_high)
    labels = [
        base.transform_filter(alt.datum.style == "memory")
        .mark_text(style="roof-label", align="left", baseline="bottom", dx=8, dy=-3, angle=along)
        .encode(x=x, y=y, text="label:N"),
        base.transform_filter(alt.datum.style == "memory-below")
        .mark_text(style="roof-label", align="left", baseline="top", dx=12, dy=4, angle=along)
        .encode(x=x, y=y, text="label:N"),
        base.transform_filter(alt.datum.style == "peak")
        .mark_text(style="roof-label", align="right", baseline="bottom", dx=-4, dy=-4)
        .encode(x="x2:Q", y=y, text="label:N"),
        base.transform_filter(alt.datum.style == "lower")
        .mark_text(style="roof-label", align="right", baseline="top", dx=-4, dy=5)
        .encode(x="x2:Q", y=y, text="label:N"),
    ]
    zoom = alt.selection_interval(
        bind="scales", name="zoom", zoom="wheel![event.shiftKey]",
        translate="[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
    )  # fmt: skip
    placed = dots.encode(
        x=alt.X("intensity:Q", scale=x_scale, title=x["title"], axis=ticks),
        y=alt.Y("rate:Q", scale=y_scale, title=y["title"], axis=ticks),
    )
    chart = alt.layer(*lines, *labels, placed.add_params(zoom)).properties(
        width="container", height=440, description="Roofline: GFLOP/s over arithmetic intensity, both logarithmic"
    )
    return chart.to_dict()


def slope(x_low: float, x_high: float, y_low: float, y_high: float) -> Any:
    """Angle of a text along a memory line: one decade up for one decade right, whatever the size of the page."""
    import altair as alt

    decades_x, decades_y = math.log10(x_high / x_low), math.log10(y_high / y_low)
    return alt.expr(f"-atan2(height / {decades_y:.4f}, width / {decades_x:.4f}) * 180 / PI")


def speedup_spec(rows: Sequence[RecordedRow]) -> dict[str, Any]:
    """One line a layer: speed-ups over the reference with their intervals. The page sets the height."""
    import altair as alt

    ratios = alt.X(
        "speedup:Q",
        scale=alt.Scale(type="log", padding=14, nice=False),
        title=f"speed-up over {reference_of(rows) or 'the reference'} (log scale)",
        axis=alt.Axis(values=RATIO_TICKS, format="~g", labelOverlap="greedy", orient="top"),
    )
    layer = alt.Y("layer:N", sort=None, title=None)
    base = alt.Chart(alt.NamedData("cells"))
    colour = {"color": _identity(rows)["color"]}
    chart = alt.layer(
        base.mark_rule(style="parity").encode(x=alt.datum(1)),
        base.mark_rule(strokeWidth=2, opacity=0.5).encode(
            y=layer, x=alt.X("low:Q", title=ratios["title"]), x2="high:Q", **colour
        ),
        base.mark_point(filled=True, size=52, opacity=0.9).encode(
            y=layer, x=ratios, tooltip=_tooltip(), **_identity(rows)
        ),
    ).properties(
        width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        description="Speed-up over the reference, layer by layer",
    )  # fmt: skip
    return chart.to_dict()


def _identity(rows: Sequence[RecordedRow]) -> dict[str, Any]:
    """Colour and symbol of an implementation; the page's own controls are the legend."""
    import altair as alt

    names = styles(rows)
    colours, shapes = [c for c, _ in names.values()], [s for _, s in names.values()]
    return {
        "color": alt.Color("implementation:N", legend=None, scale=alt.Scale(domain=list(names), range=colours)),
        "shape": alt.Shape("implementation:N", legend=None, scale=alt.Scale(domain=list(names), range=shapes)),
    }


def _tooltip() -> list[alt.Tooltip]:
    import altair as alt

    names = {
        "layer": "layer", "shape": "shape", "kind": "kind", "implementation": "implementation",
        "algorithm": "algorithm", "time": "time", "gflops": "GFLOP/s (all taps)", "fraction": "of the roof",
        "speedup_text": "speed-up",
    }  # fmt: skip
    return [alt.Tooltip(field, type="nominal", title=title) for field, title in names.items()]
