"""Every check can fail: each broken kernel is caught, by the check that is there for it."""

from __future__ import annotations

import pytest
import torch

from convbench.case import Case
from convbench.checks import CHECKS
from convbench.verify import Checker
from tests.kernels import broken


@pytest.fixture(autouse=True)
def _as_in_a_run():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def checkers():
    """One checker a case: its references are shared, as in a run."""
    made: dict[Case, Checker] = {}

    def checker(case: Case) -> Checker:
        return made.setdefault(case, Checker(case))

    return checker


@pytest.mark.parametrize("name", broken.KERNELS)
def test_caught_by_its_check(name, checkers):
    kernel = broken.KERNELS[name]
    implementation, checker = kernel.implementation(), checkers(kernel.case)
    built = implementation.build(kernel.case)
    found = checker.before(implementation, built)
    if kernel.after:
        assert found.status == "ok", "wrong only later"
        built.run(*checker.timing_operands(implementation, built))
        found = checker.after(implementation, built)
    assert found.status == "mismatch"
    assert f"({kernel.check})" in found.detail
    assert "\n" not in found.detail
    assert f"convbench verify --impl broken.kernel --pass {kernel.case.pass_}" in found.detail
    assert str(kernel.case.spec) in found.detail


def test_every_check_has_a_kernel_that_fails_it():
    assert {check.__name__ for check in CHECKS} == {f"check_{kernel.check}" for kernel in broken.KERNELS.values()}


@pytest.mark.parametrize("case", [broken.TINY, broken.SAME, broken.MILLION], ids=["tiny", "same", "million"])
@pytest.mark.parametrize("exact", [True, False])
def test_the_kernel_they_are_made_from_is_right(case, exact, checkers):
    implementation = broken.Broken("", lambda right, case: right, exact=exact).implementation()
    kernel = implementation.build(case)
    for found in (checkers(case).before(implementation, kernel), checkers(case).after(implementation, kernel)):
        assert (found.status, found.detail) == ("ok", "")
        assert 0 < found.error < found.tolerance


def test_just_within_the_tolerance_is_right(checkers):
    implementation = broken.Broken("", broken.scaled_by(0.9), exact=False).implementation()
    assert checkers(broken.SAME).before(implementation, implementation.build(broken.SAME)).status == "ok"


@pytest.mark.parametrize("name", broken.FAILING)
def test_what_a_kernel_raises_is_its_status(name, checkers):
    kernel, status, detail = broken.FAILING[name]
    implementation = kernel.implementation()
    found = checkers(kernel.case).before(implementation, implementation.build(kernel.case))
    assert found.status == status
    assert found.detail.startswith(detail)
    assert "\n" not in found.detail
    assert len(found.detail) < 600
    if name == "talks":
        assert "the cause" in found.detail
