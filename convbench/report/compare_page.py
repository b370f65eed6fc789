"""The page of a comparison: what its template shows, and the data and charts its script works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convbench.compare import ALL, FASTEST, Comparison
from convbench.compare.analysis import Advice
from convbench.compare.environment import differences
from convbench.compare.sides import Side, processor
from convbench.report import compare_charts, compared, shell, text
from convbench.report.tables import peak_lines, value_text

MOST_AT_ONCE = 8  # sides in one roofline
MOST_ONE_SIDED = 500  # lines


def compare_page(comparison: Comparison, refused: Sequence[str]) -> str:
    """The whole page as text."""
    shell.needed("altair", "altair")
    cells = compare_charts.cells(comparison)
    data = {"cells": cells, "roofs": compare_charts.roofs(comparison), "specs": compare_charts.specs(comparison)}
    return shell.render("compare.html.j2", context(comparison, refused), data, "compare.js")


def context(comparison: Comparison, refused: Sequence[str]) -> dict[str, Any]:
    """All that the template shows."""
    rows = [layer.row for layer in comparison.layers.values()]
    one_sided = comparison.one_sided()
    standings = {other.label: comparison.standings(other) for other in comparison.others}
    peaks, peak_names = _peaks(comparison.sides)
    return {
        "sides": comparison.sides, "baseline": comparison.baseline, "others": comparison.others,
        "colours": [compare_charts.colour(n) for n in range(len(comparison.sides))], "most": MOST_AT_ONCE,
        "machines": len({(side.record.machine, processor(side.record)) for side in comparison.sides}),
        "layers": comparison.layers, "in_common": len(comparison.in_common()),
        "groups": comparison.groups, "kinds": list(dict.fromkeys(row.kind for row in rows)),
        "implementations": comparison.implementations, "fastest": FASTEST, "all": ALL,
        "suites": list(dict.fromkeys(name for layer in comparison.layers.values() for name in layer.suites)),
        "passes": list(dict.fromkeys(row.pass_ for row in rows)),
        "dtypes": list(dict.fromkeys(row.dtype for row in rows)),
        "standings": standings, "base_share": compared.baseline_share(comparison),
        "by_implementation": comparison.by_implementation, "intervals_from": compared.intervals_from(comparison),
        "advice": {side.label: {a.group: a for a in comparison.advice(side)} for side in comparison.sides},
        "advised": _advised, "one_sided": one_sided[:MOST_ONE_SIDED], "one_sided_count": len(one_sided),
        "refused": refused, "notices": compared.notices(comparison), "differences": _differences(comparison),
        "peaks": peaks, "peak_names": peak_names,
        "any_pair": any(ALL in found and found[ALL].hardware for found in standings.values()),
    }  # fmt: skip


def _advised(advice: Advice) -> str:
    """The whole answer, for the tooltip."""
    winners = ", ".join(f"{name} {count}" for name, count in advice.fastest)
    return f"fastest, ties included, of {advice.layers} layers: {winners}"


def _differences(comparison: Comparison) -> list[tuple[str, str, list[tuple[str, list[Side]]]]]:
    """Name, meaning, and each value with the sides that have it, the most frequent first."""
    found = []
    for difference in differences(side.record for side in comparison.sides):
        groups: dict[str, list[Side]] = {}
        for side, value in zip(comparison.sides, difference.values, strict=True):
            groups.setdefault("not recorded" if value is None else text.clean(value_text(value)), []).append(side)
        found.append((difference.name, difference.why, list(groups.items())))
    return found


def _peaks(sides: Sequence[Side]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Side -> peak -> value, and the names of all peaks."""
    found: dict[str, dict[str, str]] = {}
    for side in sides:
        mine = [peak for peak in text.clean_peaks(side.record.peaks) if peak.device == text.clean(side.device)]
        found[side.label] = {
            f"{name} {level}, {dtype(where)}": value for name, level, where, _, value in peak_lines(mine)
        }
    return found, list(dict.fromkeys(name for values in found.values() for name in values))


def dtype(where: str) -> str:
    """The dtype of "device, dtype"."""
    return where.rpartition(", ")[2]
