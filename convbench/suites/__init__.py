"""Suites of layers: built in, from a TOML file, or made in Python.

A built-in suite is one TOML file in this folder; adding one is adding a file. traced.py makes one of a model.
"""

from __future__ import annotations

import difflib
import os
from functools import cache
from pathlib import Path

from convbench.errors import InputError
from convbench.suites.model import Layer, Other, Suite
from convbench.suites.toml import LARGEST_SUITE_BYTES, parse, to_toml
from convbench.suites.traced import ModelSource, suite_of

__all__ = ["Layer", "ModelSource", "Other", "Suite", "builtin", "load", "names", "parse", "resolve", "to_toml"]

_FOLDER = Path(__file__).parent
_FIRST = ("default", "quick")


@cache
def names() -> tuple[str, ...]:
    """Names of the built-in suites: default and quick, then the others by name."""
    found = sorted(path.stem for path in _FOLDER.glob("*.toml"))
    return (*_FIRST, *(name for name in found if name not in _FIRST))


@cache
def builtin(name: str) -> Suite:
    """A built-in suite. Raises InputError for an unknown name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"suite {name!r} is not built in; {hint}built in: {', '.join(names())}; for a file give its .toml path"
        )
    return load(_FOLDER / f"{name}.toml")


def load(path: Path) -> Suite:
    """A suite from a TOML file. Raises InputError naming the file and what is wrong."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_SUITE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a suite's name or a .toml file") from None
    except ValueError as error:  # a path with a zero byte in it
        raise InputError(f"{str(path)!r}: {error}; give a suite's name or a .toml file") from None
    return parse(data, str(path))


def resolve(text: str | ModelSource) -> Suite:
    """A suite by its built-in name, by the path of a .toml file, or of a model. A built-in name wins over a file."""
    if isinstance(text, ModelSource):
        return suite_of(text)
    is_path = text.endswith(".toml") or os.sep in text or (text not in names() and Path(text).is_file())
    return load(Path(text)) if is_path else builtin(text)
