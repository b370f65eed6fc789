"""A comparison as plain tables of text, for the terminal and for Markdown, and what to know about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from convbench.compare import FASTEST, Comparison
from convbench.compare.analysis import Pair, Standing
from convbench.compare.environment import differences
from convbench.compare.sides import Side
from convbench.measure import Interval
from convbench.ratios import Score, verdict
from convbench.report.tables import value_text
from convbench.report.text import LONGEST_LIST, engineering, significant

MANY = 6  # sides: from here on tables that have a column or a block for each are left to the page
MOST_CASES = 60
LONGEST_CELL = 60

Columns = Sequence[str | tuple[str, str]]  # a heading, or (heading, "left") for text


@dataclass(frozen=True)
class Table:
    """A table of text; numbers are on the right unless a column says left."""

    title: str
    columns: Columns
    lines: list[list[str]]
    note: str = ""


def tables(comparison: Comparison) -> list[Table]:
    """What the terminal and the Markdown show, the most important first."""
    few = len(comparison.sides) <= MANY
    found = [_standings(comparison), _kinds(comparison, "hardware"), _kinds(comparison, "use")]
    found += [_implementations(comparison)]
    found += [_advice(comparison), _cases(comparison), _one_sided(comparison), _environment(comparison)] if few else []
    return [table for table in found if table.lines]


def notices(comparison: Comparison, refused: Sequence[str] = ()) -> list[str]:
    """What to know before believing a number, one line each."""
    found = [f"refused: {reason}" for reason in refused]
    runs = [side.record.run_id for side in comparison.sides]
    for side in comparison.sides:
        who = f"{side.label}: "
        if side.stored.origin == "csv":
            found.append(who + "from results.csv, which has no raw samples, environment or peaks")
        if not side.record.complete:
            found.append(who + "the run is not complete; go on with `convbench run --resume FOLDER`")
        if side.repeated:
            found.append(
                who + f"{side.repeated} cells left out: the same convolution under another name, measured again"
            )
        found += [who + warning for warning in side.record.warnings[:LONGEST_LIST]]
    if len({(side.record.run_id, side.device) for side in comparison.sides}) < len(runs):
        found.append("the same run is here more than once: its ratios to itself are 1 by construction")
    if not comparison.others or not any(comparison.pairs(other) for other in comparison.others):
        found.append(f"nothing was run both on {comparison.baseline.label} and on another: there is nothing to compare")
    return found


def baseline_share(comparison: Comparison) -> float | None:
    """Median share of the baseline's own roof, by its fastest implementations."""
    shares = [cell.share for key in comparison.layers if (cell := comparison.baseline.fastest(key)) and cell.share]
    return median(shares) if shares else None


def intervals_from(comparison: Comparison) -> str:
    """Where the intervals come from, in words."""
    sources = {cell.source for side in comparison.sides for cells in side.cells.values() for cell in cells.values()}
    words = {
        "samples": "raw samples, ten stretches of each run in the order taken, so that drift widens them",
        "ci columns": "the ci columns where a run has no or few raw samples, which take samples for independent",
    }
    return "; ".join(text for source, text in words.items() if source in sources) or "nowhere: too few samples"


# Tables -----------------------------------------------------------------------------------------------


def _standings(comparison: Comparison) -> Table:
    columns: Columns = [
        ("run", "left"), "cases", "faster hardware", "interval", "faster / tie / slower", "better used", "interval",
        "of own roof",
    ]  # fmt: skip
    own, cases = _percent(baseline_share(comparison)), sum(map(bool, comparison.baseline.cells.values()))
    lines = [[comparison.baseline.label, str(cases), "baseline", "", "", "", "", own]]
    lines += [_standing_line(comparison.standing(other)) for other in comparison.others]
    note = (
        f"{FASTEST}, geometric means over cases in common; faster hardware: baseline time / time; better used: share "
        f"of the own measured roof / the baseline's; ~: the interval holds 1, a tie. Intervals from "
        f"{intervals_from(comparison)}; they do not cover how a run differs from the next"
    )
    return Table("Faster hardware, and better used hardware", columns, lines, note)


def _standing_line(standing: Standing) -> list[str]:
    hardware, use = standing.hardware, standing.use
    if hardware is None:
        return [standing.side.label, "0", *[""] * 6]
    counts = f"{hardware.faster} / {hardware.ties} / {hardware.slower}"
    return [
        standing.side.label, str(hardware.cases), _score(hardware), _interval(hardware.mean),
        counts + (f" ({hardware.unknown} without interval)" if hardware.unknown else ""),
        _score(use), _interval(use.mean) if use else "", _percent(standing.share),
    ]  # fmt: skip


def _kinds(comparison: Comparison, which: str) -> Table:
    standings = [(other.label, comparison.standings(other)) for other in comparison.others]
    found = {
        (label, group): score
        for label, by_group in standings for group, standing in by_group.items() if (score := getattr(standing, which))
    }  # fmt: skip
    groups = [group for group in comparison.groups if any((label, group) in found for label, _ in standings)]
    title = {
        "hardware": "Faster hardware by kind of convolution: baseline time / time",
        "use": "Better used hardware by kind of convolution: share of own roof / the baseline's",
    }[which]
    lines = [[label, *(_score(found.get((label, group))) for group in groups)] for label, _ in standings]
    return Table(title, [("run", "left"), *groups], [line for line in lines if any(line[1:])])


def _implementations(comparison: Comparison) -> Table:
    names = comparison.implementations
    lines = [
        [other.label, *(_score(comparison.by_implementation(other).get(name)) for name in names)]
        for other in comparison.others
    ]
    shared = [i for i in range(1, len(names) + 1) if any(line[i] for line in lines)]
    return Table(
        "The same implementation on both: baseline time / time",
        [("run", "left"), *(names[i - 1] for i in shared)],
        [[line[0], *(line[i] for i in shared)] for line in lines] if shared else [],
    )


def _advice(comparison: Comparison) -> Table:
    lines = []
    for side in comparison.sides:
        for advice in comparison.advice(side):
            winners = ", ".join(f"{name} {count}" for name, count in advice.fastest[:4])
            cost = f"+{_percent(advice.costs - 1)}" if advice.costs and advice.costs > 1.0005 else ""
            lines.append([side.label, advice.group, str(advice.layers), advice.best or "none", cost, winners])
    columns: Columns = [("run", "left"), ("kind", "left"), "layers", ("if one for all", "left"), "costs",
               ("fastest, ties included: layers", "left")]  # fmt: skip
    note = "costs: its geometric mean time over that of the fastest of each layer"
    return Table("Which implementation to use where", columns, lines, note)


def _cases(comparison: Comparison) -> Table:
    if len(comparison.others) == 1:
        return _two(comparison, comparison.others[0])
    columns: Columns = [
        ("layer", "left"),
        ("kind", "left"),
        comparison.baseline.label,
        *(o.label for o in comparison.others),
    ]
    pairs = {other.label: {pair.key: pair for pair in comparison.pairs(other)} for other in comparison.others}
    lines = []
    for key, layer in comparison.layers.items():
        found = [pairs[other.label].get(key) for other in comparison.others]
        if any(found):
            base = comparison.baseline.fastest(key)
            ratios = [_ratio(pair.ratio) if pair else "" for pair in found]
            lines.append([layer.label, layer.row.kind, engineering(base and base.time.value, "s"), *ratios])
    return Table(f"Baseline time / time, {FASTEST}", columns, lines[:MOST_CASES], _cut(lines))


def _two(comparison: Comparison, other: Side) -> Table:
    columns: Columns = [
        ("layer", "left"), ("kind", "left"), "baseline", ("by", "left"), "other", ("by", "left"), "ratio", "interval",
        ("verdict", "left"), "of roof", "other's",
    ]  # fmt: skip
    pairs = sorted(comparison.pairs(other), key=lambda pair: -pair.ratio.value)
    lines = [_two_line(comparison.layers[pair.key].label, comparison.layers[pair.key].row.kind, pair) for pair in pairs]
    return Table(
        f"{other.label} against {comparison.baseline.label}, {FASTEST}", columns, lines[:MOST_CASES], _cut(lines)
    )


def _two_line(label: str, kind: str, pair: Pair) -> list[str]:
    a, b = pair.a, pair.b
    return [
        label, kind, engineering(a.time.value, "s"), a.implementation, engineering(b.time.value, "s"), b.implementation,
        _ratio(pair.ratio), _interval(pair.ratio), verdict(pair.ratio), _percent(a.share), _percent(b.share),
    ]  # fmt: skip


def _one_sided(comparison: Comparison) -> Table:
    lines = [
        [layer.label, layer.row.kind, _labels(have), _labels(lack)] for layer, have, lack in comparison.one_sided()
    ]
    columns: Columns = [("layer", "left"), ("kind", "left"), ("timed on", "left"), ("no time on", "left")]
    return Table("Cases on one side only", columns, lines[:MOST_CASES], _cut(lines))


def _environment(comparison: Comparison) -> Table:
    lines = [
        [
            difference.name,
            *(_short("" if value is None else value_text(value)) for value in difference.values),
            difference.why,
        ]
        for difference in differences(side.record for side in comparison.sides)
    ]
    columns: Columns = [
        ("what differs", "left"),
        *((side.label, "left") for side in comparison.sides),
        ("meaning", "left"),
    ]
    return Table("Machines and software", columns, lines)


# Text -------------------------------------------------------------------------------------------------


def _score(score: Score | None) -> str:
    return _ratio(score.mean) if score else ""


def _ratio(ratio: Interval) -> str:
    """1.23x, with ~ before it where its interval holds 1: a tie."""
    return f"{'~' if verdict(ratio) == 'tie' else ''}{significant(ratio.value)}x"


def _interval(ratio: Interval) -> str:
    return "" if ratio.low is None else f"{significant(ratio.low)}-{significant(ratio.high)}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{significant(100 * share)}%"


def _labels(sides: Iterable[Side]) -> str:
    return ", ".join(side.label for side in sides)


def _short(value: str) -> str:
    return value if len(value) <= LONGEST_CELL else value[: LONGEST_CELL - 1] + "…"


def _cut(lines: Sequence[object]) -> str:
    return f"{len(lines) - MOST_CASES} more are in compare.csv" if len(lines) > MOST_CASES else ""
