"""torch.library operators: a convolution's three passes, and the forward of the depthwise-separable pair.

    y  = convbench::convolution(x, w, bias)                x (N,C,H,W), w OIHW or (C,K/groups,R,S) transposed
    dx = convbench::convolution_data_gradient(dy, w)
    dw = convbench::convolution_weight_gradient(x, dy)

All three come from one trilinear form <dy, x * w>: the gradient of any of them is made of the other two, so
gradients of any order exist. The pair's gradients are those of its halves, the intermediate computed again.

A result is contiguous NCHW, or channels_last where a tensor operand is, whatever computed it: fake tensors know
the layout without asking which implementation will run. Operators see a choice as text (convbench.nn.choice);
they are defined by torch.library.Library and not by custom_op, whose wrappers cost more than a small layer's kernel.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial, wraps
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from convbench.nn import report
from convbench.nn.plans import Call, Geometry, Plan, described, layout_of, plan, separable_plan
from convbench.nn.report import Ran
from convbench.nn.unwatched import immediate, unwatched
from convbench.spec import Pass

_library = torch.library.Library("convbench", "DEF")
_GEOMETRY = "int[] stride, int[] padding, int[] dilation, bool transposed, int[] output_padding, int groups, str choice"
_SEPARABLE = "int[] stride, int[] padding, int[] dilation, str choice"
_library.define(f"convolution(Tensor x, Tensor w, Tensor? bias, {_GEOMETRY}) -> Tensor")
_library.define(f"convolution_data_gradient(Tensor dy, Tensor w, SymInt[] x_size, {_GEOMETRY}) -> Tensor")
_library.define(f"convolution_weight_gradient(Tensor x, Tensor dy, SymInt[] w_size, {_GEOMETRY}) -> Tensor")
_library.define(f"separable_convolution(Tensor x, Tensor w1, Tensor w2, Tensor? bias, {_SEPARABLE}) -> Tensor")

Ints = Sequence[int]
Tensor = torch.Tensor


# What runs ---------------------------------------------------------------------------------------


def _geometry(
    stride: Ints, padding: Ints, dilation: Ints, transposed: bool, output_padding: Ints, groups: int
) -> Geometry:
    return Geometry(tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding), groups)  # type: ignore[arg-type]


def _execute(
    pass_: Pass, operands: tuple[Tensor, ...], x_size: Ints, w_size: Ints, geometry: Geometry, choice: str,
    relu: bool = False,
) -> Tensor:  # fmt: skip
    chosen = plan(Call(pass_, tuple(x_size), tuple(w_size), geometry, described(operands), choice))
    return _run(chosen, operands, chosen.rectified if relu else chosen.run)


def _run(chosen: Plan, operands: tuple[Tensor, ...], compute: Callable[..., Tensor]) -> Tensor:
    count(chosen.ran)
    return _in_layout(compute(*operands), operands)


def count(ran: Ran) -> None:
    """In the open report; without one, what torch computes is a warning."""
    if open_report := report.current():
        open_report.add(ran)
    elif ran.reason:
        warnings.warn(f"{ran.layer} {ran.pass_} runs on torch: {ran.reason}", stacklevel=2)


def _in_layout(result: Tensor, operands: tuple[Tensor, ...]) -> Tensor:
    """channels_last where an operand is, as torch does."""
    return result.contiguous(memory_format=layout_of(*operands[:2]))


def _convolution(x: Tensor, w: Tensor, bias: Tensor | None, *rest: Any, relu: bool = False) -> Tensor:
    operands = (x, w) if bias is None else (x, w, bias)
    return _execute("forward", operands, x.shape, w.shape, _geometry(*rest[:-1]), rest[-1], relu)


def _data_gradient(dy: Tensor, w: Tensor, x_size: Ints, *rest: Any) -> Tensor:
    return _execute("data_gradient", (dy, w), x_size, w.shape, _geometry(*rest[:-1]), rest[-1])


def _weight_gradient(x: Tensor, dy: Tensor, w_size: Ints, *rest: Any) -> Tensor:
    return _execute("weight_gradient", (x, dy), x.shape, w_size, _geometry(*rest[:-1]), rest[-1])


def _halves(c: int, stride: Ints, padding: Ints, dilation: Ints, choice: str) -> tuple[tuple[Any, ...], ...]:
    """What convolution takes behind its operands, for the depthwise and the pointwise half."""
    return (
        (stride, padding, dilation, False, (0, 0), c, choice),
        ((1, 1), (0, 0), (1, 1), False, (0, 0), 1, choice),
    )


def _separable(x: Tensor, w1: Tensor, w2: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    operands = (x, w1, w2) if bias is None else (x, w1, w2, bias)
    stride, padding, dilation, choice = rest
    geometry = _geometry(stride, padding, dilation, False, (0, 0), 1)
    if fused := separable_plan(geometry, described(operands), choice):
        return _run(fused, operands, fused.run)
    first, second = _halves(w1.shape[0], *rest)
    return _in_layout(_convolution(_convolution(x, w1, None, *first), w2, bias, *second), operands)


# What tensors without data become -----------------------------------------------------------------


def _fake_convolution(x: Tensor, w: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    return _in_layout(torch.ops.aten.convolution.default(x, w, bias, *rest[:-1]), (x, w))


def _fake_gradient(a: Tensor, b: Tensor, size: Ints, *rest: Any) -> Tensor:
    return _in_layout(a.new_empty(size), (a, b))


def _fake_separable(x: Tensor, w1: Tensor, w2: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    first, second = _halves(w1.shape[0], *rest)
    return _in_layout(_fake_convolution(_fake_convolution(x, w1, None, *first), w2, bias, *second), (x, w1))


# Gradients ---------------------------------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """The operand that the other one's gradient needs; the report that gradients are counted in, wherever they run."""
    (a, b), needed = inputs[:2], ctx.needs_input_grad
    ctx.save_for_backward(a if needed[1] else None, b if needed[0] else None)
    ctx.shapes, ctx.rest, ctx.report = (a.shape, b.shape), inputs[3:], report.current()


def _convolution_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (x, w), needed = ctx.saved_tensors, ctx.needs_input_grad
    with report.reporting(ctx.report):
        dx = data_gradient(dy, w, ctx.shapes[0], *ctx.rest) if needed[0] else None
        dw = weight_gradient(x, dy, ctx.shapes[1], *ctx.rest) if needed[1] else None
    return dx, dw, dy.sum((0, 2, 3)) if needed[2] else None, *_no_gradients(ctx)


def _data_gradient_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    """g is shaped as x: what dy and w are to <dy, g * w>."""
    (dy, w), needed = ctx.saved_tensors, ctx.needs_input_grad
    with report.reporting(ctx.report):
        d_dy = convolution(g, w, None, *ctx.rest) if needed[0] else None
        dw = weight_gradient(g, dy, ctx.shapes[1], *ctx.rest) if needed[1] else None
    return d_dy, dw, None, *_no_gradients(ctx)


def _weight_gradient_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    """g is shaped as w: what x and dy are to <dy, x * g>."""
    (x, dy), needed = ctx.saved_tensors, ctx.needs_input_grad
    with report.reporting(ctx.report):
        dx = data_gradient(dy, g, ctx.shapes[0], *ctx.rest) if needed[0] else None
        d_dy = convolution(x, g, None, *ctx.rest) if needed[1] else None
    return dx, d_dy, None, *_no_gradients(ctx)


def _keep_pair(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.rest, ctx.report = inputs[4:], report.current()


def _separable_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    """Half by half; the intermediate z is computed again, its gradient once."""
    (x, w1, w2), needed = ctx.saved_tensors, ctx.needs_input_grad
    first, second = _halves(w1.shape[0], *ctx.rest)
    dx = dw1 = dw2 = None
    with report.reporting(ctx.report):
        if needed[0] or needed[1]:
            z_size = (*dy.shape[:1], w1.shape[0], *dy.shape[2:])
            dz = data_gradient(dy, w2, z_size, *second)
            dx = data_gradient(dz, w1, x.shape, *first) if needed[0] else None
            dw1 = weight_gradient(x, dz, w1.shape, *first) if needed[1] else None
        if needed[2]:
            dw2 = weight_gradient(convolution(x, w1, None, *first), dy, w2.shape, *second)
    return dx, dw1, dw2, dy.sum((0, 2, 3)) if needed[3] else None, *_no_gradients(ctx)


def _no_gradients(ctx: Any) -> tuple[None, ...]:
    return (None,) * len(ctx.rest)


# FLOPs: 2 a MAC, of shapes; the same for the three passes of a convolution --------------------------


def _convolution_flops(x: Ints, w: Ints, bias: Any, *rest: Any, out_shape: Ints, **_: Any) -> int:
    transposed = rest[3]
    return 2 * prod(w[1:]) * prod(x if transposed else out_shape)


def _data_gradient_flops(dy: Ints, w: Ints, x_size: Ints, *rest: Any, **_: Any) -> int:
    return _convolution_flops(x_size, w, None, *rest, out_shape=dy)


def _weight_gradient_flops(x: Ints, dy: Ints, w_size: Ints, *rest: Any, **_: Any) -> int:
    return _convolution_flops(x, w_size, None, *rest, out_shape=dy)


def _separable_flops(x: Ints, w1: Ints, w2: Ints, *rest: Any, out_shape: Ints, **_: Any) -> int:
    pixels = out_shape[0] * prod(out_shape[2:])
    return 2 * pixels * (prod(w1) + prod(w2))


def _undisturbed(compute: Callable[..., Any]) -> Callable[..., Any]:
    """What a kernel calls is not the model's: no function mode (another use_kernels, a default device) sees it."""

    @wraps(compute)
    def run(*arguments: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return compute(*arguments)

    return run


# One line an operator -----------------------------------------------------------------------------


def _operator(
    name: str,
    compute: Callable[..., Tensor],
    fake: Callable[..., Tensor],
    keep: Callable[..., None],
    backward: Callable[..., Any],
    flops: Callable[..., int],
) -> Callable[..., Tensor]:
    """Register an operator; what Python calls is the shorter way to it."""
    operator, compute = getattr(torch.ops.convbench, name).default, _undisturbed(compute)
    _library.impl(operator, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(operator, fake, lib=_library)
    torch.library.register_autograd(operator, backward, setup_context=keep, lib=_library)
    register_flop_formula(operator.overloadpacket)(flops)
    return unwatched(operator, compute, keep, backward)


convolution = _operator(
    "convolution", _convolution, _fake_convolution, _keep, _convolution_backward, _convolution_flops
)
data_gradient = _operator(
    "convolution_data_gradient", _data_gradient, _fake_gradient, _keep, _data_gradient_backward, _data_gradient_flops
)
weight_gradient = _operator(
    "convolution_weight_gradient", _weight_gradient, _fake_gradient, _keep, _weight_gradient_backward,
    _weight_gradient_flops,
)  # fmt: skip
separable_convolution = _operator(
    "separable_convolution", _separable, _fake_separable, _keep_pair, _separable_backward, _separable_flops
)


# For inference, with what stands behind a convolution ---------------------------------------------

_rectified = _undisturbed(partial(_convolution, relu=True))


def rectified_convolution(x: Tensor, w: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """relu(convolution(...)): for inference in one kernel, where it has a ReLU."""
    if immediate([t for t in (x, w, bias) if t is not None]):
        return _rectified(x, w, bias, *rest)
    return torch.relu(convolution(x, w, bias, *rest))


@_undisturbed
def folded_separable_convolution(
    tensors: tuple[Tensor | None, ...], between: Tensor | None, relus: tuple[bool, bool], *rest: Any
) -> Tensor | None:
    """The pair with a bias and a ReLU between its halves, and one behind, in one kernel, for inference; None where
    there is none."""
    operands = tuple(t for t in tensors if t is not None)
    if not immediate([*operands, *(() if between is None else (between,))]):
        return None
    stride, padding, dilation, choice = rest
    fused = separable_plan(_geometry(stride, padding, dilation, False, (0, 0), 1), described(operands), choice)
    if fused is None or not fused.relu:
        return None
    return _run(fused, operands, partial(fused.run, between=between, relu_between=relus[0], relu=relus[1]))
