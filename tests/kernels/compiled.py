"""Compile Triton kernels for a GPU that is not there: python -m tests.kernels.compiled [NAME ...] [--dtypes ...].

Triton's compiler and ptxas need no device. Kernels are called with tensors without memory ("meta") under a driver that
answers only what it is, and every launch ends after compiling. What comes of it is looked at: registers spilled,
shared memory, asynchronous copies and tensor core instructions in the PTX. The command does that for some layers with
all block sizes that would be tried, and ends with 1 where one takes more shared memory than an H100 has.
"""

from __future__ import annotations

import argparse
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
from convbench.spec import PASSES, ConvSpec
from convbench_kernels.torch_cuda.tuning import Choice, Tile

SHARED_BYTES = 227 * 1024  # of a block, on an H100
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
def compiling(every: bool) -> Iterator[list[Compiled]]:
    """Launches meanwhile compile, with the first of the sizes that would be tried or with all, and are listed."""
    found: list[Compiled] = []
    run = JITFunction.run

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        binary = run(self, *args, grid=grid, warmup=True, **options)
        used, ptx = usage(binary.asm["cubin"]), binary.asm["ptx"]
        found.append(Compiled(self.fn.__name__, options, *used, binary.metadata.shared, ptx))

    def sizes(self: Choice, device: torch.device, call: Any, before: Any) -> Tile:
        for tile in self.tiles[1:] if every else ():
            call(tile)
        return self.tiles[0]

    before = driver._active
    driver.set_active(Absent())
    try:
        with patch.object(JITFunction, "run", only_compile), patch.object(Choice, "by_trial", sizes):
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


def compile_case(implementation: Implementation, case: Case, every: bool = False) -> list[Compiled]:
    """Everything that one call of the implementation launches; with every set of block sizes that would be tried."""
    assert not (reason := implementation.supports(case)), reason
    with compiling(every) as found:
        kernel = implementation.build(case)
        empty = {name: torch.empty(case.operand_shape(name), dtype=getattr(torch, case.element), device="meta")
                 for name in case.operand_names}  # fmt: skip
        kernel.run(*in_layout(empty, implementation.layout).values())
    return found


LAYERS = {
    "depthwise": [
        ConvSpec.create((32, 64, 56, 56), 64, r, stride=s, padding=r // 2, groups=64) for r in (3, 5, 7) for s in (1, 2)
    ],
    "implicit_gemm": [
        ConvSpec.create((32, 256, 28, 28), 256, 3, padding=1, bias=True),
        ConvSpec.create((32, 128, 56, 56), 128, 3, stride=2, padding=1),
        ConvSpec.create((32, 256, 28, 28), 256, 3, padding=12, dilation=12),
        ConvSpec.create((32, 512, 14, 14), 512, 1),
        ConvSpec.create((32, 3, 224, 224), 64, 7, stride=2, padding=3),
        ConvSpec.create((32, 256, 14, 14), 128, 4, operator="conv_transpose2d", stride=2, padding=1),
    ],
    "fused": [
        ConvSpec.create((32, c, 28, 28), k, 3, padding=1, operator="separable_conv2d")
        for c, k in ((64, 128), (256, 512))
    ],
}  # fmt: skip


def line(case: Case, layout: str, kernel: Compiled) -> str:
    sizes = " ".join(f"{name}={size}" for name, size in kernel.sizes.items() if name != "num_ctas")
    found = [
        f"{kernel.ptx.count(name)} {name}" for name in ("wgmma.mma_async", "mma.sync", "cp.async.c", "ld.global.b16")
    ]
    much = " TOO MUCH SHARED MEMORY" if kernel.shared_bytes > SHARED_BYTES else ""
    return (f"{case.spec} {case.pass_} {case.dtype} {layout} {kernel.kernel} {sizes}: {kernel.registers} registers, "
            f"{kernel.spilled_bytes} spilled, {kernel.shared_bytes} shared, {', '.join(found)}{much}")  # fmt: skip


def main() -> int:
    from importlib import import_module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(LAYERS), metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "tf32", "float32"])
    options, too_much = parser.parse_args(), 0
    for name in options.names:
        for implementation in import_module(f"convbench_kernels.torch_cuda.{name}").IMPLEMENTATIONS:
            for spec in LAYERS[name]:
                for case in (Case(spec, pass_, dtype, "cuda:0") for dtype in options.dtypes for pass_ in PASSES):
                    for kernel in (
                        [] if implementation.supports(case) else compile_case(implementation, case, every=True)
                    ):
                        print(line(case, implementation.layout, kernel), flush=True)
                        too_much += kernel.shared_bytes > SHARED_BYTES
    return int(too_much > 0)


if __name__ == "__main__":
    raise SystemExit(main())
