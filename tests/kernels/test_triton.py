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
    command = [sys.executable, "-m", "tests.kernels.interpreted"]
    result = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return [tuple(line.split("|")) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("layout", ["", "_channels_last"])
@pytest.mark.parametrize("pass_", PASSES)
def test_in_the_interpreter(interpreted, layout, pass_):
    ran = [
        dtype for name, _, dtype, ran_pass in interpreted if name == f"triton.depthwise{layout}" and ran_pass == pass_
    ]
    assert ran.count("float32") == 6
    assert ran.count("float16") == ran.count("bfloat16") == 3


def test_what_it_does_not_do():
    from convbench_kernels.torch_cuda.depthwise import IMPLEMENTATIONS

    supports = IMPLEMENTATIONS[0].supports
    assert supports(Case(SHAPES["depthwise"])) == "needs a CUDA device"
    assert supports(Case(SHAPES["depthwise"], device="cuda:0")) == ""
    assert "float64" in supports(Case(SHAPES["depthwise"], dtype="float64", device="cuda:0"))
    for name in ("3x3 same", "grouped", "pair", "up grouped"):
        assert supports(Case(SHAPES[name], device="cuda:0")) == "depthwise convolutions only"
    large = ConvSpec.create((1, 2, 20, 20), 2, 13, groups=2)
    assert "taps" in supports(Case(large, device="cuda:0"))


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
