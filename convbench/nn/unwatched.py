"""An operator called without torch's dispatcher, whose way through Python takes longer than a small layer's kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor
PLAIN = {Tensor, torch.nn.Parameter}


def unwatched(
    operator: Callable[..., Tensor],
    compute: Callable[..., Tensor],
    keep: Callable[..., None],
    backward: Callable[..., tuple[Any, ...]],
) -> Callable[..., Tensor]:
    """operator(*arguments) by the shortest way: compute itself, or an autograd function where a gradient is wanted.

    compute, keep (setup_context) and backward are what the operator was registered with. The operator itself runs
    where somebody sees it by the dispatcher: a compiler, a tracer, a profiler, a dispatch mode, a tensor subclass.
    """

    def forward(ctx: Any, *arguments: Any) -> Tensor:
        result = compute(*arguments)
        keep(ctx, arguments, result)
        return result

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    differentiable = type(compute.__name__, (torch.autograd.Function,), members)

    def call(*arguments: Any) -> Tensor:
        operands = [a for a in arguments[:4] if isinstance(a, Tensor)]
        if _watched(operands):
            return operator(*arguments)
        if _differentiated(operands):
            return differentiable.apply(*arguments)  # type: ignore[attr-defined]
        return compute(*arguments)

    return call


def immediate(operands: list[Tensor]) -> bool:
    """Whether nobody sees an operator on these and no gradient is wanted: what computes it may be called by itself."""
    return not _watched(operands) and not _differentiated(operands)


def _differentiated(operands: list[Tensor]) -> bool:
    return torch.is_grad_enabled() and True in {t.requires_grad for t in operands}


def _watched(operands: list[Tensor]) -> bool:
    return bool(
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
        or not {type(t) for t in operands} <= PLAIN
    )
