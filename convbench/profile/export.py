"""The files of a profile: page, JSON document, CSV of the rows, Markdown, and a Chrome trace that Perfetto opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from convbench.errors import InputError
from convbench.profile.model import LayerRow, Profile
from convbench.profile.watch import Event, Layer
from convbench.report import text
from convbench.report.markdown import escape, table
from convbench.results import SCHEMA_VERSION, csv_text

if TYPE_CHECKING:
    from convbench.profile.session import Outcome

COLUMNS = tuple(field.encode_name for field in msgspec.structs.fields(LayerRow))
ROW_OF = {"forward": 1, "data_gradient": 2, "weight_gradient": 3}  # lines of the trace; operators are the first


def contents(outcome: Outcome, warn: Callable[[str], object]) -> dict[str, bytes]:
    """File name -> what is in it. Without the page, said through ``warn``, where no charts library is installed."""
    found = outcome.found
    files = {
        "profile.json": msgspec.json.format(msgspec.json.encode(document(found)), indent=1),
        "profile.csv": to_csv(found.rows).encode("utf-8", "replace"),
        "profile.md": markdown(found).encode("utf-8", "replace"),
        "trace.json": msgspec.json.encode(trace(outcome.events, found.step.model)),
    }
    if outcome.profiled.trace:
        files["torch_trace.json"] = outcome.profiled.trace
    try:
        from convbench.profile.page import page

        files["profile.html"] = page(found).encode("utf-8", "replace")
    except InputError as error:
        warn(f"no profile.html: {error}")
    return files


def document(found: Profile) -> dict[str, Any]:
    """The one JSON document of the command."""
    return {"schema_version": SCHEMA_VERSION, "command": "profile", **msgspec.to_builtins(found)}


def to_csv(rows: Sequence[LayerRow]) -> str:
    """One line a row; what is not known is empty."""
    return csv_text(COLUMNS, (msgspec.to_builtins(row).values() for row in rows))


def trace(events: Sequence[Event], model: str) -> dict[str, Any]:
    """One watched step as Chrome's trace events: microseconds since its begin; convolutions on a line for each pass."""
    begun = min((event.start_s for event in events), default=0.0)
    names = {0: "operators", **{line: f"convolution {pass_}" for pass_, line in ROW_OF.items()}}
    head = [
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": line, "args": {"name": name}}
        for line, name in names.items()
    ]
    head.append({"ph": "M", "name": "process_name", "pid": 0, "args": {"name": f"convbench profile {model}"}})
    return {"displayTimeUnit": "ms", "traceEvents": [*head, *(_traced(event, begun) for event in events)]}


def _traced(event: Event, begun: float) -> dict[str, Any]:
    what, line, more = event.what, 0, {}
    if isinstance(what, Layer):
        line, more = ROW_OF[what.pass_], {"shape": str(what.spec), "dtype": what.dtype, "layout": what.layout}
        what = what.name
    times = {"ts": 1e6 * (event.start_s - begun), "dur": 1e6 * event.seconds}
    return {"ph": "X", "name": what, "cat": "convolution" if more else "operator", "pid": 0, "tid": line, **times,
            "args": more}  # fmt: skip


# Markdown -----------------------------------------------------------------------------------------

HEADINGS = (
    ("layer", "left"), ("pass", "left"), ("shape", "left"), "calls", "time", "of step", "GFLOP/s", "of roof",
    ("bound", "left"), "alone", ("fastest alone", "left"), "gain",
)  # fmt: skip


def line(row: LayerRow) -> list[str]:
    """A row in words, as HEADINGS say."""
    return [
        row.case, row.pass_, text.shape(row), str(row.calls), text.seconds(row.median_s), text.percent(row.share),
        text.significant(row.gflops), text.percent(row.roofline_fraction), row.bound or "",
        text.seconds(row.isolated_s), row.best_implementation or "", text.times(row.best_speedup),
    ]  # fmt: skip


def markdown(found: Profile) -> str:
    """Step, advice and layers, the longest first."""
    step = found.step
    ordered = sorted(found.rows, key=lambda row: -row.step_s)
    parts = [
        f"## convbench profile: {escape(step.model)}",
        f"{escape(found.machine)}, {step.device}, {step.threads} threads, {step.passes}: "
        f"{text.seconds(step.median_s)} a step, {text.percent(step.convolutions_share)} of it convolutions; watching "
        f"makes it {text.times(step.distortion)} as long.",
        "### What to do",
        "\n".join(f"- {escape(advice.text)}" for advice in found.advice),
        "### Layers",
        table(HEADINGS, map(line, ordered)),
        *(["### Disturbed", "\n".join(f"- {escape(warning)}" for warning in found.warnings)] if found.warnings else []),
        *(["### Interrupted, and not measured", escape(", ".join(found.missing))] if found.missing else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
