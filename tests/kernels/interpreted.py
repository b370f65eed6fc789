"""Verify Triton kernels in its interpreter: python -m tests.kernels.interpreted [NAME ...] with TRITON_INTERPRET=1.

Prints a line a case, implementation|case|dtype|pass; fails at the first that is wrong. The interpreter takes a tenth
of a millisecond an operation of a program: the shapes are small, and a kernel is called twice instead of five times.
Without the variable they run on the first GPU, for compute-sanitizer to watch.
"""

from __future__ import annotations

import os
import sys

import torch

from convbench.case import Case, DType
from convbench.plugin import Implementation
from convbench.registry import registry
from convbench.spec import PASSES, ConvSpec
from convbench.verify import Checker, judge
from tests.kernels.shapes import SHAPES, conv, pair, up

ONLY = {"triton.pair": "pair strided"}  # its halves are verified by themselves
CASES: dict[str, ConvSpec] = {
    "depthwise": conv((2, 2, 11, 17), 2, 3, padding=1, groups=2, bias=True),
    "depthwise stride 2": conv((1, 3, 9, 8), 3, 3, stride=2, padding=1, groups=3),
    "depthwise multiplier": conv((1, 2, 5, 6), 6, (3, 2), stride=(1, 3), padding=1, groups=2),
    "depthwise dilated": conv((1, 2, 9, 9), 2, 5, padding=4, dilation=2, groups=2),
    "depthwise up": up((1, 2, 4, 5), 2, 4, stride=3, padding=1, dilation=(2, 1), output_padding=1, groups=2),
    "depthwise, one pixel": SHAPES["depthwise one pixel"],
    "standard": conv((2, 5, 6, 5), 35, 3, padding=1, bias=True),
    "strided": conv((1, 3, 9, 8), 4, (4, 3), stride=(2, 3), padding=2),
    "grouped dilated": conv((1, 4, 7, 6), 6, 3, padding=(3, 2), dilation=(3, 2), groups=2),
    "many channels": conv((1, 35, 3, 4), 5, 3, padding=1),
    "pointwise": conv((2, 40, 3, 5), 17, 1, bias=True),
    "pointwise strided": conv((1, 6, 5, 6), 5, 1, stride=2),
    "pair strided": pair((2, 5, 6, 5), 6, (2, 3), stride=(2, 1), padding=2, dilation=(1, 2)),
    "pair": pair((1, 17, 3, 4), 33, 3, padding=1, bias=True),
    "up": up((2, 8, 4, 3), 8, 4, stride=2, padding=1, bias=True),
    "up grouped": up((1, 4, 3, 5), 6, (3, 2), stride=(3, 2), padding=(1, 0), output_padding=1, groups=2),
}

# The short type that a shape is verified in too. The interpreter cuts off what a GPU rounds to bfloat16, and a pair of
# kernels cuts twice: that is too much. Channels of "pointwise" and "up" are such that operands change their layout.
SHORT_TYPES: dict[str, DType] = {
    "depthwise": "float16", "depthwise stride 2": "bfloat16", "depthwise multiplier": "bfloat16",
    "depthwise up": "float16", "standard": "bfloat16", "grouped dilated": "bfloat16", "pointwise": "float16",
    "up": "float16", "pair strided": "float16", "pair": "bfloat16",
}  # fmt: skip


def verified(checker: Checker, implementation: Implementation) -> str:
    """What is wrong, "" if nothing: integers, guarded, poisoned, watched; then a NaN or, in short types, reals."""

    def trials():
        problem = checker._integers or checker._reals_before
        yield checker._call(implementation, kernel, problem, guard=True, watch=True)
        yield checker._call(implementation, kernel, second)

    kernel = implementation.build(checker.case)
    second = checker._with_nan if checker._integers and checker.case.dtype == "float32" else checker._reals_before
    found = judge(trials())
    return "" if found.status == "ok" else found.detail


def main() -> None:
    torch.set_num_threads(1)
    wanted = tuple(f"triton.{name}" for name in sys.argv[1:] or [""])
    device = "cpu" if os.environ.get("TRITON_INTERPRET") else "cuda:0"
    kernels = [i for i in registry().implementations.values() if i.name.startswith(wanted)]
    for name, spec in CASES.items():
        for dtype in ("float32", *((SHORT_TYPES[name],) if name in SHORT_TYPES else ())):
            for pass_ in PASSES:
                checker = Checker(Case(spec, pass_, dtype, device, name=name))
                for kernel in kernels:
                    wanted_here = ONLY.get(kernel.name.removesuffix("_channels_last"), name) == name
                    if wanted_here and not kernel.supports(checker.case):
                        with torch.inference_mode():
                            wrong = verified(checker, kernel)
                        assert not wrong, f"{kernel.name}, {checker.case}: {wrong}"
                        print(kernel.name, name, dtype, pass_, sep="|")


if __name__ == "__main__":
    main()
