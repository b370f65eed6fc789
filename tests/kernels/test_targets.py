"""Every fast kernel on narrower vectors than this CPU's: in a process that compiles for a lesser CPU."""

import os
import sys

import pytest

from convbench.case import Case
from convbench.spec import ConvSpec
from convbench.verify import Checker
from convbench_kernels.answers import CACHE_VARIABLE
from convbench_kernels.numba_cpu import auto, direct, jit, tiles, winograd
from tests.kernels.targets import NARROWER, TARGETS

SHAPES = (
    {"input": [1, 9, 13, 29], "out_channels": 19, "kernel": 3, "padding": 1, "stride": 2, "bias": True},
    {"input": [1, 20, 7, 19], "out_channels": 13, "kernel": 1},
    {"input": [2, 5, 47, 49], "out_channels": 7, "kernel": 1},
    {"input": [1, 3, 130, 131], "out_channels": 6, "kernel": 3, "stride": 2, "padding": 1},
    {"input": [3, 33, 7, 9], "out_channels": 35, "kernel": 3, "padding": 1},
    {"input": [1, 20, 1, 1], "out_channels": 13, "kernel": 1},
    {"input": [1, 9, 5, 6], "out_channels": 7, "kernel": 4, "stride": 2, "padding": 1, "operator": "conv_transpose2d"},
    {"input": [1, 20, 17, 33], "out_channels": 20, "kernel": 3, "padding": 1, "groups": 20},
    {"input": [1, 20, 9, 9], "out_channels": 20, "kernel": 5, "padding": 2, "groups": 20, "stride": 2},
    {"input": [1, 12, 9, 9], "out_channels": 20, "kernel": 3, "padding": 1, "operator": "separable_conv2d"},
)
WINOGRAD = {"input": [1, 9, 15, 33], "out_channels": 11, "kernel": 3, "padding": 2, "dilation": 2}


def wrong(implementation, case):
    """What verification says of one case, "" when it is right."""
    kernel, checker = implementation.build(case), Checker(case)
    found = [check(implementation, kernel) for check in (checker.before, checker.after)]
    return "; ".join(f"{case}: {f.detail}" for f in found if f.status != "ok")


def main():
    """Verify every shape and pass, and fail with what is wrong."""
    cases = [
        Case(ConvSpec.create(**shape), p) for shape in SHAPES for p in ("forward", "data_gradient", "weight_gradient")
    ]
    found = [wrong(auto.IMPLEMENTATION, case) for case in cases if not auto.supports(case)]
    for implementation in (winograd.IMPLEMENTATION, direct.IMPLEMENTATION):
        found += [wrong(implementation, Case(ConvSpec.create(**WINOGRAD), p)) for p in ("forward", "data_gradient")]
    assert tiles.ISA.name == sys.argv[1]
    text = "\n".join(filter(None, found))
    sys.exit(text or 0)


def command(isa):
    """Command and environment of the process; its machine code is kept apart, so that two never write one index."""
    folder = jit.cache_folder().parents[1] / "targets" / isa
    return [sys.executable, "-m", "tests.kernels.test_targets", isa], os.environ | TARGETS[isa] | {
        CACHE_VARIABLE: str(folder)
    }


@pytest.mark.parametrize("isa", [isa for isa in NARROWER if isa != "avx"])  # the verbs of avx: test_simd.py
def test_kernels_on_narrower_vectors(finished):
    status, printed = finished
    assert status == 0, printed


if __name__ == "__main__":
    main()
