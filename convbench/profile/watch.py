"""Watches a model run: every operator stamped, every convolution with the layer it belongs to, by torch's dispatcher.

A step is one forward pass, and one backward pass of the sum of all floating outputs where the model has one. The two
gradients of a convolution are asked for one after the other, as torch's own backends compute them, so that each has
its time. Seconds are the host's on a CPU; on CUDA they lie between events on the stream, so the host is not waited for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convbench.errors import STRANGERS_ERRORS
from convbench.machine.cuda_timer import CudaTimer
from convbench.measure import Timer, host_timer
from convbench.profile.model import MIXED_LAYOUT, REPACK
from convbench.profile.words import failure
from convbench.spec import ConvSpec, Pass
from convbench.suites.traced import Subject, module_names, spec_of, uncompiled

_aten = torch.ops.aten
_COPIES = (_aten.clone.default, _aten._to_copy.default)


class Layer(NamedTuple):
    """One pass of one convolution of a module: calls that agree in all of this are one row."""

    name: str
    spec: ConvSpec
    dtype: str
    layout: str
    pass_: Pass


@dataclass(frozen=True)
class Event:
    """One operator that ran: which layer, or its name, and the two moments in seconds of one clock."""

    what: Layer | str
    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


# Steps --------------------------------------------------------------------------------------------


def total(output: Any) -> torch.Tensor | None:
    """Sum of every floating tensor in an output that can be differentiated; None where there is none."""
    sums = [leaf.float().sum() for leaf in tensors(output) if leaf.requires_grad]
    return torch.stack(sums).sum() if sums else None


def warm_timer(device: str) -> Timer:
    """What times a step, or a call as it is: the caches are left alone."""
    return CudaTimer(device, hot=True) if device.startswith("cuda") else host_timer


def tensors(output: Any) -> list[torch.Tensor]:
    """Every floating tensor in an output: in containers, and in the attributes of objects that torch does not know."""
    leaves = tree_leaves(output)
    objects = [leaf for leaf in leaves if hasattr(leaf, "__dict__") and not torch.is_tensor(leaf)]
    leaves += tree_leaves([vars(leaf) for leaf in objects])
    return [leaf for leaf in leaves if torch.is_tensor(leaf) and leaf.is_floating_point()]


def forward(subject: Subject) -> Any:
    """The model's output without gradients."""
    with torch.no_grad():
        return subject()


def training(subject: Subject) -> None:
    """A forward and a backward pass, gradients new each time."""
    subject.model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        loss = total(subject())
        assert loss is not None
        loss.backward()


def why_no_backward(subject: Subject) -> str:
    """ "" for a model that can be differentiated, otherwise the reason. The model has run under no_grad before."""
    try:
        with torch.enable_grad():
            loss = total(subject())
            if loss is None:
                return "no output depends on its parameters in a way that torch can differentiate"
            loss.backward()
    except STRANGERS_ERRORS as error:
        return failure(error)
    finally:
        subject.model.zero_grad(set_to_none=True)
    return ""


# Watching -----------------------------------------------------------------------------------------


class Watch:
    """A step run under the dispatcher's eye, as often as it is called; ``steps`` holds the events of each."""

    def __init__(self, subject: Subject, run: Callable[[Subject], object], device: str) -> None:
        self.subject, self.run = subject, run
        cuda = device.startswith("cuda")
        self.now: Callable[[], Any] = _cuda_now if cuda else perf_counter
        self._resolve = _cuda_events if cuda else _events
        self._raw: list[list[tuple[Layer | str, Any, Any]]] = []

    def __call__(self) -> None:
        with uncompiled(), module_names(self.subject.model) as here, _Stamps(here, self.now) as stamps:
            self.run(self.subject)
        self._raw.append(stamps.events)

    def forget(self) -> None:
        """Drop what was seen so far, such as warm-up."""
        self._raw.clear()

    @property
    def steps(self) -> list[list[Event]]:
        """Events of every step since the last forget(), in the order they ran."""
        return list(map(self._resolve, self._raw))


def _events(raw: list[tuple[Layer | str, Any, Any]]) -> list[Event]:
    return [Event(*entry) for entry in raw]


def _cuda_now() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _cuda_events(raw: list[tuple[Layer | str, Any, Any]]) -> list[Event]:
    torch.cuda.synchronize()
    zero: Any = raw[0][1] if raw else None
    return [Event(what, *(zero.elapsed_time(e) * 1e-3 for e in ends)) for what, *ends in raw]


class _Stamps(TorchDispatchMode):
    """Each operator as it runs; a convolution's backward is split into its gradients."""

    def __init__(self, here: Callable[[], str], now: Callable[[], Any]) -> None:
        super().__init__()
        self.here, self.now = here, now
        self.events: list[tuple[Layer | str, Any, Any]] = []
        self.names: dict[tuple[int, ConvSpec], str] = {}  # which layer a weight was used in, for the backward pass

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _aten.convolution.default and args[0].dim() == 4:
            x, w = args[:2]
            layer = layer_of(self.here(), "forward", x, w, spec_of(*args[:9]))
            self.names[w.data_ptr(), layer.spec] = layer.name
            return self._stamped(layer, func, args, kwargs)
        if func is _aten.convolution_backward.default and args[0].dim() == 4:
            return self._gradients(func, args)
        return self._stamped("", func, args, kwargs)

    def _stamped(self, what: Layer | str, func: Any, args: Any, kwargs: Any) -> Any:
        start = self.now()
        out = func(*args, **kwargs)
        stop = self.now()
        self.events.append((what or _name(func, args, out), start, stop))
        return out

    def _gradients(self, func: Any, args: Any) -> tuple[Any, ...]:
        (_, x, w, bias, *geometry), mask = args[:10], args[10]
        spec = spec_of(x, w, w if any(bias or ()) else None, *geometry)  # without a bias torch says [0]
        layer = layer_of(self.names.get((w.data_ptr(), spec), "model"), "data_gradient", x, w, spec)
        dx = dw = db = None
        if mask[0]:
            dx, _, _ = self._stamped(layer, func, (*args[:10], [True, False, False]), {})
        if mask[1] or mask[2]:
            weights = layer._replace(pass_="weight_gradient")
            _, dw, db = self._stamped(weights, func, (*args[:10], [False, mask[1], mask[2]]), {})
        return dx, dw, db


def _name(func: Any, args: Any, out: Any) -> str:
    if func in _COPIES and out.dim() == 4:
        before, after = layout_of(args[0]), layout_of(out)
        if before != after:
            return f"{REPACK} {before} to {after}"
    name = func.overloadpacket.__name__
    return f"{name} ({args[1].dim() - 2}d)" if name.startswith("convolution") else name


def layer_of(name: str, pass_: Pass, x: torch.Tensor, w: torch.Tensor, spec: ConvSpec) -> Layer:
    """The layer that a call belongs to. Its layout is x's, and w's where that is another."""
    layout = layout_of(x)
    if layout == "nchw" and layout_of(w) == "channels_last":
        layout = MIXED_LAYOUT
    return Layer(name, spec, str(x.dtype).removeprefix("torch."), layout, pass_)


def layout_of(tensor: torch.Tensor) -> str:
    """nchw where a tensor is both, as it is with one channel or one pixel."""
    if tensor.is_contiguous():
        return "nchw"
    return "channels_last" if tensor.is_contiguous(memory_format=torch.channels_last) else "strided"


def compiled_frames() -> int:
    """How many functions torch.compile has looked at in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo.counters["frames"]["total"] if dynamo else 0
