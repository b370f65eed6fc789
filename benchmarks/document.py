"""Puts what a study measured into a page, between two comments that stay."""

from __future__ import annotations

from pathlib import Path

from convbench.journal import write_atomically


def insert(path: Path, name: str, text: str) -> None:
    """Replace what stands between <!-- name --> and <!-- end of name -->. Raises ValueError where they are missing."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, found, rest = path.read_text().partition(begin)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{path}: has no {begin.strip()} ... {end}")
    write_atomically(path, f"{head}{begin}{text}\n{end}{tail}".encode())
