"""Watches one call of a kernel: what it allocates, and whether torch's convolution does its work.

Memory that torch allocates meanwhile lies between guard bands, and is full of NaN where the kernel asked
for uninitialised memory. Not seen: memory from elsewhere (numpy), and what happens inside a custom operator
(torch.library), so Kernel.run should call the function behind it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from convbench.operands import Guarded, guarded

_UNINITIALISED = frozenset(("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"))
_INITIALISED = frozenset(("zeros", "zeros_like", "new_zeros", "full", "full_like", "new_full", "ones", "ones_like"))


@dataclass
class Seen:
    """Tensors allocated during the call, and the torch convolutions called by it."""

    allocated: list[Guarded] = field(default_factory=list)
    convolutions: list[str] = field(default_factory=list)


@contextmanager
def watching() -> Iterator[Seen]:
    """Observe every torch operator called on this thread. What torch.compile compiled runs as plain Python meanwhile:

    Dynamo gives up a function for good when it meets it under a dispatch mode, and would be timed uncompiled.
    """
    seen = Seen()
    with _uncompiled(), _mode()(seen):
        yield seen


@cache  # a class is a cycle: one a call would keep what was seen in memory until the next full collection
def _mode() -> Callable[[Seen], AbstractContextManager[Any]]:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __init__(self, seen: Seen) -> None:
            super().__init__()
            self.seen = seen

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # or torch imports its compiler, which takes seconds, to see that it leaves this alone

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            name = func.__name__.split(".")[0]
            if _is_convolution(name):
                self.seen.convolutions.append(f"torch's {name}")
            if name not in _UNINITIALISED | _INITIALISED or not result.is_floating_point() or not result.numel():
                return result
            if name in _UNINITIALISED:
                result.fill_(float("nan"))
            self.seen.allocated.append(guarded(result, read_only=False))
            return self.seen.allocated[-1].tensor

    return Watch


def _uncompiled() -> AbstractContextManager[Any]:
    import torch

    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _is_convolution(operator: str) -> bool:
    """aten.convolution and its kin: conv2d, _conv_depthwise2d, mkldnn_convolution, slow_conv_transpose2d, ..."""
    return "convolution" in operator or any(f"conv{kind}" in operator for kind in ("1d", "2d", "3d", "_"))
