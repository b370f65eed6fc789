"""Looks at what every convolution of a forward pass is given: what a time alone does not tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from convbench.profile.watch import Layer, layer_of
from convbench.receptive_field import Field
from convbench.suites.fields import Fields
from convbench.suites.traced import Subject, module_names, spec_of, uncompiled

_aten = torch.ops.aten


@dataclass(frozen=True)
class Seen:
    """What a forward call of a layer was given, where a time alone does not tell.

    before  number of the convolution whose output it reads, through other operators or none; None for the first ones
    field   what of the model's input its outputs read; None where that is not known
    """

    layer: Layer
    input_denormals: int
    weight_denormals: int
    before: int | None
    field: Field | None = None


def inspect(subject: Subject) -> list[Seen]:
    """What every convolution of one forward pass is given, in the order they run."""
    fields = Fields(tree_leaves((subject.args, subject.kwargs)))
    with torch.no_grad(), uncompiled(), module_names(subject.model) as here, _Inspector(here, fields) as inspector:
        subject()
    return inspector.seen


class _Inspector(TorchDispatchMode):
    def __init__(self, here: Callable[[], str], fields: Fields) -> None:
        super().__init__()
        self.here, self.fields, self.seen = here, fields, list[Seen]()
        self.last = WeakTensorKeyDictionary()  # tensor -> number of the last convolution on the way to it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.fields.after(func, args, kwargs or {}, out)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        before = max((self.last[tensor] for tensor in given if tensor in self.last), default=None)
        if func is _aten.convolution.default and args[0].dim() == 4:
            x, w = args[:2]
            layer = layer_of(self.here(), "forward", x, w, spec_of(*args[:9]))
            self.seen.append(Seen(layer, denormals(x), denormals(w), before, self.fields.of(out)))
            before = len(self.seen) - 1
        if before is not None:
            self.last.update({leaf: before for leaf in tree_leaves(out) if torch.is_tensor(leaf)})
        return out


def denormals(tensor: torch.Tensor) -> int:
    """How many elements are too small to be normal numbers of their type, and are not 0."""
    size = tensor.abs()
    return int(((size > 0) & (size < torch.finfo(tensor.dtype).tiny)).sum())
