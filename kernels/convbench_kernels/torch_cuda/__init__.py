"""Triton kernels for CUDA devices. Every module that defines IMPLEMENTATIONS offers them:

the module's name is the algorithm's (``triton.depthwise`` is depthwise.py), once for contiguous NCHW tensors and once
for channels_last ones (``triton.depthwise_channels_last``). Adding a kernel is adding a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import torch

from convbench.plugin import Implementation, Unavailable


def implementations() -> Iterator[Implementation]:
    """Every one of this package's. Raises Unavailable where nothing can run them."""
    modules = [import_module(f"{__name__}.{m.name}") for m in sorted(iter_modules(__path__), key=lambda m: m.name)]
    from convbench_kernels.torch_cuda.launch import INTERPRETED

    if not (INTERPRETED or torch.cuda.is_available()):
        raise Unavailable("torch finds no CUDA device")
    for module in modules:
        yield from getattr(module, "IMPLEMENTATIONS", ())
