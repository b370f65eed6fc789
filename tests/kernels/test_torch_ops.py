"""The torch compositions beyond the conformance suite: what they refuse, and that compiling compiles."""

from __future__ import annotations

import functools

import pytest
import torch

from convbench.case import Case
from convbench.operands import in_layout, reals
from convbench.spec import ConvSpec
from convbench_kernels.torch_ops import aten, channels_last, compile, unfold

CONV = ConvSpec.create((2, 4, 8, 8), 6, 3, padding=1)
UP = ConvSpec.create((2, 4, 8, 8), 6, 4, operator="conv_transpose2d", stride=2, padding=1)
PAIR = ConvSpec.create((2, 4, 8, 8), 6, 3, operator="separable_conv2d")


@pytest.mark.parametrize(
    ("module", "case", "reason"),
    [
        (aten, Case(PAIR, "weight_gradient"), ""),
        (aten, Case(CONV, "forward", "bfloat16"), ""),
        (aten, Case(CONV, "data_gradient", "bfloat16"), "CPU gradients round partial sums to bfloat16"),
        (aten, Case(CONV, "data_gradient", "bfloat16", "cuda:0"), ""),
        (unfold, Case(PAIR), "not the pair"),
        (unfold, Case(UP, "forward", "float16"), "fold on the CPU rounds partial sums to float16"),
        (unfold, Case(UP, "data_gradient", "float16"), ""),
        (unfold, Case(CONV, "data_gradient", "float16"), "fold on the CPU"),
        (unfold, Case(CONV, "forward", "float16"), ""),
    ],
)
def test_supports(module, case, reason):
    answer = module.IMPLEMENTATION.supports(case)
    assert reason in answer
    assert bool(reason) == bool(answer)


def test_channels_last_is_given_and_gives_channels_last():
    assert channels_last.IMPLEMENTATION.layout == "channels_last"
    x, w = (torch.randn(shape).contiguous(memory_format=torch.channels_last) for shape in (CONV.x_shape, CONV.w_shape))
    with torch.inference_mode():
        assert channels_last.build(Case(CONV)).run(x, w).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("pass_", ["forward", "data_gradient", "weight_gradient"])
def test_only_the_gradient_asked_for_is_computed(pass_, monkeypatch):
    """Times would otherwise be of two gradients."""
    masks = []
    real = torch.ops.aten.convolution_backward.default

    def spy(*arguments):
        masks.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(torch.ops.aten.convolution_backward, "default", spy)
    case = Case(CONV, pass_)
    aten.build(case).run(*(torch.ones(case.operand_shape(name)) for name in case.operand_names))
    assert masks == {"forward": [], "data_gradient": [[1, 0, 0]], "weight_gradient": [[0, 1, 0]]}[pass_]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("pass_", ["data_gradient", "weight_gradient"])
def test_gradients_copy_what_autograd_copies(pass_, layout):
    """Copying an operand that autograd need not copy would make the reference look slow."""
    spec = ConvSpec.create([2, 16, 12, 12], 16, 3, padding=1, stride=2, groups=16)
    case = Case(spec, pass_)
    run = (aten if layout == "nchw" else channels_last).build(case).run
    operands = in_layout(reals(case, 0), layout)
    run(*operands.values())
    shapes = {"x": spec.x_shape, "w": spec.w_shape, "dy": spec.y_shape}
    x, w, dy = in_layout({name: torch.randn(shape) for name, shape in shapes.items()}, layout).values()
    of = (x if pass_ == "data_gradient" else w).requires_grad_()
    y = torch.nn.functional.conv2d(x, w, None, spec.stride, spec.padding, spec.dilation, spec.groups)
    copies = []
    for compute in (lambda: torch.autograd.grad(y, of, dy), lambda: run(*operands.values())):
        with torch.profiler.profile() as seen:
            compute()
        names = [event.name for event in seen.events()]
        copies.append([names.count(name) for name in ("aten::contiguous", "aten::clone", "aten::copy_")])
    assert copies[0] == copies[1]


def test_no_compiler_is_a_reason_not_a_failure(monkeypatch):
    monkeypatch.setattr(compile.shutil, "which", lambda name: None)
    compile._missing.cache_clear()
    try:
        assert compile.supports(Case(CONV)) == "torch.compile needs a C++ compiler and found none"
        assert compile.supports(Case(CONV, device="cuda:0")) == "", "there Triton writes the kernels"
    finally:
        compile._missing.cache_clear()


def test_every_shape_is_compiled(monkeypatch):
    """Dynamo runs a function uncompiled after eight shapes (recompile_limit): the ninth case must still be compiled."""
    compiled_calls = []

    def backend(graph, inputs):
        return lambda *args: compiled_calls.append(1) or graph(*args)

    monkeypatch.setattr(compile.torch, "compile", functools.partial(torch.compile, backend=backend))
    with torch.inference_mode():
        for c in range(1, 13):
            case = Case(ConvSpec.create((1, c, 5, 5), 2, 3))
            run = compile.build(case).run
            for _ in range(2):
                run(*(torch.ones(case.operand_shape(name)) for name in case.operand_names))
            assert len(compiled_calls) == 2 * c
