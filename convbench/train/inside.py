"""One step looked into: the time of its convolutions, and the memory that backward waits for.

Gradients are thrown away; no weight and no running statistic changes.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from convbench.train.trainer import Trainer

LOOKS = 3  # of which the median is kept


def look_into(trainer: Trainer, images: torch.Tensor, target: torch.Tensor, seed: int) -> None:
    """Fill in the history's convolution_s and held_bytes."""
    buffers = [buffer.clone() for buffer in trainer.plain.buffers()]
    trainer.model.train()
    torch.manual_seed(seed)
    try:
        trainer.history.held_bytes = _held_bytes(trainer, images, target)
        times = [_convolution_s(trainer, images, target) for _ in range(LOOKS)]
        trainer.history.convolution_s = median(times)
    finally:
        trainer.optimizer.zero_grad()
        with torch.no_grad():
            for buffer, before in zip(trainer.plain.buffers(), buffers, strict=True):
                buffer.copy_(before)


def _held_bytes(trainer: Trainer, images: torch.Tensor, target: torch.Tensor) -> int:
    """Weights, gradients, optimizer state, and every storage that autograd keeps between forward and backward."""
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for parameter in trainer.plain.parameters():
        keep(parameter.data)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.loss(images, target).backward()
    for parameter in trainer.plain.parameters():
        for tensor in (parameter.grad, *trainer.optimizer.state[parameter].values()):
            if isinstance(tensor, torch.Tensor):
                keep(tensor)
    return sum(storages.values())


def _convolution_s(trainer: Trainer, images: torch.Tensor, target: torch.Tensor) -> float:
    """Seconds in convolutions of one forward and backward, whoever computes them."""
    spent: list[float] = []

    class Stopwatch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not _is_convolution(func):
                return func(*args, **(kwargs or {}))
            begun = trainer.now()
            out = func(*args, **(kwargs or {}))
            spent.append(trainer.now() - begun)
            return out

    with Stopwatch():
        trainer.loss(images, target).backward()
    return sum(spent)


def _is_convolution(func: Any) -> bool:
    aten = torch.ops.aten
    return func in (aten.convolution.default, aten.convolution_backward.default) or func.namespace == "convbench"
