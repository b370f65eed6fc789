"""A comparison as Markdown, for a pull request or a step summary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from convbench.compare import Comparison
from convbench.report.compared import notices, tables
from convbench.report.text import clean

Column = str | tuple[str, str]


def markdown(comparison: Comparison, refused: Sequence[str] = ()) -> str:
    """The whole text; ``refused`` names files left out, with the reason."""
    parts = [f"## convbench compare: {len(comparison.sides)} runs against {escape(comparison.baseline.label)}"]
    for each in tables(comparison):
        parts += [f"### {escape(each.title)}", table(each.columns, each.lines), escape(each.note)]
    found = notices(comparison, refused)
    parts += ["### Before you believe a number", "\n".join(f"- {escape(line)}" for line in found)] if found else []
    return "\n\n".join(part for part in parts if part) + "\n"


def table(columns: Iterable[Column], lines: Iterable[Sequence[str]]) -> str:
    """A table; a column is a heading, or (heading, "left") for text."""
    sides = [(column, "right") if isinstance(column, str) else column for column in columns]
    head, *body = ["| " + " | ".join(map(escape, line)) + " |" for line in ([heading for heading, _ in sides], *lines)]
    rule = "|" + "|".join(":---" if side == "left" else "---:" for _, side in sides) + "|"
    return "\n".join([head, rule, *body])


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no markup, links, mentions or HTML."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#|!~@$" else c for c in clean(text))
