"""Torch compositions. Every module that defines IMPLEMENTATION is an implementation:

the module's name is the algorithm's (``torch.unfold`` is unfold.py). Adding a kernel is adding a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from convbench.plugin import Implementation


def implementations() -> Iterator[Implementation]:
    """Every IMPLEMENTATION in this package."""
    for module in sorted(iter_modules(__path__), key=lambda m: m.name):
        found = getattr(import_module(f"{__name__}.{module.name}"), "IMPLEMENTATION", None)
        if found is not None:
            yield found
