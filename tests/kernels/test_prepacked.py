"""torch.prepacked: the weights are packed, stay packed, and the result is what the layout column says."""

from __future__ import annotations

import pytest
import torch

from convbench.case import Case
from convbench.plugin import Implementation
from convbench.spec import ConvSpec
from convbench_kernels.torch_ops import aten, channels_last, channels_last_prepacked, prepacked
from tests.kernels.shapes import SHAPES
from tests.kernels.test_conformance import complaints

BOTH = (prepacked.IMPLEMENTATION, channels_last_prepacked.IMPLEMENTATION)
DEEP = ConvSpec.create((2, 48, 7, 7), 80, 3, padding=1)
UP = ConvSpec.create((2, 48, 7, 7), 80, 4, operator="conv_transpose2d", stride=2, padding=1)
GROUPED = ConvSpec.create((2, 48, 7, 7), 96, 3, padding=1, groups=3, bias=True)
PAIR = ConvSpec.create((2, 48, 7, 7), 80, 3, operator="separable_conv2d", padding=1, bias=True)


def prepared_call(implementation: Implementation, spec: ConvSpec):
    """The kernel, and its operands ready to be called with."""
    case = Case(spec)
    format_ = torch.channels_last if implementation.layout == "channels_last" else torch.contiguous_format
    operands = [torch.randn(case.operand_shape(name)) for name in case.operand_names]
    operands = [t.contiguous(memory_format=format_) if t.dim() == 4 else t for t in operands]
    kernel = implementation.build(case)
    return kernel, kernel.prepare(*operands) if kernel.prepare else operands


def reorders(implementation: Implementation, spec: ConvSpec, capfd) -> list[str]:
    """What oneDNN says it reordered in one call: the shapes, of weights as of images."""
    with torch.inference_mode():
        kernel, operands = prepared_call(implementation, spec)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            kernel.run(*operands)
    lines = [line.split(",") for line in capfd.readouterr().out.splitlines() if ",exec," in line]
    assert any("convolution" in line or "deconvolution" in line for line in lines), "oneDNN computes it, and says so"
    return [line[-2] for line in lines if "reorder" in line]


@pytest.mark.parametrize("implementation", BOTH, ids=lambda i: i.name)
@pytest.mark.parametrize("spec", [DEEP, UP, GROUPED, PAIR], ids=str)
def test_no_weight_is_reordered_in_the_call(implementation, spec, capfd):
    assert reorders(implementation, spec, capfd) == []


@pytest.mark.parametrize("implementation", [aten.IMPLEMENTATION, channels_last.IMPLEMENTATION], ids=lambda i: i.name)
def test_plain_weights_are(implementation, capfd):
    """The twin of the test above: what it looks for can be found."""
    assert "80x48x3x3" in reorders(implementation, DEEP, capfd)


@pytest.mark.parametrize("spec", [DEEP, UP, GROUPED, PAIR], ids=str)
def test_layouts(spec):
    with torch.inference_mode():
        for implementation in BOTH:
            kernel, operands = prepared_call(implementation, spec)
            weights = operands[1 : 3 if spec.is_separable else 2]
            assert all(w.layout == torch._mkldnn and w.dtype == torch.float32 for w in weights)
            y = kernel.run(*operands)
            assert y.layout == torch.strided
            expected = torch.channels_last if implementation.layout == "channels_last" else torch.contiguous_format
            assert y.is_contiguous(memory_format=expected)


@pytest.mark.parametrize("implementation", BOTH, ids=lambda i: i.name)
def test_conformance(implementation):
    """The conformance suite's table, on these only."""
    assert {name: found for name, spec in SHAPES.items() if (found := complaints(implementation, Case(spec)))} == {}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case(DEEP), ""),
        (Case(DEEP, "data_gradient"), "forward only: training changes the weights"),
        (Case(DEEP, dtype="bfloat16"), "float32 only"),
        (Case(DEEP, device="cuda:0"), "oneDNN's packed weights are for the CPU"),
    ],
)
def test_supports(case, reason):
    assert prepacked.supports(case) == reason


def test_without_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert prepacked.supports(Case(DEEP)) == "this torch was built without oneDNN"
