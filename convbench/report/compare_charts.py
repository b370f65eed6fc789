"""Charts of a comparison as Vega-Lite specifications without data, and the data that the page's script joins.

The script makes the pairs of two chosen sides, as convbench.ratios does, so that any two of fifty can be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from convbench.compare import Comparison
from convbench.compare.sides import Side
from convbench.report import text
from convbench.report.charts import PALETTE, RATIO_TICKS, short, slope
from convbench.results import Peak
from convbench.roofline import bandwidths, compute_peak

if TYPE_CHECKING:
    import altair as alt

MARGIN = 2  # factor of free space around the roofline's dots
VERDICTS = {"faster": "rgb(var(--up))", "slower": "rgb(var(--down))", "tie": "var(--c0)", "unknown": "var(--c8)"}


def colour(number: int) -> str:
    """CSS colour of a side; the baseline is grey, as a report's reference is."""
    return f"var(--c{1 + (number - 1) % PALETTE if number else 0})"


# Data -------------------------------------------------------------------------------------------------


def cells(comparison: Comparison) -> dict[str, Any]:
    """Layers by column, and for each side its cells by column; names stand once and are numbers elsewhere."""
    layers = list(comparison.layers.values())
    suites = list(dict.fromkeys(name for layer in layers for name in layer.suites))
    implementations = comparison.implementations
    return {
        "layers": {
            "label": [text.clean(layer.label) for layer in layers],
            "kind": [layer.row.kind for layer in layers],
            "pass": [layer.row.pass_ for layer in layers],
            "dtype": [layer.row.dtype for layer in layers],
            "shape": [text.shape(layer.row) for layer in layers],
            "suites": [[suites.index(name) for name in layer.suites] for layer in layers],
            "gflop": [short(2 * (layer.row.valid_macs or 0) / 1e9) for layer in layers],
            "intensity": [short(2 * (layer.row.valid_macs or 0) / (layer.row.bytes or 1)) for layer in layers],
        },
        "suites": text.clean(suites),
        "implementations": text.clean(implementations),
        "sides": [_side(comparison, side, n, implementations) for n, side in enumerate(comparison.sides)],
    }


def _side(comparison: Comparison, side: Side, number: int, implementations: list[str]) -> dict[str, Any]:
    places = {name: n for n, name in enumerate(implementations)}
    names, lines = ("layer", "by", "time", "low", "high", "share"), []
    for n, key in enumerate(comparison.layers):
        for cell in side.cells.get(key, {}).values():
            lines.append((n, places[cell.implementation], *map(short, (*cell.time, cell.share))))
    columns = dict(zip(names, map(list, zip(*lines, strict=True)), strict=True)) if lines else {n: [] for n in names}
    return {"label": text.clean(side.label), "colour": colour(number), **columns}


def roofs(comparison: Comparison) -> list[dict[str, Any]]:
    """Line segments of each side and dtype: the compute peak, the nearest level, and memory."""
    (x_low, x_high), (y_low, _) = domain(comparison)
    dtypes = dict.fromkeys(layer.row.dtype for layer in comparison.layers.values())
    found = []
    for n, side in enumerate(comparison.sides):
        peaks = text.clean_peaks(side.record.peaks)
        for dtype in dtypes:
            for line in _roof(peaks, text.clean(side.device), dtype, x_low, x_high, y_low):
                found.append({"side": n, "name": text.clean(side.label), "dtype": dtype, **line})
    return found


def _roof(peaks: list[Peak], device: str, dtype: str, x_low: float, x_high: float, y_low: float) -> Iterator[dict]:
    peak, levels = compute_peak(peaks, device, dtype), bandwidths(peaks, device)
    if peak is None or not levels:
        return
    top = peak / 1e9
    outer, nearest = levels[-1], max(levels, key=lambda level: level[2])
    for style, (name, _, rate) in {"memory": outer, "near": nearest}.items():
        x, slope = max(x_low, y_low / (rate / 1e9)), rate / 1e9
        label = f"{name} {text.engineering(rate, 'B/s')}"
        yield {"style": style, "label": label, **_ends(x, slope * x, top / slope, top)}
    yield {
        "style": "peak",
        "label": text.engineering(peak, "FLOP/s"),
        **_ends(top / (nearest[2] / 1e9), top, x_high, top),
    }


def _ends(x: float, y: float, x2: float, y2: float) -> dict[str, float | None]:
    return {"x": short(x), "y": short(y), "x2": short(x2), "y2": short(y2)}


def domain(comparison: Comparison) -> tuple[tuple[float, float], tuple[float, float]]:
    """((FLOP/byte low, high), (GFLOP/s low, high)) that hold every cell and every ridge."""
    xs, ys = [], []
    for key, layer in comparison.layers.items():
        if layer.row.valid_macs and layer.row.bytes:
            xs.append(2 * layer.row.valid_macs / layer.row.bytes)
            times = [cell.time.value for side in comparison.sides for cell in side.cells.get(key, {}).values()]
            ys += [2 * layer.row.valid_macs / time / 1e9 for time in (min(times), max(times))] if times else []
    for side in comparison.sides:
        peaks = text.clean_peaks(side.record.peaks)
        for dtype in {peak.dtype for peak in peaks}:
            peak, levels = (
                compute_peak(peaks, text.clean(side.device), dtype),
                bandwidths(peaks, text.clean(side.device)),
            )
            ys += [peak / 1e9] if peak else []
            xs += [peak / rate for _, _, rate in levels] if peak else []
    xs, ys = xs or [1.0], ys or [1.0]
    return (min(xs) / MARGIN, max(xs) * MARGIN), (min(ys) / MARGIN, max(ys) * MARGIN)


# Specifications ---------------------------------------------------------------------------------------


def specs(comparison: Comparison) -> dict[str, Any]:
    """The page's three charts; it fills in data, and the names of the two sides."""
    return {"scatter": _scatter(), "ratios": _ratios(), "roofline": _roofline(comparison)}


def _scatter() -> dict[str, Any]:
    """Time on one side over time on the other, logarithmic; below the diagonal the other is faster."""
    import altair as alt

    scale = alt.Scale(type="log", nice=False, padding=16)
    ticks = alt.Axis(format="~s", tickCount=5)
    brush = alt.selection_interval(
        name="brush", mark=alt.BrushConfig(fill="var(--accent)", fillOpacity=0.12, stroke="var(--accent)")
    )
    dots = (
        alt.Chart(alt.NamedData("pairs"))
        .mark_point(filled=True, size=56)
        .encode(
            x=alt.X("a:Q", scale=scale, axis=ticks, title="time on the baseline (s)"),
            y=alt.Y("b:Q", scale=scale, axis=ticks, title="time on the other (s)"),
            color=_verdict(), opacity=_picked(), tooltip=_tooltip(),
        )
        .add_params(brush)
    )  # fmt: skip
    parity = alt.Chart(alt.NamedData("parity")).mark_line(style="parity").encode(x="a:Q", y="b:Q")
    return alt.layer(parity, dots).properties(
        width="container", height=380, description="Time on the other side over time on the baseline, both logarithmic"
    ).to_dict()  # fmt: skip


def _ratios() -> dict[str, Any]:
    """A bar a layer, sorted: ratio of times with its interval. The page sets the height."""
    import altair as alt

    ratio = alt.X(
        "ratio:Q", scale=alt.Scale(type="log", padding=14, nice=False), title="baseline time / time (log scale)",
        axis=alt.Axis(values=RATIO_TICKS, format="~g", labelOverlap="greedy", orient="top"),
    )  # fmt: skip
    layer = alt.Y("layer:N", sort=None, title=None, axis=alt.Axis(labelOverlap="greedy"))
    base = alt.Chart(alt.NamedData("pairs"))
    return alt.layer(
        base.mark_bar(height=alt.RelativeBandSize(0.62), cursor="pointer").encode(
            y=layer, x=ratio, x2=alt.datum(1), color=_verdict(), opacity=_picked(), tooltip=_tooltip()
        ),
        base.mark_rule(strokeWidth=1.4, color="var(--ink)").encode(
            y=layer, x=alt.X("low:Q", title=ratio["title"]), x2="high:Q", opacity=_picked()
        ),
        base.mark_rule(style="parity").encode(x=alt.datum(1)),
    ).properties(
        width="container", autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        description="Baseline time over time, layer by layer, sorted",
    ).to_dict()  # fmt: skip


def _roofline(comparison: Comparison) -> dict[str, Any]:
    """Several machines' roofs over one another, each with its layers."""
    import altair as alt

    (x_low, x_high), (y_low, y_high) = domain(comparison)
    x_scale = alt.Scale(type="log", domain=[x_low, x_high], nice=False)
    y_scale = alt.Scale(type="log", domain=[y_low, y_high], nice=False)
    ticks = alt.Axis(format="~g", tickCount=6)
    x = alt.X("x:Q", scale=x_scale, title="arithmetic intensity (FLOP/byte)", axis=ticks)
    y = alt.Y("y:Q", scale=y_scale, title="GFLOP/s", axis=ticks)
    side = alt.Color("colour:N", scale=None, legend=None)
    base = alt.Chart(alt.NamedData("roofs"))
    ends = base.encode(x=x, y=y, x2="x2:Q", y2="y2:Q", color=side, tooltip=["name:N", "label:N"])
    lines = [
        ends.transform_filter(alt.datum.style == style).mark_rule(strokeWidth=width, strokeDash=dash)
        for style, width, dash in (("memory", 1.6, [1, 0]), ("near", 1.2, [5, 4]), ("peak", 2.2, [1, 0]))
    ]
    labels = [
        base.transform_filter(alt.datum.style == "peak")
        .mark_text(style="roof-label", align="right", baseline="bottom", dx=-4, dy=-4)
        .encode(x="x2:Q", y=y, text="label:N", color=side),
        base.transform_filter(alt.datum.style == "memory")
        .mark_text(
            style="roof-label", align="left", baseline="bottom", dx=8, dy=-3, angle=slope(x_low, x_high, y_low, y_high)
        )
        .encode(x=x, y=y, text="label:N", color=side),
    ]
    told = {"layer": "layer", "shape": "shape", "side": "run", "by": "implementation", "time": "time",
            "share": "of own roof"}  # fmt: skip
    dots = (
        alt.Chart(alt.NamedData("dots"))
        .mark_point(filled=True, size=46, cursor="pointer")
        .encode(
            x=alt.X("intensity:Q", scale=x_scale), y=alt.Y("rate:Q", scale=y_scale), color=side, opacity=_picked(),
            tooltip=[alt.Tooltip(f"{name}:N", title=title) for name, title in told.items()],
        )
    )  # fmt: skip
    return alt.layer(*lines, *labels, dots).properties(
        width="container", height=440, description="Rooflines of several runs: GFLOP/s over arithmetic intensity"
    ).to_dict()  # fmt: skip


def _verdict() -> alt.Color:
    import altair as alt

    return alt.Color("verdict:N", legend=None, scale=alt.Scale(domain=list(VERDICTS), range=list(VERDICTS.values())))


def _picked() -> alt.Opacity:
    """Full where the layer is among those picked in any chart, faint elsewhere."""
    import altair as alt

    return alt.Opacity("on:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0.08, 0.85]))


def _tooltip() -> list[alt.Tooltip]:
    import altair as alt

    names = {
        "layer": "layer", "shape": "shape", "kind": "kind", "a_text": "baseline", "b_text": "other",
        "ratio_text": "ratio", "verdict": "verdict", "shares": "of own roof",
    }  # fmt: skip
    return [alt.Tooltip(name, type="nominal", title=title) for name, title in names.items()]
