"""One step looked into: the share of convolutions, by torch's profiler, and the memory that backward waits for.

The step is taken on a copy's behalf: its gradients are thrown away, no weight and no running statistic changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from convbench.train.trainer import Trainer

_CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward", "convbench::")


def look_into(trainer: Trainer, images: torch.Tensor, target: torch.Tensor, seed: int) -> None:
    """Fill in the history's convolution_share and held_bytes."""
    buffers = [buffer.clone() for buffer in trainer.plain.buffers()]
    trainer.model.train()
    torch.manual_seed(seed)
    try:
        with trainer.kernels:
            trainer.history.held_bytes = _held_bytes(trainer, images, target)
            trainer.history.convolution_share = _share(trainer, images, target)
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


def _share(trainer: Trainer, images: torch.Tensor, target: torch.Tensor) -> float | None:
    """Time in convolutions over the time of forward and backward."""
    cuda = trainer.settings.device.startswith("cuda")
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if cuda else [])]) as profiler:
        begun = trainer.now()
        trainer.loss(images, target).backward()
        whole_us = 1e6 * (trainer.now() - begun)
    spent_us = sum(
        event.device_time_total if cuda else event.cpu_time_total
        for event in profiler.events() or ()
        if _is_convolution(event) and not any(map(_is_convolution, _ancestors(event)))
    )
    return spent_us / whole_us if whole_us else None


def _is_convolution(event: Any) -> bool:
    return event.name in _CONVOLUTIONS or event.name.startswith(_CONVOLUTIONS[2])


def _ancestors(event: Any) -> list[Any]:
    found = []
    while event := event.cpu_parent:
        found.append(event)
    return found
