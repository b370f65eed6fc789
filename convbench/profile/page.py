"""profile.html: what to do, every layer, and the model's roofline with dots as large as their share of the step.

And compare.html of profiles: what the layers won.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convbench.profile import compared
from convbench.profile.compare import Against
from convbench.profile.model import LayerRow, Profile
from convbench.ratios import verdict
from convbench.report import charts, shell, tables, text
from convbench.report.analysis import place
from convbench.report.compare_charts import VERDICTS, colour

FIELDS = ("layer", "kind", "pass", "place", "shape", "time", "intensity", "rate", "share", "share_text", "bound")
SMALLEST_DOT, LARGEST_DOT = 30, 1400  # square pixels
MOST_BARS = 25


def page(found: Profile) -> str:
    """The whole page as text. Raises InputError where altair, jinja2 or vl-convert is not installed."""
    shell.needed("altair", "altair")
    rows = sorted(found.rows, key=lambda row: -row.step_s)
    drawn = [row for row in rows if row.valid_macs]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    cells = {name: [_cell(row)[name] for row in drawn] for name in FIELDS}
    peaks = text.clean_peaks(found.peaks)
    context = {
        "found": found, "step": found.step, "rows": rows, "peaks": tables.peak_lines(peaks),
        "colours": {kind: colour(number + 1) for number, kind in enumerate(kinds)},
        "passes": list(dict.fromkeys(row.pass_ for row in rows)),
        "engineering": text.engineering,
    }  # fmt: skip
    data = {
        "cells": text.clean(cells), "roofs": charts.roofs(peaks, cells),
        "specs": {"roofline": charts.under_roofs(_dots(kinds), charts.domains(peaks, cells))},
    }  # fmt: skip
    return shell.render("profile.html.j2", context, data, "profile.js")


def _cell(row: LayerRow) -> dict[str, Any]:
    values = (
        row.case, row.kind, row.pass_, place(row), text.shape(row), text.seconds(row.median_s),
        charts.short(row.intensity), charts.short(2 * row.valid_macs / row.median_s / 1e9), charts.short(row.share),
        text.percent(row.share), row.bound or "",
    )  # fmt: skip
    return dict(zip(FIELDS, values, strict=True))


def _dots(kinds: Sequence[str]) -> Any:
    import altair as alt

    tooltip = {"layer": "layer", "pass": "pass", "shape": "shape", "time": "one call", "share_text": "of the step",
               "bound": "bound by"}  # fmt: skip
    colours = alt.Scale(domain=kinds, range=[colour(number + 1) for number in range(len(kinds))])
    return (
        alt.Chart(alt.NamedData("cells"))
        .mark_circle(opacity=0.65)
        .encode(
            size=alt.Size("share:Q", legend=None, scale=alt.Scale(range=[SMALLEST_DOT, LARGEST_DOT], zero=True)),
            color=alt.Color("kind:N", legend=None, scale=colours),
            tooltip=[alt.Tooltip(field, type="nominal", title=title) for field, title in tooltip.items()],
        )
    )


# Profiles compared --------------------------------------------------------------------------------


def compared_page(found: Sequence[Against]) -> str:
    """The page of profiles side by side. Raises InputError as page() does."""
    shell.needed("altair", "altair")
    bars = {f"won-{number}": _won(against) for number, against in enumerate(found)}
    context = {
        "found": found, "base": found[0].baseline, "sides": compared.sides(found), "tables": compared.tables(found),
        "notices": compared.notices(found), "ratio_text": compared.ratio_text, "signed": compared.signed,
        "changed": compared.changed, "verdict": verdict, "shown": MOST_BARS,
    }  # fmt: skip
    data = {"lines": text.clean(bars), "specs": {name: _bars(len(lines)) for name, lines in bars.items()}}
    return shell.render("compare_profiles.html.j2", context, data, "train.js")


def _won(against: Against) -> list[dict[str, Any]]:
    """What the layers that change the step most win, each a bar; layers' passes with one name stand apart by shape."""
    return [
        {
            "layer": f"{pair.a.case} · {pair.a.pass_.replace('_', ' ')}", "order": number,
            "won": charts.short(1e3 * pair.won_s), "verdict": verdict(pair.ratio), "shape": text.shape(pair.a),
            "ratio": compared.ratio_text(pair.ratio), "interval": text.interval(*pair.ratio[1:]),
        }
        for number, pair in enumerate(against.pairs[:MOST_BARS])
    ]  # fmt: skip


def _bars(number: int) -> dict[str, Any]:
    import altair as alt

    tooltip = {"layer": "layer", "shape": "shape", "ratio": "baseline / other", "interval": "interval",
               "won": "ms won a step"}  # fmt: skip
    colours = alt.Scale(domain=list(VERDICTS), range=list(VERDICTS.values()))
    return (
        alt.Chart(alt.NamedData("points"))
        .mark_bar()
        .encode(
            x=alt.X("won:Q", title="milliseconds a step won (right) or lost (left)"),
            y=alt.Y("layer:N", title=None, sort=alt.EncodingSortField("order")),
            color=alt.Color("verdict:N", legend=None, scale=colours),
            tooltip=[alt.Tooltip(field, type="nominal", title=title) for field, title in tooltip.items()],
        )
        .properties(width="container", height=max(22 * number, 60), description="Seconds won or lost by layer")
        .to_dict()
    )
