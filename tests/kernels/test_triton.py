"""The Triton kernels in Triton's interpreter, which must be chosen before triton is imported: in its own process.

It shows that the arithmetic and the indices are right; races, layouts and speed need a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from convbench.case import Case
from convbench.registry import registry
from convbench.spec import PASSES, ConvSpec
from tests.kernels.shapes import SHAPES

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def interpreted() -> list[tuple[str, ...]]:
    """(implementation, case, dtype, pass) of everything verified in the interpreter."""
    halves = (["depthwise", "pair"], ["implicit_gemm", "fused"])  # which take equally long, at once
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    started = [
        subprocess.Popen([sys.executable, "-m", "tests.kernels.interpreted", *names], **pipes) for names in halves
    ]
    ended = [(process, *process.communicate()) for process in started]
    assert [process.returncode for process, *_ in ended] == [0, 0], [errors[-2000:] for *_, errors in ended]
    return [tuple(line.split("|")) for _, printed, _ in ended for line in printed.splitlines()]


@pytest.mark.parametrize("layout", ["", "_channels_last"])
@pytest.mark.parametrize(
    ("name", "passes", "shapes", "short_types"),
    [
        ("depthwise", PASSES, 6, (2, 2)),
        ("implicit_gemm", PASSES, 8, (2, 2)),
        ("fused", ("forward",), 2, (1, 1)),
        ("pair", PASSES, 1, (1, 0)),
    ],
)
def test_in_the_interpreter(interpreted, name, layout, passes, shapes, short_types):
    for pass_ in PASSES:
        ran = [dtype for i, _, dtype, its in interpreted if i == f"triton.{name}{layout}" and its == pass_]
        expected = (shapes, *short_types) if pass_ in passes else (0, 0, 0)
        assert tuple(map(ran.count, ("float32", "float16", "bfloat16"))) == expected


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation", "stride"), [(3, 1, 1, 2), (4, 1, 1, 2), (3, 2, 2, 3), (1, 0, 1, 2)]
)
def test_phases_take_every_tap_to_every_pixel_that_it_reaches_once(kernel, padding, dilation, stride):
    """Against the definition: dx[i] takes dy[p] by tap r where i = p*stride - padding + r*dilation."""
    from convbench_kernels.torch_cuda.phases import phases_of

    spec = ConvSpec.create((1, 1, 11, 9), 1, kernel, stride=stride, padding=padding, dilation=dilation)
    phases, (skip, _), (shift, _) = phases_of(spec, gradient=True)
    found = sorted(
        (i * stride + h.at, j * stride + w.at, h.first + a * skip, w.first + b * skip, p, q)
        for h, w in phases
        for i in range(h.size) for j in range(w.size) for a in range(h.count) for b in range(w.count)
        if 0 <= (p := i + h.offset + a * shift) < spec.p and 0 <= (q := j + w.offset + b * shift) < spec.q
    )  # fmt: skip
    taps, reach = range(kernel), [r * dilation - padding for r in range(kernel)]
    expected = sorted(
        (p * stride + reach[r], q * stride + reach[s], r, s, p, q)
        for p in range(spec.p) for q in range(spec.q) for r in taps for s in taps
        if 0 <= p * stride + reach[r] < spec.h and 0 <= q * stride + reach[s] < spec.w
    )  # fmt: skip
    assert found == expected
    assert sum(h.size * w.size for h, w in phases) == spec.h * spec.w


def test_what_it_does_not_do():
    from convbench_kernels.torch_cuda.depthwise import IMPLEMENTATIONS

    supports = IMPLEMENTATIONS[0].supports
    assert supports(Case(SHAPES["depthwise"])) == "needs a CUDA device"
    assert supports(Case(SHAPES["depthwise"], device="cuda:0")) == ""
    assert "TF32" in supports(Case(SHAPES["depthwise"], dtype="tf32", device="cuda:0"))
    assert "float64" in supports(Case(SHAPES["depthwise"], dtype="float64", device="cuda:0"))
    for name in ("3x3 same", "grouped", "pair", "up grouped"):
        assert supports(Case(SHAPES[name], device="cuda:0")) == "depthwise convolutions only"
    large = ConvSpec.create((1, 2, 20, 20), 2, 13, groups=2)
    assert "taps" in supports(Case(large, device="cuda:0"))


def test_what_the_dense_kernels_do_not_do():
    from convbench_kernels.torch_cuda import fused, implicit_gemm
    from convbench_kernels.torch_cuda import pair as both

    dense, pair, two_kernels = (module.IMPLEMENTATIONS[0].supports for module in (implicit_gemm, fused, both))
    for name in ("3x3 same", "grouped", "up grouped"):
        assert dense(Case(SHAPES[name], device="cuda:0")) == ""
        assert pair(Case(SHAPES[name], device="cuda:0")) == "depthwise-separable pairs only"
    assert dense(Case(SHAPES["depthwise"], device="cuda:0")) == "depthwise: see triton.depthwise"
    assert dense(Case(SHAPES["pair"], device="cuda:0")) == "one convolution only"
    assert pair(Case(SHAPES["pair"], device="cuda:0")) == ""
    assert pair(Case(SHAPES["pair"], "data_gradient", device="cuda:0")) == "forward only: see triton.pair"
    assert two_kernels(Case(SHAPES["pair"], "data_gradient", device="cuda:0")) == ""
    assert two_kernels(Case(SHAPES["pair"], dtype="tf32", device="cuda:0")) == ""
    huge = ConvSpec.create((2**16, 64, 128, 128), 64, 1)
    assert "pixels or rows" in dense(Case(huge, device="cuda:0"))
    assert "2^31 elements" in dense(Case(ConvSpec.create((1, 2**12, 2**10, 2**10), 1, 1), device="cuda:0"))


def test_without_a_device_the_family_is_unavailable():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert registry().unavailable == {"triton": "torch finds no CUDA device"}


def test_without_triton_the_family_is_unavailable():
    """The one line that `convbench list` shows."""
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "from convbench.registry import registry\n"
        "print(registry().unavailable); assert 'torch.aten' in registry().implementations"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "{'triton': 'triton is not installed'}"
