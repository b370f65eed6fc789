"""torch.compile: the reference's functions compiled by torch (Dynamo, Inductor).

Compiled for one shape at a time, as a model with fixed shapes is. Inductor may choose another layout or
fuse the pair's two calls' surroundings; the convolution itself stays a library call.
"""

from __future__ import annotations

import os
import shutil
from functools import cache

import torch

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.torch_ops import aten


@cache
def _missing() -> str:
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "c++"))):
        return "torch.compile needs a C++ compiler and found none"
    return ""


def supports(case: Case) -> str:
    if case.device == "cpu" and (reason := _missing()):
        return reason
    return aten.supports(case)


def build(case: Case) -> Kernel:
    function = aten.run(case)
    # Dynamo keeps what it compiled with the code object, and after eight shapes of one runs them uncompiled.
    function.__code__ = function.__code__.replace()
    return aten.as_library(case, torch.compile(function, dynamic=False), "inductor")


# On request: compiling takes longer than timing, and a bare convolution ends in the same library call.
IMPLEMENTATION = Implementation(
    "torch.compile", supports, build, "torch.nn.functional through torch.compile", on_request=True
)
