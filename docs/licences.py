"""Writes docs/licences.md: what `make run` and `make test` install, and under which licence, from its own metadata.

python docs/licences.py        after a change of requirements.txt, in the environment that make has made
"""

from __future__ import annotations

import re
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences of what convbench installs and contains

convbench is under Apache-2.0. `make run` and `make test` install the packages below, as they are published; written by
`python docs/licences.py` from their own metadata. torch's CUDA builds bring NVIDIA's libraries, which are under
NVIDIA's terms. Contained in convbench, and in the pages it writes: sortable-tablesort (Unlicense, in
convbench/report/vendor); in the pages also Vega, Vega-Lite and Vega-Embed (BSD-3-Clause), from vl-convert-python.

| package | licence |
|---|---|
"""


def names() -> list[str]:
    """Packages that requirements.txt pins, on whatever system; and torch, which it leaves to the machine."""
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    return sorted({*pinned, "torch"})


def licence(found: Message | Any) -> str:
    """An SPDX expression where the package states one, or else its own words."""
    classifiers = [c.rpartition(" :: ")[2] for c in found.get_all("Classifier", []) if c.startswith("License :: ")]
    own_words = (found.get("License") or "").strip().partition("\n")[0]
    return found.get("License-Expression") or ", ".join(classifiers) or own_words


def table() -> dict[str, str]:
    """Package -> licence; what this system does not install keeps what the page says."""
    known = listed()
    for name in names():
        try:
            known[name] = licence(metadata(name)) or known.get(name, "")
        except PackageNotFoundError:
            known.setdefault(name, "")
    return {name: known[name] for name in names()}


def listed() -> dict[str, str]:
    """What the page says."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return dict(re.findall(r"^\| ([\w.-]+) \| (.+) \|$", text.partition("|---|---|")[2], re.MULTILINE))


if __name__ == "__main__":
    PAGE.write_text(HEAD + "".join(f"| {name} | {text} |\n" for name, text in table().items()))
