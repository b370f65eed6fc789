"""report.html: one page that opens with no network, rendered from a record alone.

Text from a record is data everywhere: Jinja2 escapes it in markup, it enters scripts only as escaped JSON, and
the page's Content-Security-Policy lets nothing run but the scripts written here, by their hashes.
"""

from __future__ import annotations

from pathlib import Path

from convbench.journal import write_atomically
from convbench.results import Record

__all__ = ["render", "write"]


def render(record: Record) -> str:
    """The whole page. Raises InputError where altair, jinja2 or vl-convert is not installed."""
    from convbench.report.page import page

    return page(record)


def write(record: Record, path: Path) -> None:
    """Write the page. Raises InputError as render does, OutputError naming the file."""
    write_atomically(path, render(record).encode())
