"""A comparison as Markdown, for a pull request or a step summary."""

from __future__ import annotations

from collections.abc import Sequence

from convbench.compare import Comparison
from convbench.report.compared import Table, notices, tables
from convbench.report.text import clean


def markdown(comparison: Comparison, refused: Sequence[str] = ()) -> str:
    """The whole text; ``refused`` names files left out, with the reason."""
    parts = [f"## convbench compare: {len(comparison.sides)} runs against {_escape(comparison.baseline.label)}"]
    for table in tables(comparison):
        parts += [f"### {_escape(table.title)}", _table(table), _escape(table.note)]
    found = notices(comparison, refused)
    parts += ["### Before you believe a number", "\n".join(f"- {_escape(line)}" for line in found)] if found else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: Table) -> str:
    columns = [(column, "right") if isinstance(column, str) else column for column in table.columns]
    lines = [[heading for heading, _ in columns], *table.lines]
    head, *body = ["| " + " | ".join(map(_escape, line)) + " |" for line in lines]
    rule = "|" + "|".join(":---" if side == "left" else "---:" for _, side in columns) + "|"
    return "\n".join([head, rule, *body])


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: no markup, links, mentions or HTML."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>()#|!~@$" else c for c in clean(text))
