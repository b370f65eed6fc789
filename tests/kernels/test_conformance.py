"""Every registered implementation computes every case it says it supports.

A new kernel is covered by being registered; nothing here names one, but for what cannot run everywhere.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from convbench.case import Case
from convbench.checks import CHECKS, tolerance
from convbench.operands import largest_integer, reals
from convbench.plugin import Implementation
from convbench.reference import reference
from convbench.registry import registry
from convbench.spec import PASSES
from convbench.verify import Checker
from tests.kernels.shapes import SHAPES, specs

# Compiling takes a second a shape and the result is torch's own call: a few shapes are enough.
SLOW_TO_BUILD = {"torch.compile": ("3x3 same", "up 4x4 stride 2", "depthwise multiplier 3", "pair stride 2, bias")}
IMPLEMENTATIONS = tuple(registry().implementations.values())
LARGEST_TOLERANCE = 1e-4  # of data of order one: a derived bound above this would let wrong results through


def shapes_for(implementation: Implementation) -> dict[str, Case]:
    """The table's shapes for one implementation, by name and pass."""
    names = SLOW_TO_BUILD.get(implementation.name, tuple(SHAPES))
    return {f"{name}, {pass_}": Case(SHAPES[name], pass_) for name in names for pass_ in PASSES}


def complaints(implementation: Implementation, case: Case) -> str:
    """What is wrong with an implementation on a case; "" when nothing is, or when it does not support it."""
    if implementation.supports(case):
        return ""
    with torch.inference_mode():
        checker, kernel = Checker(case), implementation.build(case)
        found = [checker.before(implementation, kernel), checker.after(implementation, kernel)]
    return "; ".join(f"{v.status}: {v.detail}" for v in found if v.status != "ok")


@pytest.fixture(autouse=True)
def _two_threads():
    """The same for all, and what small machines have; a kernel's races need more than one."""
    torch.set_num_threads(2)


def test_everything_is_registered():
    assert not registry().unavailable or set(registry().unavailable) <= {"triton"}
    assert {"torch.aten", "torch.channels_last", "torch.unfold", "torch.compile"} <= {i.name for i in IMPLEMENTATIONS}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("pass_", PASSES)
def test_table(name, pass_):
    """One test a case, so that its float64 references are computed once for all implementations."""
    case = Case(SHAPES[name], pass_, name=name)
    checker = Checker(case)
    found, ran = {}, 0
    with torch.inference_mode():
        for implementation in IMPLEMENTATIONS:
            if name not in SLOW_TO_BUILD.get(implementation.name, SHAPES) or implementation.supports(case):
                continue
            kernel = implementation.build(case)
            for verification in (checker.before(implementation, kernel), checker.after(implementation, kernel)):
                if verification.status != "ok":
                    found[implementation.name] = verification.detail
            ran += 1
    assert ran >= 2, "the reference and another one"
    assert not found, "\n".join(f"{who}: {what}" for who, what in found.items())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: i.name)
def test_reasons_and_coverage(implementation):
    """It supports something here, or says in a few words why not; it is not the whole table that is skipped."""
    reasons = {key: implementation.supports(case) for key, case in shapes_for(implementation).items()}
    assert all(isinstance(reason, str) and len(reason) < 100 and "\n" not in reason for reason in reasons.values())
    if not all("needs a CUDA device" in reason for reason in reasons.values()):
        assert any(reason == "" for reason in reasons.values()), set(reasons.values())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: i.name)
def test_float64(implementation):
    """Those that take float64 are right to float64's own rounding."""
    names = ("3x3 same", "grouped", "up 4x4 stride 2", "pair stride 2, bias", "depthwise")
    if implementation.name in SLOW_TO_BUILD:
        names = names[:1]
    found = {(n, p): complaints(implementation, Case(SHAPES[n], p, "float64")) for n in names for p in PASSES}
    assert not any(found.values()), "\n".join(filter(None, found.values()))


DRAWN = [i for i in IMPLEMENTATIONS if i.name not in SLOW_TO_BUILD and i.name != "torch.aten"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(spec=specs())
@pytest.mark.parametrize("pass_", PASSES)
def test_drawn(pass_, spec):
    """Shapes nobody thought of, on all implementations at once."""
    checker = Checker(Case(spec, pass_))
    with torch.inference_mode():
        for implementation in DRAWN:
            if not implementation.supports(checker.case):
                kernel = implementation.build(checker.case)
                for found in (checker.before(implementation, kernel), checker.after(implementation, kernel)):
                    assert found.status == "ok", f"{implementation.name}: {found.detail}"


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: i.name)
def test_non_contiguous_operands(implementation):
    """Operands are promised contiguous: others give the right result or an exception, never a wrong result."""
    names = ("3x3 same",) if implementation.name in SLOW_TO_BUILD else ("3x3 same", "depthwise", "pointwise")
    for case in (Case(SHAPES[name], pass_) for name in (*names, "up 2x2 stride 2", "pair") for pass_ in PASSES):
        if implementation.supports(case):
            continue
        operands = reals(case, seed=0)
        strided = {name: spread_out(tensor) for name, tensor in operands.items()}
        with torch.inference_mode():
            kernel = implementation.build(case)
            try:
                outputs = kernel.run(*kernel.prepare(*strided.values()) if kernel.prepare else strided.values())
            except Exception:
                continue
            for out, expected in zip(
                outputs if isinstance(outputs, tuple) else (outputs,), reference(case, operands), strict=True
            ):
                torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4, msg=str(case))


def spread_out(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with gaps of NaN between the elements of a row."""
    wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), float("nan"))
    wide[..., ::2] = tensor
    return wide[..., ::2]


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_can_tell_right_from_wrong(name):
    """Integers fit every shape of the table, and the derived tolerance is far below the data."""
    for pass_ in PASSES:
        case = Case(SHAPES[name], pass_)
        assert largest_integer(case) >= 1
        assert tolerance(case) < LARGEST_TOLERANCE


def test_the_table_covers_every_kind():
    assert {spec.kind for spec in SHAPES.values()} == {
        "standard", "pointwise", "depthwise", "grouped", "dilated", "transposed", "separable",
    }  # fmt: skip
    assert any(spec.n > 1 for spec in SHAPES.values())
    assert any(spec.output_padding != (0, 0) for spec in SHAPES.values())
    assert any(spec.bias and spec.is_transposed for spec in SHAPES.values())
    assert len({check.__name__ for check in CHECKS}) == len(CHECKS)
