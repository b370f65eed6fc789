"""Which implementation computes a pass of a shape, chosen and built once, and torch where none can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from convbench.case import ITEM_BYTES, Case
from convbench.errors import ConvbenchError, InputError
from convbench.nn.choice import decode
from convbench.nn.report import TORCH, Ran
from convbench.plugin import Implementation
from convbench.registry import REFERENCE
from convbench.spec import ConvSpec, Operator, Pair, Pass

Shape = tuple[int, ...]
Tensors = tuple[torch.Tensor, ...]
Described = tuple[tuple[Shape, torch.dtype, torch.device], ...]  # of each operand

LARGEST_CACHE = 4096  # plans: a model has tens of shapes, image sizes that change have many
NOTHING = "-"  # what an empty batch is said to have run on


class Geometry(NamedTuple):
    """How a convolution moves, in the order of aten.convolution's arguments."""

    stride: Pair
    padding: Pair
    dilation: Pair
    transposed: bool
    output_padding: Pair
    groups: int


class Call(NamedTuple):
    """One pass of a convolution as an operator meets it; hashable, cheap to make."""

    pass_: Pass
    x_shape: Shape
    w_shape: Shape
    geometry: Geometry
    operands: Described
    choice: str


@dataclass(frozen=True)
class Plan:
    """run(*operands) -> the result; ran is what to count for it; relu: whether run takes relu=True."""

    run: Callable[..., torch.Tensor]
    ran: Ran
    relu: bool = False

    def rectified(self, *operands: torch.Tensor) -> torch.Tensor:
        """The result with a ReLU behind it, in the same kernel where it has one."""
        return self.run(*operands, relu=True) if self.relu else self.run(*operands).relu_()


def described(operands: Tensors) -> Described:
    """All that a plan depends on."""
    return tuple((t.shape, t.dtype, t.device) for t in operands)


@lru_cache(LARGEST_CACHE)
def plan(call: Call) -> Plan:
    """The first implementation of the choice that supports the call, or torch with the reason.

    Raises ConvbenchError with the reason where the choice is strict.
    """
    choice = decode(call.choice)
    case, reason = _case(call)
    if case:
        implementation, reason = choice.pick(case)
        if implementation and implementation.name == REFERENCE:  # as torch would have run: on the operands' own layout
            return Plan(torchs(call), Ran(str(case.spec), case.pass_, case.dtype, case.device, REFERENCE, "aten"))
        if implementation:
            return _built(implementation, case)
    layer = str(case.spec) if case else _layer(call)
    dtype, device = _dtype(call), str(call.operands[0][2])
    if call.x_shape[0] == 0:
        return Plan(torchs(call), Ran(layer, call.pass_, dtype, device, NOTHING, "empty batch"))
    if choice.strict:
        raise ConvbenchError(
            f"{layer} {call.pass_} {dtype} {device}: {reason}; without strict, torch computes it and the report says so"
        )
    return Plan(torchs(call), Ran(layer, call.pass_, dtype, device, TORCH, reason=reason))


@lru_cache(LARGEST_CACHE)
def separable_plan(geometry: Geometry, operands: Described, choice: str) -> Plan | None:
    """The forward pass of a depthwise-separable pair in one kernel; None where the choice has none."""
    (x_shape, *_), (w1_shape, *_), (w2_shape, *_) = operands[:3]
    try:
        spec = ConvSpec.create(
            x_shape, w2_shape[0], w1_shape[2:], "separable_conv2d",
            geometry.stride, geometry.padding, geometry.dilation, bias=len(operands) == 4,
        )  # fmt: skip
        case = Case(spec, dtype=_same_dtype(operands), device=str(operands[0][2]))
    except InputError:
        return None
    implementation = decode(choice).pick(case)[0] if _fit(case, operands) else None
    if implementation is None or implementation.name == REFERENCE:  # torch has no pair: its halves are two calls
        return None
    return _built(implementation, case)


def torchs(call: Call) -> Callable[..., torch.Tensor]:
    """run(*operands) by aten: what torch would have computed."""
    geometry = call.geometry
    if call.pass_ == "forward":
        return lambda x, w, bias=None: torch.convolution(x, w, bias, *geometry)
    backward = torch.ops.aten.convolution_backward.default
    if call.pass_ == "data_gradient":
        mask = [True, False, False]
        return lambda dy, w: backward(dy, _like(dy, call.x_shape), w, None, *geometry, mask)[0]
    return lambda x, dy: backward(dy, x, _like(x, call.w_shape), None, *geometry, [False, True, False])[1]


def _like(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    """A tensor of that shape in the tensor's layout. Not one without memory: torch would copy it to a dense one."""
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout_of(tensor))


def layout_of(*tensors: torch.Tensor) -> torch.memory_format:
    """channels_last where a tensor is, and is not plain as well; otherwise contiguous."""
    last = any(not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last) for t in tensors)
    return torch.channels_last if last else torch.contiguous_format


def _built(implementation: Implementation, case: Case) -> Plan:
    kernel = implementation.build(case)
    layout = torch.channels_last if implementation.layout == "channels_last" else torch.contiguous_format

    def run(*operands: torch.Tensor, **words: Any) -> Any:
        given = tuple(t.contiguous(memory_format=layout) if t.dim() == 4 else t.contiguous() for t in operands)
        return kernel.run(*(kernel.prepare(*given) if kernel.prepare else given), **words)

    ran = Ran(str(case.spec), case.pass_, case.dtype, case.device, implementation.name, kernel.algorithm)
    return Plan(run, ran, kernel.relu)


def _case(call: Call) -> tuple[Case | None, str]:
    """The case, or why there is none. What torch refuses too (shapes, types that do not fit) torch will say."""
    try:
        dtype = _same_dtype(call.operands)
        spec = _spec(call)
    except InputError as error:
        return None, str(error)
    case = Case(spec, call.pass_, dtype, str(call.operands[0][2]))
    if spec.w_shape != call.w_shape or not _fit(case, call.operands):
        return None, "shapes of the operands do not fit each other"
    return case, ""


def _spec(call: Call) -> ConvSpec:
    (stride, padding, dilation, transposed, output_padding, groups), w = call.geometry, call.w_shape
    operator: Operator = "conv_transpose2d" if transposed else "conv2d"
    k, bias = w[1] * groups if transposed else w[0], len(call.operands) == 3
    return ConvSpec.create(
        call.x_shape, k, w[2:], operator, stride, padding, dilation, groups, output_padding, bias
    )  # fmt: skip


def _fit(case: Case, operands: Described) -> bool:
    return tuple(tuple(shape) for shape, *_ in operands) == tuple(map(case.operand_shape, case.operand_names))


def _same_dtype(operands: Described) -> Any:
    kinds = {(dtype, device) for _, dtype, device in operands}
    if len(kinds) > 1:
        raise InputError("operands of different dtypes or devices")
    name = str(operands[0][1]).removeprefix("torch.")
    if name not in ITEM_BYTES:
        raise InputError(f"dtype {name}: expected one of {', '.join(ITEM_BYTES)}")
    return name


def _dtype(call: Call) -> str:
    return str(call.operands[0][1]).removeprefix("torch.")


def _layer(call: Call) -> str:
    operator = "conv_transpose2d" if call.geometry.transposed else "conv2d"
    return f"{operator} {'x'.join(map(str, call.x_shape))} w{'x'.join(map(str, call.w_shape))}"
