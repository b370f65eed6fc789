"""The page of a history: one chart for each operator, and the steps found."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import TYPE_CHECKING, Any

from convbench.history import History, step_rows
from convbench.history.analysis import ALPHA, QUANTITIES, Operator, Series
from convbench.history.steps import Step
from convbench.report import shell, text
from convbench.report.charts import RATIO_TICKS, short
from convbench.report.compare_charts import colour

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_POINTS = 300  # of one line; more runs are drawn as the median and the range of each stretch
MOST_STEPS = 400  # lines of the table


def history_page(history: History, found: Sequence[Series], refused: Sequence[str]) -> str:
    """The whole page as text. ``found`` is what convbench.history.series gives."""
    shell.needed("altair", "altair")
    operators = list(dict.fromkeys(item.key.operator for item in found))
    names = list(dict.fromkeys(item.key.implementation for item in found))
    whole = [item for item in found if not item.key.layer]
    steps = step_rows(history, found)
    context = {
        "runs": history.runs, "days": [f"{history.runs[end].started:%Y-%m-%d}" for end in (0, -1)],
        "places": _by_runs(whole), "operators": [_label(operator, operators) for operator in operators],
        "colours": {name: colour(n) for n, name in enumerate(names)}, "quantities": QUANTITIES,
        "steps": steps[:MOST_STEPS], "step_count": len(steps), "series": len(found), "refused": refused,
        "repeated": len(history.repeated), "alpha": ALPHA,
        "binned": any(len(item.values) > MOST_POINTS for item in whole), "most": MOST_POINTS,
    }  # fmt: skip
    lines = [_line(history, item, operators.index(item.key.operator)) for item in whole]
    return shell.render(
        "history.html.j2", context, {"lines": text.clean(lines), "specs": {"history": _spec(names)}}, "history.js"
    )


def _by_runs(found: Sequence[Series]) -> list[str]:
    """Places, that with the most runs first."""
    counts: dict[str, int] = {}
    for item in found:
        counts[item.key.place] = max(counts.get(item.key.place, 0), len(item.runs))
    return sorted(counts, key=lambda place: -counts[place])


def _label(operator: Operator, operators: Sequence[Operator]) -> str:
    varied = [n for n in (1, 2) if len({each[n] for each in operators}) > 1]
    return ", ".join([operator.kind, *(operator[n] for n in varied)])


def _line(history: History, item: Series, operator: int) -> dict[str, Any]:
    """One line of a chart by column; times are milliseconds since 1970."""
    import numpy as np

    times = np.array([1000 * history.runs[run].started.timestamp() for run in item.runs])
    when, middle, low, high = _binned(times, np.exp(item.values))
    return {
        "place": item.key.place, "operator": operator, "implementation": item.key.implementation,
        "quantity": item.key.quantity, "when": when, "value": middle, "low": low, "high": high,
        "steps": [_triangle(history, item, step, float(times[step.at])) for step in item.steps],
    }  # fmt: skip


def _triangle(history: History, item: Series, step: Step, when: float) -> dict[str, Any]:
    change = exp(step.after - step.before)
    return {
        "when": when, "value": short(exp(step.after)), "change": text.times(change),
        "run": history.runs[item.runs[step.at]].run_id, "up": change > 1,
    }  # fmt: skip


def _binned(times: NDArray, values: NDArray) -> tuple[list, list, list, list]:
    """(when, median, lowest, highest) of at most MOST_POINTS stretches of equally many runs."""
    import numpy as np

    parts = np.array_split(np.arange(len(values)), min(MOST_POINTS, len(values)))
    by = [
        (times[part[len(part) // 2]], np.median(values[part]), values[part].min(), values[part].max()) for part in parts
    ]
    when, *others = zip(*by, strict=True)
    middle, low, high = ([short(float(value)) for value in column] for column in others)
    return list(map(float, when)), middle, low, high


def _spec(names: Sequence[str]) -> dict[str, Any]:
    """Values over time, a line an implementation, a triangle where the level steps."""
    import altair as alt

    names = text.clean(list(names))
    x = alt.X("when:T", title=None, scale=alt.Scale(padding=10))
    y = alt.Y("value:Q", title="", scale=alt.Scale(type="log", nice=False, padding=12),
              axis=alt.Axis(values=RATIO_TICKS, format="~g", labelOverlap="greedy"))  # fmt: skip
    colours = alt.Scale(domain=names, range=[colour(n) for n in range(len(names))])
    side = alt.Color("implementation:N", legend=None, scale=colours)
    base = alt.Chart(alt.NamedData("points"))
    tooltip = [
        alt.Tooltip("implementation:N"),
        alt.Tooltip("when:T", format="%Y-%m-%d %H:%M"),
        alt.Tooltip("value:Q", format=".3~r"),
    ]
    steps = (
        alt.Chart(alt.NamedData("steps"))
        .mark_point(filled=True, size=130, opacity=1, stroke="var(--bg)", strokeWidth=1)
        .encode(
            x=x, y=y, color=side, shape=alt.Shape("direction:N", legend=None, scale=alt.Scale(
                domain=["up", "down"], range=["triangle-up", "triangle-down"])),
            tooltip=["implementation:N", alt.Tooltip("when:T", format="%Y-%m-%d %H:%M"), "change:N", "run:N"],
        )
    )  # fmt: skip
    return alt.layer(
        base.mark_area(opacity=0.16).encode(x=x, y=alt.Y("low:Q", title=""), y2="high:Q", color=side),
        base.mark_line(strokeWidth=1.6).encode(x=x, y=y, color=side),
        base.mark_circle(size=18, opacity=0.9).encode(x=x, y=y, color=side, tooltip=tooltip),
        steps,
    ).properties(width="container", height=260, description="Values over time by implementation").to_dict()  # fmt: skip
