"""Receptive fields along a model's trace: what of the input each tensor's positions read, operator by operator.

Followed exactly, padding and all, through convolutions, pooling, pointwise operators, padding, views, other orders of
the dimensions, and linear layers over the channels, as ConvNeXt writes 1x1 convolutions. Where branches meet, a
position reads what both read. A mean over the image, or what is multiplied by one (squeeze and excitation), reads the
whole input. After anything else, an up-sampling for instance, whose outputs do not all read the same window, the field
is unknown. Statistics of a normalisation do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from convbench.receptive_field import Field
from convbench.spec import Pair
from convbench.suites.reach import IMAGE, Moved, Reach, State, last_two


class Fields:
    """The states of all tensors that derive from these inputs. ``after`` is told every operator that ran."""

    def __init__(self, inputs: Iterable[Any]) -> None:
        self.states = WeakTensorKeyDictionary()
        self.size: Pair = (1, 1)
        for tensor in inputs:
            if torch.is_tensor(tensor) and tensor.is_floating_point() and tensor.dim() > IMAGE:
                self.states[tensor] = Reach()
                self.size = max(self.size, (tensor.shape[-2], tensor.shape[-1]))

    def of(self, tensor: torch.Tensor) -> Field | None:
        """The receptive field of a tensor's positions, None where it is not known."""
        state = self.states.get(tensor, "unknown")
        if state == "whole":
            return Field(self.size, self.size[0] * self.size[1])
        return state.field() if isinstance(state, Reach) else None

    def after(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """Give an operator's outputs their state, from those of its arguments."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        derived = [tensor for tensor in given if tensor in self.states]
        outputs = [leaf for leaf in tree_leaves(out) if torch.is_tensor(leaf)]
        if not derived or not outputs:
            return
        state = self._state(func, args, derived, outputs[0])
        for tensor in outputs:
            self.states[tensor] = state
            base = tensor._base if func._schema.is_mutable else None
            if base is not None and base is not tensor:  # a part of another tensor was overwritten
                self.states[base] = "whole" if state == "whole" else "unknown"

    def _state(self, func: Any, args: Sequence[Any], derived: Sequence[torch.Tensor], out: torch.Tensor) -> State:
        states = [self.states[tensor] for tensor in derived]
        if "whole" in states:
            return "whole"
        if "unknown" in states:
            return "unknown"
        name, pointwise = func.overloadpacket.__name__, torch.Tag.pointwise in func.tags
        if any(isinstance(state, Moved) for state in states) or (name in _VIEWS and not _keeps_image(name, args, out)):
            return _moved(name, pointwise or name in _POINTWISE, args, derived, states, out)
        if name in _RULES:
            (first, *more) = states
            return "unknown" if more else _RULES[name](first, args, out)
        if pointwise or name in _POINTWISE:
            spread = any(tensor.shape[-IMAGE:] != out.shape[-IMAGE:] for tensor in derived)
            return "unknown" if spread else _together(states)
        return _together(states) if _keeps_image(name, args, out) else "unknown"


def _together(states: Sequence[State]) -> State:
    found = states[0]
    for state in states[1:]:
        if isinstance(found, Reach) and isinstance(state, Reach):
            found = found.joined(state)
    return found


def _moved(
    name: str, pointwise: bool, args: Sequence[Any], derived: Sequence[torch.Tensor], states: Sequence[State],
    out: torch.Tensor,
) -> State:  # fmt: skip
    """Where height and width are elsewhere, or are just being moved: views, pointwise operators and matrix products."""
    all_ = [last_two(s, t.shape) if isinstance(s, Reach) else s
            for s, t in zip(states, derived, strict=True) if isinstance(s, Reach | Moved)]  # fmt: skip
    first = all_[0]
    if pointwise:
        alike = all(s.places == first.places and t.shape == out.shape for s, t in zip(all_, derived, strict=True))
        together = _together([s.reach for s in all_]) if alike else "unknown"
        return Moved(together, first.places) if isinstance(together, Reach) else together
    if len(all_) > 1:
        return "unknown"
    if name in ("permute", "transpose"):
        return first.permuted(derived[0].shape, _order(name, args))
    if name in _VIEWS:
        return first.viewed(out.shape)
    if name in _PRODUCTS and args[_PRODUCTS[name]] is derived[0]:
        return first.multiplied(derived[0].shape[-1], out.shape[-1])
    return "unknown"


def _given(args: Sequence[Any], place: int, default: Any) -> Any:
    return args[place] if len(args) > place else default


# Operators --------------------------------------------------------------------------------------------

_POINTWISE = {
    "hardswish", "hardswish_", "copy_", "_to_copy", "detach", "_prelu_kernel", "native_dropout", "where", "lift_fresh",
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "native_group_norm",
    "cudnn_batch_norm", "_batch_norm_with_update", "native_layer_norm", "alias", "expand",
}  # fmt: skip
_PRODUCTS = {"mm": 0, "addmm": 1}  # which argument has the positions
_VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "unsqueeze", "squeeze"}
_ALONG = {"cat": 1, "stack": 1, "split": 2, "split_with_sizes": 2, "chunk": 2, "select": 1, "slice": 1, "narrow": 1,
          "index_select": 1, "unbind": 1, "_softmax": 1, "_log_softmax": 1, "amax": 1, "max": 1, "sum": 1}  # fmt: skip


def _keeps_image(name: str, args: Sequence[Any], out: torch.Tensor) -> bool:
    """Whether the last two dimensions come out as they went in: position by position, in their order."""
    given = next((leaf for leaf in tree_leaves(args) if torch.is_tensor(leaf)), out)
    same = given.dim() > IMAGE and given.shape[-IMAGE:] == out.shape[-IMAGE:]
    if name.startswith("upsample_"):
        return same
    if name in ("permute", "transpose"):
        return _order(name, args)[-IMAGE:] == [given.dim() - 2, given.dim() - 1]
    if name in _VIEWS:
        return same
    if name in _ALONG:
        along = _given(args, _ALONG[name], 0)
        dims = along if isinstance(along, list | tuple) else [along]
        return same and all(isinstance(n, int) and n % given.dim() < given.dim() - IMAGE for n in dims)
    return False


def _order(name: str, args: Sequence[Any]) -> list[int]:
    """Which dimension of the first argument each one of the result was."""
    rank = args[0].dim()
    if name == "permute":
        return [n % rank for n in args[1]]
    order = list(range(rank))
    one, other = (n % rank for n in args[1:3])
    order[one], order[other] = order[other], order[one]
    return order


def _convolution(reach: Reach, args: Sequence[Any], out: torch.Tensor) -> State:
    x, w, _, stride, padding, dilation, transposed = args[:7]
    if transposed or x.dim() != 2 + IMAGE:
        return "unknown"
    return reach.read(tuple(w.shape[2:]), stride, dilation, padding)


def _max_pool(reach: Reach, args: Sequence[Any], out: torch.Tensor) -> State:
    return reach.read(args[1], _given(args, 2, None), _given(args, 4, 1), _given(args, 3, 0))


def _average_pool(reach: Reach, args: Sequence[Any], out: torch.Tensor) -> State:
    return reach.read(args[1], _given(args, 2, None), 1, _given(args, 3, 0))


def _adaptive_pool(reach: Reach, args: Sequence[Any], out: torch.Tensor) -> State:
    """Equal windows where the sizes divide."""
    before, after = args[0].shape[-IMAGE:], out.shape[-IMAGE:]
    if tuple(after) == (1, 1):
        return "whole"
    if any(b % a for b, a in zip(before, after, strict=True)):
        return "unknown"
    return reach.read([b // a for b, a in zip(before, after, strict=True)], None)


def _mean(reach: Reach, args: Sequence[Any], out: torch.Tensor) -> State:
    """Over the image, or over channels alone."""
    rank = args[0].dim()
    dims = {n % rank for n in (_given(args, 1, None) or range(rank))}
    image = {rank - 2, rank - 1}
    return "whole" if image <= dims else reach if not image & dims else "unknown"


def _pad(reach: Reach, args: Sequence[Any], out: torch.Tensor) -> State:
    """(left, right, top, bottom, ...)."""
    sizes = [*args[1], 0, 0]
    return reach.read(1, 1, 1, (sizes[2], sizes[0]))


_RULES: dict[str, Callable[[Reach, Sequence[Any], torch.Tensor], State]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "adaptive_max_pool2d": _adaptive_pool,
    "mean": _mean,
    "constant_pad_nd": _pad,
    "reflection_pad2d": _pad,
    "replication_pad2d": _pad,
}
