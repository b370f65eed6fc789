"""report.html: one page that opens with no network, rendered from a record alone.

Text from a record is data everywhere: Jinja2 escapes it in markup, it enters scripts only as escaped JSON, and
the page's Content-Security-Policy lets nothing run but the scripts written here, by their hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convbench.journal import write_atomically
from convbench.results import Record

if TYPE_CHECKING:
    from convbench.compare import Comparison
    from convbench.history import History
    from convbench.history.analysis import Series
    from convbench.train.result import Result

__all__ = ["render", "render_comparison", "render_history", "render_training", "write"]


def render(record: Record) -> str:
    """The whole page. Raises InputError where altair, jinja2 or vl-convert is not installed."""
    from convbench.report.page import page

    return page(record)


def render_comparison(comparison: Comparison, refused: Sequence[str] = ()) -> str:
    """The page of a comparison; ``refused`` names files left out, with the reason. Raises InputError as render does."""
    from convbench.report.compare_page import compare_page

    return compare_page(comparison, refused)


def render_history(history: History, found: Sequence[Series], refused: Sequence[str] = ()) -> str:
    """The page of a history and its series. Raises InputError as render does."""
    from convbench.report.history_page import history_page

    return history_page(history, found, refused)


def render_training(result: Result) -> str:
    """The page of a training. Raises InputError as render does."""
    from convbench.report.train_page import train_page

    return train_page(result)


def write(record: Record, path: Path) -> None:
    """Write the page. Raises InputError as render does, OutputError naming the file."""
    write_atomically(path, render(record).encode())
