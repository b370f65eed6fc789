"""torch.channels_last_prepacked: torch.prepacked on channels_last tensors, the result in channels_last too.

Nothing is converted in the call, weights or images: the most that oneDNN can give in a model that was
converted and frozen.
"""

from __future__ import annotations

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.torch_ops import prepacked


def build(case: Case) -> Kernel:
    return Kernel(prepacked.run(case.spec), prepacked.algorithm(case.spec), prepare=prepacked.prepare(case.spec))


# On request: a default run shows packing (torch.prepacked) and the format (torch.channels_last) one by one.
IMPLEMENTATION = Implementation(
    "torch.channels_last_prepacked",
    prepacked.supports,
    build,
    "oneDNN on channels_last tensors, weights packed beforehand",
    layout="channels_last",
    on_request=True,
)
