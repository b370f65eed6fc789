"""Models, and the user's own by name: classification and segmentation networks on torch's layers.

One file a model, found by its name: a function of that name that builds it, and INPUT, the shape it is for. All are
built from blocks.py, dense or separable by a switch. Running them on the kernels is convbench.use_kernels' business.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from convbench.errors import STRANGERS_ERRORS, InputError

if TYPE_CHECKING:
    from torch.nn import Module

_WAYS = "a built-in model, FILE.py:FACTORY or PACKAGE.MODULE:FACTORY"


@cache
def names() -> tuple[str, ...]:
    """Names of the built-in models; imports none of them."""
    files = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return tuple(sorted(name for name in files if name not in ("__init__", "blocks")))


def load(spec: str, /, **offered: Any) -> tuple[Module, Any]:
    """(the model that ``spec`` names, the INPUT it is for, None where it says none). Runs the model's own code.

    ``spec`` is a built-in name, FILE.py:FACTORY or PACKAGE.MODULE:FACTORY, where FACTORY is a function that returns a
    torch.nn.Module, or such a module. Of ``offered`` it gets the arguments that it has; it may require no other.
    INPUT stands beside it: a shape, or a function that returns the inputs (convbench.suites.traced.subject).
    Raises InputError for anything else, naming what went wrong.
    """
    module, factory = find(spec)
    return _build(spec, factory, offered), getattr(module, "INPUT", None)


def find(spec: str) -> tuple[ModuleType, Any]:
    """(the module that ``spec`` names, what makes the model in it). Raises InputError as load does."""
    place, colon, factory = spec.rpartition(":")
    if not colon:
        if spec not in names():
            close = difflib.get_close_matches(spec, names(), n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            hint = f"name what makes the model in it, such as {spec}:make; " if spec.endswith(".py") else hint
            raise InputError(f"--model {spec}: no such model; {hint}expected {_WAYS}; built in: {', '.join(names())}")
        place, factory = f"{__name__}.{spec}", spec
    module = _import(spec, place)
    if not hasattr(module, factory):
        found = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        close = difflib.get_close_matches(factory, found, n=1)
        raise InputError(f"--model {spec}: {place} has no {factory}" + (f"; did you mean {close[0]}?" if close else ""))
    return module, getattr(module, factory)


def parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """The named arguments of a factory; none of something that does not tell."""
    try:
        found = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    return {name: p for name, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _import(spec: str, place: str) -> ModuleType:
    path = Path(place)
    folder = str(path.parent.resolve()) if place.endswith(".py") else os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as `python FILE.py` and `python -m MODULE` do
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if not path.is_file():
            raise InputError(f"--model {spec}: there is no file {place}; expected {_WAYS}")
        described = importlib.util.spec_from_file_location(f"convbench_model_{path.stem}", path)
        assert described and described.loader
        module = sys.modules[described.name] = importlib.util.module_from_spec(described)
        described.loader.exec_module(module)
        return module
    except InputError:
        raise
    except STRANGERS_ERRORS as error:
        raise InputError(
            f"--model {spec}: importing {place} failed: {type(error).__name__}: {error}; "
            "import it in Python to see where, and install what it needs"
        ) from None


def _build(spec: str, factory: Callable | Module, offered: dict[str, Any]) -> Module:
    from torch.nn import Module

    if isinstance(factory, Module):
        return factory
    own = parameters(factory)
    given = {name: value for name, value in offered.items() if name in own}
    needed = [name for name, p in own.items() if p.default is p.empty and name not in given]
    if needed:
        raise InputError(
            f"--model {spec}: it needs arguments ({', '.join(needed)}); name a function without, such as "
            f"`def make(): return {spec.rpartition(':')[2]}(...)`"
        )
    try:
        model = factory(**given)
    except STRANGERS_ERRORS as error:
        raise InputError(f"--model {spec}: calling it failed: {type(error).__name__}: {error}") from None
    if not isinstance(model, Module):
        raise InputError(f"--model {spec}: it made a {type(model).__name__}; expected a torch.nn.Module")
    return model
