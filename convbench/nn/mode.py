"""use_kernels: the convolutions of any torch model on chosen implementations, without touching the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from convbench.nn import functional
from convbench.nn.choice import Wanted, encode
from convbench.nn.report import Report, reporting

_REPLACED: dict[Any, Callable[..., Any]] = {
    torch.conv2d: functional.conv2d,
    torch.conv_transpose2d: functional.conv_transpose2d,
}
_OTHERS = {torch.conv1d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose3d}


class use_kernels(TorchFunctionMode):
    """Every conv2d and conv_transpose2d called in the block runs on these implementations, and so do its gradients.

        with convbench.use_kernels("numba.auto") as used:
            loss = model(x).sum()
        loss.backward()
        print(used)

    wanted  a name as `convbench list` shows it; several, the first that supports a case is taken; or a mapping to names
            from a layer's shape ("conv2d 1x64x56x56 k64 3x3 s1 p1 d1 g1", and a pass behind it or not: as the report
            prints it), a kind ("depthwise"), a pass ("weight_gradient") or "*", the first entry that fits
    strict  raise ConvbenchError with the reason instead of letting torch compute what none of them supports

    The block's value is a Report: which layer ran on what, or on torch and why. It holds for the thread that entered
    the block. torch.compile may wrap the model or the block. What torch runs from C++ (TorchScript, a loaded
    AOTInductor package) does not pass through Python and stays as it is.
    torch turns the mode off while backward() runs, so what activation checkpointing computes again needs a block of its
    own: checkpoint(..., use_reentrant=False, context_fn=lambda: (use_kernels(...), use_kernels(...))).

    Raises InputError for an unknown implementation, layer, kind or pass.
    """

    def __init__(self, wanted: Wanted = "numba.auto", strict: bool = False) -> None:
        super().__init__()
        self.choice, self.strict, self.report = encode(wanted, strict), strict, Report()
        self.counting = reporting(self.report)

    def __enter__(self) -> Report:  # type: ignore[override]
        super().__enter__()
        self.counting.__enter__()
        return self.report

    def __exit__(self, *error: Any) -> None:
        self.counting.__exit__(*error)
        super().__exit__(*error)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _REPLACED:
            return _REPLACED[func](*args, **(kwargs | {"choice": self.choice}))
        if func in _OTHERS:
            reason = "only two-dimensional convolutions are replaced"
            functional.leave(func.__name__, args[0] if args else kwargs["input"], reason, self.strict)
        return func(*args, **kwargs)
