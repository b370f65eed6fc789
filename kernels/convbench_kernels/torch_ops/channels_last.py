"""torch.channels_last: torch.nn.functional on tensors that already are in channels_last memory format.

The format is the tensors' own, as in a model converted once; the conversion is not part of the time, and
the row's layout column says so.
"""

from __future__ import annotations

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.torch_ops import aten


def build(case: Case) -> Kernel:
    return aten.as_library(case, aten.run(case), "two calls" if case.spec.is_separable else "aten")


IMPLEMENTATION = Implementation(
    "torch.channels_last",
    aten.supports,
    build,
    "torch.nn.functional on channels_last tensors",
    layout="channels_last",
)
