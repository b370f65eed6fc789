"""Profiles compared, as rows for CSV and JSON, and as tables for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from convbench.compare.environment import differences
from convbench.measure import Interval
from convbench.profile.compare import Against, Pair, Side
from convbench.profile.model import LayerRow
from convbench.ratios import verdict
from convbench.records import SHAPE
from convbench.report.compared import Columns, Table
from convbench.report.markdown import escape, table
from convbench.report.tables import value_text
from convbench.report.text import LONGEST_LIST, engineering, interval, percent, seconds, shape, times

_BOTH = ("dtype", "layout", "calls", "median_s", "step_s", "share", "roofline_fraction", "bound", "isolated_s",
         "best_implementation", "best_s")  # fmt: skip
COLUMNS = (
    "baseline", "other", "case", "pass", *SHAPE, "ratio", "ratio_low", "ratio_high", "verdict", "won_s",
    "isolated_ratio", "isolated_ratio_low", "isolated_ratio_high",
    *(f"{side}_{name}" for name in _BOTH for side in ("baseline", "other")),
)  # fmt: skip
MOST_LAYERS = 40  # of a table; the files and --json have all
MOST_OPERATORS = 8
UNKNOWN = Interval(None, None, None)  # type: ignore[arg-type]


def rows(found: Sequence[Against]) -> Iterator[dict[str, Any]]:
    """One row a layer and pass that two profiles have in common, then those that one of them has."""
    for against in found:
        for pair in against.pairs:
            yield _values(against, pair.a, pair.b, pair)
        for row in against.only[0]:
            yield _values(against, row, None)
        for row in against.only[1]:
            yield _values(against, None, row)


def _values(against: Against, a: LayerRow | None, b: LayerRow | None, pair: Pair | None = None) -> dict[str, Any]:
    row = a or b
    assert row
    judged = verdict(pair.ratio) if pair else "baseline only" if a else "other only"
    values = (
        against.baseline.label, against.side.label, row.case, row.pass_, *(getattr(row, name) for name in SHAPE),
        *(pair.ratio if pair else UNKNOWN), judged, pair and pair.won_s, *((pair and pair.alone) or UNKNOWN),
        *(side and getattr(side, name) for name in _BOTH for side in (a, b)),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def runs(found: Sequence[Against]) -> list[dict[str, Any]]:
    """What a document says of each profile, the baseline first."""
    return [
        {"run": side.label, "path": str(side.path), "run_id": side.profile.run_id, "machine": side.profile.machine,
         "model": step.model, "device": step.device, "passes": step.passes, "threads": step.threads,
         "median_s": step.median_s, "ci_low_s": step.ci_low_s, "ci_high_s": step.ci_high_s,
         "convolutions_s": step.convolutions_s, **_step_ratio(against)}
        for side, against in [(found[0].baseline, None), *((each.side, each) for each in found)]
        for step in [side.profile.step]
    ]  # fmt: skip


def _step_ratio(against: Against | None) -> dict[str, float | None]:
    ratio = (against and against.step) or UNKNOWN
    return {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}


# Tables -----------------------------------------------------------------------------------------------


def tables(found: Sequence[Against]) -> list[Table]:
    """What the terminal and the Markdown show, the most important first."""
    parts = [_steps(found)]
    for against in found:
        parts += [_passes(against), _layers(against), _operators(against), _one_sided(against)]
    return [part for part in (*parts, _differences(found)) if part.lines]


def notices(found: Sequence[Against]) -> list[str]:
    """What to know before believing a ratio, one line each."""
    base = found[0].baseline
    lines = [f"{side.label}: {warning}" for side in sides(found) for warning in side.profile.warnings[:LONGEST_LIST]]
    for against in found:
        a, b, who = base.profile.step, against.side.profile.step, against.side.label
        if a.model != b.model:
            lines.append(f"{who} is of {b.model}, {base.label} of {a.model}: layers are joined by name and shape alone")
        if a.passes != b.passes:
            lines.append(f"{who} is {b.passes}, {base.label} is {a.passes}: their steps have no ratio")
        if not against.pairs:
            lines.append(f"{who} and {base.label} have no layer in common: names or shapes all differ")
        if base.profile.run_id == against.side.profile.run_id:
            lines.append(f"{who} and {base.label} are the same profile: the ratios are 1 by construction")
    return lines


def sides(found: Sequence[Against]) -> list[Side]:
    """Every profile, the baseline first."""
    return [found[0].baseline, *(against.side for against in found)]


def markdown(found: Sequence[Against]) -> str:
    """The whole text."""
    parts = [f"## convbench compare: {len(sides(found))} profiles against {escape(found[0].baseline.label)}"]
    for each in tables(found):
        parts += [f"### {escape(each.title)}", table(each.columns, each.lines), escape(each.note)]
    lines = [f"- {escape(line)}" for line in notices(found)]
    parts += ["### Before you believe a ratio", "\n".join(lines)] if lines else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _steps(found: Sequence[Against]) -> Table:
    lines = []
    for side, against in [(found[0].baseline, None), *((each.side, each) for each in found)]:
        step, ratio = side.profile.step, against.step if against else None
        score = against.score if against else None
        lines.append([
            side.label, side.profile.machine, step.device, str(step.threads), seconds(step.median_s),
            "baseline" if against is None else ratio_text(ratio), interval(*ratio[1:]) if ratio else "",
            seconds(step.convolutions_s), percent(step.convolutions_share), ratio_text(score.mean if score else None),
            f"{score.faster} / {score.ties} / {score.slower}" if score else "",
        ])  # fmt: skip
    columns: Columns = [("profile", "left"), ("machine", "left"), ("device", "left"), "threads", "step", "ratio",
                        "interval", "convolutions", "of step", "layers' mean", "faster / tie / slower"]  # fmt: skip
    note = ("ratio: baseline time / time, above 1 is faster, ~ a tie: the interval holds 1; layers' mean: geometric, "
            "over layers and passes in common. Intervals do not cover how one run differs from the next")  # fmt: skip
    return Table("Steps", columns, lines, note)


def _passes(against: Against) -> Table:
    lines = [[pass_, str(number), seconds(a), seconds(b), times(a / b), signed(a - b)]
             for pass_, a, b, number in against.sums()]  # fmt: skip
    columns: Columns = [("pass", "left"), "layers", "baseline", "other", "ratio", "won a step"]
    return Table(f"Convolutions in common, {_both(against)}", columns, lines, "a step's sums, without an interval")


def _layers(against: Against) -> Table:
    columns: Columns = [("layer", "left"), ("pass", "left"), ("shape", "left"), "baseline", "other", "ratio",
                        "interval", ("verdict", "left"), "won a step", "alone", ("how", "left")]  # fmt: skip
    hidden = len(against.pairs) - MOST_LAYERS
    more = f"; {hidden} more with --out or --json" if hidden > 0 else ""
    return Table(f"Layer by layer, {_both(against)}", columns, list(map(_line, against.pairs[:MOST_LAYERS])),
                 "one call inside the model, what changes the step most first; won a step: seconds saved by all its "
                 f"calls; alone: the ratio of the same calls by themselves{more}")  # fmt: skip


def _line(pair: Pair) -> list[str]:
    a, b = pair.a, pair.b
    return [
        a.case, a.pass_, shape(a), seconds(a.median_s), seconds(b.median_s), ratio_text(pair.ratio),
        interval(*pair.ratio[1:]), verdict(pair.ratio), signed(pair.won_s), ratio_text(pair.alone), changed(pair),
    ]  # fmt: skip


def changed(pair: Pair) -> str:
    """What of a call is not the same on both: "float32 to bfloat16, nchw to channels_last"."""
    both = ((getattr(pair.a, name), getattr(pair.b, name)) for name in ("dtype", "layout", "bound", "calls"))
    return ", ".join(f"{a or 'unknown'} to {b or 'unknown'}" for a, b in both if a != b)


def _operators(against: Against) -> Table:
    lines = [[name, seconds(a) if a else "", seconds(b) if b else "", times(a / b) if a and b else "", signed(a - b)]
             for name, a, b in against.operators()[:MOST_OPERATORS]]  # fmt: skip
    columns: Columns = [("operator", "left"), "baseline", "other", "ratio", "won a step"]
    return Table(f"Beside the convolutions, {_both(against)}", columns, lines, "a step's sums, without an interval")


def _one_sided(against: Against) -> Table:
    both = zip((against.baseline, against.side), against.only, strict=True)
    lines = [
        [row.case, row.pass_, shape(row), side.label, seconds(row.median_s)] for side, rows in both for row in rows
    ]
    columns: Columns = [("layer", "left"), ("pass", "left"), ("shape", "left"), ("only in", "left"), "time"]
    hidden = len(lines) - MOST_LAYERS
    return Table("In one profile only", columns, lines[:MOST_LAYERS], f"{hidden} more in --json" if hidden > 0 else "")


def _differences(found: Sequence[Against]) -> Table:
    columns: Columns = [("what differs", "left"), *((side.label, "left") for side in sides(found)), ("meaning", "left")]
    lines = [
        [each.name, *("" if value is None else value_text(value) for value in each.values), each.why]
        for each in differences(side.profile for side in sides(found))
    ]
    return Table("Machines, software and settings", columns, lines)


# Text -------------------------------------------------------------------------------------------------


def ratio_text(ratio: Interval | None) -> str:
    """1.23×, with ~ before it for a tie."""
    return "" if ratio is None else f"{'~' if verdict(ratio) == 'tie' else ''}{times(ratio.value)}"


def signed(value: float) -> str:
    """Seconds with their sign."""
    return f"{'-' if value < 0 else '+'}{engineering(abs(value), 's')}" if value else "0"


def _both(against: Against) -> str:
    return f"{against.side.label} against {against.baseline.label}"
