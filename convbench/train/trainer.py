"""One variant: its model, its optimizer, a training step in timed phases, evaluation, and its state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import nn

from convbench import models
from convbench.errors import STRANGERS_ERRORS, InputError
from convbench.nn import use_kernels
from convbench.registry import CHANNELS_LAST, REFERENCE
from convbench.train.data import Data
from convbench.train.losses import loss_of
from convbench.train.parallel import Group
from convbench.train.result import Computed, Evaluation, History
from convbench.train.settings import Settings, Variant

Tensor = torch.Tensor

SMALL_IMAGE = 64  # up to here a network gets the stem for small images, if it has one
_NO_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")


class Trainer:
    """Trains one variant step by step. Equal settings give equal weights.

    Raises InputError for a model that cannot be built, or whose output does not fit the data.
    """

    def __init__(self, variant: Variant, settings: Settings, data: Data, steps: int, group: Group) -> None:
        self.variant, self.settings, self.data, self.group = variant, settings, data, group
        torch.manual_seed(settings.seed)
        plain = build(variant, settings, data)
        self.kernels = _kernels(variant.implementation, settings.strict)
        self.format = torch.channels_last if variant.implementation == CHANNELS_LAST else torch.contiguous_format
        self.history = History(variant, sum(p.numel() for p in plain.parameters()), macs_of(plain, data))
        self.ran_before: dict[tuple[str, str, str, bool], int] = {}
        self.plain = plain.to(settings.device).to(memory_format=self.format)  # type: ignore[call-overload]
        check_output(variant.model, self.plain, data, settings.device)
        self.model = group.wrap(self.plain)
        self.optimizer = _optimizer(self.plain.parameters(), settings)
        self.schedule = _schedule(self.optimizer, settings, steps)

    @property
    def going(self) -> bool:
        return self.history.status == "ok"

    def step(self, images: Tensor, target: Tensor, data_s: float, seed: int) -> None:
        """One training step on this process's share of a batch; one that fails ends this variant, with the reason.

        A loss that is no number changes no weight.
        """
        torch.manual_seed(seed)  # of dropout: the same for all variants, and after resuming
        try:
            self._step(images, target, data_s)
        except STRANGERS_ERRORS as error:
            if self.group.world > 1:
                raise
            self.stop(error)

    def _step(self, images: Tensor, target: Tensor, data_s: float) -> None:
        self.model.train()
        begun = self.now()
        loss = self.loss(images, target)
        forward = self.now()
        value = float(self.group.total(loss.detach().clone()) / self.group.world)
        if not math.isfinite(value):
            self.history.status = "diverged"
            self.history.detail = (
                f"the loss is {value} at step {len(self.history.losses) + 1}; the weights before it are kept: lower "
                "--learning-rate"
            )
            return
        counted = self.now()
        loss.backward()
        backward = self.now()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        history = self.history
        history.losses.append(value)
        history.data_s.append(data_s)
        history.forward_s.append(forward - begun)
        history.backward_s.append(backward - counted)
        history.optimizer_s.append(self.now() - backward)

    def loss(self, images: Tensor, target: Tensor) -> Tensor:
        """Loss of a batch with this variant's kernels, on which its gradients run too, and format of tensors."""
        with self.kernels:  # not around more: it sees every operation, the optimizer's as well
            logits = self.model(images.contiguous(memory_format=self.format))
        return loss_of(self.settings.loss, logits, target)

    def now(self) -> float:
        """The clock, when all that was begun is done."""
        if self.settings.device.startswith("cuda"):
            torch.cuda.synchronize(self.settings.device)
        return perf_counter()

    def predict(self, images: Tensor, timed: bool) -> Tensor:
        """(N,...) class numbers of a batch; a full batch's time counts."""
        self.plain.eval()
        with torch.inference_mode(), self.kernels:
            begun = self.now()
            logits = self.plain(images.contiguous(memory_format=self.format))
            if timed:
                self.history.inference_s.append(self.now() - begun)
            return logits.argmax(1)

    def evaluated(self, matrix: Tensor, metric: float) -> None:
        """Keep what the test images gave."""
        self.history.evaluations.append(Evaluation(len(self.history.losses), metric, matrix.tolist()))

    def stop(self, error: BaseException) -> None:
        """End this variant; the others go on."""
        text = " ".join(str(error).split())
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(m in text for m in _NO_MEMORY)
        self.history.status = "out_of_memory" if memory else "error"
        self.history.detail = f"{type(error).__name__}: {text[:300]}" + ("; lower --batch" if memory else "")
        self.optimizer.zero_grad()

    def note_what_ran(self) -> None:
        """Keep what computed the convolutions, before an interruption too."""
        if isinstance(self.kernels, use_kernels):
            counts = Counter(self.ran_before)
            for ran in self.kernels.report.rows:
                counts[ran.layer, ran.pass_, ran.computed_by, bool(ran.reason)] += ran.count
            self.history.ran = [Computed(*what, count) for what, count in counts.items()]

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it: tensors and plain data only."""
        return {
            "model": self.plain.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any], history: History) -> None:
        """Go on from a state."""
        self.plain.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = history
        self.ran_before = {(c.layer, c.pass_, c.by, c.fallback): c.count for c in history.ran}


def build(variant: Variant, settings: Settings, data: Data) -> nn.Module:
    """The model, with classes, channels and image size of the data where its factory takes them."""
    offered = {
        "classes": len(data.classes), "channels": data.channels, "image": data.size,
        "small_images": max(data.size) <= SMALL_IMAGE, **settings.arguments,
    }  # fmt: skip
    if variant.form != "as_is":
        offered["separable"] = variant.form == "separable"
    model, _ = models.load(variant.model, **offered)
    return model.float()


def check_output(name: str, model: nn.Module, data: Data, device: str) -> None:
    """Raises InputError unless the model gives one score a class, of each image or of each pixel."""
    images = data.train.images[:2].to(device)
    expected = (len(images), len(data.classes), *(data.size if data.task == "segment" else ()))
    try:
        with torch.no_grad():
            y = model.eval()(images)
    except STRANGERS_ERRORS as error:
        raise InputError(
            f"--model {name}: it fails on images of {'x'.join(map(str, images.shape[1:]))}: {error}; "
            "give --set NAME=VALUE what it needs, or another --data"
        ) from None
    shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
    if shape != expected:
        raise InputError(
            f"--model {name}: it gives {shape} for {len(images)} images; to {data.task} into "
            f"{len(data.classes)} classes it must give {expected}: take `classes` as an argument"
        )


def macs_of(model: nn.Module, data: Data) -> int | None:
    """Nominal multiply-accumulates of convolutions and matrix products, one image."""
    from convbench.suites.traced import network_macs

    try:
        return network_macs(model, (1, data.channels, *data.size))
    except STRANGERS_ERRORS:  # check_output says what is wrong with it
        return None


def _kernels(implementation: str, strict: bool) -> AbstractContextManager:
    own = implementation in (REFERENCE, CHANNELS_LAST)
    return nullcontext() if own else use_kernels(implementation, strict)


def _optimizer(parameters: Iterable[nn.Parameter], s: Settings) -> torch.optim.Optimizer:
    optim = torch.optim
    make: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: optim.SGD(parameters, s.learning_rate, s.momentum, weight_decay=s.weight_decay),
        "rmsprop": lambda: optim.RMSprop(parameters, s.learning_rate, momentum=s.momentum, weight_decay=s.weight_decay),
        "adam": lambda: optim.Adam(parameters, s.learning_rate, weight_decay=s.weight_decay),
        "adamw": lambda: optim.AdamW(parameters, s.learning_rate, weight_decay=s.weight_decay),
    }
    return make[s.optimizer]()


def _schedule(optimizer: torch.optim.Optimizer, s: Settings, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    schedulers = torch.optim.lr_scheduler
    if s.schedule == "constant":
        return schedulers.ConstantLR(optimizer, 1.0)
    if s.schedule == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, steps)
    # momentum stays what --momentum says
    return schedulers.OneCycleLR(optimizer, s.learning_rate, total_steps=steps + 1, cycle_momentum=False)
