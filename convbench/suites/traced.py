"""A suite from a model: every convolution that runs, however it is called, found by torch's dispatcher."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from convbench import count
from convbench.errors import STRANGERS_ERRORS, InputError
from convbench.receptive_field import Field, largest
from convbench.spec import ConvSpec
from convbench.suites.model import Layer, Other, Suite

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ModelSource:
    """A model by name or factory (see convbench.models.load) and the shapes of its inputs; empty for its own."""

    model: str
    inputs: tuple[Shape, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A model in evaluation mode and what to call it with, and in; ``shown`` names the inputs in messages."""

    name: str
    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shown: str
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(self) -> Any:
        """The model's output. Raises InputError where it fails."""
        try:
            with self.around():
                return self.model(*self.args, **self.kwargs)
        except InputError:
            raise
        except STRANGERS_ERRORS as error:
            raise InputError(
                f"--model {self.name}: it fails on {self.shown}: {type(error).__name__}: {error}; "
                "give the shapes it is for, or an INPUT function beside it that returns what it takes"
            ) from None


@dataclass(frozen=True)
class Call:
    """One convolution that ran: the module it ran in, its shape, which weight it used, and what its output reads."""

    name: str
    spec: ConvSpec
    weight: int
    field: Field | None


@cache
def suite_of(source: ModelSource) -> Suite:
    """The convolutions of one forward pass on random input, equal shapes joined and counted, in order of first use.

    Runs the model once, in evaluation mode, on the CPU in float32, without torch.compile. The totals hold the
    matrix products of its other layers too, and every parameter.

    Raises InputError for a model that cannot be loaded or run on these shapes, or has no two-dimensional convolution.
    """
    import torch

    ready = subject(source, "cpu", torch.float32)
    with torch.no_grad(), uncompiled(), _listening(ready.model, (ready.args, ready.kwargs)) as recorder:
        ready()
    calls = recorder.calls
    if not calls:
        raise no_convolution(ready)
    name = re.sub(r"\W+", "_", source.model.rpartition(":")[2])
    layers = _layers(calls)
    fields = {
        layer.name: field for layer in layers if (field := largest(c.field for c in calls if c.spec == layer.spec))
    }
    return Suite(name, f"Convolutions of the model {source.model} on {ready.shown}.", layers,
                 (*recorder.others, *_rest(ready.model, calls)), network=True, traced=fields)  # fmt: skip


def subject(source: ModelSource, device: str, dtype: torch.dtype | None = None) -> Subject:
    """The model on a device with inputs: random ones of the shapes given, or what INPUT beside the model says.

    INPUT is a shape, or a function that returns the inputs: a tuple of positional arguments, a dictionary of keyword
    arguments, or the one argument. dtype: of parameters and floating inputs; None leaves them as the model has them.

    Raises InputError for a model that cannot be loaded or moved, and where no input is known.
    """
    from convbench import models

    model, own = models.load(source.model)
    if not source.inputs and own is None:
        raise InputError(f"--model {source.model}: give the shape of its input, such as --input 1,3,224,224")
    try:
        model.eval().to(device, dtype)
        args, kwargs = _inputs(model, source.inputs, own, device, dtype)
    except STRANGERS_ERRORS as error:
        raise InputError(
            f"--model {source.model}: moving it to {device}, or making its INPUT (a shape, or a function that returns "
            f"the inputs), failed: {type(error).__name__}: {error}"
        ) from None
    shown = " ".join(f"--input {','.join(map(str, shape))}" for shape in source.inputs) or "its INPUT"
    return Subject(source.model, model, args, kwargs, shown)


def _inputs(
    model: torch.nn.Module, shapes: Sequence[Shape], own: Any, device: str, dtype: torch.dtype | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import torch
    from torch.utils._pytree import tree_map_only

    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    dtype = dtype or next(floats, torch.float32)
    if not (shapes or callable(own) or (isinstance(own, tuple | list) and all(isinstance(n, int) for n in own))):
        raise TypeError(f"INPUT is {own!r}"[:200])
    if shapes or not callable(own):
        return tuple(torch.rand(shape, device=device).to(dtype) for shape in shapes or (tuple(own),)), {}
    made = tree_map_only(torch.Tensor, lambda t: t.to(device, dtype if t.is_floating_point() else None), own())
    return ((), made) if isinstance(made, dict) else (made if isinstance(made, tuple) else (made,), {})


def network_macs(model: torch.nn.Module, shape: Shape) -> int:
    """Nominal multiply-accumulates of the convolutions and matrix products of one forward pass on the CPU."""
    import torch

    x = torch.rand(shape)
    with torch.no_grad(), uncompiled(), _listening(model, x) as recorder:
        model.eval()(x)
    return sum(count.macs(call.spec) for call in recorder.calls) + sum(other.macs for other in recorder.others)


def no_convolution(ready: Subject) -> InputError:
    """The error of a model in which there is nothing to measure."""
    return InputError(
        f"--model {ready.name}: no two-dimensional convolution ran on {ready.shown}; convbench has nothing to measure "
        "in it"
    )


@contextmanager
def uncompiled() -> Iterator[None]:
    """Functions that torch.compile wraps run as they were written, so that their convolutions are seen."""
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _listening(model: torch.nn.Module, inputs: Any) -> Iterator[Any]:
    """A recorder of every aten.convolution and matrix product, which knows the module that runs."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from convbench.suites.fields import Fields

    aten = torch.ops.aten

    class Recorder(TorchDispatchMode):
        def __init__(self, here: Callable[[], str]) -> None:
            super().__init__()
            self.here = here
            self.calls: list[Call] = []
            self.others: list[Other] = []
            self.fields = Fields(tree_leaves(inputs))

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            self.fields.after(func, args, kwargs or {}, out)
            name = self.here()
            if func is aten.convolution.default and args[0].dim() == 4:
                self.calls.append(Call(name, spec_of(*args[:9]), id(args[1]), self.fields.of(out)))
            elif func in (aten.addmm.default, aten.mm.default, aten.bmm.default):
                self.others.append(Other(f"{name} {len(self.others) + 1}", out.numel() * args[-2].shape[-1]))
            return out

    with module_names(model) as here, Recorder(here) as recorder:
        yield recorder


@contextmanager
def module_names(model: torch.nn.Module) -> Iterator[Callable[[], str]]:
    """A function that names the innermost module that runs: ``model`` outside all of those that have a name."""
    inside: list[str] = []

    def leave(*_: Any) -> None:
        inside.pop()

    hooks = []
    for name, module in model.named_modules():
        # torch.compile wraps a module in one that names it _orig_mod
        name = re.sub(r"(^|\.)_orig_mod\b\.?", r"\1", name)
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield lambda: next((name for name in reversed(inside) if name), "") or "model"
    finally:
        for hook in hooks:
            hook.remove()


def spec_of(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> ConvSpec:  # fmt: skip
    """The arguments of aten.convolution as a ConvSpec."""
    return ConvSpec.create(
        tuple(x.shape), w.shape[1] * groups if transposed else w.shape[0], tuple(w.shape[2:]),
        "conv_transpose2d" if transposed else "conv2d", tuple(stride), tuple(padding), tuple(dilation), groups,
        tuple(output_padding), bias is not None,
    )  # fmt: skip


def _layers(calls: Sequence[Call]) -> tuple[Layer, ...]:
    """One layer a shape, named by its first use; names that repeat get a number."""
    counts: dict[ConvSpec, int] = {}
    first: dict[ConvSpec, str] = {}
    for call in calls:
        counts[call.spec] = counts.get(call.spec, 0) + 1
        if call.spec not in first:
            taken = set(first.values())
            numbered = (f"{call.name}#{number}" for number in range(2, len(calls) + 2))
            first[call.spec] = call.name if call.name not in taken else next(n for n in numbered if n not in taken)
    # off the main path: the suite does not know which layer reads which, so it claims no receptive field
    return tuple(Layer(name, spec, counts[spec], main_path=False) for spec, name in first.items())


def _rest(model: torch.nn.Module, calls: Sequence[Call]) -> list[Other]:
    """Parameters beside the convolutions' own. Weights that several calls share count once a call, so they may be 0."""
    counted = {call.weight: call.spec for call in calls}
    convolutions = sum(count.params(spec) for spec in counted.values())
    rest = sum(p.numel() for p in model.parameters()) - convolutions
    return [Other("other parameters", params=rest)] if rest > 0 else []
