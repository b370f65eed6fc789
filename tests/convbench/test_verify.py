"""Verification itself: tolerances, shared references, what is watched. What it catches is in test_broken.py."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from convbench import verify
from convbench.case import Case
from convbench.checks import LAMBDA_NORM, relative_error, rounding, tolerance
from convbench.operands import EXCHANGED, reals, rearranged
from convbench.plugin import Implementation, Kernel
from convbench.registry import registry
from convbench.spec import ConvSpec
from convbench.verify import Checker
from convbench.watch import watching

SMALL = Case(ConvSpec.create((1, 4, 8, 8), 6, 3, padding=1))
ATEN = registry().implementations["torch.aten"]
UNFOLD = registry().implementations["torch.unfold"]
U32 = 2.0**-24


@pytest.fixture(autouse=True)
def _as_in_a_run():
    with torch.inference_mode():
        yield


# Tolerance --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "pass_", "length"),
    [
        (SMALL.spec, "forward", 36),
        (SMALL.spec, "data_gradient", 54),
        (SMALL.spec, "weight_gradient", 64),
        (ConvSpec.create((2, 9, 8, 8), 9, 3, groups=9), "forward", 9),
        (ConvSpec.create((2, 9, 8, 8), 9, 3, groups=9), "weight_gradient", 72),
        (ConvSpec.create((2, 4, 8, 8), 6, 4, operator="conv_transpose2d", stride=2, padding=1), "weight_gradient", 128),
    ],
)
def test_tolerance_is_derived_from_the_length_of_the_sum(spec, pass_, length):
    assert tolerance(Case(spec, pass_)) == pytest.approx(LAMBDA_NORM * length**0.5 * U32 + 2 * U32)
    assert rounding(Case(spec, pass_, "float64")) == pytest.approx(length**0.5 * 2.0**-53)
    assert rounding(Case(spec, pass_, "bfloat16")) == pytest.approx(length**0.5 * U32), "accumulated in float32"
    assert rounding(Case(spec, pass_), error_factor=3) == pytest.approx(3 * length**0.5 * U32)


def test_the_pair_adds_the_rounding_of_two_sums():
    spec = ConvSpec.create((1, 16, 8, 8), 6, 3, operator="separable_conv2d")
    assert rounding(Case(spec)) == pytest.approx((9**0.5 + 16**0.5) * U32)


def test_the_longest_sums_of_the_networks_stay_far_below_the_data():
    """VGG16's largest weight gradient at batch 64: 3 million products."""
    assert tolerance(Case(ConvSpec.create((64, 64, 224, 224), 64, 3, padding=1), "weight_gradient")) < 1e-3


def test_relative_error():
    difference = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert relative_error(difference, 10.0) == 0.5
    assert relative_error(difference, 0.0) == 5, "all should be 0"
    assert relative_error(0 * difference, 0.0) == 0
    assert relative_error(float("nan") * difference, 10.0) == float("inf")


@pytest.mark.parametrize("pass_", ["forward", "weight_gradient"])
def test_no_false_alarm_where_the_result_is_a_single_number(pass_):
    """A single sum may come out near 0; an error relative to that would reject every kernel now and then."""
    spec = ConvSpec.create((1, 64, 3, 3), 1, 3) if pass_ == "forward" else ConvSpec.create((1, 1, 16, 16), 1, 1)
    for seed in range(200):
        checker = Checker(Case(spec, pass_), seed)
        assert checker.after(UNFOLD, UNFOLD.build(checker.case)).status == "ok"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_dtypes(dtype):
    case = Case(SMALL.spec, dtype=dtype)
    found = Checker(case).before(UNFOLD, UNFOLD.build(case))
    assert found.status == "ok"
    assert 0 < found.error < found.tolerance < 0.02


# The checker ------------------------------------------------------------------------------------


def test_references_are_computed_once_and_shared(monkeypatch):
    calls = []
    real = verify.reference
    monkeypatch.setattr(verify, "reference", lambda *args: calls.append(args) or real(*args))
    checker = Checker(SMALL)
    checker.before(ATEN, ATEN.build(SMALL)), checker.after(ATEN, ATEN.build(SMALL))
    once = len(calls)
    assert once == 3 + 2 + 1, "values of integers, reals before and after; spread of the reals; reach of the NaN"
    checker.before(UNFOLD, UNFOLD.build(SMALL)), checker.after(UNFOLD, UNFOLD.build(SMALL))
    assert len(calls) == once


def test_fresh_operands_after():
    """What is timed is what was verified before; after come values seen nowhere else, the same for every kernel."""
    seen = []
    spy = Implementation("torch.spy", lambda case: "", lambda case: Kernel(spy_run, ""))

    def spy_run(x, w):
        seen.append(hash(x.numpy().tobytes()))
        return ATEN.build(SMALL).run(x, w)

    checker, kernel = Checker(SMALL), spy.build(SMALL)
    checker.before(spy, kernel)
    before = set(seen)
    kernel.run(*checker.timing_operands(spy, kernel))
    assert set(seen) == before
    checker.after(spy, kernel)
    assert len(set(seen) - before) == 1
    assert float(Checker(SMALL, seed=9).timing_operands(spy, kernel)[0].sum()) != float(
        checker.timing_operands(spy, kernel)[0].sum()
    )


def test_prepared_operands_are_what_run_gets():
    def prepare(x, w):
        return x, w.flatten(1)

    kernel = Kernel(lambda x, packed: ATEN.build(SMALL).run(x, packed.view(6, 4, 3, 3)), "packed", prepare)
    packed = Implementation("torch.packed", lambda case: "", lambda case: kernel)
    assert Checker(SMALL).before(packed, kernel).status == "ok"
    assert Checker(SMALL).timing_operands(packed, kernel)[1].shape == (6, 36)


def test_what_is_computed_while_preparing_is_of_no_use():
    def prepare(x, w):
        return x, ATEN.build(SMALL).run(x, w)

    kernel = Kernel(lambda x, answer: answer.clone(), "cheats", prepare)
    found = Checker(SMALL).before(Implementation("torch.cheat", lambda case: "", lambda case: kernel), kernel)
    assert found.status == "mismatch"


def test_operands_of_the_check_after_differ_from_the_timed_ones_in_a_few_places_only():
    before = reals(SMALL, 1)
    after = rearranged(SMALL, before, 2)
    for name, tensor in before.items():
        assert 0 < int((tensor != after[name]).sum()) <= 2 * EXCHANGED
        assert torch.equal(tensor.flatten().sort()[0], after[name].flatten().sort()[0])
    tiny = Case(ConvSpec.create([1, 1, 2, 2], 1, 1))
    assert not torch.equal(rearranged(tiny, reals(tiny, 1), 2)["w"], reals(tiny, 1)["w"])


def test_a_result_that_is_mostly_zero_is_mistrusted():
    """A 1x1 transposed convolution with stride 3 reaches one pixel in nine."""
    case = Case(ConvSpec.create((1, 2, 9, 9), 2, 1, operator="conv_transpose2d", stride=3, output_padding=2))
    found = Checker(case).before(ATEN, ATEN.build(case))
    assert found.status == "ok"
    assert found.detail == "mistrusted: 89% of the expected result is zero"
    assert Checker(SMALL).before(ATEN, ATEN.build(SMALL)).detail == ""


def test_sums_too_long_for_integers_are_still_watched():
    """4096 x 4096 ones no longer add up exactly in float32: the guards stay, the tolerance takes over."""
    case = Case(ConvSpec.create((1, 1, 4096, 4096), 1, 1), "weight_gradient")
    wrong = Implementation("wrong.kernel", lambda c: "", lambda c: Kernel(lambda x, dy: x.zero_()[:, :, :1, :1], ""))
    found = Checker(case).before(wrong, wrong.build(case))
    assert "operand x: changed its values" in found.detail


def test_the_reproducer_reproduces():
    """The command in a mismatch is one that convbench understands, for a case of a built-in suite."""
    from convbench.cli.main import run
    from convbench.suites import builtin

    layer = min(builtin("quick").layers, key=lambda layer: layer.spec.c * layer.spec.h * layer.spec.k)
    case = Case(layer.spec, suite="quick", name=layer.name)
    wrong = Implementation("torch.unfold", lambda c: "", lambda c: Kernel(lambda *o: UNFOLD.build(c).run(*o) + 1, ""))
    found = Checker(case, seed=3).before(wrong, wrong.build(case))
    assert found.status == "mismatch"
    command = re.fullmatch(r".*; to reproduce: convbench (verify .*)  # .*", found.detail)
    assert command
    assert shlex.split(command[1])[-2:] == ["--seed", "3"]
    assert run(shlex.split(command[1])) == 0, "torch.unfold itself is right"


# Watching ---------------------------------------------------------------------------------------


def test_new_memory_is_nan_between_guards():
    with watching() as seen:
        made = [
            torch.empty(2, 3),
            torch.empty((2, 3, 4, 5), memory_format=torch.channels_last),
            torch.empty_like(torch.ones(3)),
            torch.ones(2).new_empty((4, 4), dtype=torch.float64),
            torch.empty_strided((2, 2), (3, 1)),
        ]
        zeros = torch.zeros(5)
        torch.empty(3, dtype=torch.int64), torch.empty(0)
    assert all(bool(t.isnan().all()) for t in made)
    assert made[1].is_contiguous(memory_format=torch.channels_last)
    assert float(zeros.abs().sum()) == 0
    assert len(seen.allocated) == len(made) + 3, "and the ones and zeros, but not integers or nothing"
    assert not any(a.intact() for a in seen.allocated)
    seen.allocated[-1].buffer[0] = 1
    assert seen.allocated[-1].intact()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, w: F.conv2d(x, w), "conv2d|convolution"),
        (lambda x, w: F.conv_transpose2d(x, w), "conv_transpose2d|convolution"),
        (lambda x, w: torch.nn.Conv2d(4, 2, 3)(x), "conv2d|convolution"),
        (lambda x, w: torch.ops.aten.convolution(x, w, None, [1], [0], [1], False, [0], 1), "convolution"),
        (lambda x, w: torch.ops.aten.mkldnn_convolution(x, w, None, [0, 0], [1, 1], [1, 1], 1), "mkldnn_convolution"),
        (lambda x, w: torch.nn.grad.conv2d_input((1, 4, 10, 10), w, x), "convolution_backward"),
    ],
)
def test_torchs_convolutions_are_noticed(call, name):
    with watching() as seen:
        call(torch.ones(1, 4, 8, 8), torch.ones(4, 4, 3, 3))
    assert any(re.search(name, found) for found in seen.convolutions)


def test_other_operators_are_no_convolutions():
    with watching() as seen:
        columns = F.unfold(torch.ones(1, 4, 8, 8), 3)
        F.fold(torch.ones(1, 36, 36) @ columns.double().float(), (8, 8), 3)
    assert seen.convolutions == []


def test_watching_leaves_compiled_functions_compiled():
    """Dynamo drops a function it meets under a dispatch mode; the times after would be of uncompiled code."""
    compiled_calls = []

    def backend(graph, inputs):
        return lambda *args: compiled_calls.append(1) or graph(*args)

    function = torch.compile(lambda x: torch.empty(x.shape).copy_(x) + 1, backend=backend)
    function(torch.ones(3))
    with watching() as seen:
        function(torch.ones(3))
    assert len(compiled_calls) == 1
    assert len(seen.allocated) > 0
    function(torch.ones(3))
    assert len(compiled_calls) == 2


def test_watching_does_not_load_the_compiler():
    program = (
        "import sys, torch; from convbench.watch import watching\n"
        "with watching() as seen: torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2))\n"
        "assert seen.convolutions; sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
