"""Training on several processes, started by torchrun: the same result as one process with the same global batch.

Gradients are averaged by DistributedDataParallel (gloo on CPUs, nccl on GPUs). What looks at the whole batch is
made to do so here: batch normalisation, and dropout's random mask, which is made the same in every memory format too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional as F

from convbench.errors import ConvbenchError, InputError

Tensor = torch.Tensor


@dataclass(frozen=True)
class Group:
    """The processes that train together, and which of them this is."""

    rank: int = 0
    world: int = 1

    def shard(self, whole: Tensor) -> Tensor:
        """This process's rows of a global batch."""
        return whole[self.rank :: self.world]

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            distributed.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as these processes train it."""
        model = replaced(model, nn.Dropout, lambda layer: Dropout(layer.p, self))
        if self.world == 1:
            return model
        return nn.parallel.DistributedDataParallel(replaced(model, nn.BatchNorm2d, BatchNorm2d.like))


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that torchrun started this process in; alone without torchrun.

    Raises ConvbenchError when another process of the group is gone.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Group()
        return
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(backend)
    try:
        yield Group(distributed.get_rank(), world)
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "onnection" not in str(error):
            raise
        raise ConvbenchError(
            f"process {distributed.get_rank()} of {world}: another process has ended, so training stopped; what the "
            "last checkpoint holds is kept, go on with --resume"
        ) from None
    finally:
        distributed.destroy_process_group()


def shared(batch: int, group: Group) -> int:
    """Images of a global batch that each process gets. Raises InputError where they cannot be equally many."""
    if batch % group.world:
        raise InputError(f"--batch {batch}: {group.world} processes share it, so it must be a multiple of that number")
    return batch // group.world


def replaced(model: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> nn.Module:
    """The model with its layers of exactly that class replaced, in place, by what is made of them."""
    for name, child in model.named_children():
        if type(child) is kind:
            setattr(model, name, make(child))
        else:
            replaced(child, kind, make)
    return model


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over all processes' images, on any device (torch's own does so on GPUs only)."""

    @classmethod
    def like(cls, other: nn.BatchNorm2d) -> BatchNorm2d:
        """A copy of a layer."""
        settings: Any = (other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        made = cls(*settings)
        made.load_state_dict(other.state_dict())
        return made.to(other.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> the same; mean and variance are those of the global batch while training."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean = _Sum.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _Sum.apply((centred * centred).sum((0, 2, 3))) / count
        with torch.no_grad():
            batches: Any = self.num_batches_tracked
            batches.add_(1)
            step = self.momentum if self.momentum is not None else 1 / int(batches)
            self.running_mean.lerp_(mean, step)
            self.running_var.lerp_(variance * count / max(count - 1, 1), step)
        y = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        return y if self.weight is None else y * self.weight[:, None, None] + self.bias[:, None, None]


class _Sum(torch.autograd.Function):
    """The sum over all processes; every one of them depends on every term, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """The same for the gradient."""
        return _summed(gradient)


def _summed(x: Tensor) -> Tensor:
    total = x.contiguous().clone()
    distributed.all_reduce(total)
    return total


class Dropout(nn.Module):
    """Dropout whose mask is drawn for the global batch in the order of NCHW.

    Each image gets the mask that it has in one process; torch's own draws one in the order of memory, another in
    channels_last.
    """

    def __init__(self, p: float, group: Group) -> None:
        super().__init__()
        self.p, self.group = p, group

    def forward(self, x: Tensor) -> Tensor:
        """Any shape with images first -> the same, in the same memory format."""
        if not self.training:
            return x
        if self.group.world == 1 and x.is_contiguous():
            return F.dropout(x, self.p)
        whole = F.dropout(x.new_ones(x.shape[0] * self.group.world, *x.shape[1:]), self.p)
        return x * torch.empty_like(x).copy_(self.group.shard(whole))
