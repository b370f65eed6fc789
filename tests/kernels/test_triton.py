"""The Triton kernels in Triton's interpreter, which must be chosen before triton is imported: in its own process.

It shows that the arithmetic and the indices are right; races, layouts and speed need a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from convbench.case import Case
from convbench.spec import PASSES, ConvSpec
from tests.kernels.shapes import SHAPES

pytest.importorskip("triton")

# The interpreter takes milliseconds a program and tap, and a plane is a program.
DEPTHWISE = [name for name, spec in SHAPES.items() if spec.kind == "depthwise" and spec.n * spec.k <= 16]

INTERPRETED = """
import sys, torch
from convbench.case import Case
from convbench.verify import Checker
from convbench_kernels.torch_cuda.depthwise import IMPLEMENTATION as implementation
from tests.kernels.shapes import SHAPES

for name in sys.argv[1:]:
    case = Case(SHAPES[name])
    with torch.inference_mode():
        checker, kernel = Checker(case), implementation.build(case)
        found = checker.before(implementation, kernel)
    assert found.status == "ok", f"{name}: {found.detail}"
    assert found.error > 0
    print(name)
"""


def test_depthwise_in_the_interpreter():
    assert len(DEPTHWISE) >= 5
    result = subprocess.run(
        [sys.executable, "-c", INTERPRETED, *DEPTHWISE],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines() == DEPTHWISE


def test_what_it_does_not_do():
    from convbench_kernels.torch_cuda.depthwise import supports

    depthwise = SHAPES["depthwise"]
    assert supports(Case(depthwise)) == "needs a CUDA device"
    assert supports(Case(depthwise, device="cuda:0")) == ""
    assert all("gradients" in supports(Case(depthwise, pass_, device="cuda:0")) for pass_ in PASSES[1:])
    assert "float64" in supports(Case(depthwise, dtype="float64", device="cuda:0"))
    for name in ("3x3 same", "grouped", "pair", "up depthwise"):
        assert supports(Case(SHAPES[name], device="cuda:0")) == "depthwise convolutions only"
    large = ConvSpec.create((1, 2, 20, 20), 2, 13, groups=2)
    assert "taps" in supports(Case(large, device="cuda:0"))


def test_without_triton_the_family_is_unavailable():
    """The one line that `convbench list` shows."""
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "from convbench.registry import registry\n"
        "print(registry().unavailable); assert 'torch.aten' in registry().implementations"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "{'triton': 'triton is not installed'}"
