"""The page of a training: what was compared, curves, where a step's time goes, and pictures of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convbench.report import shell, text
from convbench.report.charts import short
from convbench.report.compare_charts import colour
from convbench.train.result import DOCS, PHASES, History, Result

MOST_POINTS = 400  # of one curve; more steps are drawn as means of stretches


def train_page(result: Result) -> str:
    """The whole page as text."""
    shell.needed("altair", "altair")
    names = text.clean([row.variant for row in result.rows])
    metric = result.settings.metric
    context = {
        "result": result, "settings": result.settings, "rows": result.rows, "savings": result.savings,
        "metric": metric, "colours": {row.variant: colour(n + 1) for n, row in enumerate(result.rows)}, "docs": DOCS,
        "facts": _facts(result), "per_class": _per_class(result), "matrices": _matrices(result),
        "failed": [row for row in result.rows if row.status != "ok"],
        "took": text.duration(sum(float(h.steps_s().sum()) for h in result.histories)),
    }  # fmt: skip
    data = {
        "lines": text.clean(
            {"losses": _losses(result.histories), "metrics": _metrics(result.histories), "phases": _phases(result)}
        ),
        "specs": {
            "losses": _curve(names, "loss", "log"), "metrics": _curve(names, metric, "linear", points=True),
            "phases": _bars(names),
        },
    }  # fmt: skip
    return shell.render("train.html.j2", context, data, "train.js", pictures=True)


# Data -------------------------------------------------------------------------------------------------------


def _losses(histories: Sequence[History]) -> list[dict[str, Any]]:
    """Mean loss of each stretch of steps, a line a variant."""
    import numpy as np

    points = []
    for history in histories:
        for part in np.array_split(np.arange(len(history.losses)), min(MOST_POINTS, len(history.losses)) or 1):
            if len(part):
                value = float(np.mean([history.losses[i] for i in part]))
                points.append({"variant": history.variant.name, "step": int(part[-1]) + 1, "value": short(value)})
    return points


def _metrics(histories: Sequence[History]) -> list[dict[str, Any]]:
    return [
        {"variant": h.variant.name, "step": e.step, "value": short(e.metric)} for h in histories for e in h.evaluations
    ]


def _phases(result: Result) -> list[dict[str, Any]]:
    """Milliseconds of each phase of the median step."""
    return [
        {"variant": row.variant, "phase": phase, "order": n, "ms": short(1e3 * value)}
        for row in result.rows
        for n, phase in enumerate(PHASES)
        if (value := getattr(row, f"{phase}_s")) is not None
    ]


def _per_class(result: Result) -> list[tuple[str, list[float | None]]]:
    """(class, a value a variant): recall to classify, IoU to segment."""
    import torch

    from convbench.train import metrics

    values_of = metrics.recalls if result.settings.task == "classify" else metrics.ious
    by_variant = [
        values_of(torch.tensor(h.evaluations[-1].confusion)) if h.evaluations else [] for h in result.histories
    ]
    return [(name, [values[n] if values else None for values in by_variant]) for n, name in enumerate(result.classes)]


def _matrices(result: Result) -> list[dict[str, Any]]:
    """Confusion matrices of small numbers of classes, a cell with its share of the true class."""
    if len(result.classes) > 30:
        return []
    found = []
    for history in result.histories:
        if history.evaluations:
            lines = history.evaluations[-1].confusion
            shares = [[(count, count / (sum(line) or 1)) for count in line] for line in lines]
            found.append({"variant": history.variant.name, "lines": list(zip(result.classes, shares, strict=True))})
    return found


def _facts(result: Result) -> list[tuple[str, str]]:
    s, versions = result.settings, result.environment.versions
    augment = ", ".join(s.augment) or "none"
    pairs = {
        "Data": f"{s.data}: {result.split}", "Images": "x".join(map(str, result.image)),
        "Classes": ", ".join(result.classes[:20]) + (" ..." if len(result.classes) > 20 else ""),
        "Epochs": str(s.epochs), "Batch": str(s.batch), "Loss": s.loss,
        "Optimizer": f"{s.optimizer}, learning rate {s.learning_rate:g}, {s.schedule}, weight decay {s.weight_decay:g}",
        "Augmentation": augment, "Models' arguments": ", ".join(f"{k}={v}" for k, v in s.arguments.items()),
        "Seed": str(s.seed), "Threads": str(s.threads), "Processes": str(result.processes), "Device": s.device,
        "Processor": str(result.environment.cpu.get("model", "")),
        "Software": ", ".join(f"{k} {versions[k]}" for k in ("torch", "numba", "triton") if k in versions),
        "Peak memory of the process": text.size(result.peak_rss_bytes),
    }  # fmt: skip
    return [(name, value) for name, value in pairs.items() if value]


# Charts -----------------------------------------------------------------------------------------------------


def _colours(names: Sequence[str]) -> Any:
    import altair as alt

    return alt.Color("variant:N", legend=None,
                     scale=alt.Scale(domain=list(names), range=[colour(n + 1) for n in range(len(names))]))  # fmt: skip


def _curve(names: Sequence[str], title: str, scale: Any, points: bool = False) -> dict[str, Any]:
    """A line a variant over the steps."""
    import altair as alt

    x = alt.X("step:Q", title="step", scale=alt.Scale(nice=False))
    zero = False if scale == "linear" else alt.Undefined  # Vega warns of it on other scales
    y = alt.Y("value:Q", title=title, scale=alt.Scale(type=scale, nice=False, zero=zero), axis=alt.Axis(format="~g"))
    tooltip = ["variant:N", "step:Q", alt.Tooltip("value:Q", format=".4~g")]
    return (
        alt.Chart(alt.NamedData("points"))
        .mark_line(strokeWidth=1.5, opacity=0.9, point=alt.OverlayMarkDef(size=24) if points else False)
        .encode(x=x, y=y, color=_colours(names), tooltip=tooltip)
        .properties(width="container", height=260, description=f"{title} over training steps by variant")
        .to_dict()
    )


def _bars(names: Sequence[str]) -> dict[str, Any]:
    """A bar a variant, its parts the phases of a step."""
    import altair as alt

    colours = alt.Scale(domain=list(PHASES), range=[f"var(--c{n})" for n in range(len(PHASES))])
    phase = alt.Color("phase:N", sort=list(PHASES), legend=alt.Legend(title=None, orient="top"), scale=colours)
    return (
        alt.Chart(alt.NamedData("points"))
        .mark_bar()
        .encode(
            x=alt.X("ms:Q", title="milliseconds a step, medians"),
            y=alt.Y("variant:N", title=None, sort=list(names)),
            color=phase,
            order="order:Q",
            tooltip=["variant:N", "phase:N", alt.Tooltip("ms:Q", format=".3~g")],
        )
        .properties(width="container", height=30 * len(names), description="Time of a training step by phase")
        .to_dict()
    )
