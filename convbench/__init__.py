"""convbench: verify, time and explain convolution operators on this machine.

Importing the package is cheap on purpose: nothing heavy (torch, numba, pandas) is loaded here. What a model needs,
``convbench.use_kernels`` and ``convbench.nn``, is loaded at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbench import nn as nn
    from convbench.nn import use_kernels as use_kernels

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "use_kernels":
        return import_module("convbench.nn").use_kernels
    if name == "nn":
        return import_module("convbench.nn")
    raise AttributeError(f"module 'convbench' has no attribute {name!r}")
