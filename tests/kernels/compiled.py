"""Compile Triton kernels for a GPU that is not there: python -m tests.kernels.compiled.

Triton's compiler and ptxas need no device. Kernels are called with tensors without memory ("meta") under a driver that
answers only what it is, and every launch ends after compiling. What comes of it is looked at: registers spilled,
shared memory, asynchronous copies and tensor core instructions in the PTX.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from convbench.case import Case
from convbench.operands import in_layout
from convbench.plugin import Implementation
from convbench_kernels.torch_cuda.tuning import Choice, Tile

H100 = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Compiled(NamedTuple):
    """One kernel for one set of block sizes. spilled_bytes: of a thread's registers, to local memory."""

    kernel: str
    sizes: dict[str, Any]
    registers: int
    spilled_bytes: int
    shared_bytes: int
    ptx: str


class Absent:
    """A driver without a device."""

    def get_current_target(self) -> GPUTarget:
        return H100

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling() -> Iterator[list[Compiled]]:
    """Launches meanwhile compile, with all block sizes there are, and are listed."""
    found: list[Compiled] = []
    run = JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        binary = run(self, *args, grid=grid, warmup=True, **options)
        found.append(Compiled(self.fn.__name__, options, *usage(binary.asm["cubin"]), binary.metadata.shared, binary.asm["ptx"]))

    def all_sizes(self: Choice, device: torch.device, call: Any) -> Tile:
        for tile in self.tiles[:-1]:
            call(tile)
        return self.tiles[-1]

    before = driver._active
    driver.set_active(Absent())
    try:
        with patch.object(JITFunction, "run", only_compile), patch.object(Choice, "by_trial", all_sizes):
            yield found
    finally:
        driver._active = before


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of them that did not fit."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", printed.stdout))
    return int(found["REG"]), int(found["STACK"]) + int(found["LOCAL"])


def compile_case(implementation: Implementation, case: Case) -> list[Compiled]:
    """Everything that one call of the implementation launches."""
    assert not (reason := implementation.supports(case)), reason
    with compiling() as found:
        kernel = implementation.build(case)
        empty = {name: torch.empty(case.operand_shape(name), dtype=getattr(torch, case.dtype), device="meta")
                 for name in case.operand_names}  # fmt: skip
        kernel.run(*in_layout(empty, implementation.layout).values())
    return found
