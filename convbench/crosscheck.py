"""Our counts against those of fvcore and torch.utils.flop_counter, layer by layer.

Nothing is computed: torch's counter sees tensors on the meta device, fvcore's formula only shapes (tracing
meta tensors fails in recent torch). Where a tool is known to be wrong, its exact error is predicted and
named; anything else that differs is called a difference.

- fvcore         counts MACs and calls them flops; forward only
- flop_counter   counts FLOPs (2 per MAC); counts the weight gradient of a grouped convolution once per group
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from convbench import count
from convbench.case import Case
from convbench.spec import ConvSpec, Pass

AGREES = "agrees"
NOTES = (
    "fvcore counts MACs, although it calls them flops, and has no backward pass",
    "torch.utils.flop_counter counts FLOPs, shown here halved; it counts the weight gradient of a grouped "
    "convolution once per group, which makes it too large by that factor",
)

Call = tuple[ConvSpec, Pass]  # one convolution pass as the counters know it
Counter = Callable[[Call], "int | None"]  # MACs, or None for what the tool does not count


def crosscheck(cases: Iterable[Case]) -> tuple[list[dict[str, Any]], list[str]]:
    """(one row per case and tool, what to know about the tools). A missing tool is named in the notes."""
    tools: dict[str, Counter] = {}
    notes = list(NOTES)
    for name, package, load in (("fvcore", "fvcore", _fvcore), ("torch.utils.flop_counter", "torch", _flop_counter)):
        try:
            tools[name] = load()
        except ImportError as error:
            notes.append(f"{name} is unavailable: {error}; install it with `pip install {package}`")
    return [_row(case, name, counter) for case in cases for name, counter in tools.items()], notes


def calls(case: Case) -> list[Call]:
    """The convolution passes that compute this case: one, or what a separable pair consists of."""
    if not case.spec.is_separable:
        return [(case.spec, case.pass_)]
    depthwise, pointwise = case.spec.depthwise(), case.spec.pointwise()
    found: list[Call] = [(depthwise, case.pass_), (pointwise, case.pass_)]
    if case.pass_ == "weight_gradient":  # the intermediate and its gradient, see convbench.count
        found += [(depthwise, "forward"), (pointwise, "data_gradient")]
    return found


def _row(case: Case, tool: str, counter: Counter) -> dict[str, Any]:
    ours = count.macs(case.spec, case.pass_)
    counts = [counter(call) for call in calls(case)]
    theirs = None if None in counts else sum(c for c in counts if c is not None)
    return {
        "suite": case.suite, "case": case.name, "pass": case.pass_, "tool": tool, "ours_macs": ours,
        "theirs_macs": theirs, "verdict": _verdict(case, tool, ours, theirs),
    }  # fmt: skip


def _verdict(case: Case, tool: str, ours: int, theirs: int | None) -> str:
    if theirs is None:
        return f"not counted: {tool} has no backward pass"
    if theirs == ours:
        return AGREES
    grouped = sum(
        count.macs(spec, pass_) * (spec.groups if pass_ == "weight_gradient" else 1) for spec, pass_ in calls(case)
    )
    if tool != "fvcore" and theirs == grouped:
        return f"known error: counts the weight gradient of a grouped convolution {_groups(case)} times"
    return f"DIFFERS by {theirs / ours:.4g}x, not a known error"


def _groups(case: Case) -> int:
    return max(spec.groups for spec, pass_ in calls(case) if pass_ == "weight_gradient")


def _fvcore() -> Counter:
    from fvcore.nn.jit_handles import conv_flop_count

    def counter(call: Call) -> int | None:
        spec, pass_ = call
        if pass_ != "forward":
            return None
        return int(conv_flop_count(list(spec.x_shape), list(spec.w_shape), list(spec.y_shape), spec.is_transposed))

    return counter


def _flop_counter() -> Counter:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def counter(call: Call) -> int:
        spec, pass_ = call
        x, w, dy = (torch.empty(shape, device="meta") for shape in (spec.x_shape, spec.w_shape, spec.y_shape))
        geometry = (spec.stride, spec.padding, spec.dilation, spec.is_transposed, spec.output_padding, spec.groups)
        with FlopCounterMode(display=False) as mode:
            if pass_ == "forward":
                torch.ops.aten.convolution(x, w, None, *geometry)
            else:
                mask = [pass_ == "data_gradient", pass_ == "weight_gradient", False]
                torch.ops.aten.convolution_backward(dy, x, w, None, *geometry, mask)
        return mode.get_total_flops() // count.FLOPS_PER_MAC

    return counter
