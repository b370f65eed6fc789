"""Convolution with bias and ReLU: our kernels' epilogue against torch's calls, checked against float64 before timed.

torch: relu_ of conv2d, in both layouts, and cudnn_convolution_relu where torch has it. Its result and ours must be as
near to float64 as a convolution must; a case knows no ReLU, so these times are in run.json's settings and not rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from convbench.case import Case
from convbench.checks import relative_error, tolerance
from convbench.errors import STRANGERS_ERRORS
from convbench.machine.cuda_timer import COLD_SAMPLE_S, CudaTimer
from convbench.measure import Call, Policy, host_timer, measure, speedup
from convbench.operands import in_layout, reals
from convbench.process import precision
from convbench.reference import reference
from convbench.registry import registry

KERNELS = ("triton.implicit_gemm", "triton.implicit_gemm_channels_last")


def contenders(case: Case) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """(name, layout, function of x, w, bias)."""
    spec = case.spec
    geometry = (spec.stride, spec.padding, spec.dilation, spec.groups)
    for layout in ("nchw", "channels_last"):
        yield f"torch.{layout}", layout, lambda x, w, b: F.conv2d(x, w, b, *geometry).relu_()
        if case.device != "cpu" and hasattr(torch, "cudnn_convolution_relu"):
            yield f"torch.cudnn_{layout}", layout, lambda x, w, b: torch.cudnn_convolution_relu(x, w, b, *geometry)
    for name in KERNELS:
        implementation = registry().implementations[name]
        yield name, implementation.layout, partial(implementation.build(case).run, relu=True)


def study(case: Case, policy: Policy) -> dict[str, Any]:
    """{"layer", "seconds": {name: median}, "speedup": {name: against torch.nchw}, "failed": {name: why}}."""
    case = replace(case, pass_="forward", spec=replace(case.spec, bias=True))
    operands = reals(case, seed=0)
    (expected,) = reference(case, operands)
    expected, calls, failed = expected.clamp_min_(0), {}, {}
    for name, layout, function in contenders(case):
        call = partial(function, *in_layout(operands, layout).values())
        if why := wrong(call, expected, case):
            failed[name] = why
        else:
            calls[name] = call
    timer = host_timer if case.device == "cpu" else CudaTimer(case.device)
    samples = measure(calls, replace(policy, sample_s=COLD_SAMPLE_S), "torch.nchw", timer)
    against = (
        {name: speedup(samples["torch.nchw"], s) for name, s in samples.items()} if "torch.nchw" in samples else {}
    )
    return {
        "layer": f"{case.name} {case.dtype} batch {case.spec.n}",
        "samples_s": {name: s.seconds for name, s in samples.items()},
        "speedup": {name: interval.value for name, interval in against.items() if interval},
        "failed": failed,
    }


def wrong(call: Call, expected: torch.Tensor, case: Case) -> str:
    """Why a contender is not timed, "" if it is right."""
    try:
        difference = call().double() - expected  # type: ignore[attr-defined]
    except STRANGERS_ERRORS as error:
        return f"{type(error).__name__}: {error}"
    error = relative_error(difference, float(torch.linalg.vector_norm(expected)))
    allowed = tolerance(case, error_factor=10.4)  # cuDNN may take Winograd's algorithm
    return "" if error <= allowed else f"relative error {error:.2e}, allowed {allowed:.2e}"


def ratio(found: dict[str, Any]) -> float | None:
    """Best of ours against the best of torch; None where one side has no time."""
    best = {
        family: max((s for name, s in found["speedup"].items() if name.startswith(family)), default=0)
        for family in ("torch", "triton")
    }
    return best["triton"] / best["torch"] if all(best.values()) else None


def studies(cases: list[Case], policy: Policy, over: Callable[[], bool]) -> list[dict[str, Any]]:
    """Every standard, dilated and pointwise layer, until time is over."""
    found = []
    with torch.inference_mode():
        for case in cases:
            if over():
                break
            if case.pass_ == "forward" and case.spec.kind in ("standard", "dilated", "pointwise"):
                with precision(case.device, case.dtype):
                    found.append(study(case, policy))
    return found
